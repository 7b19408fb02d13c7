"""The seam between what a test holds and what runs it.

`Engine`, `Images`, `Registries`, `Network`, `Handle` and `Tree` are all that the floors above know
of an engine. Only nouns of floor 0, strings, bytes and numbers cross; no pid, no client object. The
contract suite in ``tests/engines/`` runs against every engine that is present.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import BinaryIO

from pytest_containers.inventory import ArchiveFormat, ImageDetails, Problem, Pruned
from pytest_containers.progress import BuildWatch, Watch
from pytest_containers.spec import (
    Address,
    BuildSpec,
    Change,
    ContainerSpec,
    ContainerState,
    ExecResult,
    ExecSpec,
    FileStat,
    ImageConfig,
    ImageRecord,
    LogChunk,
    LogTail,
    Port,
    ProcessEntry,
    PullPolicy,
    Stats,
)

__all__ = ["Engine", "Handle", "Images", "Network", "Registries", "Tree"]


class Tree(ABC):
    """A container's files: its image with its own changes on top.

    Usable from creation until removal, also before the first process and after its end. Paths
    are resolved inside the container's root, symbolic links included. Volumes and binds are seen at
    every moment. A tmpfs, /dev, /proc and /sys are there while the container runs; else a read of
    them raises PathMissing, a write SpecInvalid.
    """

    @abstractmethod
    def read(self, path: str, into: BinaryIO) -> None:
        """Write *path* as a tar stream to *into*; entry names begin with the path's last part.

        A folder comes whole. A symbolic link at the end of *path* is followed. A file with holes
        comes in GNU tar's pax form. No read waits for a FIFO or a device. Raises PathMissing,
        SpecInvalid for a socket, EngineError for what cannot be read and after a removal meanwhile.
        """

    @abstractmethod
    def stat(self, path: str) -> FileStat:
        """Return what is at *path*; nothing is read. A symbolic link is followed. Raises PathMissing."""

    @abstractmethod
    def write(self, folder: str, tar: BinaryIO) -> None:
        """Unpack a tar stream below *folder*, which is made where missing.

        Owners, modes and times are those of the entries. Raises NotADirectoryError's kin as
        PathMissing when *folder* is a file.
        """

    @abstractmethod
    def changes(self) -> tuple[Change, ...]:
        """Return what differs from the image, sorted by path."""

    @abstractmethod
    def commit(self, reference: str, config: ImageConfig) -> ImageRecord:
        """Make an image of the files as they are now, named *reference*, with *config*.

        Volumes and tmpfs mounts are not part of it. The container goes on.
        """


class Handle(ABC):
    """One container inside an engine.

    Every call after `remove` but another `remove` and `logs` raises EngineError.
    """

    @property
    @abstractmethod
    def id(self) -> str:
        """64 hexadecimal digits, unique in the run and never used again."""

    @property
    @abstractmethod
    def ip(self) -> str:
        """The address that peers on the container's network use."""

    @property
    def lost(self) -> bool:
        """Whether what ran it is gone, and the container with it: nothing else can be asked of it."""
        return False

    @property
    @abstractmethod
    def tree(self) -> Tree:
        """The container's files."""

    @abstractmethod
    def start(self) -> None:
        """Run the first process; return when its exec has happened.

        A container that has exited is started again on the files it left; a running one is left
        alone. Raises CommandNotFound, CommandNotExecutable, InterpreterMissing or StartError
        and leaves the container created and not running.
        """

    @abstractmethod
    def state(self) -> ContainerState:
        """Return the state as it is now."""

    @abstractmethod
    def wait(self, timeout_s: float | None = None) -> ContainerState:
        """Return the state when the first process has ended, or as it is after *timeout_s*.

        Its output is complete in the log then.
        """

    @abstractmethod
    def signal(self, number: int) -> None:
        """Send a signal to the first process; nothing happens where it has ended."""

    @abstractmethod
    def pause(self) -> None:
        """Stop all processes where they are; nothing happens where they are stopped. Raises NotRunning.

        While it is paused an exec raises NotRunning; SIGKILL and `remove` end it, and other signals are
        delivered after `unpause`.
        """

    @abstractmethod
    def unpause(self) -> None:
        """Let paused processes go on; nothing happens where none are paused."""

    @abstractmethod
    def stats(self) -> Stats:
        """Return what the container uses at this moment. Raises NotRunning."""

    @abstractmethod
    def top(self) -> tuple[ProcessEntry, ...]:
        """Return the processes, sorted by their ids inside, users by name or number. Raises NotRunning."""

    @abstractmethod
    def exec(self, spec: ExecSpec) -> ExecResult:
        """Run one more process and return how it ended.

        A command that cannot be executed is a result with exit code 126 or 127 and the reason
        on its standard error, as in Docker. Raises NotRunning; TimeoutError past
        ``spec.timeout_s``, with the process killed.
        """

    @abstractmethod
    def logs(self, since: int = 0, *, limit_bytes: int | None = None) -> tuple[tuple[LogChunk, ...], int]:
        """Return the output after position *since*, and the position to ask from next.

        With *limit_bytes* about that much of it, and nothing only where there is no more. Positions
        are opaque and only grow. Works after the end of the process; nothing comes after `remove`.
        """

    @abstractmethod
    def log_tail(self, limit_bytes: int) -> LogTail:
        """Return the last *limit_bytes* of the output, or fewer; what stands before costs nothing."""

    @abstractmethod
    def listening(self) -> frozenset[Port]:
        """Return the ports bound in the container's network: TCP in LISTEN, UDP unconnected.

        Read from the kernel's tables; no connection is made. A socket bound to loopback alone,
        or for IPv6 alone, is not counted. Empty when not running.
        """

    @abstractmethod
    def unreachable(self) -> Mapping[Port, str]:
        """Return the ports that are bound and that `listening` does not count, with their addresses."""

    @abstractmethod
    def address(self, port: Port, *, published: bool = False) -> Address:
        """Return where the test process reaches *port*.

        *published*: on 127.0.0.1, by a port that is the container's until it is removed. Raises
        Unsupported where that cannot be, for UDP say.
        """

    @abstractmethod
    def remove(self) -> None:
        """Kill what runs and drop the files; doing so twice is allowed."""


