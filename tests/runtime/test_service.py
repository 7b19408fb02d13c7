"""Laws of the supervisor's side: who owns what, what ends with whom, and what no client can break."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from pytest_containers.errors import ContainersError, EngineError, NotRunning
from pytest_containers.runtime import client, folders, messages
from pytest_containers.runtime.client import Connection
from pytest_containers.spec import ContainerSpec, ImageConfig
from tests.plugins.clock import scaled

pytestmark = pytest.mark.kernel

_PATIENCE_S: Final = scaled(20.0)


@contextmanager
def _run(owner_pid: int) -> Iterator[Path]:
    """Yield the folder of a run; end it afterwards."""
    folder = folders.fresh()
    janitor = client.spawn(folder, owner_pid)
    assert janitor is not None
    try:
        yield folder
    finally:
        try:
            connection = client.connect(folder)
            connection.tell(messages.Shutdown())
            connection.close()
        except EngineError:
            pass
        janitor.wait(_PATIENCE_S)


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    """Return the folder of a run that outlives its connections: one of ours stays all along."""
    with _run(os.getpid()) as folder:
        connection = client.connect(folder)
        yield folder
        connection.close()


@pytest.fixture
def scope() -> Iterator[ExitStack]:
    """Return a stack that is unwound at the end of the test."""
    with ExitStack() as stack:
        yield stack


def _connect(folder: Path, scope: ExitStack) -> Connection:
    connection = client.connect(folder)
    scope.callback(connection.close)
    return connection


def _raw(folder: Path, scope: ExitStack) -> socket.socket:
    """Return a connection without manners."""
    line = scope.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    line.settimeout(_PATIENCE_S)
    line.connect(str(folder / folders.SOCKET))
    return line


def _create(connection: Connection, name: str, *, lifetime: str = "owner", argv: str = "sleep 1000") -> str:
    """Make a container and return its id; its log is closed."""
    spec = ContainerSpec(
        name=name, command=tuple(argv.split()), lifetime="run" if lifetime == "run" else "owner"
    )
    return connection.tell(messages.Create(spec=spec, config=ImageConfig(), layers=("/",))).id


def _start(connection: Connection, container_id: str) -> int:
    """Start a container; return a pidfd of its first process."""
    _, (pidfd,) = connection.ask(messages.Start(id=container_id))
    return pidfd


def _ended(pidfd: int) -> bool:
    """Return whether a process, or a pipe's last writer, ends in time."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(_PATIENCE_S * 1000))


def _known(connection: Connection, container_id: str) -> bool:
    try:
        connection.tell(messages.State(id=container_id))
    except EngineError:
        return False
    return True


def _forgotten(connection: Connection, container_id: str) -> bool:
    """Return whether a container is forgotten in time."""
    deadline = time.monotonic() + _PATIENCE_S
    while _known(connection, container_id):
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.005)
    return True


def test_connection_takes_its_containers_along(shared: Path, scope: ExitStack) -> None:
    """The end of a connection is the end of what it made, and of nothing else."""
    stays, leaves = _connect(shared, scope), client.connect(shared)
    kept, lost, idle = _create(stays, "kept"), _create(leaves, "lost"), _create(leaves, "idle")
    pidfds = [_start(stays, kept), _start(leaves, lost)]
    leaves.close()
    assert _ended(pidfds[1])
    assert _forgotten(stays, lost)
    assert _forgotten(stays, idle)
    assert stays.tell(messages.State(id=kept)).status == "running"
    for pidfd in pidfds:
        os.close(pidfd)


def test_connection_leaves_what_belongs_to_the_run(shared: Path, scope: ExitStack) -> None:
    """A container with lifetime "run" outlives the connection that made it, and another finds it."""
    first, second = client.connect(shared), _connect(shared, scope)
    container = _create(first, "of-the-run", lifetime="run")
    os.close(_start(first, container))
    first.close()
    assert _create(second, "of-the-run", lifetime="run") == container
    assert second.tell(messages.State(id=container)).status == "running"
    second.tell(messages.Remove(id=container))
    assert not _known(second, container)


def test_connection_names_are_its_own(shared: Path, scope: ExitStack) -> None:
    """Two connections may have a container of one name, and networks of one name, without meeting."""
    first, second = _connect(shared, scope), _connect(shared, scope)
    assert _create(first, "same") != _create(second, "same")
    subnets = {one.tell(messages.CreateNetwork(name="net")).subnet for one in (first, second)}
    assert len(subnets) == 2


