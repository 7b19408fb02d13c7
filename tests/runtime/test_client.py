"""Laws of the pytest side of a run: it starts once, is shared, and is never waited for in vain."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import EngineError, HostError
from pytest_containers.runtime import client, folders, messages, syscalls
from pytest_containers.runtime.client import Connection
from pytest_containers.spec import ContainerSpec, ImageConfig
from tests.plugins.clock import scaled

if TYPE_CHECKING:
    from tests.runtime.conftest import Apart

_PATIENCE_S: Final = scaled(20.0)
_SYS_ADMIN: Final = 21
_ASKING: Final = messages.State(id="some")


class Supervisor:
    """What plays a supervisor on the other end of a socket."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        line.settimeout(_PATIENCE_S)

    def hear(self) -> tuple[int, object]:
        """Return the number of the next request, and the request."""
        content, descriptors, _ = messages.receive(self.line)
        for descriptor in descriptors:
            os.close(descriptor)
        return messages.parse(content)

    def answer(self, number: int, noun: object, descriptors: tuple[int, ...] = ()) -> None:
        """Answer request *number*."""
        messages.send(self.line, messages.message(number, noun), descriptors)


Ends = tuple[Connection, Supervisor]


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    """Return a connection and what it talks to."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection = Connection(ours, tmp_path)
    with theirs:
        yield connection, Supervisor(theirs)
        connection.close()


def _done(number: int) -> messages.Ports:
    return messages.Ports(ports=(f"{number}/tcp",))


def test_answer_reaches_who_asked(ends: Ends) -> None:
    """Answers in any order come to the question of their number."""
    connection, supervisor = ends
    asked = [connection.post(messages.Listening(id=str(number))) for number in range(5)]
    heard = [supervisor.hear() for _ in asked]
    for number, request in reversed(heard):
        assert isinstance(request, messages.Listening)
        supervisor.answer(number, _done(int(request.id) + 1))
    found = [future.result(_PATIENCE_S)[0].ports for future in asked]
    assert found == [(f"{number + 1}/tcp",) for number in range(5)]


def test_answer_brings_descriptors(ends: Ends) -> None:
    """Descriptors are the caller's; `tell`, who wants none, closes them."""
    connection, supervisor = ends
    file = os.memfd_create("log")
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(connection.ask, messages.Start(id="x"))
        number, _ = supervisor.hear()
        supervisor.answer(number, messages.Started(started_at=1.5), (file, file))
        started, received = asked.result(_PATIENCE_S)
        assert started == messages.Started(started_at=1.5)
        assert [os.fstat(one).st_ino for one in received] == [os.fstat(file).st_ino] * 2
        for descriptor in received:
            os.close(descriptor)
        told = pool.submit(connection.tell, messages.Start(id="x"))
        number, _ = supervisor.hear()
        supervisor.answer(number, messages.Started(started_at=2.5), (file,))
        assert told.result(_PATIENCE_S).started_at == 2.5
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(file)


def test_answer_that_is_an_error_is_raised(ends: Ends) -> None:
    """What the supervisor says went wrong is raised where the question was asked, with its class."""
    connection, supervisor = ends
    asked = connection.post(_ASKING)
    number, _ = supervisor.hear()
    supervisor.line.send(
        messages.error_message(number, HostError("no room", seen="ENOSPC", mend="make some"))
    )
    with pytest.raises(HostError, match="no room") as caught:
        asked.result(_PATIENCE_S)
    assert (caught.value.seen, caught.value.mend) == ("ENOSPC", "make some")


def test_answer_of_another_shape_is_an_error(ends: Ends) -> None:
    """An answer that is not what the question wants fails that question alone."""
    connection, supervisor = ends
    wrong, right = connection.post(_ASKING), connection.post(messages.Listening(id="x"))
    number, _ = supervisor.hear()
    supervisor.line.send(b'{"id":%d,"ok":[]}' % number)
    number, _ = supervisor.hear()
    supervisor.answer(number, _done(1))
    with pytest.raises(EngineError, match="holds no ContainerState"):
        wrong.result(_PATIENCE_S)
    assert right.result(_PATIENCE_S)[0] == _done(1)


