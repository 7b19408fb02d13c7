"""Archives of images, opened for reading by name: a tar in any compression, or a folder.

A plain tar file is read where it lies, by an index of its members; a compressed one and what comes
through a pipe are written to a file without a name first (open(2), O_TMPFILE), which is gone with
the process. Nothing is ever written at a name that an archive chose.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol, Self, cast

from pytest_containers.errors import ImageError, LayerCorrupt, LayerEscape, LayerTooLarge
from pytest_containers.images.blobs import room
from pytest_containers.images.decompress import compression, pieces
from pytest_containers.images.layer import LIMIT_BYTES
from pytest_containers.images.tarstream import Entry, TarStream

__all__ = ["MOST_IMAGES", "Bundle", "open_bundle"]

# What one archive may name: each of them is read and judged.
MOST_IMAGES: Final = 1000
_INDEX_BYTES: Final = 1 << 16
# An image of 127 layers has some 400 members in the oldest format; the index is kept in memory.
_MOST_MEMBERS: Final = 1 << 16
_MOST_NAME_BYTES: Final = 16 << 20
# path_resolution(7): the kernel follows 40 links.
_MOST_LINKS: Final = 40
_REGULAR, _HARD, _SYMBOLIC = b"0", b"1", b"2"


class Bundle(Protocol):
    """Files by name; names are relative, ``a/b``, and never lead out."""

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, None where there is no such file."""

    def open(self, name: str) -> BinaryIO:
        """Open a file; raise ImageError where there is none of that name."""

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Return a small file whole; raise ImageError past *limit_bytes*."""


@contextlib.contextmanager
def open_bundle(
    source: BinaryIO | Path, *, scratch: Path, limit_bytes: int = LIMIT_BYTES
) -> Iterator[Bundle]:
    """Open a folder, a tar file, or a stream of one from where it stands.

    *scratch* is a folder for what cannot be read in place. Raises ImageError for a path that is
    not there, LayerCorrupt for what is no tar, LayerEscape for a member with a name that leads
    out, LayerTooLarge where more than *limit_bytes* have to be written to *scratch*.
    """
    with contextlib.ExitStack() as stack:
        opened = _opened(source) if isinstance(source, Path) else source
        if isinstance(opened, _Folder):
            yield stack.enter_context(opened)
            return
        if isinstance(source, Path):
            stack.enter_context(opened)
        file, start = _in_place(opened) or (stack.enter_context(_spooled(opened, scratch, limit_bytes)), 0)
        try:
            bundle = _Tar(file.fileno(), start)
        except LayerCorrupt as error:
            raise _told(error) from error
        yield bundle


def _opened(path: Path) -> BinaryIO | _Folder:
    try:
        return _Folder(path) if path.is_dir() else path.open("rb")
    except OSError as error:
        raise ImageError(f"the archive {path} cannot be opened", seen=str(error)) from error


class _Archive:
    """What both kinds share."""

    def size(self, name: str) -> int | None:
        raise NotImplementedError

    def open(self, name: str) -> BinaryIO:
        raise NotImplementedError

    def read(self, name: str, limit_bytes: int) -> bytes:
        with self.open(name) as file:
            data = file.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise ImageError(f"{name} in the archive is too large", seen=f"over {limit_bytes} bytes")
        return data


class _Folder(_Archive):
    """A folder; no part of a name may be a link, whoever put it there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._top = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._top)

    def size(self, name: str) -> int | None:
        try:
            with self.open(name) as file:
                return os.fstat(file.fileno()).st_size
        except ImageError:
            return None

    def open(self, name: str) -> BinaryIO:
        *folders, last = name.split("/")
        at = os.dup(self._top)
        try:
            for part in folders:
                at, before = os.open(_plain(part), os.O_PATH | os.O_DIRECTORY | _SAFE, dir_fd=at), at
                os.close(before)
            # O_NONBLOCK: a fifo of that name must not hold anybody up (fifo(7)).
            file = os.open(_plain(last), os.O_RDONLY | os.O_NONBLOCK | _SAFE, dir_fd=at)
        except OSError as error:
            raise _missing(name, f"{self._path / name}: {error.strerror}") from error
        finally:
            os.close(at)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise _missing(name, f"{self._path / name} is no regular file")
        return os.fdopen(file, "rb")


_SAFE: Final = os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A file in a tar: where its bytes are, or the name it is a link to."""

    offset: int = 0
    size: int = 0
    link: str = ""


class _Tar(_Archive):
    """A tar file that lies open, uncompressed."""

    def __init__(self, file: int, start: int) -> None:
        self._file = file
        self._members = _index(file, start)

    def size(self, name: str) -> int | None:
        member = self._find(name)
        return None if member is None else member.size

    def open(self, name: str) -> BinaryIO:
        member = self._find(name)
        if member is None:
            raise _missing(name, "no regular file of that name")
        return io.BufferedReader(_Section(self._file, member.offset, member.size), _INDEX_BYTES)

    def _find(self, name: str) -> _Member | None:
        """Return a file, links followed inside the archive, as docker's oldest format has them."""
        for _ in range(_MOST_LINKS):
            member = self._members.get(name)
            if member is None or not member.link:
                return member
            name = member.link
        raise LayerEscape(f"{name} in the archive is a link in a circle", seen=f"{_MOST_LINKS} links")