def test_connection_that_dies_during_a_start_leaves_nothing(shared: Path, scope: ExitStack) -> None:
    """A client that is gone before its container runs has no container."""
    watcher = _connect(shared, scope)
    for number in range(5):
        dying = client.connect(shared)
        container = _create(dying, f"dying{number}")
        starting = dying.post(messages.Start(id=container))
        dying.close()
        assert _forgotten(watcher, container)
        # It may have been started all the same: then its pidfd came.
        for descriptor in () if starting.exception(timeout=60) else starting.result()[1]:
            os.close(descriptor)


def test_connection_that_dies_during_an_exec_kills_it(shared: Path, scope: ExitStack) -> None:
    """Who waits for an exec and goes away takes it along; the container is another's and stays."""
    stays, leaves = _connect(shared, scope), client.connect(shared)
    container = _create(stays, "box")
    os.close(_start(stays, container))
    null = os.open("/dev/null", os.O_RDWR)
    ready, tell = os.pipe()
    leaves.post(
        messages.ExecRequest(
            id=container, argv=("sh", "-c", "echo x; exec sleep 1000"), user=None, workdir=None, env={}
        ),
        (null, tell, null),
    )
    os.close(tell)
    assert os.read(ready, 10) == b"x\n"
    leaves.close()
    assert _ended(ready), "the exec's own process still has the other end"
    assert os.read(ready, 10) == b""
    assert stays.tell(messages.State(id=container)).status == "running"
    os.close(ready)
    os.close(null)


@pytest.mark.parametrize(
    "content",
    [
        b"no message",
        b"{}",
        b'{"id":1,"ok":{}}',
        b'{"id":1,"op":"Nonsense","body":{}}',
        b'{"id":1,"op":"Create","body":{}}',
        b"\xff" * 1000,
        b"[" * 60_000,
    ],
)
def test_connection_that_talks_nonsense_is_dropped(shared: Path, scope: ExitStack, content: bytes) -> None:
    """Its own end is all that it brings about: others are served as before."""
    line = _raw(shared, scope)
    line.send(content)
    assert line.recv(100) == b""
    other = _connect(shared, scope)
    assert _known(other, _create(other, "after"))


def test_request_for_a_container_that_is_not_there_is_an_error(shared: Path, scope: ExitStack) -> None:
    """Every request that names a container says so when nobody has it."""
    connection = _connect(shared, scope)
    null = os.open("/dev/null", os.O_RDWR)
    scope.callback(os.close, null)
    missing = "0" * 64
    execute = messages.ExecRequest(id=missing, argv=("true",), user=None, workdir=None, env={})
    asked: list[Callable[[], object]] = [
        lambda: connection.tell(messages.Start(id=missing)),
        lambda: connection.tell(messages.State(id=missing)),
        lambda: connection.tell(messages.Signal(id=missing, number=9)),
        lambda: connection.tell(messages.Read(id=missing, path="/"), (null,)),
        lambda: connection.tell(messages.Write(id=missing, folder="/"), (null,)),
        lambda: connection.tell(messages.Changes(id=missing)),
        lambda: connection.tell(messages.Layer(id=missing), (null,)),
        lambda: connection.tell(messages.Listening(id=missing)),
        lambda: connection.tell(execute, (null, null, null)),
    ]
    for ask in asked:
        with pytest.raises(EngineError, match="no container 000000000000"):
            ask()
    connection.tell(messages.Remove(id=missing))


@pytest.mark.parametrize("given", [0, 1, 2])
def test_request_without_its_descriptors_is_an_error(shared: Path, scope: ExitStack, given: int) -> None:
    """A client that forgets what must come along is told, and the supervisor lives."""
    connection = _connect(shared, scope)
    container = _create(connection, "box")
    os.close(_start(connection, container))
    request = messages.ExecRequest(id=container, argv=("true",), user=None, workdir=None, env={})
    with pytest.raises(ContainersError):
        connection.ask(request, (0,) * given)
    if not given:
        with pytest.raises(ContainersError):
            connection.ask(messages.Read(id=container, path="/etc/hosts"))
    assert _known(connection, container)


def test_request_from_another_version_is_refused(shared: Path, scope: ExitStack) -> None:
    """A client of another installation is told both versions."""
    line = _raw(shared, scope)
    messages.send(line, messages.message(1, messages.Hello(version="of the future")))
    number, error = messages.parse(messages.receive(line)[0])
    assert number == 1
    assert isinstance(error, EngineError)
    assert "of the future asks" in error.seen