def test_connection_is_for_many_threads(ends: Ends) -> None:
    """Each of many threads gets the answer to its own questions."""
    connection, supervisor = ends

    def serve() -> None:
        for _ in range(400):
            number, request = supervisor.hear()
            assert isinstance(request, messages.Listening)
            supervisor.answer(number, _done(int(request.id)))

    def ask(thread: int) -> bool:
        numbers = range(thread * 100 + 1, thread * 100 + 51)
        return all(connection.tell(messages.Listening(id=str(n))) == _done(n) for n in numbers)

    server = threading.Thread(target=serve)
    server.start()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
    server.join(_PATIENCE_S)


def test_connection_lost_wakes_all_who_wait(ends: Ends) -> None:
    """When the supervisor is gone every open question fails, and every later one at once."""
    connection, supervisor = ends
    asked = [connection.post(_ASKING) for _ in range(3)]
    supervisor.line.close()
    for future in asked:
        with pytest.raises(EngineError, match="supervisor is gone"):
            future.result(_PATIENCE_S)
    with pytest.raises(EngineError, match="supervisor is gone"):
        connection.tell(_ASKING)


def test_connection_ends_at_what_nobody_can_read(ends: Ends) -> None:
    """After words that are no message nothing can be believed: all questions fail."""
    connection, supervisor = ends
    asked = connection.post(_ASKING)
    supervisor.line.send(b"noise")
    with pytest.raises(EngineError, match="supervisor is gone"):
        asked.result(_PATIENCE_S)


def test_connection_whose_other_side_is_gone_is_closed_all_the_same(ends: Ends) -> None:
    """A connection that the supervisor has ended keeps neither thread nor descriptor after its close."""
    connection, supervisor = ends
    threads = threading.active_count()
    descriptor = connection._channel.fileno()
    supervisor.line.close()
    connection._reader.join(_PATIENCE_S)
    connection.close()
    assert connection._channel.fileno() == -1
    assert threading.active_count() == threads - 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_connection_closed_twice_is_closed(ends: Ends) -> None:
    """Closing ends the thread and the descriptor; once more does nothing, and asking is an error."""
    connection, _ = ends
    threads = threading.active_count()
    connection.close()
    connection.close()
    assert threading.active_count() == threads - 1
    with pytest.raises(EngineError):
        connection.tell(_ASKING)


def test_connection_is_closed_in_a_fork(ends: Ends, fork: Callable[[], int]) -> None:
    """A child of ours holds no end of the socket, so that ours alone keeps the run alive."""
    connection, _ = ends
    told, tell = os.pipe2(os.O_CLOEXEC)
    ended, end = os.pipe2(os.O_CLOEXEC)
    child = fork()
    if child == 0:
        os.close(end)
        try:
            connection.post(_ASKING)
            os.write(tell, b"sent")
        except EngineError:
            os.write(tell, b"refused")
        os.read(ended, 1)
        os._exit(0)
    assert os.read(told, 10) == b"refused"
    sockets = [os.readlink(path) for path in Path(f"/proc/{child}/fd").iterdir()]
    assert f"socket:[{os.fstat(connection._channel.fileno()).st_ino}]" not in sockets
    for descriptor in (told, tell, ended, end):
        os.close(descriptor)
    os.waitpid(child, 0)


def test_connect_says_that_nobody_answers(tmp_path: Path) -> None:
    """Without a supervisor, or with one that has left its socket behind, the error names the folder."""
    with pytest.raises(EngineError, match=f"no supervisor answers for the run in {tmp_path}"):
        client.connect(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(tmp_path / folders.SOCKET))
    with pytest.raises(EngineError, match="no supervisor answers") as caught:
        client.connect(tmp_path)
    assert "refused" in caught.value.seen


def test_connect_tells_why_there_is_no_run(tmp_path: Path) -> None:
    """A reason left behind is raised in the place of the closed door."""
    folders.refuse(tmp_path, HostError("no namespaces here"))
    with pytest.raises(HostError, match="no namespaces here"):
        client.connect(tmp_path)


@pytest.fixture
def run() -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Return a run's folder and its janitor."""
    folder = folders.fresh()
    janitor = client.spawn(folder, os.getpid())
    assert janitor is not None
    yield folder, janitor
    with contextlib.suppress(EngineError):
        connection = client.connect(folder)
        connection.tell(messages.Shutdown())
        connection.close()
    janitor.wait(_PATIENCE_S)
    _sweep(folder)