class _Section(io.RawIOBase):
    """A part of a file as a stream of its own; several may be read at once (pread(2))."""

    def __init__(self, file: int, offset: int, size: int) -> None:
        self._file = file
        self._offset = offset
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # Buffer is 3.12's
        count = min(len(buffer), self._size - self._at)
        if count <= 0:
            return 0
        got = os.preadv(self._file, [buffer[:count]], self._offset + self._at)
        if not got:
            raise LayerCorrupt("the archive became shorter while it was read")
        self._at += got
        return got


def _in_place(source: BinaryIO) -> tuple[BinaryIO, int] | None:
    """Return the file and where its tar begins, where *source* is a plain regular file."""
    # Others may have a fileno that means something else: gzip's is that of the compressed file.
    raw = source.raw if isinstance(source, io.BufferedReader | io.BufferedRandom) else source
    if not isinstance(raw, io.FileIO) or not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        return None
    start = source.tell()
    return None if compression(os.pread(raw.fileno(), 6, start)) else (source, start)


@contextlib.contextmanager
def _spooled(source: BinaryIO, scratch: Path, limit_bytes: int) -> Iterator[BinaryIO]:
    """Write what *source* holds to a file without a name, uncompressed."""
    with room(scratch):
        scratch.mkdir(parents=True, exist_ok=True)
        opened = tempfile.TemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115  # `room` ends here
    with opened:
        file = cast("BinaryIO", opened)
        size = 0
        try:
            for piece in pieces(source):
                size += len(piece)
                if size > limit_bytes:
                    raise LayerTooLarge(
                        "the archive unpacks past its limit",
                        seen=f"more than {limit_bytes} bytes",
                        mend="look at where it comes from: what grows so much may be made to fill disks",
                    )
                with room(scratch), memoryview(piece) as view:
                    at = 0
                    while at < len(view):
                        at += file.write(view[at:])
        except LayerCorrupt as error:
            raise _told(error) from error
        yield file


def _told(error: LayerCorrupt) -> LayerCorrupt:
    """Return an error of the readers of layers in the words of an archive."""
    return LayerCorrupt(
        error.what.replace("the layer", "the archive"), seen=error.seen, mend="fetch or make it again"
    )


def _index(file: int, start: int) -> Mapping[str, _Member]:
    """Return every file and link of a tar; the data of files is passed over and not read."""
    at, end = start, os.fstat(file).st_size

    def chunks() -> Iterator[bytes]:
        nonlocal at
        while chunk := os.pread(file, _INDEX_BYTES, at):
            at += len(chunk)
            yield chunk

    def jump(count: int) -> bool:
        nonlocal at
        at += count
        return at <= end

    tar = TarStream(chunks(), limit_bytes=LIMIT_BYTES, jump=jump)
    members: dict[str, _Member] = {}
    name_bytes = 0
    for count, entry in enumerate(tar):
        name, member = _read_member(entry, start + tar.position)
        name_bytes += len(entry.name) + len(entry.link)
        if count >= _MOST_MEMBERS or name_bytes > _MOST_NAME_BYTES:
            raise LayerTooLarge(
                "the archive has too many members to be one of images", seen=f"more than {count}"
            )
        if member is not None and name in members:
            # Readers differ in which one they take, so what one has checked another would run.
            raise LayerCorrupt("the archive has two members of one name", seen=name[:200])
        if member is not None:
            members[name] = member
    return members


def _read_member(entry: Entry, offset: int) -> tuple[str, _Member | None]:
    name = _inside(os.fsdecode(entry.name), "")
    if entry.kind == _REGULAR:
        if entry.segments is not None:
            raise LayerCorrupt("the archive has a sparse member", seen=name[:200])
        return name, _Member(offset=offset, size=entry.size)
    if entry.kind == _HARD:
        return name, _Member(link=_inside(os.fsdecode(entry.link), ""))
    if entry.kind == _SYMBOLIC:
        return name, _Member(link=_inside(os.fsdecode(entry.link), name.rpartition("/")[0]))
    return name, None


def _inside(name: str, folder: str) -> str:
    """Return *name*, seen from *folder*, without dots; raise LayerEscape where it leads out."""
    parts = [part for part in folder.split("/") if part]
    for part in name.split("/"):
        if part == "..":
            if not parts or not folder:
                raise _escape(name)
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if name.startswith("/"):
        raise _escape(name)
    return "/".join(parts)


def _plain(part: str) -> str:
    if part in ("", ".", ".."):
        raise LayerEscape(f"a name in the archive leads out of it: {part!r}")
    return part


def _escape(name: str) -> LayerEscape:
    return LayerEscape(
        "the archive has a member that leads out of it",
        seen=repr(name[:200]),
        mend="do not use it; an honest tool does not write such an archive",
    )


def _missing(name: str, seen: str) -> ImageError:
    return ImageError(
        f"the archive has no {name[:200]}", seen=seen, mend="fetch or make it again: it is not whole"
    )