def test_answers_come_when_they_are_ready(shared: Path, scope: ExitStack) -> None:
    """A slow request does not keep the answer to a later one."""
    connection = _connect(shared, scope)
    container = _create(connection, "box")
    os.close(_start(connection, container))
    null = os.open("/dev/null", os.O_RDWR)
    scope.callback(os.close, null)
    ready, tell = os.pipe()
    argv = ("sh", "-c", "echo x; exec sleep 1000")
    request = messages.ExecRequest(id=container, argv=argv, user=None, workdir=None, env={})
    slow = connection.post(request, (null, tell, null))
    assert os.read(ready, 1) == b"x"
    assert _known(connection, container)
    assert not slow.done()
    connection.tell(messages.Remove(id=container))
    assert slow.result(_PATIENCE_S)[0].exit_code == 137
    os.close(ready)
    os.close(tell)


def test_exec_that_meets_the_end_is_told(shared: Path, scope: ExitStack) -> None:
    """An exec that comes while its container ends was killed, or is told that nothing runs."""
    connection = _connect(shared, scope)
    null = os.open("/dev/null", os.O_RDWR)
    scope.callback(os.close, null)
    for number in range(10):
        container = _create(connection, f"box{number}")
        os.close(_start(connection, container))
        request = messages.ExecRequest(id=container, argv=("sleep", "1000"), user=None, workdir=None, env={})
        asked = connection.post(request, (null,) * 3)
        connection.tell(messages.Remove(id=container))
        error = asked.exception(_PATIENCE_S)
        if error is None:
            assert asked.result()[0] == messages.Exited(exit_code=137)
        else:
            assert isinstance(error, NotRunning)


def test_many_connections_are_served(shared: Path, scope: ExitStack) -> None:
    """As many as a big test run has workers may come at once."""
    connections = [_connect(shared, scope) for _ in range(32)]
    for number, connection in enumerate(connections):
        assert _known(connection, _create(connection, f"box{number}")) is True


def test_run_ends_with_its_last_connection() -> None:
    """When nobody is left the supervisor ends with all it has, and the run folder goes."""
    folder = folders.fresh()
    janitor = client.spawn(folder, os.getpid())
    assert janitor is not None
    first, second = client.connect(folder), client.connect(folder)
    pidfd = _start(first, _create(first, "box", lifetime="run"))
    first.close()
    assert second.tell(messages.CreateNetwork(name="still-here")).subnet
    second.close()
    assert _ended(pidfd)
    os.close(pidfd)
    assert janitor.wait(_PATIENCE_S) == 0
    assert not folder.exists()


def test_run_ends_when_told(scope: ExitStack) -> None:
    """A shutdown is answered, and ends the run for every connection."""
    folder = folders.fresh()
    janitor = client.spawn(folder, os.getpid())
    assert janitor is not None
    first, second = _connect(folder, scope), _connect(folder, scope)
    pidfd = _start(second, _create(second, "box"))
    assert first.tell(messages.Shutdown()) == messages.Done()
    assert _ended(pidfd)
    os.close(pidfd)
    assert janitor.wait(_PATIENCE_S) == 0
    with pytest.raises(EngineError, match="supervisor is gone"):
        second.tell(messages.CreateNetwork(name="late"))


def test_run_of_another_owner_lingers() -> None:
    """A run that a worker began for its controller outlives the worker's connection, and not the owner."""
    folder = folders.fresh()
    owner = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    janitor = client.spawn(folder, owner.pid)
    assert janitor is not None
    first = client.connect(folder)
    container = _create(first, "of-the-run", lifetime="run")
    pidfd = _start(first, container)
    first.close()
    second = client.connect(folder)
    assert second.tell(messages.State(id=container)).status == "running"
    second.close()
    owner.communicate(b"\n")
    assert _ended(pidfd)
    os.close(pidfd)
    janitor.wait(_PATIENCE_S)


def test_exec_before_the_start_is_told(shared: Path, scope: ExitStack) -> None:
    """The error keeps its class over the socket."""
    connection = _connect(shared, scope)
    null = os.open("/dev/null", os.O_RDWR)
    scope.callback(os.close, null)
    request = messages.ExecRequest(
        id=_create(connection, "box"), argv=("true",), user=None, workdir=None, env={}
    )
    with pytest.raises(NotRunning):
        connection.ask(request, (null,) * 3)


def test_wire_carries_errors_as_plain_strings(shared: Path, scope: ExitStack) -> None:
    """What crosses the socket is JSON of names and sentences: nothing is unpickled, nothing evaluated."""
    line = _raw(shared, scope)
    messages.send(line, messages.message(7, messages.State(id="x")))
    plain = json.loads(line.recv(1 << 16))
    assert plain["id"] == 7
    assert {type(text) for text in plain["error"].values()} == {str}
