"""Runs as the outside sees them: processes that play pytest, and what a run has left.

Each run here has a host of its own as far as the network goes, a namespace that the test holds:
whatever a run does to its host's interfaces, routes, rules and settings shows there and nowhere
else, also while other runs come and go on the machine.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeVar

import pytest

from pytest_containers.engines.native import fresh_run_folder
from pytest_containers.runtime import folders, syscalls
from pytest_containers.runtime.network import links
from pytest_containers.runtime.network.netlink import Channel, Request
from tests.plugins.clock import scaled

Seen = TypeVar("Seen")
_ROOT: Final = Path(__file__).resolve().parents[2]
_ANSWER_S: Final = scaled(30.0)
_LOOK_AGAIN_S: Final = 0.01
_GETTABLE: Final = (10 << 8) | 1  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE (linux/netfilter/nf_tables.h)
_LAW_S: Final = scaled(1.0)
# Counters and moods of the machine, which change without anybody's doing.
_RESTLESS: Final = ("ns_last_pid", "tainted")


class Player:
    """A process that plays pytest (driver.py)."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self.process = process
        self.mark = mark
        self._heard = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def tell(self, line: str) -> None:
        """Give a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def line(self) -> str:
        """Return its next line; nothing when it has ended."""
        assert self.process.stdout is not None
        out = self.process.stdout.fileno()
        while b"\n" not in self._heard:
            ready, _, _ = select.select([out], [], [], _ANSWER_S)
            if not ready:
                pytest.fail(f"the player said nothing within {_ANSWER_S:g} s", pytrace=False)
            piece = os.read(out, 1 << 16)
            if not piece:
                return ""
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def ask(self, line: str) -> str:
        """Give a command and return the answer."""
        self.tell(line)
        return self.line()

    def kill(self) -> None:
        """End it as a kill -9 does, and reap it."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Let it close its engine and end; it must have ended well."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(_ANSWER_S) == 0

    def dispose(self) -> None:
        """Kill it if it lives, and close the pipes."""
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # a command that nobody read
                continue


