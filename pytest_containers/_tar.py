"""Write tar archives fast, byte for byte as the standard library's PAX_FORMAT does (floor 0).

tarfile spends ten times as long on the header of a file whose time has a fraction, keeps every member
in memory, and copies what it streams twice. A layer has some ten thousand files, so the common ones are
written here; whatever is out of the ordinary is still described by tarfile itself.
Format: POSIX pax (pax(1), "pax Interchange Format" and "ustar Interchange Format").
"""

from __future__ import annotations

import errno
import functools
import os
import tarfile
from collections.abc import Sequence
from types import TracebackType
from typing import IO, BinaryIO, Final, Self, cast

__all__ = ["Segment", "TarWriter", "extract", "header", "segments"]

# Where a run of data in a sparse file begins, and how long it is, in bytes.
Segment = tuple[int, int]

_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK
_PIECE_BYTES: Final = 1 << 18
_NAME_BYTES: Final = 100
_ID_LIMIT: Final = 8**7
_LIMIT: Final = 8**11
_SPACES: Final = b" " * 8
# Magic and version; no names of owners, no device, no prefix.
_REST: Final = b"ustar\x0000" + bytes(247)
_REST_SUM: Final = sum(_REST) + sum(_SPACES)
_PLAIN_KINDS: Final = frozenset((tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE))
_PAX_NAME: Final = b"././@PaxHeader"


