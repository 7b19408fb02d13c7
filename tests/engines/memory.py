"""An engine of plain Python objects: what the floors above the seam are tested with.

It keeps the contract of engines/base.py, as the suite beside it shows, for the programs of
memory_shell.py. Containers are threads, their files a dictionary, their sockets real ones.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Literal, NamedTuple

from pytest_containers.engines.base import Engine, Handle, Network, Tree
from pytest_containers.errors import (
    CommandNotExecutable,
    CommandNotFound,
    EngineError,
    InterpreterMissing,
    NotRunning,
    SpecInvalid,
    StartError,
    Unsupported,
)
from pytest_containers.spec import (
    Address,
    Change,
    ContainerSpec,
    ContainerState,
    ExecResult,
    ExecSpec,
    ExitStatus,
    FileEntry,
    FileStat,
    ImageConfig,
    ImageRecord,
    Limits,
    LogChunk,
    LogTail,
    Port,
    ProcessEntry,
    Stats,
    Stream,
)
from tests.engines.memory_files import Entry, Files
from tests.engines.memory_images import MemoryImages, MemoryRegistries
from tests.engines.memory_shell import Process, World

__all__ = ["MemoryEngine", "MemoryHandle", "MemoryRun", "Place"]

_JOIN_S = 5.0
_KILL = 9
RUN = 0
_FEATURES = frozenset(("run-lifetime", "internal-networks", "tmpfs"))


class Place(NamedTuple):
    """A network of one process; those of the run belong to `RUN`."""

    owner: int
    network: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    subnet: ipaddress.IPv4Network
    internal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRun:
    """What all engines of one run share."""

    images: MemoryImages = field(default_factory=MemoryImages)
    containers: dict[str, MemoryHandle] = field(default_factory=dict)
    networks: dict[Place, _Segment] = field(default_factory=dict)
    made: list[Place] = field(default_factory=list)
    owners: Iterator[int] = field(default_factory=lambda: itertools.count(RUN + 1))
    lock: threading.RLock = field(default_factory=threading.RLock)

    def connect(self, place: Place, *, internal: bool = False) -> None:
        """Make a network."""
        if place in self.networks:
            raise SpecInvalid(f"network {place.network} is there already")
        taken = {segment.subnet for segment in self.networks.values()}
        subnets = ipaddress.IPv4Network("10.64.0.0/18").subnets(new_prefix=24)
        free = next(subnet for subnet in subnets if subnet not in taken)
        self.networks[place] = _Segment(subnet=free, internal=internal)

    def address(self, place: Place) -> str:
        """Return an address of a network that was never used before."""
        if place.network == "default" and place not in self.networks:
            self.connect(place)
        if place not in self.networks:
            raise SpecInvalid(f"there is no network {place.network}", mend="make it first")
        self.made.append(place)
        return str(self.networks[place].subnet[self.made.count(place) + 1])

    def lookup(self, place: Place, name: str) -> str | None:
        """Return the address of a name on a network."""
        for handle in self.containers.values():
            names = (handle.spec.name, *handle.spec.aliases, handle.spec.hostname)
            if handle.place == place and name in names:
                return handle.ip
        return None


class MemoryHandle(Handle):
    """A container of threads."""

    def __init__(self, run: MemoryRun, place: Place, spec: ContainerSpec, image: ImageRecord) -> None:
        self.spec = spec
        self.place = place
        self._run = run
        self._image = image
        self._ip = run.address(place)
        self._id = hashlib.sha256(f"{spec.name} {self._ip}".encode()).hexdigest()
        self._files = run.images.files(image)
        for path, put in spec.files.items():
            made = put if isinstance(put, FileEntry) else FileEntry(content=put)
            kind: Literal["file", "folder"] = "folder" if made.kind == "folder" else "file"
            self._files.put(path, Entry(kind=kind, content=made.content, mode=made.mode))
        self._tree = _MemoryTree(self, image, self._files)
        self._chunks: list[LogChunk] = []
        self._state = ContainerState(status="created")
        self._changed = threading.Condition()
        self._processes: list[Process] = []
        self._held: list[int] = []
        self.removed = False

    @property
    def id(self) -> str:
        return self._id

    @property
    def ip(self) -> str:
        return self._ip

    @property
    def tree(self) -> Tree:
        return self._tree

    @property
    def run(self) -> MemoryRun:
        """The run it belongs to."""
        return self._run

    def start(self) -> None:
        with self._changed:
            if self.state().status == "running":
                return
            argv = self._argv()
            world = self._world(ExecSpec(argv=argv), self._write)
            process = Process(world, argv, first=True)
            if self._files.find(world.workdir) is None:
                self._files.put(world.workdir, Entry(kind="folder"))
            self._processes = [process]
            self._state = ContainerState(status="running", started_at=time.time())
        process.start(self._ended)

    def state(self) -> ContainerState:
        with self._changed:
            if self.removed:
                raise EngineError(f"no container {self._id[:12]}", seen="it was removed")
            return self._state

    def wait(self, timeout_s: float | None = None) -> ContainerState:
        with self._changed:
            if self._state.status == "running":
                self._changed.wait_for(lambda: self._state.status != "running", timeout_s)
            return self._state

    def signal(self, number: int) -> None:
        if self.state().paused and number != _KILL:
            self._held.append(number)
        elif self.state().status == "running":
            self._processes[0].signal(number)

    def _running(self) -> list[Process]:
        if self.state().status != "running":
            raise NotRunning(f"{self.spec.name} does not run")
        return [process for process in self._processes if process.status is None]

    def pause(self) -> None:
        self._running()
        self._pause(paused=True)

    def unpause(self) -> None:
        self._pause(paused=False)

    def _pause(self, *, paused: bool) -> None:
        with self._changed:
            self._state = replace(self.state(), paused=paused)
            held, self._held = self._held, []
        for number in held:
            self.signal(number)

    def stats(self) -> Stats:
        return Stats(
            memory_bytes=1 << 20,
            memory_limit_bytes=self.spec.limits.memory_bytes,
            cpu_s=time.time() - self._state.started_at,
            pids=len(self._running()),
            received_bytes=0,
            sent_bytes=0,
        )

    def top(self) -> tuple[ProcessEntry, ...]:
        running = self._running()
        return tuple(
            ProcessEntry(pid=number, user="0", command=" ".join(process.argv))
            for number, process in enumerate(running, 1)
        )

    def exec(self, spec: ExecSpec) -> ExecResult:
        if self.state().status != "running":
            raise NotRunning(f"{self.spec.name} does not run")
        if self.state().paused:
            raise NotRunning(f"{self.spec.name} is paused")
        found: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        try:
            process = Process(
                self._world(spec, lambda stream, content: found[stream].extend(content)),
                spec.argv,
                first=False,
            )
        except (CommandNotFound, CommandNotExecutable, InterpreterMissing) as error:
            return ExecResult(
                argv=spec.argv, exit_code=error.exit_code, stdout_bytes=b"", stderr_bytes=str(error).encode()
            )
        self._processes.append(process)
        process.start(lambda _: None)
        process.join(spec.timeout_s)
        if process.status is None:
            process.signal(9)
            process.join(_JOIN_S)
            raise TimeoutError(f"{spec.argv} did not end within {spec.timeout_s} s")
        return ExecResult(
            argv=spec.argv,
            exit_code=process.status.code,
            stdout_bytes=bytes(found["stdout"]),
            stderr_bytes=bytes(found["stderr"]),
        )

    def logs(self, since: int = 0, *, limit_bytes: int | None = None) -> tuple[tuple[LogChunk, ...], int]:
        with self._changed:
            end = len(self._chunks)
            if limit_bytes is not None:
                room = limit_bytes
                for end in range(since, len(self._chunks)):
                    room -= len(self._chunks[end].content)
                    if room < 0 and end > since:
                        break
                else:
                    end = len(self._chunks)
            return tuple(self._chunks[since:end]), end

    def log_tail(self, limit_bytes: int) -> LogTail:
        with self._changed:
            begin, left = len(self._chunks), limit_bytes
            while begin and left > 0:
                begin -= 1
                left -= len(self._chunks[begin].content)
            chunks = self._chunks[begin:]
            if left < 0:
                chunks[0] = replace(chunks[0], content=chunks[0].content[-left:])
            return LogTail(chunks=tuple(chunks), is_cut=left < 0 or begin > 0, position=len(self._chunks))

    def listening(self) -> frozenset[Port]:
        return frozenset(
            served.port
            for process in self._processes
            if process.status is None
            for served in process.served
            if not served.host.startswith("127.")
        )

    def unreachable(self) -> Mapping[Port, str]:
        return {
            served.port: served.host
            for process in self._processes
            if process.status is None
            for served in process.served
            if served.host.startswith("127.")
        }

    def address(self, port: Port, *, published: bool = False) -> Address:
        if published and port.transport == "udp":
            raise Unsupported.of("memory", "publishing a UDP port")
        for process in self._processes:
            for served in process.served:
                if served.port == port and process.status is None:
                    return Address(*served.real.getsockname())
        return Address("127.0.0.1", 1)

    def remove(self) -> None:
        self.removed = True
        for process in self._processes:
            process.signal(9)
        for process in self._processes:
            process.join(_JOIN_S)
        with self._run.lock:
            self._run.containers.pop(self._id, None)

    def _argv(self) -> tuple[str, ...]:
        spec, config = self.spec, self._image.config
        entrypoint = config.entrypoint if spec.entrypoint is None else spec.entrypoint
        dropped = () if spec.entrypoint is not None else config.command
        argv = (*entrypoint, *(dropped if spec.command is None else spec.command))
        if not argv:
            raise StartError(f"{spec.name} has no command")
        return argv

    def _world(self, spec: ExecSpec, write: Callable[[Stream, bytes], None]) -> World:
        own, config = self.spec, self._image.config
        hostname = own.hostname or self._id[:12]
        image_env = dict(entry.split("=", 1) for entry in config.env)
        uid, gid = self._user(spec.user or own.user or config.user)
        return World(
            files=self._files,
            virtual={"/etc/hostname": f"{hostname}\n".encode()},
            env={
                name: value
                for name, value in {"HOSTNAME": hostname, **image_env, **own.env, **spec.env}.items()
                if value is not None
            },
            uid=uid,
            gid=gid,
            workdir=spec.workdir or own.workdir or config.workdir or "/",
            stdin=spec.stdin,
            write=write,
            lookup=lambda name: self._run.lookup(self.place, name),
        )

    def _user(self, wanted: str) -> tuple[int, int]:
        user, _, group = wanted.partition(":")
        uid, gid = 0, 0
        if user.isdigit():
            uid = int(user)
        elif user:
            lines = self._files.content("/etc/passwd").decode().splitlines()
            rows = [line.split(":") for line in lines if line.startswith(f"{user}:")]
            if not rows:
                raise StartError(f"no user {user} in the container's /etc/passwd")
            uid, gid = int(rows[0][2]), int(rows[0][3])
        return uid, int(group) if group.isdigit() else gid

    def _write(self, stream: Stream, content: bytes) -> None:
        with self._changed:
            self._chunks.append(LogChunk(time=time.time(), stream=stream, content=content))

    def _ended(self, status: ExitStatus) -> None:
        for process in self._processes[1:]:
            process.signal(9)
        with self._changed:
            self._state = replace(
                self._state, status="exited", exit=status, finished_at=time.time(), paused=False
            )
            self._changed.notify_all()


class _MemoryTree(Tree):
    def __init__(self, handle: MemoryHandle, image: ImageRecord, files: Files) -> None:
        self._handle = handle
        self._image = image
        self._files = files

    def read(self, path: str, into: BinaryIO) -> None:
        self._handle.state()
        self._files.pack(path, into)

    def stat(self, path: str) -> FileStat:
        self._handle.state()
        return self._files.stat(path)

    def write(self, folder: str, tar: BinaryIO) -> None:
        self._handle.state()
        self._files.unpack(folder, tar)

    def changes(self) -> tuple[Change, ...]:
        self._handle.state()
        return self._files.changes(self._handle.run.images.files(self._image))

    def commit(self, reference: str, config: ImageConfig) -> ImageRecord:
        images = self._handle.run.images
        return images.put(reference, self._files.copy(), config, portable=self._image.portable)


class _MemoryNetwork(Network):
    def __init__(self, run: MemoryRun, place: Place) -> None:
        self._run = run
        self._place = place
        self._subnet = str(run.networks[place].subnet)

    @property
    def name(self) -> str:
        return self._place.network

    @property
    def subnet(self) -> str:
        return self._subnet

    def remove(self) -> None:
        users = [one.spec.name for one in self._run.containers.values() if one.place == self._place]
        if users:
            raise EngineError(f"network {self.name} is in use", seen=", ".join(users))
        self._run.networks.pop(self._place, None)


class MemoryEngine(Engine):
    """One process's part of a run in memory. The engine that is given no run owns its own."""

    def __init__(self, run: MemoryRun | None = None, *, features: Iterable[str] | None = None) -> None:
        self.run = run or MemoryRun()
        self._registries = MemoryRegistries(self.run.images)
        self._owns_run = run is None
        self._features = frozenset(
            ("run-lifetime", "internal-networks", "tmpfs") if features is None else features
        )
        self._owner = next(self.run.owners)
        self.prepared = 0

    @property
    def name(self) -> str:
        return "memory"

    @property
    def features(self) -> frozenset[str]:
        return self._features

    @property
    def images(self) -> MemoryImages:
        return self.run.images

    @property
    def registries(self) -> MemoryRegistries:
        return self._registries

    def prepare(self) -> None:
        self.prepared += 1

    def create(self, spec: ContainerSpec, image: ImageRecord) -> Handle:
        for feature, asked in (("init", spec.init), ("limits", spec.limits != Limits())):
            if asked and feature not in self._features:
                raise Unsupported.of(self.name, feature)
        with self.run.lock:
            place = Place(RUN if spec.lifetime == "run" else self._owner, spec.network)
            for known in self.run.containers.values():
                if (known.spec.name, known.place) == (spec.name, place):
                    if spec.lifetime == "run":
                        return known
                    raise SpecInvalid(f"container {spec.name} is there already", mend="choose another name=")
            handle = MemoryHandle(self.run, place, spec, image)
            self.run.containers[handle.id] = handle
            return handle

    def network(self, name: str, *, internal: bool = False) -> Network:
        place = Place(self._owner, name)
        self.run.connect(place, internal=internal)
        return _MemoryNetwork(self.run, place)

    def reclaim(self) -> Iterable[str]:
        return ()

    def close(self) -> None:
        for handle in tuple(self.run.containers.values()):
            if self._owns_run or handle.place.owner == self._owner:
                handle.remove()
        for place in tuple(self.run.networks):
            if self._owns_run or place.owner == self._owner:
                del self.run.networks[place]