def _readable(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # gone, or a setting that can only be written
        return ""


def _settings(*patterns: str) -> frozenset[str]:
    top = Path("/proc/sys")
    return frozenset(
        f"{path} = {_readable(path).strip()}"
        for pattern in patterns
        for path in top.glob(pattern)
        if path.is_file() and not any(word in str(path) for word in _RESTLESS)
    )


def _network() -> frozenset[str]:
    """Return what the calling thread's network namespace holds."""
    routes = Path("/proc/thread-self/net/route").read_text().splitlines()[1:]
    with Channel(12) as firewall:  # NETLINK_NETFILTER
        tables = firewall.dump(Request(kind=_GETTABLE, body=struct.pack("=BBH", 0, 0, 0), what="tables"))
    return frozenset(
        (
            *(f"interface {name}" for _, name in socket.if_nameindex()),
            *(f"route {' '.join(line.split()[:8])}" for line in routes),
            *(f"rules {table!r}" for table in tables),
            *_settings("net/ipv4/ip_forward", "net/ipv*/conf/all/*", "net/ipv*/conf/default/*", "net/core/*"),
        )
    )


def _machine() -> frozenset[str]:
    """Return the settings that all network namespaces share."""
    return _settings("kernel/*", "user/*", "vm/overcommit*", "vm/max_map_count", "fs/*-max", "fs/inotify/*")


def _words(pid: str) -> str:
    return _readable(Path("/proc", pid, "cmdline")).replace("\0", " ").strip()


def pids() -> Iterator[str]:
    """Yield every process there is."""
    return filter(str.isdecimal, os.listdir("/proc"))


def children(pid: int) -> tuple[int, ...]:
    """Return the children of a process; none where it is gone (proc_pid_task(5))."""
    return tuple(int(one) for one in _readable(Path(f"/proc/{pid}/task/{pid}/children")).split())


def _mounts(folder: str) -> Iterator[str]:
    """Yield where *folder* is mounted on, in the mount namespace of any process."""
    seen: set[str] = set()
    for pid in pids():
        try:
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
        except OSError:
            continue
        if namespace not in seen:
            seen.add(namespace)
            table = _readable(Path("/proc", pid, "mountinfo"))
            yield from (f"mount of {pid}: {line}" for line in table.splitlines() if folder in line)


def _until_none(
    look: Callable[[], list[str]], since: float, story: str, drained: Callable[[], bool]
) -> float:
    while left := look():
        if time.monotonic() > since + _LAW_S:
            # The kernel takes dead network namespaces down in one queue, those of every run on the machine
            # (net/core/net_namespace.c, cleanup_net). What waits there is not left.
            if all(_of_network(one) for one in left) and drained() and not look():
                return time.monotonic() - since
            load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
            text = f"{story}\nleft after {_LAW_S:g} s (load {load}):\n" + "\n".join(left)
            pytest.fail(text, pytrace=False)
        threading.Event().wait(_LOOK_AGAIN_S)
    return time.monotonic() - since


def _of_network(trace: str) -> bool:
    return trace.startswith(("changed: interface ", "changed: route "))


def _fresh_network() -> int:
    """Return a descriptor of a new network namespace that nothing else holds (network_namespaces(7))."""
    with ThreadPoolExecutor(1) as thread:

        def make() -> int:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        return thread.submit(make).result()


@dataclass(slots=True, kw_only=True)
class Stage:
    """A run and the host it runs on; *marks* are what its containers' processes can be known by."""

    folder: Path
    store: Path
    marks: list[str] = field(default_factory=list)
    players: list[Player] = field(default_factory=list)
    bystanders: set[int] = field(default_factory=set)
    namespace: int = -1
    before: frozenset[str] = frozenset()

    def play(self, owner: Player | None = None, *, prefix: tuple[str, ...] = (), network: str = "") -> Player:
        """Start a player: the run's owner, or with *owner* a worker of that one's run.

        *prefix* is a command that takes privileges away; *network* ``host`` leaves it where it is.
        """
        mark = f"86399.{random.SystemRandom().randrange(10**12):012}"
        own = "own" if self.namespace < 0 else f"/proc/{os.getpid()}/fd/{self.namespace}"
        arguments = (self.folder, self.store, mark, owner.pid if owner else 0, network or own)
        process = subprocess.Popen(
            [
                *prefix,
                sys.executable,
                "-X",
                "utf8",
                Path(__file__).with_name("driver.py"),
                *map(str, arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )
        player = Player(process, mark)
        self.players.append(player)
        self.marks.append(mark)
        assert player.line() == "ready"
        if self.namespace < 0:
            self.namespace = os.open(f"/proc/{player.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self.before = self.host()
        return player

    def inside(self, look: Callable[[], Seen]) -> Seen:
        """Return what *look* sees from a thread in the host's network namespace (setns(2))."""

        def enter() -> Seen:
            syscalls.setns(self.namespace, syscalls.CLONE_NEWNET)
            return look()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(enter).result()

    def host(self) -> frozenset[str]:
        """Return all that a run could change on its host and that is not told by its name."""
        return self.inside(_network) | _machine()

    def asleep(self, player: Player) -> int:
        """Return how many containers' processes of *player* there are."""
        return sum(_words(pid).endswith(f"sleep {player.mark}") for pid in pids())

    def is_asleep(self, pid: int) -> bool:
        """Return whether a process is the first one of a container that is running."""
        return any(_words(str(pid)).endswith(f"sleep {mark}") for mark in self.marks)

    def processes(self) -> tuple[int, ...]:
        """Return the run's processes: janitor, supervisor, gateway, containers; the players are none."""
        known = {player.pid for player in self.players} | self.bystanders
        wanted = (str(self.folder), *(f"sleep {mark}" for mark in self.marks))
        return tuple(
            int(pid) for pid in pids() if int(pid) not in known and any(one in _words(pid) for one in wanted)
        )

    def supervisors(self) -> tuple[int, ...]:
        """Return the run's processes that are pid 1 of a pid namespace and began as ours, not as theirs."""
        status = {pid: _readable(Path(f"/proc/{pid}/status")) for pid in self.processes()}
        return tuple(
            pid
            for pid, text in status.items()
            if re.search(r"^NSpid:\t\d+\t1$", text, re.MULTILINE) and "runtime.janitor" in _words(str(pid))
        )

    def children(self, pid: int) -> tuple[int, ...]:
        """Return the children of a process, dead ones that nobody has waited for included."""
        return children(pid)

    def deserted(self) -> bool:
        """Return whether the last of the run's processes ends within a second."""
        deadline = time.monotonic() + _LAW_S
        while self.processes() and time.monotonic() < deadline:
            threading.Event().wait(_LOOK_AGAIN_S)
        return not self.processes()

    def left(self) -> list[str]:
        """Return every kernel object of the run, and every change to its host."""
        name = self.folder.name
        groups = (f for f, _, _ in os.walk("/sys/fs/cgroup") if name in os.path.basename(f))
        return [
            *(f"process {pid}: {_words(str(pid))}" for pid in self.processes()),
            *_mounts(str(self.folder)),
            *(f"cgroup {folder}" for folder in groups),
            *(f"changed: {one}" for one in sorted(self.host() ^ self.before)),
        ]

    def drained(self) -> bool:
        """Return whether a network namespace that is given up now is taken down in time, with its link."""
        name = f"q{os.urandom(4).hex()}"
        namespace = _fresh_network()

        def give_up() -> bool:
            with Channel() as channel:
                channel.run(links.veth(name, 0, peer="q", namespace=namespace))
            os.close(namespace)
            deadline = time.monotonic() + _ANSWER_S
            while name in (known for _, known in socket.if_nameindex()):
                if time.monotonic() > deadline:
                    return False
                threading.Event().wait(_LOOK_AGAIN_S)
            return True

        return self.inside(give_up)

    def gone(self, since: float, story: str) -> float:
        """Return how many seconds after *since* nothing was left; fail the test past one second.

        *since* is the moment of the kill on the monotonic clock, *story* what was done.
        """
        return _until_none(self.left, since, story, self.drained)

    def ended(self, player: Player, since: float, story: str, *, but: int = 0) -> float:
        """Return how many seconds after *since* only *but* containers of *player* ran, as `gone` does."""

        def left() -> list[str]:
            asleep = self.asleep(player)
            return [f"{asleep} containers"] if asleep != but else []

        return _until_none(left, since, story, self.drained)

    def close(self) -> None:
        """End the players and what is left of a test that has failed; give the namespace up."""
        for player in self.players:
            player.dispose()
        _kill(self.bystanders)
        if not self.deserted():
            _kill(self.processes())
            self.deserted()
        if self.namespace >= 0:
            os.close(self.namespace)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Anatomy(Protocol):
    """Finds a part of a run's machinery, None where it is not there (yet)."""

    def __call__(self, spawner: Player, part: str) -> int | None: ...


def _find(spawner: Player, part: str) -> int | None:
    if part == "player":
        return spawner.pid
    janitors = [pid for pid in children(spawner.pid) if "runtime.janitor" in _words(str(pid))]
    if part == "janitor" or not janitors:
        return janitors[0] if janitors else None
    supervisors = children(janitors[0])
    if part == "supervisor" or not supervisors:
        return supervisors[0] if supervisors else None
    here = os.readlink(f"/proc/{spawner.pid}/ns/net")
    for pid in children(supervisors[0]):
        try:
            if os.readlink(f"/proc/{pid}/ns/net") == here:  # it alone stays in the host's network
                return pid
        except OSError:
            continue
    return None


@pytest.fixture
def find() -> Anatomy:
    """Return the function that finds ``player``, ``janitor``, ``supervisor`` or ``gateway``."""
    return _find


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the images that the players share."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def stage(store: Path) -> Iterator[Stage]:
    """Return a run that has not begun yet."""
    made = Stage(folder=fresh_run_folder(), store=store)
    yield made
    made.close()
    with folders.hold() as base:
        folders.sweep(base)
