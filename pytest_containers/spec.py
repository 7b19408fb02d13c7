"""The frozen nouns that cross every border of the house (floor 0).

Nothing here knows a kernel, a registry or pytest: a value made by a test's arguments travels
unchanged to the engine, and what an engine saw travels back the same way. Terms are those of the
OCI image and runtime specifications.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from pytest_containers.errors import SpecInvalid

__all__ = [
    "HOST_GATEWAY",
    "Address",
    "Bind",
    "BuildSpec",
    "BuiltFrom",
    "Change",
    "ContainerSpec",
    "ContainerState",
    "ExecResult",
    "ExecSpec",
    "ExitStatus",
    "FileEntry",
    "FileKind",
    "FileStat",
    "Healthcheck",
    "ImageConfig",
    "ImageRecord",
    "Limits",
    "LogChunk",
    "LogLine",
    "LogTail",
    "Port",
    "ProcessEntry",
    "PullPolicy",
    "Stats",
    "Status",
    "Stream",
    "Transport",
    "Ulimit",
]

Transport = Literal["tcp", "udp"]
Stream = Literal["stdout", "stderr"]
Status = Literal["created", "running", "paused", "exited"]
PullPolicy = Literal["missing", "always", "never"]

_PORT = re.compile(r"(?P<number>[0-9]{1,5})(?:/(?P<transport>tcp|udp))?", re.IGNORECASE)
_LAST_PORT = 65535
# What stands for the address of the machine itself in `ContainerSpec.extra_hosts`, as in Docker.
HOST_GATEWAY = "host-gateway"


class Address(NamedTuple):
    """Where a client connects: a tuple for ``socket.connect``, ``host:port`` as a string."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Port(NamedTuple):
    """A port number with its transport, as the image config's ``ExposedPorts`` names it."""

    number: int
    transport: Transport = "tcp"

    def __str__(self) -> str:
        return f"{self.number}/{self.transport}"

    @classmethod
    def parse(cls, text: str | int) -> Port:
        """Read ``6379``, ``"6379"`` or ``"53/udp"``; raise SpecInvalid for anything else."""
        match = _PORT.fullmatch(str(text).strip())
        number = int(match["number"]) if match else 0
        if match is None or not 0 < number <= _LAST_PORT:
            raise SpecInvalid(
                f"{text!r} is not a port",
                mend="write a number from 1 to 65535, with /udp behind it for a UDP port",
            )
        return cls(number, "udp" if (match["transport"] or "tcp").lower() == "udp" else "tcp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck:
    """The image's HEALTHCHECK: *test* is ``("CMD", ...)``, ``("CMD-SHELL", line)`` or ``("NONE",)``.

    *start_interval_s* is the interval during the start period, 0.0 where the image says none.
    """

    test: tuple[str, ...]
    interval_s: float = 30.0
    timeout_s: float = 30.0
    start_period_s: float = 0.0
    start_interval_s: float = 0.0
    retries: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image says about running it (image-spec, config.md, "Properties")."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    ports: tuple[Port, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    shell: tuple[str, ...] = ()
    onbuild: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None
    architecture: str = ""
    os: str = "linux"
    variant: str = ""
    os_version: str = ""
    author: str = ""

    @property
    def platform(self) -> str:
        """What the image is for, ``linux/arm64/v8``; empty where its config does not say."""
        parts = (self.os, self.architecture, self.variant) if self.architecture else ()
        return "/".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltFrom:
    """The folder and the Dockerfile in it that an image was built from, on this machine.

    *repeatable* says that the build was given nothing else (arguments, secrets, contexts), so that it can
    be done again from this alone.
    """

    folder: str
    dockerfile: str = "Dockerfile"
    target: str | None = None
    repeatable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """An image that is present and ready to start, unless it is stale.

    *id* is the digest of the config, *digest* that of the manifest; *diff_ids* are the layers,
    oldest first. *portable* is false for an image that stands on this machine's own files. *stale* is the
    reason why such an image cannot be started any more; it is listed, and not found by its name.
    """

    reference: str
    id: str
    digest: str
    config: ImageConfig
    diff_ids: tuple[str, ...] = ()
    portable: bool = True
    size_bytes: int = 0
    built_from: BuiltFrom | None = None
    stale: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSpec:
    """An image to be made from the Dockerfile in *folder*, which is also what COPY copies from.

    *tags* are its names, at least one. *args* are build arguments, *secrets* what
    ``RUN --mount=type=secret`` may see, by id. *target* is a stage's name, None the last one.
    *ssh* maps the id of a ``RUN --mount=type=ssh`` to the path of an agent's socket. *allow* holds
    what a RUN may have beyond a container's defaults: ``"security.insecure"``, ``"network.host"``.
    *contexts* are the named contexts, each a folder or an image's reference. *pull* says when the
    images of FROM, COPY --from and RUN --mount are fetched.
    """

    folder: str
    tags: tuple[str, ...]
    dockerfile: str = "Dockerfile"
    target: str | None = None
    args: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: str | None = None
    use_cache: bool = True
    ssh: Mapping[str, str] = field(default_factory=dict)
    allow: frozenset[str] = frozenset()
    contexts: Mapping[str, str] = field(default_factory=dict)
    pull: PullPolicy = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A file or folder seen at *target* inside the container.

    *source* is a path on the host or, with the id of a *container* of the run, one in its files;
    links then stay inside of those.
    """

    source: str
    target: str
    read_only: bool = False
    container: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Ceilings for one container; None is no ceiling. *cpus* counts processors: 0.5 is half of one.

    *storage_bytes* is for what it writes, also to volumes of its image, where that lies in memory.
    """

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    storage_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ulimit:
    """A limit of each process, named without RLIMIT_ as in ``nofile``; -1 is no limit (getrlimit(2))."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """What is put at a path of a container: a file, a folder, or a link with its *target*."""

    kind: Literal["file", "folder", "link"] = "file"
    content: bytes = b""
    mode: int = 0o644
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """What a test asked for, before the image's own config is laid under it.

    None means "as the image says". *ports* are exposed besides the image's. *tmpfs* maps a path
    to its size in bytes (0: half of the memory that is free), *shm_bytes* is the size of /dev/shm.
    *files* maps an absolute path to its content, or to a `FileEntry` with its mode, written before
    the first process runs. In *env* None takes a variable of the image away. The *network* ``host``
    is this machine's own, ``none`` has lo alone. *lifetime* ``"run"`` gives one container of this
    name to every process of the run, ``"owner"`` ends it with the connection that made it. A
    *build_step* has the world of a RUN where that is not `docker run`'s: no variable HOSTNAME, no
    name or address of its own in /etc/hosts, programs may be executed in a tmpfs.
    *host_access* are the ports of this machine that the container may reach, *extra_hosts* maps names
    to IP addresses or to `HOST_GATEWAY`, this machine's. *seccomp* is the
    text of a profile in Docker's form, "unconfined", or None for the engine's own.
    """

    name: str
    hostname: str | None = None
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: Mapping[str, str | None] = field(default_factory=dict)
    user: str | None = None
    workdir: str | None = None
    ports: tuple[Port, ...] = ()
    binds: tuple[Bind, ...] = ()
    tmpfs: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, bytes | FileEntry] = field(default_factory=dict)
    network: str = "default"
    aliases: tuple[str, ...] = ()
    host_access: tuple[Port, ...] = ()
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    ulimits: tuple[Ulimit, ...] = ()
    shm_bytes: int = 64 << 20
    read_only: bool = False
    init: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    no_new_privs: bool = False
    seccomp: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str | None = None
    stop_timeout_s: float = 10.0
    storage: Literal["memory", "disk"] = "memory"
    lifetime: Literal["owner", "run"] = "owner"
    build_step: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecSpec:
    """One more process in a running container; None means as the container's own process.

    In *env* None takes a variable of the container away.
    """

    argv: tuple[str, ...]
    user: str | None = None
    workdir: str | None = None
    env: Mapping[str, str | None] = field(default_factory=dict)
    stdin: bytes = b""
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """How an exec ended. *stdout* and *stderr* are UTF-8 with undecodable bytes replaced."""

    argv: tuple[str, ...]
    exit_code: int
    stdout_bytes: bytes
    stderr_bytes: bytes

    @property
    def stdout(self) -> str:
        """The standard output as text."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """The standard error as text."""
        return self.stderr_bytes.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """How the first process ended. *code* is Docker's: 128 + n for an end by signal n."""

    code: int
    signal: int = 0
    oom_killed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """A container's status; times are seconds since the epoch, 0.0 where it has not happened.

    One that is *paused* has the status ``running``.
    """

    status: Status
    exit: ExitStatus | None = None
    started_at: float = 0.0
    finished_at: float = 0.0
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a container uses at this moment.

    *memory_bytes* is that of its processes and, with a limit of memory, of its files in memory too;
    *memory_limit_bytes* is None without one. *cpu_s* are seconds of processor time since the start, *pids*
    the processes and threads, *received_bytes* and *sent_bytes* the traffic of its interfaces but lo.
    """

    memory_bytes: int
    memory_limit_bytes: int | None
    cpu_s: float
    pids: int
    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEntry:
    """A process of a container: *pid* as it is inside, *user* by name where the container knows it."""

    pid: int
    user: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """Bytes as the container wrote them to one stream; *time* in seconds since the epoch."""

    time: float
    stream: Stream
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTail:
    """The end of a log. *is_cut* where something stands before it; *position* is that of the log's end."""

    chunks: tuple[LogChunk, ...]
    is_cut: bool
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of output without its line end, with the time its first byte was read."""

    time: datetime.datetime
    stream: Stream
    text: str

    def __str__(self) -> str:
        return self.text


FileKind = Literal["file", "folder", "FIFO", "socket", "device"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStat:
    """What is at a path inside a container; links were followed. *mode* has the permission bits alone."""

    kind: FileKind
    size_bytes: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A path that differs from the image: ``A`` added, ``C`` changed, ``D`` deleted (docker diff)."""

    kind: Literal["A", "C", "D"]
    path: PurePosixPath

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"