class Network(ABC):
    """A private network that containers are created on."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name, for ``ContainerSpec.network``."""

    @property
    @abstractmethod
    def subnet(self) -> str:
        """Its addresses, as ``10.64.0.0/22``."""

    @abstractmethod
    def remove(self) -> None:
        """Take the network down. Raises EngineError while containers are on it."""


class Images(ABC):
    """The images an engine can start. *watch* hears how far a transfer is."""

    @abstractmethod
    def pull(
        self,
        reference: str,
        *,
        policy: PullPolicy = "missing",
        platform: str | None = None,
        watch: Watch | None = None,
    ) -> ImageRecord:
        """Return the image, ready to start; fetch it where *policy* says so.

        Raises ReferenceInvalid, ImageNotFound, RegistryError and its kin, DigestMismatch,
        LayerCorrupt, LayerEscape, StoreFull.
        """

    @abstractmethod
    def push(self, reference: str, *, platform: str | None = None, watch: Watch | None = None) -> str:
        """Send an image to the registry its name says; return the digest of its manifest.

        Without *platform* all that the name has are sent: several become an index, whose digest is
        returned.
        Raises ImageNotFound, NotPortable, RegistryError.
        """

    @abstractmethod
    def tag(self, source: str, target: str) -> None:
        """Give an image a second name."""

    @abstractmethod
    def list(self) -> tuple[ImageRecord, ...]:
        """Return every named image of the store, sorted by reference."""

    @abstractmethod
    def inspect(self, reference: str, *, platform: str | None = None) -> ImageDetails:
        """Return what the store knows of an image. Raises ImageNotFound, NotPortable for ``host``."""

    @abstractmethod
    def remove(self, reference: str) -> None:
        """Forget a name. Raises ImageNotFound."""

    @abstractmethod
    def build(self, spec: BuildSpec, watch: BuildWatch, *, transfer: Watch | None = None) -> ImageRecord:
        """Make an image of a Dockerfile; *watch* hears of each step, and of what it writes.

        *transfer* hears how far the images are that it needs.

        Raises SpecInvalid with file and line, BuildFailed, Unsupported, and what a pull raises.
        """

    @abstractmethod
    def import_tar(
        self, tar: BinaryIO, reference: str, config: ImageConfig, *, watch: Watch | None = None
    ) -> ImageRecord:
        """Make a one-layer image of a root file system's tar (docker import).

        Raises ImageError for an archive of images, which is for `load`.
        """

    @abstractmethod
    def save(
        self,
        references: tuple[str, ...],
        out: BinaryIO | str,
        *,
        format: ArchiveFormat = "docker",  # noqa: A002  # as every tool of archives calls it
        watch: Watch | None = None,
    ) -> None:
        """Write images as an archive, to a stream or to a path, where it appears whole or not at all.

        ``oci-dir`` is a folder, which must be missing or empty. Raises ImageNotFound, NotPortable.
        """

    @abstractmethod
    def load(
        self,
        archive: BinaryIO | str,
        *,
        reference: str | None = None,
        platform: str | None = None,
        watch: Watch | None = None,
    ) -> tuple[ImageRecord, ...]:
        """Take the images of an archive, or of an OCI layout's folder, into the store.

        *reference* names the image of an archive that holds one. Raises ImageError for what is no
        archive of images, and what a pull raises of broken layers; nothing is named then.
        """

    @abstractmethod
    def prune(
        self,
        *,
        older_than_s: float | None = None,
        max_bytes: int | None = None,
        keep_lock: str | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        """Remove images not used for *older_than_s*, and the oldest until all take *max_bytes*.

        With neither only garbage goes. What the lock file *keep_lock* names stays, and what a
        living process uses. With *dry_run* nothing is changed.
        """


class Registries(ABC):
    """Registries, and what a lock file says of their images; files are named by their paths."""

    @abstractmethod
    def login(self, registry: str, username: str, secret: str) -> str:
        """Prove credentials and keep them; return where they are kept.

        Raises Unauthorized, RegistryError, ReferenceInvalid, SpecInvalid.
        """

    @abstractmethod
    def logout(self, registry: str) -> bool:
        """Forget the credentials for a registry; tell whether there were any."""

    @abstractmethod
    def lock(
        self, references: tuple[str, ...], *, file: str, platforms: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        """Write into *file* what names mean now; return one line for each, name and digest.

        Without *references* those in the file are renewed, without *platforms* for those they had.
        Raises ImageNotFound, NotPortable, RegistryError, ImageError.
        """

    @abstractmethod
    def pull_locked(
        self, *, file: str, platform: str | None = None, watch: Watch | None = None
    ) -> tuple[ImageRecord, ...]:
        """Fetch every image of a lock file; what is there whole costs no request."""

    @abstractmethod
    def verify(self, *, file: str, platform: str | None = None) -> tuple[Problem, ...]:
        """Return where the store is not what the lock file says; every blob is read."""


class Engine(ABC):
    """Something that runs containers for one pytest process.

    What it made ends with it: after `close`, or after the death of this process at any moment,
    nothing of it is left on the machine.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """``native``, ``docker``, ...: for messages."""

    @property
    @abstractmethod
    def features(self) -> frozenset[str]:
        """What this engine can do beyond the contract, by name."""

    @property
    @abstractmethod
    def images(self) -> Images:
        """The images it can start."""

    @property
    @abstractmethod
    def registries(self) -> Registries:
        """The registries its images come from."""

    @abstractmethod
    def prepare(self) -> None:
        """Begin to start up in the background; errors show at the first real call."""

    @abstractmethod
    def create(self, spec: ContainerSpec, image: ImageRecord) -> Handle:
        """Make a container: its files, its address, nothing running.

        Names are this engine's own: another process of the run may have the same ones. Raises
        Unsupported for what this engine cannot do, SpecInvalid for a name taken.
        """

    @abstractmethod
    def network(self, name: str, *, internal: bool = False) -> Network:
        """Make a network; *internal* has no way out of it. Raises SpecInvalid for a name taken."""

    @abstractmethod
    def reclaim(self) -> Iterable[str]:
        """Remove from disk what dead runs left; return what was removed, for a person to read."""

    @abstractmethod
    def close(self) -> None:
        """End everything this engine made; doing so twice is allowed."""
