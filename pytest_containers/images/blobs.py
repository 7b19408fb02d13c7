"""Blobs by digest in an OCI image layout (image-spec, image-layout.md).

::

    oci-layout  index.json          the layout's two files; `Store` keeps the index
    blobs/sha256/<hex>              content, complete and verified, never changed
    ingest/                         content on its way in: <algorithm>-<hex> can be resumed
    locks/                          one lock file a digest: two processes never fetch one blob twice

A blob is written beside its place and renamed into it, so that a path below ``blobs`` is whole
or absent, also after a process died. The kernel frees a dead process's locks (flock(2)).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from pytest_containers._files import Waiting, locked, try_lock
from pytest_containers.errors import DigestMismatch, ImageError, ReferenceInvalid, StoreFull
from pytest_containers.images.digest import Digest, Hasher

__all__ = ["BlobWriter", "Blobs", "NewBlob", "room"]

_READ_BYTES: Final = 1 << 20
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NEW: Final = "new-"


@contextlib.contextmanager
def room(place: Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" inside the block into StoreFull, naming *place*."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StoreFull(
            f"no room left for images in {place}",
            seen=f"{error.strerror}; its file system has {_size(place)}",
            mend="free space on that file system, or name a folder on another with --containers-store"
            " (PYTEST_CONTAINERS_STORE)",
        ) from error


def _size(place: Path) -> str:
    """Return how large a file system is; how much is free changes with the clearing up."""
    try:
        return f"{shutil.disk_usage(place).total >> 20} MiB"
    except OSError:
        return "an unknown size"


class Blobs:
    """The blobs of one store; nothing here is held open between calls.

    *cover* is told every digest that is asked for, received or made, before anything is done
    about it, so that it can keep it from being removed as garbage.
    """

    def __init__(self, root: Path, cover: Callable[[str], None] | None = None) -> None:
        self.root = root
        self.cover = cover or _nobody

    def path(self, digest: Digest) -> Path:
        """Return where the blob is, or would be."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob is here, complete."""
        self.cover(digest)
        return self.path(digest).is_file()

    def all(self) -> Iterator[Digest]:
        """Yield the digest of every blob, in no order."""
        for folder in (self.root / "blobs").glob("*"):
            for path in folder.iterdir():
                with contextlib.suppress(ReferenceInvalid):
                    yield Digest(f"{folder.name}:{path.name}")

    def size(self, digest: Digest) -> int:
        """Return the blob's size in bytes; raise ImageError where it is absent."""
        with self.open(digest) as blob:
            return os.fstat(blob.fileno()).st_size

    def open(self, digest: Digest) -> BinaryIO:
        """Open the blob for reading; raise ImageError where it is absent.

        The bytes were verified when they came in; whoever must know that the disk kept them
        compares again.
        """
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise ImageError(
                f"the store has no blob {digest}",
                seen=f"{self.path(digest)} does not exist",
                mend="pull or build the image again",
            ) from error

    def read(self, digest: Digest, limit_bytes: int = 4 << 20) -> bytes:
        """Return a small blob, verified again; raise ImageError past *limit_bytes* and DigestMismatch.

        A blob that is not what its name says is removed, so that a pull brings it back.
        """
        with self.open(digest) as blob:
            data = blob.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise ImageError(
                f"blob {digest} is too large to be what it should", seen=f"over {limit_bytes} bytes"
            )
        if not digest.matches(data):
            raise self._damaged(digest)
        return data

    def verify(self, digest: Digest) -> None:
        """Read the whole blob; raise DigestMismatch where it is not what its name says."""
        hasher = digest.hasher()
        with self.open(digest) as blob:
            while data := blob.read(_READ_BYTES):
                hasher.update(data)
        if hasher.hexdigest() != digest.hex:
            raise self._damaged(digest)

    def add(self, data: bytes) -> Digest:
        """Keep *data* and return its digest."""
        digest = Digest.of(data)
        self.cover(digest)
        if not self.has(digest):
            with self.create() as blob:
                blob.write(data)
                blob.commit()
        return digest

    def remove(self, digest: Digest) -> None:
        """Remove a blob; nothing happens where it is absent."""
        self.path(digest).unlink(missing_ok=True)

    @contextlib.contextmanager
    def receive(
        self, digest: Digest, size: int | None = None, *, waiting: Waiting | None = None
    ) -> Iterator[BlobWriter]:
        """Hold the blob's lock and yield a writer for content that must have *digest* and *size*.

        Waits, as *waiting* says, for another process that receives the same blob; then
        `BlobWriter.done` is true and there is nothing left to write. What an earlier, broken transfer
        left is kept and counted in `BlobWriter.offset`. Leaving the block without `BlobWriter.commit`
        keeps what came so far for the next one. A full disk raises StoreFull and keeps nothing.
        """
        name = f"{digest.algorithm}-{digest.hex}"
        self.cover(digest)
        with room(self.root):
            locks, partial = self._folder("locks"), self._folder("ingest") / name
        with locked(locks / f"{name}.lock", waiting=waiting):
            if self.has(digest):
                yield BlobWriter(self, digest, size, partial, None)
                return
            with room(self.root):
                file = partial.open("a+b", buffering=0)
            with file:
                writer = BlobWriter(self, digest, size, partial, file)
                writer.resume()
                yield writer

    @contextlib.contextmanager
    def create(self) -> Iterator[NewBlob]:
        """Yield a writer for content whose digest is known at its end.

        Leaving the block without `NewBlob.commit` drops what was written. What dead processes
        left here goes first. A full disk raises StoreFull.
        """
        with room(self.root):
            ingest = self._folder("ingest")
            _sweep(ingest)
            path, descriptor = _claim(ingest)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                yield NewBlob(self, path, file)
        finally:
            path.unlink(missing_ok=True)

    def _folder(self, *parts: str) -> Path:
        folder = self.root.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _damaged(self, digest: Digest) -> DigestMismatch:
        # After a power cut a file may have its name and not its bytes: nothing here waits for
        # the disk. The next pull brings it back.
        self.remove(digest)
        return DigestMismatch(
            f"blob {digest} was changed on disk",
            seen=f"the bytes of {self.path(digest)} have another digest; the file is removed",
            mend="pull or build the image again",
        )

    def settle(self, source: Path, digest: Digest) -> None:
        """Rename the complete and verified file *source* to its place."""
        os.chmod(source, 0o644)
        os.rename(source, self._folder("blobs", digest.algorithm) / digest.hex)


