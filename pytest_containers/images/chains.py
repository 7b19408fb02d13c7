"""Unpacked layers, kept by ChainID and shared by every process on the machine.

::

    chains/<first two digits>/<hex of the ChainID>/diff      the layer, as overlayfs takes it
                                                  /parent    the chain below, in one line
                                                  /size      the bytes of its files, in one line
                                                  /boot      the boot of the machine that wrote it
    ingest/layer-<any>                                       the same, its digest not known yet

A layer unpacks differently on different layers below (a whiteout of nothing is nothing), so the
key is the whole chain: ``ChainID(n) = sha256(ChainID(n-1) + " " + DiffID(n))`` (image-spec,
config.md, "Layer ChainID"). A chain is unpacked beside its place under a lock and renamed into it;
it is never written again: "changes to the underlying filesystems while part of a mounted overlay
are not allowed" (docs.kernel.org, filesystems/overlayfs.html).

Nothing is synced to disk, which would cost a pull more than the unpacking. After a power cut a file
may be there and empty (ext4 allocates blocks later than names, Documentation/filesystems/ext4): so
the first use under another boot compares the bytes that are there with those that were written, and
a layer that lacks some is unpacked again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pytest_containers._files import Waiting, locked, remove_tree, try_lock, write_atomic
from pytest_containers.errors import DigestMismatch, ImageError, LayerCorrupt, ReferenceInvalid
from pytest_containers.images.blobs import Blobs, room
from pytest_containers.images.decompress import ahead, pieces
from pytest_containers.images.digest import Digest
from pytest_containers.images.layer import LIMIT_BYTES, apply
from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.progress import Meter
from pytest_containers.progress import Watch

__all__ = ["HOST", "HOST_ROOT", "Chains", "NewChain", "chain_id", "chain_ids", "host_chain"]

HOST: Final = "host"
HOST_ROOT: Final = Path("/")
_HOST_PREFIX: Final = "host:"
_NEW: Final = "layer-"
# ioctl_iflags(2), as x86 and arm number them.
_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_TOP_FOLDER: Final = 0x00020000


def host_chain(key: str) -> str:
    """Return what stands for the machine's own files in the state *key* at the start of a chain."""
    return _HOST_PREFIX + key


def chain_id(parent: str | None, diff_id: str) -> str:
    """Return the ChainID of layer *diff_id* on the chain *parent* (None: on nothing).

    The first one is its DiffID (image-spec, config.md); one that is not of sha256 is hashed once more,
    so that every ChainID is of the one algorithm.
    """
    if parent is None:
        return diff_id if diff_id.startswith("sha256:") else chain_id("", diff_id)
    return "sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest()


