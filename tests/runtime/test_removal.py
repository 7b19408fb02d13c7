"""Laws of removal: it holds nobody up, one that fails keeps no other, and a failed create leaves nothing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import pytest

from pytest_containers.errors import ContainersError, EngineError, HostError
from pytest_containers.runtime import client, folders, messages
from pytest_containers.runtime.client import Connection
from pytest_containers.spec import ContainerSpec, ImageConfig

pytestmark = pytest.mark.kernel

_PATIENCE_S: Final = 20.0
_LOOK_AGAIN_S: Final = 0.01


class Run:
    """A run whose processes can be looked at."""

    def __init__(self, folder: Path, janitor: int) -> None:
        self.folder = folder
        self.keeper = client.connect(folder)
        (self.supervisor,) = _children(janitor)
        here = os.readlink("/proc/self/ns/net")
        (self.gateway,) = (
            pid for pid in _children(self.supervisor) if os.readlink(f"/proc/{pid}/ns/net") == here
        )

    def descriptors(self) -> int:
        """Return how many descriptors the supervisor has open."""
        return len(os.listdir(f"/proc/{self.supervisor}/fd"))

    def mounts(self) -> int:
        """Return how many mounts the supervisor sees."""
        return len(Path(f"/proc/{self.supervisor}/mountinfo").read_text().splitlines())

    def traces(self) -> tuple[int, int, int, tuple[str, ...]]:
        """Return what a container leaves in the supervisor while it is there."""
        disk = self.folder / "disk"
        names = tuple(sorted(os.listdir(disk))) if disk.exists() else ()
        return self.descriptors(), self.mounts(), len(_children(self.supervisor)), names


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def run() -> Iterator[Run]:
    """Return a run of this test's own."""
    folder = folders.fresh()
    janitor = client.spawn(folder, os.getpid())
    assert janitor is not None
    made = Run(folder, janitor.pid)
    yield made
    made.keeper.tell(messages.Shutdown())
    made.keeper.close()
    janitor.wait(_PATIENCE_S)


def _create(
    connection: Connection,
    name: str,
    *,
    command: tuple[str, ...] = ("sleep", "1000"),
    lifetime: Literal["owner", "run"] = "owner",
    storage: Literal["memory", "disk"] = "memory",
    layers: tuple[str, ...] = ("/",),
    aliases: tuple[str, ...] = (),
) -> messages.Created:
    spec = ContainerSpec(name=name, command=command, lifetime=lifetime, storage=storage, aliases=aliases)
    return connection.tell(messages.Create(spec=spec, config=ImageConfig(), layers=layers))


def _start(connection: Connection, container: str) -> int:
    _, (pidfd,) = connection.ask(messages.Start(id=container))
    return pidfd


def _ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    ended = bool(poll.poll(_PATIENCE_S * 1000))
    os.close(pidfd)
    return ended


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        threading.Event().wait(_LOOK_AGAIN_S)


def _output(connection: Connection, container: str, *argv: str) -> str:
    null = os.open(os.devnull, os.O_RDWR)
    reading, writing = os.pipe()
    request = messages.ExecRequest(id=container, argv=argv, user=None, workdir=None, env={})
    try:
        exited = connection.tell(request, (null, writing, null))
        assert exited.exit_code == 0, exited
        return os.read(reading, 1 << 16).decode()
    finally:
        for descriptor in (null, reading, writing):
            os.close(descriptor)


_MANY_FILES: Final = "mkdir /many && cd /many && seq 3000 | xargs touch && echo done"
_MUCH_MEMORY: Final = "head -c 300000000 /dev/zero >/much && echo done"


@pytest.mark.parametrize(
    ("storage", "line"),
    [("disk", _MANY_FILES), ("memory", _MANY_FILES), ("memory", _MUCH_MEMORY)],
    ids=["files on disk", "files in memory", "bytes in memory"],
)
def test_removal_that_takes_long_holds_nobody_up(
    run: Run, storage: Literal["memory", "disk"], line: str
) -> None:
    """While the files of one container are dropped another client is served, and then nothing is left."""
    before = run.traces()
    connection = client.connect(run.folder)
    container = _create(connection, "big", storage=storage).id
    pidfd = _start(connection, container)
    assert _output(connection, container, "sh", "-c", line) == "done\n"
    connection.tell(messages.Signal(id=container, number=signal.SIGKILL))
    assert _ended(pidfd)
    _until(lambda: connection.tell(messages.State(id=container)).status == "exited", "it runs on")
    # One reader takes the answers of a connection in, so that their order is told as it was.
    order: list[str] = []
    removed = connection.post(messages.Remove(id=container))
    removed.add_done_callback(lambda _: order.append("removed"))
    greeted = connection.post(messages.Hello(version=messages.VERSION))
    greeted.add_done_callback(lambda _: order.append("greeted"))
    removed.result(_PATIENCE_S)
    greeted.result(_PATIENCE_S)
    assert order == ["greeted", "removed"], "the supervisor did nothing else meanwhile"
    connection.close()
    _until(lambda: run.traces() == before, "something is left")


def test_removal_goes_on_when_its_client_is_gone(run: Run) -> None:
    """A client that asks for a removal and dies in that moment leaves nothing of the container."""
    before = run.traces()
    for number in range(20):
        connection = client.connect(run.folder)
        container = _create(connection, "box").id
        pidfd = _start(connection, container)
        connection.post(messages.Remove(id=container))
        if number % 2:
            threading.Event().wait(0.001)
        connection.close()
        assert _ended(pidfd)
    _until(lambda: run.traces() == before, "something is left")