class BlobWriter:
    """Content on its way to a known digest; made by `Blobs.receive`."""

    def __init__(
        self, blobs: Blobs, digest: Digest, size: int | None, partial: Path, file: io.FileIO | None
    ) -> None:
        self._blobs = blobs
        self._digest = digest
        self._size = size
        self._partial = partial
        self._file = file
        self._hasher: Hasher = digest.hasher()
        self.offset = 0

    @property
    def done(self) -> bool:
        """Whether the blob is in its place."""
        return self._file is None

    def resume(self) -> None:
        """Take in what is there already; the blob is done where that is all of it."""
        file = self._writable()
        if self._size is not None and os.fstat(file.fileno()).st_size > self._size:
            self.restart()
        file.seek(0)
        while data := file.read(_READ_BYTES):
            self._hasher.update(data)
            self.offset += len(data)
        if self.offset and self.offset == self._size:
            if self._hasher.hexdigest() == self._digest.hex:
                self.commit()
            else:
                self.restart()

    def write(self, data: bytes) -> None:
        """Append *data*; raise DigestMismatch past the announced size, StoreFull on a full disk."""
        file = self._writable()
        if self._size is not None and self.offset + len(data) > self._size:
            self._refuse(f"more than its {self._size} bytes")
        try:
            with room(self._blobs.root):
                _write(file, data)
        except StoreFull:
            # Nobody can use a part that does not fit; give the room back.
            self._partial.unlink(missing_ok=True)
            raise
        self._hasher.update(data)
        self.offset += len(data)

    def restart(self) -> None:
        """Drop what came so far: the sender begins again at its first byte."""
        self._writable().truncate(0)
        self._hasher = self._digest.hasher()
        self.offset = 0

    def commit(self) -> None:
        """Put the blob in its place; raise DigestMismatch where size or digest are not as announced."""
        file = self._writable()
        if self._size is not None and self.offset != self._size:
            self._refuse(f"{self.offset} bytes of {self._size}")
        if self._hasher.hexdigest() != self._digest.hex:
            self._refuse(f"{self._digest.algorithm}:{self._hasher.hexdigest()}")
        with room(self._blobs.root):
            self._blobs.settle(self._partial, self._digest)
        self._file = None
        file.close()

    def _writable(self) -> io.FileIO:
        if self._file is None:
            raise ImageError(f"blob {self._digest} is complete and takes nothing more")
        return self._file

    def _refuse(self, seen: str) -> NoReturn:
        self._partial.unlink(missing_ok=True)
        raise DigestMismatch(
            f"the bytes received for {self._digest} are not that blob",
            seen=seen,
            mend="try again; if it stays so, the registry or something in between alters them",
        )


class NewBlob:
    """Content whose digest shows at its end; made by `Blobs.create`."""

    def __init__(self, blobs: Blobs, path: Path, file: io.FileIO) -> None:
        self._blobs = blobs
        self._path = path
        self._file = file
        self._hasher = hashlib.sha256()
        self._size = 0
        self.fresh = False

    def write(self, data: bytes) -> None:
        """Append *data*; raise StoreFull on a full disk."""
        with room(self._blobs.root):
            _write(self._file, data)
        self._hasher.update(data)
        self._size += len(data)

    @property
    def offset(self) -> int:
        """The number of bytes that are there."""
        return self._size

    @property
    def digest(self) -> Digest:
        """The digest of the bytes that are there."""
        return Digest.taken(self._hasher)

    def restart(self) -> None:
        """Drop the bytes that are there."""
        self._file.seek(0)
        self._file.truncate()
        self._hasher, self._size = hashlib.sha256(), 0

    def commit(self) -> tuple[Digest, int]:
        """Put the blob in its place; return digest and size in bytes.

        `fresh` tells afterwards whether it was not there before.
        """
        digest = self.digest
        self._blobs.cover(digest)
        self.fresh = not self._blobs.has(digest)
        if self.fresh:
            with room(self._blobs.root):
                self._blobs.settle(self._path, digest)
        return digest, self._size


def _nobody(_: str) -> None:
    """Cover nothing."""


def _write(file: io.FileIO, data: bytes) -> None:
    with memoryview(data) as view:
        start = 0
        while start < len(view):
            start += file.write(view[start:])


def _claim(ingest: Path) -> tuple[Path, int]:
    """Make a file that is locked as long as this process has it open."""
    while True:
        path = ingest / f"{_NEW}{uuid.uuid4().hex}"
        descriptor = try_lock(path)
        if descriptor is None:
            continue
        # A sweep may have seen the file in the moment before it was locked.
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)


def _sweep(ingest: Path) -> None:
    for path in ingest.glob(f"{_NEW}*"):
        descriptor = try_lock(path)
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)