def _sweep(folder: Path) -> None:
    """Have what a dead run left removed; its lock is free when the last of its processes is gone."""
    deadline = time.monotonic() + _PATIENCE_S
    while folder.exists():
        assert time.monotonic() < deadline, f"{folder} stays"
        with folders.hold() as base:
            folders.sweep(base)


Run = tuple[Path, "subprocess.Popen[bytes]"]


def _idle(connection: Connection) -> int:
    """Start a container; return a pidfd of its first process."""
    spec = ContainerSpec(name="box", command=("sleep", "1000"))
    created, (log,) = connection.ask(messages.Create(spec=spec, config=ImageConfig(), layers=("/",)))
    os.close(log)
    _, (pidfd,) = connection.ask(messages.Start(id=created.id))
    return pidfd


@pytest.mark.kernel
def test_spawn_starts_a_run_once(run: Run) -> None:
    """Who comes second finds the run there, and both are served by it."""
    folder, _ = run
    assert client.spawn(folder, os.getpid()) is None
    first, second = client.connect(folder), client.connect(folder)
    first.tell(messages.CreateNetwork(name="one"))
    second.tell(messages.CreateNetwork(name="one"))
    first.close()
    second.close()


@pytest.mark.kernel
def test_spawn_from_many_threads_starts_one() -> None:
    """Of those who start the same run at the same time one does, the others find it."""
    folder = folders.fresh()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: client.spawn(folder, os.getpid()), range(4)))
    (janitor,) = [one for one in found if one is not None]
    connection = client.connect(folder)
    connection.tell(messages.Shutdown())
    connection.close()
    assert janitor.wait(_PATIENCE_S) == 0


@pytest.mark.kernel
def test_run_knows_nothing_of_our_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Janitor and supervisor are fresh interpreters: no variable, folder or descriptor of pytest's."""
    folder, janitor = run
    connection = client.connect(folder)
    pids = [janitor.pid, *_children(janitor.pid)]
    assert len(pids) >= 3
    for pid in pids:
        place = Path(f"/proc/{pid}")
        assert (place / "environ").read_bytes().rstrip(b"\0").decode() == f"PATH={os.defpath}"
        assert os.readlink(place / "cwd") == "/"
        assert os.readlink(place / "fd/0") in ("/dev/null", "/null"), "the gateway has the run's own node"
    connection.close()


def _children(pid: int) -> list[int]:
    """Return the descendants of a process (proc_pid_task_children(5))."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(") ")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += [int(name), *_children(int(name))]
    return found


@pytest.mark.kernel
@pytest.mark.parametrize("victim", ["janitor", "supervisor"])
def test_run_killed_takes_all_along(run: Run, victim: str) -> None:
    """Whichever of its processes is killed, the containers die and whoever asks is told."""
    folder, janitor = run
    connection = client.connect(folder)
    pidfd = _idle(connection)
    (supervisor,) = [pid for pid in _children(janitor.pid) if _parent(pid) == janitor.pid]
    os.kill(janitor.pid if victim == "janitor" else supervisor, signal.SIGKILL)
    janitor.wait(_PATIENCE_S)
    assert _ended(pidfd)
    with pytest.raises(EngineError, match="supervisor is gone"):
        connection.tell(messages.CreateNetwork(name="late"))
    connection.close()
    os.close(pidfd)
    _sweep(folder)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def _ended(pidfd: int) -> bool:
    """Return whether a process ends in time."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(_PATIENCE_S * 1000))


@pytest.mark.kernel
def test_run_without_privileges_says_what_is_missing(apart: Apart) -> None:
    """Where the kernel refuses a namespace the first connection brings a HostError, and no process stays."""
    folder = folders.fresh()

    def without() -> tuple[str, str]:
        syscalls.cap_drop_bounding(_SYS_ADMIN)  # what a process of root's cannot gain by an exec either
        janitor = client.spawn(folder, os.getpid())
        assert janitor is not None
        with pytest.raises(HostError) as caught:
            client.connect(folder)
        janitor.wait(_PATIENCE_S)
        return caught.value.what, caught.value.mend

    what, mend = apart(without)
    assert "namespace" in what
    assert "CAP_SYS_ADMIN" in mend
    _sweep(folder)