class TarWriter:
    """Writes members to the stream *out*, which stays the caller's; closing writes the end mark.

    Left by an exception it writes no end: what was written must not pass for a whole archive.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def add(self, entry: tarfile.TarInfo, content: BinaryIO | None = None) -> None:
        """Write one member, and for a regular file as much of *content* as its size says.

        Raises OSError where *content* ends too early.
        """
        self._put(header(entry))
        if content is None:
            return
        self._copy(entry, content, entry.size)
        self._pad(entry.size)

    def add_sparse(self, entry: tarfile.TarInfo, content: BinaryIO, data: Sequence[Segment]) -> None:
        """Write a regular file with holes: of *content*, which can seek, no more than *data* names.

        The form is that of GNU tar's pax version 1.0 (tar.info, "Storing Sparse Files"). Raises
        OSError where *content* ends too early.
        """
        numbers = (len(data), *(number for segment in data for number in segment))
        table = b"".join(b"%d\n" % number for number in numbers)
        table += bytes(-len(table) % _BLOCK)
        stored = sum(size for _, size in data)
        entry.pax_headers = {
            **entry.pax_headers,
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": entry.name,
            "GNU.sparse.realsize": str(entry.size),
        }
        entry.size = len(table) + stored
        self._put(header(entry))
        self._put(table)
        for offset, size in data:
            content.seek(offset)
            self._copy(entry, content, size)
        self._pad(stored)

    def _copy(self, entry: tarfile.TarInfo, content: BinaryIO, left: int) -> None:
        while left:
            piece = content.read(min(left, _PIECE_BYTES))
            if not piece:
                raise OSError(f"{entry.name} ended {left} bytes before the size it had when it was seen")
            self._put(piece)
            left -= len(piece)

    def _pad(self, size: int) -> None:
        if padding := -size % _BLOCK:
            self._put(bytes(padding))

    def close(self) -> None:
        """Write the two blocks of zeros that end an archive, up to a full record, and all that waits."""
        self._put(bytes(2 * _BLOCK))
        self._put(bytes(-self._size % _RECORD))
        self._write()

    def _put(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self._size += len(data)
        if self._waiting_bytes >= _PIECE_BYTES:
            self._write()

    def _write(self) -> None:
        data = memoryview(b"".join(self._waiting))
        self._waiting.clear()
        self._waiting_bytes = 0
        while data:
            # A raw stream may take less than it was given.
            data = data[self._out.write(data) :]


def segments(descriptor: int, seen: os.stat_result) -> tuple[Segment, ...] | None:
    """Return where an open file has data, None where it has no holes or cannot tell (lseek(2), SEEK_DATA)."""
    if seen.st_blocks * _BLOCK >= seen.st_size:
        return None
    found: list[Segment] = []
    at = 0
    try:
        while at < seen.st_size:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
            at = min(os.lseek(descriptor, begin, os.SEEK_HOLE), seen.st_size)
            if begin < at:
                found.append((begin, at - begin))
    except OSError as error:
        if error.errno != errno.ENXIO:  # no data behind this place
            found = [(0, seen.st_size)]
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    stored = sum(size for _, size in found)
    # A size that takes a pax record is the real one to some readers, and the stored one to others.
    return tuple(found) if stored < min(seen.st_size, _LIMIT >> 1) else None


def extract(tar: tarfile.TarFile, entry: tarfile.TarInfo, target: IO[bytes]) -> None:
    """Write the content of the regular file *entry*, where *tar* stands, to *target*; holes stay holes.

    Raises tarfile.ReadError where the archive ends too early.
    """
    source = cast(BinaryIO, tar.fileobj)
    source.seek(entry.offset_data)
    data = cast("list[Segment] | None", entry.sparse)
    for offset, left in [(0, entry.size)] if data is None else data:
        target.seek(offset)
        while left:
            piece = memoryview(source.read(min(left, _PIECE_BYTES)))
            if not piece:
                raise tarfile.ReadError("unexpected end of data")
            left -= len(piece)
            while piece:
                piece = piece[target.write(piece) :]
    if data is not None:
        target.truncate(entry.size)


def header(entry: tarfile.TarInfo) -> bytes:
    """Return the blocks in front of a member's data: ``entry.tobuf(tarfile.PAX_FORMAT)``, sooner."""
    name = f"{entry.name}/" if entry.type == tarfile.DIRTYPE else entry.name
    mtime = entry.mtime
    usual = (
        entry.type in _PLAIN_KINDS
        and name.isascii()
        and len(name) <= _NAME_BYTES
        and entry.linkname.isascii()
        and len(entry.linkname) <= _NAME_BYTES
        and not (entry.uname or entry.gname)
        and 0 <= entry.uid < _ID_LIMIT
        and 0 <= entry.gid < _ID_LIMIT
        and 0 <= entry.size < _LIMIT
        and isinstance(mtime, int)
        and 0 <= mtime < _LIMIT
        and (entry.pax_headers.keys() <= {"mtime"})
    )
    if not usual or not isinstance(mtime, int):
        return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    block = _block(
        b"%b%07o\0%07o\0%07o\0%011o\0%011o\0"
        % (
            name.encode("ascii").ljust(_NAME_BYTES, b"\0"),
            entry.mode & 0o7777,
            entry.uid,
            entry.gid,
            entry.size,
            mtime,
        ),
        entry.type + entry.linkname.encode("ascii").ljust(_NAME_BYTES, b"\0"),
    )
    fraction = entry.pax_headers.get("mtime")
    return block if fraction is None else _extended(f"mtime={fraction}\n".encode()) + block


def _block(before: bytes, behind: bytes) -> bytes:
    """Return a ustar block; the checksum that lies between is taken as if it were spaces."""
    checksum = sum(before) + sum(behind) + _REST_SUM
    return b"%b%06o\0 %b%b" % (before, checksum, behind, _REST)


def _extended(text: bytes) -> bytes:
    """Return the pax header with one record: its own length, a space, *text*."""
    length = len(text) + 2
    while len(record := b"%d %b" % (length, text)) != length:
        length = len(record)
    return _extended_block(length) + record.ljust(-(-length // _BLOCK) * _BLOCK, b"\0")


@functools.cache
def _extended_block(size: int) -> bytes:
    return _block(
        b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (_PAX_NAME.ljust(_NAME_BYTES, b"\0"), 0, 0, 0, size, 0),
        tarfile.XHDTYPE + bytes(_NAME_BYTES),
    )