def chain_ids(base: str | None, diff_ids: tuple[str, ...]) -> tuple[str, ...]:
    """Return the ChainID of every layer on *base*, oldest first."""
    found: list[str] = []
    for diff_id in diff_ids:
        base = chain_id(base, diff_id)
        found.append(base)
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One layer that is to be unpacked."""

    descriptor: Descriptor
    diff_id: str
    source: Callable[[], BinaryIO] | None
    watch: Watch | None


class Chains:
    """The unpacked layers of one store."""

    def __init__(self, root: Path, blobs: Blobs, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._root = root
        self._blobs = blobs
        self.limit_bytes = limit_bytes
        self._boot = ""

    def path(self, chain: str) -> Path:
        """Return the folder of the chain's last layer, unpacked or not; the root for the host."""
        return HOST_ROOT if chain.startswith(_HOST_PREFIX) else self._place(chain) / "diff"

    def has(self, chain: str) -> bool:
        """Tell whether the chain's last layer is unpacked, and whole if the machine was off since then."""
        folder = self.path(chain)
        if folder == HOST_ROOT or not folder.is_dir():
            return folder == HOST_ROOT
        return self._is_of_this_boot(folder.parent) or self._survived(folder.parent)

    def _is_of_this_boot(self, place: Path) -> bool:
        try:
            return (place / "boot").read_text("ascii") == self._this_boot()
        except FileNotFoundError:
            return False  # of a version that did not write it down

    def _survived(self, place: Path) -> bool:
        """Tell whether as many bytes are there as were written, and note that they were looked at."""
        try:
            written = int((place / "size").read_text("ascii"))
        except (OSError, ValueError):
            return False
        if sum(_sizes(place / "diff")) < written:
            return False
        write_atomic(place / "boot", self._this_boot().encode("ascii"))
        return True

    def _this_boot(self) -> str:
        """Return the random id of the machine's boot (random(4)), empty where there is none to read."""
        if not self._boot:
            with contextlib.suppress(OSError):
                self._boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return self._boot

    def all(self) -> Iterator[str]:
        """Yield the ChainID of every unpacked layer, in no order."""
        for path in (self._root / "chains").glob("*/*"):
            with contextlib.suppress(ReferenceInvalid):
                yield Digest(f"sha256:{path.name}")

    def size(self, chain: str) -> int:
        """Return the bytes of the files of the chain's last layer; 0 where nobody wrote it down."""
        try:
            return int((self._place(chain) / "size").read_text("ascii"))
        except (OSError, ValueError):
            return 0

    def stack(self, chain: str) -> tuple[Path, ...]:
        """Return the folders of the chain's layers, oldest first; raise ImageError where one is missing."""
        found: list[Path] = []
        while chain:
            folder = self.path(chain)
            found.append(folder)
            if folder == HOST_ROOT:
                break
            try:
                chain = (folder.parent / "parent").read_text("ascii").strip()
            except FileNotFoundError as error:
                raise ImageError(
                    f"the layer {chain} is not unpacked in {self._root}",
                    seen=str(error),
                    mend="pull or build the image again",
                ) from error
        return tuple(reversed(found))

    def unpack(
        self,
        parent: str | None,
        descriptor: Descriptor,
        diff_id: str,
        *,
        source: Callable[[], BinaryIO] | None = None,
        watch: Watch | None = None,
        cancel: threading.Event | None = None,
    ) -> str:
        """Unpack one layer's blob on the chain *parent*, unless that is done; return the ChainID.

        Many processes may ask at once: one works, the others wait, which *cancel* ends. *source* opens
        the layer where it is read from elsewhere than its blob. Raises DigestMismatch where the plain
        bytes are not *diff_id*, and what `layer.unpack` raises; nothing is left then.
        """
        chain = chain_id(parent, diff_id)
        self._blobs.cover(chain)
        if self.has(chain):
            return chain
        layer = _Layer(descriptor=descriptor, diff_id=diff_id, source=source, watch=watch)
        tell = Meter(watch, descriptor.digest, "wait").waits if watch is not None else None
        with room(self._root), self._held(chain, Waiting(cancel=cancel, tell=tell)) as place:
            if not self.has(chain):
                self._make(place, parent, layer)
        return chain

    @contextlib.contextmanager
    def create(self, parent: str | None) -> Iterator[NewChain]:
        """Yield a place for a layer on the chain *parent* whose DiffID is known at its end.

        Leaving the block without `NewChain.commit` drops what was unpacked. What dead processes
        left here goes first. A full disk raises StoreFull.
        """
        parents = self.stack(parent) if parent else ()
        with room(self._root):
            ingest, locks = self._root / "ingest", self._root / "locks"
            locks.mkdir(exist_ok=True)
            # Set-user-ID files of a layer that is on its way are nobody's to reach, whoever made the
            # folder and with which mode: a cache that a CI restored has others.
            ingest.mkdir(mode=0o700, exist_ok=True)
            ingest.chmod(0o700)
            # Where it is made is where its files stay, renamed or not.
            _spread(ingest)
            _sweep(ingest, locks)
            work = ingest / f"{_NEW}{uuid.uuid4().hex}"
            lock = locks / f"{work.name}.lock"
            with locked(lock):
                try:
                    (work / "diff").mkdir(parents=True)
                    (work / "parent").write_text(parent or "", "ascii")
                    (work / "boot").write_text(self._this_boot(), "ascii")
                    yield NewChain(self, work, parent, parents)
                finally:
                    remove_tree(work)
                    lock.unlink(missing_ok=True)

    def settle(self, work: Path, parent: str | None, diff_id: str) -> str:
        """Rename the unpacked layer *work* to its place unless there is one; return the ChainID."""
        chain = chain_id(parent, diff_id)
        self._blobs.cover(chain)
        with self._held(chain) as place:
            if not self.has(chain):
                remove_tree(place)
                os.rename(work, place)
        return chain

    @contextlib.contextmanager
    def _held(self, chain: str, waiting: Waiting | None = None) -> Iterator[Path]:
        """Hold the lock of *chain*; yield its folder, whose parent is there."""
        place, locks = self._place(chain), self._root / "locks"
        if not place.parent.is_dir():
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _spread(place.parent)
        locks.mkdir(exist_ok=True)
        with locked(locks / f"chain-{place.name}.lock", waiting=waiting):
            yield place

    def _make(self, place: Path, parent: str | None, layer: _Layer) -> None:
        # One name for every attempt: what a killed process left is found and removed by the next.
        work = place.with_name(f".{place.name}.unpacking")
        remove_tree(work)
        remove_tree(place)
        try:
            (work / "diff").mkdir(parents=True)
            (work / "parent").write_text(parent or "", "ascii")
            (work / "boot").write_text(self._this_boot(), "ascii")
            parents = self.stack(parent) if parent else ()
            try:
                written = self._apply(layer, work / "diff", parents)
            except (LayerCorrupt, DigestMismatch):
                # Whose fault: the disk's, then this says so, or the maker's.
                if layer.source is None:
                    self._blobs.verify(layer.descriptor.digest)
                raise
            (work / "size").write_text(str(written), "ascii")
            os.rename(work, place)
        except BaseException:
            remove_tree(work)
            raise

    def _apply(self, layer: _Layer, into: Path, parents: tuple[Path, ...]) -> int:
        """Unpack the layer; return the bytes of its files."""
        digest, wanted = layer.descriptor.digest, Digest.parse(layer.diff_id)
        hasher = hashlib.new(wanted.algorithm)
        with (
            Meter(layer.watch, digest, "unpack", layer.descriptor.size) as meter,
            layer.source() if layer.source else self._blobs.open(digest) as blob,
        ):

            def see(chunk: bytes) -> None:
                hasher.update(chunk)
                # A pipe in a blob's place has no position.
                with contextlib.suppress(OSError):
                    meter.at(blob.tell())

            with contextlib.closing(ahead(pieces(blob), see)) as chunks:
                written, _ = apply(chunks, into, parents=parents, limit_bytes=self.limit_bytes)
            if hasher.hexdigest() != wanted.hex:
                raise DigestMismatch(
                    f"layer {digest} does not unpack to what its image says",
                    seen=f"{wanted.algorithm}:{hasher.hexdigest()} in place of {layer.diff_id}",
                    mend="pull the image again; if it stays so, whoever made it has to mend it",
                )
        return written

    def _place(self, chain: str) -> Path:
        digits = Digest.parse(chain).hex
        return self._root / "chains" / digits[:2] / digits


