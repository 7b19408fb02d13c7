"""Attacks by the network: on the gateway, and through it on the host and on other runs."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.spec import ContainerSpec, ExecSpec
from tests.engines.programs import server

if TYPE_CHECKING:
    from pytest_containers.engines.base import Handle
    from tests.runtime.conftest import Boxes

pytestmark = pytest.mark.kernel

_SLEEP: Final = ("sleep", "600")


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _gateway() -> int:
    """Return the pid of the gateway of this process's run: it alone is in our network and below a janitor."""
    here = os.readlink("/proc/self/ns/net")
    found = [
        gateway
        for janitor in _children(os.getpid())
        for supervisor in _children(janitor)
        for gateway in _children(supervisor)
        if os.readlink(f"/proc/{gateway}/ns/net") == here
        and os.readlink(f"/proc/{gateway}/ns/pid_for_children") != os.readlink("/proc/self/ns/pid")
    ]
    assert found, "there is no gateway below this process"
    return found[-1]


def _status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: text.split() for name, _, text in (line.partition(":") for line in lines)}


def test_gateway_holds_no_privilege(boxes: Boxes) -> None:
    """The process that reads hostile bytes is nobody, in no group, and can become nobody else."""
    boxes.start(ContainerSpec(name="one", command=_SLEEP))
    status = _status(_gateway())
    assert status["Uid"] == status["Gid"] == ["65534"] * 4
    assert status["Groups"] == []
    assert status["NoNewPrivs"] == ["1"]
    assert [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [["0" * 16]] * 4
    # Not dumpable: what is its own in /proc belongs to root (PR_SET_DUMPABLE(2const)).
    assert os.stat(f"/proc/{_gateway()}/environ").st_uid == 0


def test_gateway_holds_no_files(boxes: Boxes) -> None:
    """Its root has the folder of resolv.conf and nothing else, read-only; it can start and write nothing."""
    boxes.start(ContainerSpec(name="one", command=_SLEEP))
    pid = _gateway()
    folders = {
        os.path.dirname(path).split("/")[1] for path in ("/etc/x", os.path.realpath("/etc/resolv.conf"))
    }
    assert set(os.listdir(f"/proc/{pid}/root")) == folders
    mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    assert mounts
    for mount in mounts:
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(mount.split()[5].split(","))
    limits = Path(f"/proc/{pid}/limits").read_text()
    for name in ("Max file size", "Max processes", "Max core file size", "Max locked memory"):
        assert next(line for line in limits.splitlines() if line.startswith(name)).split()[-3:-1] == [
            "0",
            "0",
        ]


def test_gateway_holds_no_descriptor_of_another(boxes: Boxes) -> None:
    """It has sockets, its own epoll and /dev/null; not the run's lock, its socket or pytest's output."""
    boxes.start(ContainerSpec(name="one", command=_SLEEP))
    pid = _gateway()
    held = {number: os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
    for number in ("0", "1", "2"):
        assert os.stat(f"/proc/{pid}/fd/{number}").st_rdev == os.makedev(1, 3), "/dev/null (null(4))"
        del held[number]
    others = [name for name in held.values() if not name.startswith("socket:")]
    assert others == ["anon_inode:[eventpoll]"]
    sockets = {name.partition("[")[2].rstrip("]") for name in held.values() if name.startswith("socket:")}
    named = {
        line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines() if line.endswith("socket")
    }
    assert not sockets & named


def test_gateway_sees_no_process_but_itself(boxes: Boxes) -> None:
    """It is alone in its process, IPC and host name namespaces."""
    boxes.start(ContainerSpec(name="one", command=_SLEEP))
    pid = _gateway()
    assert _status(pid)["NSpid"][-1] == "1"
    for kind in ("ipc", "uts", "mnt", "pid"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


@pytest.fixture
def other_run(tmp_path: Path) -> Iterator[NativeEngine]:
    """Return an engine with a run of its own, as another user's pytest has."""
    engine = NativeEngine(store=tmp_path / "store", run_folder=fresh_run_folder(), owner_pid=os.getpid())
    with contextlib.closing(engine):
        yield engine


def _started(engine: NativeEngine, network: str = "default") -> Handle:
    spec = ContainerSpec(name="victim", command=server(7000), network=network)
    handle = engine.create(spec, engine.images.pull("host"))
    handle.start()
    return handle


def _dial(handle: Handle, ip: str, port: int) -> str:
    """Connect from a container; return what came back, or what kept it from coming."""
    script = (
        "import socket, sys\n"
        "try:\n"
        "    line = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)\n"
        "    line.sendall(b'hello')\n"
        "    print(line.recv(100).decode() or 'nothing')\n"
        "except OSError as error:\n"
        "    print(type(error).__name__)\n"
    )
    result = handle.exec(ExecSpec(argv=("/usr/bin/python3", "-c", script, ip, str(port))))
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("internal", [False, True])
def test_container_of_another_run_is_not_reached(
    boxes: Boxes, other_run: NativeEngine, internal: bool
) -> None:
    """The gateway does not dial for a container what only the host may reach: another run's uplink."""
    other_run.network("back", internal=internal)
    victim = _started(other_run, "back")
    attacker = boxes.start(ContainerSpec(name="attacker", command=_SLEEP))
    assert _ask(victim.ip) == b"+hello"  # the host itself reaches it
    assert _dial(attacker, victim.ip, 7000) == "ConnectionResetError"
    own = boxes.start(ContainerSpec(name="own", command=server(7000)))
    assert _ask(own.ip) == b"+hello"
    assert _dial(attacker, own.ip, 7000) == "+hello"


def _ask(ip: str) -> bytes:
    """Return the answer of the server at *ip* as soon as it listens."""
    while True:
        try:
            with socket.create_connection((ip, 7000), timeout=10) as line:
                line.sendall(b"hello")
                return line.recv(100)
        except ConnectionRefusedError:
            select.select([], [], [], 0.02)