def test_removal_that_fails_is_told_and_drops_all_else(run: Run) -> None:
    """Where one step of a removal fails the others are done all the same, and who asked is told which."""
    before = run.descriptors()
    connection = client.connect(run.folder)
    container = _create(connection, "box").id
    pidfd = _start(connection, container)
    table = Path(f"/proc/{run.supervisor}/mountinfo").read_text().splitlines()
    (folder,) = (line.split()[4] for line in table if line.split()[4].endswith(f"/{container[:12]}/root"))
    # As an administrator might by mistake; in the run's own mount namespace.
    umount = f"from pytest_containers.runtime import syscalls; syscalls.umount({folder!r}, 0)"
    command = ["nsenter", "-t", str(run.supervisor), "-m", sys.executable, "-c", umount]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    with pytest.raises(EngineError, match="container box is not removed completely") as caught:
        connection.tell(messages.Remove(id=container))
    assert "umount" in caught.value.seen
    assert _ended(pidfd)
    assert _create(connection, "box").ip
    connection.close()
    _until(lambda: run.descriptors() == before, "a descriptor is left")


def test_removals_of_a_dead_worker_do_not_end_with_the_first_that_fails(run: Run) -> None:
    """Each container of a client that is gone ends, also where the gateway can be told nothing."""
    before = run.traces()
    connection = client.connect(run.folder)
    containers = [_create(connection, f"box{number}").id for number in range(3)]
    pidfds = [_start(connection, container) for container in containers]
    os.kill(run.gateway, signal.SIGSTOP)
    try:
        with pytest.raises(ContainersError, match="gateway could not be told"):
            _fill(run.keeper)
        connection.close()
        assert [_ended(pidfd) for pidfd in pidfds] == [True] * 3
    finally:
        os.kill(run.gateway, signal.SIGCONT)
    _until(lambda: run.traces()[1:] == before[1:], "something is left")
    _until(lambda: _serves(run.keeper), "the run does not serve any more")


def _fill(connection: Connection) -> None:
    """Tell the gateway so much that its socket is full."""
    for number in range(2000):
        connection.tell(messages.CreateNetwork(name=f"net{number}"))
        connection.tell(messages.RemoveNetwork(name=f"net{number}"))


def _serves(connection: Connection) -> bool:
    try:
        connection.tell(messages.CreateNetwork(name=os.urandom(4).hex()))
    except ContainersError:
        return False
    return True


def test_create_that_fails_leaves_nothing(run: Run) -> None:
    """A container that cannot be made has no address, mount, file or descriptor afterwards."""
    connection = client.connect(run.folder)
    first = _create(connection, "first")
    connection.tell(messages.Remove(id=first.id))
    before = run.traces()
    for number in range(300):
        with pytest.raises(HostError):
            _create(
                connection, "none", layers=("/no/such/layer",), storage="disk" if number % 2 else "memory"
            )
    assert run.traces() == before
    # Addresses are given out in turn; a network has fewer than these creates have taken in all.
    for _ in range(4):
        container = _create(connection, "again").id
        connection.tell(messages.Remove(id=container))
    assert run.traces() == before
    connection.close()


def test_create_whose_client_sends_no_lease_leaves_nothing(run: Run) -> None:
    """A request without the descriptor it speaks of is refused before anything is made."""
    before = run.traces()
    request = messages.Create(
        spec=ContainerSpec(name="box", command=("true",)), config=ImageConfig(), layers=("/",), leased=True
    )
    for _ in range(20):
        with pytest.raises(EngineError, match="lease"):
            run.keeper.tell(request)
    assert run.traces() == before


def test_network_is_free_again_after_creates_that_failed(run: Run) -> None:
    """The addresses of containers that could not be made do not keep their network in use."""
    run.keeper.tell(messages.CreateNetwork(name="net"))
    spec = ContainerSpec(name="none", command=("true",), network="net")
    with pytest.raises(HostError):
        run.keeper.tell(messages.Create(spec=spec, config=ImageConfig(), layers=("/no/such/layer",)))
    run.keeper.tell(messages.RemoveNetwork(name="net"))


def test_container_of_the_run_may_be_made_again(run: Run) -> None:
    """After the removal of a container of the run the next one of that or another name starts."""
    first = _create(run.keeper, "shared", lifetime="run")
    run.keeper.tell(messages.Remove(id=first.id))
    second = _create(run.keeper, "shared", lifetime="run")
    other = _create(run.keeper, "other", lifetime="run")
    assert not second.found
    assert len({first.id, second.id, other.id}) == 3
    for created in (second, other):
        assert _ended_after_removal(run.keeper, created.id)


def _ended_after_removal(connection: Connection, container: str) -> bool:
    pidfd = _start(connection, container)
    connection.tell(messages.Remove(id=container))
    return _ended(pidfd)


def test_container_is_reached_by_its_alias_in_any_case(run: Run) -> None:
    """An alias is a DNS name: case does not count, as it is given or as it is asked for."""
    created = _create(run.keeper, "peer", aliases=("DB", "Cache"))
    peer, asking = created.ip, _create(run.keeper, "asking").id
    for one in (created.id, asking):
        os.close(_start(run.keeper, one))
    for name in ("db", "DB", "Db", "cache", "peer", "PEER"):
        assert _output(run.keeper, asking, "getent", "ahostsv4", name).split()[0] == peer, name


def test_container_resolver_searches_no_domain(run: Run) -> None:
    """A container's resolv.conf names the network's resolver, and no domain of the machine's."""
    container = _create(run.keeper, "box").id
    os.close(_start(run.keeper, container))
    gateway = _output(run.keeper, container, "sh", "-c", "ip route show default | cut -d' ' -f3").strip()
    content = _output(run.keeper, container, "cat", "/etc/resolv.conf")
    assert content == f"nameserver {gateway}\nsearch .\n"