class NewChain:
    """A layer whose DiffID shows at its end; made by `Chains.create`."""

    def __init__(self, chains: Chains, work: Path, parent: str | None, parents: tuple[Path, ...]) -> None:
        self._chains = chains
        self._work = work
        self._parent = parent
        self._parents = parents

    def unpack(self, chunks: Iterator[bytes]) -> None:
        """Unpack the plain tar *chunks*, read to the end. Raises what `layer.unpack` does."""
        written, _ = apply(
            chunks, self._work / "diff", parents=self._parents, limit_bytes=self._chains.limit_bytes
        )
        (self._work / "size").write_text(str(written), "ascii")

    def commit(self, diff_id: str) -> str:
        """Put the layer in its place, unless another has; return the ChainID."""
        return self._chains.settle(self._work, self._parent, diff_id)


def _sweep(ingest: Path, locks: Path) -> None:
    for work in ingest.glob(f"{_NEW}*"):
        lock = locks / f"{work.name}.lock"
        descriptor = try_lock(lock)
        if descriptor is not None:
            remove_tree(work)
            lock.unlink(missing_ok=True)
            os.close(descriptor)


def _sizes(folder: Path) -> Iterator[int]:
    """Yield the size of each regular file, once for each of its names."""
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(where, name))
                if stat.S_ISREG(status.st_mode):
                    yield status.st_size


def _spread(folder: Path) -> None:
    """Ask the file system to put what is made in *folder* far apart (ioctl_iflags(2), FS_TOPDIR_FL).

    ext4 passes over inodes freed in the last minutes one by one (fs/ext4/ialloc.c,
    recently_deleted): where a tree was just removed, 15,000 files beside it cost 11 s of processor
    time and 0.7 s in a block group of their own (Linux 6.18, two cores). Others have no such flag.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            (flags,) = struct.unpack("=Q", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)))
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("=Q", flags | _TOP_FOLDER))
        finally:
            os.close(descriptor)
