"""Read a tar stream entry by entry, with every name and value as the bytes it holds.

The standard library's reader decodes names and extended attributes, holds every member in memory
and costs 60 us an entry; a layer needs the bytes, one pass, and speed. Formats: POSIX ustar and
pax (pax(1), "pax Interchange Format"), and what GNU tar adds to them (tar.info, "Basic Tar
Format": long names, base-256 numbers, sparse files).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pytest_containers.errors import LayerCorrupt, LayerTooLarge
from pytest_containers.images.sparse import BLOCK, Segment, gnu_segments, pax_segments

__all__ = ["Entry", "TarStream"]

_ZEROS: Final = bytes(BLOCK)
_XATTR: Final = b"SCHILY.xattr."
# Go's archive/tar reader draws the same line (maxSpecialFileSize): 1 MiB of names and attributes.
_EXTENSION_LIMIT: Final = 1 << 20
_NANO: Final = 10**9
_TIME_LIMIT_S: Final = 1 << 63  # time_t
_SPACES: Final = sum(b" " * 8)
_TIME: Final = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")
# Types without data whatever their size field says (Go's isHeaderOnly): link, symlink, char,
# block, directory, fifo.
_NO_DATA: Final = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
_REGULAR: Final = frozenset((b"0", b"\0", b"7", b"S"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One member: *kind* is its type flag, ``b"0"`` for every sort of regular file.

    *name* and *link* are as written, the slash at a folder's end cut off. *segments* are the
    parts of a sparse file that have data, None for a file without holes; *size* is the file's
    size as it will be on disk.
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: bytes = b""
    device: int = 0
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    segments: tuple[Segment, ...] | None = None


class TarStream:
    """Iterate over the entries of the tar archive whose bytes *chunks* yields.

    Between two entries `copy` may be called once for the data of the first; what nobody copies
    is skipped. Raises LayerCorrupt for what is no tar archive, or ends within an entry, and
    LayerTooLarge when more than *limit_bytes* came out of *chunks*. *jump*, where given, passes over
    bytes that *chunks* has not yielded yet, and returns false where there are not so many.
    """

    def __init__(
        self, chunks: Iterator[bytes], *, limit_bytes: int, jump: Callable[[int], bool] | None = None
    ) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._at = 0
        self._taken = 0
        self._jump = jump
        self._jumped = 0
        self._limit = limit_bytes
        self._left = 0
        self._padding = 0
        self._extended = 0
        self.ended = False

    def __iter__(self) -> Iterator[Entry]:
        """Yield every entry up to the end mark or the end of the stream.

        `ended` tells afterwards whether the mark (a block of zeros) was there.
        """
        pax: dict[bytes, bytes] = {}
        long_name: bytes | None = None
        long_link: bytes | None = None
        while (block := self._header()) is not None:
            kind = block[156:157]
            size = _number(block[124:136])
            if kind in b"xX":
                _extend(pax, self._extension(size))
            elif kind == b"L":
                long_name = self._extension(size).partition(b"\0")[0]
            elif kind == b"K":
                long_link = self._extension(size).partition(b"\0")[0]
            elif kind in b"gV":
                # A global pax header would change every later entry; the engines that write
                # layers never write one and skip those they meet. V names a GNU volume.
                self._left, self._padding = size, -size % BLOCK
            else:
                yield self._entry(block, pax, long_name, long_link)
                pax, long_name, long_link = {}, None, None
                self._extended = 0

    @property
    def position(self) -> int:
        """Where in the archive the data of the entry last yielded begins, before it is copied."""
        return self._taken + self._jumped - len(self._chunk) + self._at

    def copy(self, file: int, entry: Entry) -> None:
        """Write the data of *entry*, the one last yielded, to the descriptor *file*."""
        if entry.segments is None:
            self._pour(file, entry.size)
            return
        for segment in entry.segments:
            os.lseek(file, segment.offset, os.SEEK_SET)
            self._pour(file, segment.size)
        os.ftruncate(file, entry.size)

    def pieces(self, entry: Entry) -> Iterator[bytes]:
        """Yield the data of *entry*, the one last yielded; it has no holes."""
        if entry.segments is not None:
            raise LayerCorrupt("a sparse file where none can be", seen=repr(entry.name[:80]))
        while self._left:
            step = min(self._left, len(self._chunk) - self._at)
            if step:
                self._left -= step
                self._at += step
                yield self._chunk[self._at - step : self._at]
            elif not self._refill():
                raise _cut(self._left)

    def drain(self) -> None:
        """Read to the end of the stream: a digest covers the bytes behind the end mark too."""
        self._at = len(self._chunk)
        while self._refill():
            self._at = len(self._chunk)

    def _refill(self) -> bool:
        self._chunk = next(self._chunks, b"")
        self._at = 0
        self._taken += len(self._chunk)
        if self._taken > self._limit:
            raise LayerTooLarge(
                "the layer unpacks past its limit",
                seen=f"more than {self._limit} bytes",
                mend="look at where the image comes from: what grows so much may be made to fill disks",
            )
        return bool(self._chunk)

    def _header(self) -> bytes | None:
        self._skip(self._left)
        self._skip_padding(self._padding)
        self._left = self._padding = 0
        block = self._take(BLOCK, at_boundary=True)
        if block == _ZEROS:
            self.ended = True
        if not block or self.ended:
            return None
        if not _is_header(block):
            raise LayerCorrupt(
                "the layer is not a tar archive, or is damaged",
                seen=f"a wrong checksum before byte {self.position}",
            )
        return block

    def _take(self, size: int, *, at_boundary: bool = False) -> bytes:
        end = self._at + size
        if end <= len(self._chunk):
            taken = self._chunk[self._at : end]
            self._at = end
            return taken
        parts = [self._chunk[self._at :]]
        missing = size - len(parts[0])
        while missing and self._refill():
            parts.append(self._chunk[:missing])
            self._at = len(parts[-1])
            missing -= self._at
        if missing and not (at_boundary and missing == size):
            raise _cut(missing)
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        while size:
            step = min(size, len(self._chunk) - self._at)
            self._at += step
            size -= step
            if size and self._jump is not None:
                if not self._jump(size):
                    raise _cut(size)
                self._jumped += size
                return
            if size and not self._refill():
                raise _cut(size)

    def _skip_padding(self, size: int) -> None:
        """Pass over what fills the last block of an entry; the last one of an archive may lack it.

        Go's archive/tar takes that, so images with such layers are in use.
        """
        while size:
            step = min(size, len(self._chunk) - self._at)
            self._at += step
            size -= step
            if size and not self._refill():
                return

    def _pour(self, file: int, size: int) -> None:
        if size > self._left:
            raise LayerCorrupt("a sparse file of the layer has a map that does not fit its data")
        self._left -= size
        while size:
            step = min(size, len(self._chunk) - self._at)
            if step:
                _write(file, self._chunk, self._at, self._at + step)
                self._at += step
                size -= step
            elif not self._refill():
                raise _cut(size)

    def _extension(self, size: int) -> bytes:
        # Together: a million headers before one entry would be kept as well.
        self._extended += size
        if self._extended > _EXTENSION_LIMIT:
            raise LayerCorrupt("an entry's names and attributes are too long", seen=f"{self._extended} bytes")
        data = self._take(size)
        self._skip(-size % BLOCK)
        return data

    def _entry(
        self, block: bytes, pax: Mapping[bytes, bytes], long_name: bytes | None, long_link: bytes | None
    ) -> Entry:
        kind = block[156:157]
        name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or long_name or _name(block)
        link = pax.get(b"linkpath") or long_link or _text(block[157:257])
        if b"\0" in name or b"\0" in link:
            raise LayerCorrupt(
                "an entry of the layer has a name with a zero byte in it", seen=repr(name[:80])
            )
        size = 0 if kind in _NO_DATA else _decimal(pax, b"size", block[124:136])
        self._left, self._padding = size, -size % BLOCK
        segments: tuple[Segment, ...] | None = None
        if kind in _REGULAR:
            # Archives older than ustar mark a folder by the slash alone.
            kind = b"5" if kind == b"\0" and name.endswith(b"/") else b"0"
            if block[156:157] == b"S":
                size, segments = self._map(gnu_segments(block, self._take))
            elif b"GNU.sparse.map" in pax or b"GNU.sparse.major" in pax:
                size, segments = self._map(pax_segments(pax, self._take))
        return Entry(
            name=name.rstrip(b"/") or name[:1],
            kind=kind,
            mode=_number(block[100:108]) & 0o7777,
            uid=_decimal(pax, b"uid", block[108:116]),
            gid=_decimal(pax, b"gid", block[116:124]),
            size=size,
            mtime_ns=_time(pax.get(b"mtime"), block[136:148]),
            link=link,
            device=_device(block) if kind in b"34" else 0,
            xattrs=_xattrs(pax) if pax else {},
            segments=segments,
        )

    def _map(self, found: tuple[int, tuple[Segment, ...], int]) -> tuple[int, tuple[Segment, ...]]:
        """Account for the blocks a sparse map took from the entry's data; return size and map."""
        size, segments, consumed = found
        if consumed > self._left:
            raise LayerCorrupt("a sparse file of the layer has a map longer than the file")
        self._left -= consumed
        return size, segments


def _cut(missing: int) -> LayerCorrupt:
    return LayerCorrupt(
        "the layer ends in the middle of an entry",
        seen=f"{missing} bytes are missing",
        mend="fetch or make the layer again",
    )


def _write(file: int, chunk: bytes, start: int, end: int) -> None:
    with memoryview(chunk) as view:
        while start < end:
            start += os.write(file, view[start:end])


def _text(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _name(block: bytes) -> bytes:
    name = _text(block[:100])
    if block[257:263] != b"ustar\0":
        return name
    # star keeps times in the last 24 bytes of the prefix field and signs with "tar" (star(5)).
    prefix = _text(block[345:476] if block[508:512] == b"tar\0" else block[345:500])
    return prefix + b"/" + name if prefix else name


def _number(raw: bytes) -> int:
    if raw[0] & 0x80:
        # Base-256, two's complement (tar.info, "Extensions"): the top bit is the mark.
        value = int.from_bytes(raw, "big") & ((1 << (8 * len(raw) - 1)) - 1)
        if raw[0] & 0x40:
            value -= 1 << (8 * len(raw) - 1)
        return _positive(value)
    digits = _text(raw).strip()
    try:
        return _positive(int(digits, 8)) if digits else 0
    except ValueError as error:
        raise LayerCorrupt("a header of the layer has a number that is none", seen=repr(raw)) from error


def _positive(value: int) -> int:
    if value < 0:
        raise LayerCorrupt("a header of the layer has a negative number", seen=str(value))
    return value


def _decimal(pax: Mapping[bytes, bytes], key: bytes, raw: bytes) -> int:
    text = pax.get(key)
    if text is None:
        return _number(raw)
    if not text.isdigit() or len(text) > 18:
        raise LayerCorrupt(
            "a pax header of the layer has a number that is none", seen=repr(key + b"=" + text[:40])
        )
    return int(text)


def _time(text: bytes | None, raw: bytes) -> int:
    """Return nanoseconds; a file of before 1970 is written as a negative base-256 number or in pax."""
    if text is None:
        seconds = int.from_bytes(raw, "big", signed=True) if raw[0] == 0xFF else _number(raw)
        if not -_TIME_LIMIT_S <= seconds < _TIME_LIMIT_S:
            raise LayerCorrupt("a header of the layer has a time that cannot be", seen=str(seconds))
        return seconds * _NANO
    match = _TIME.fullmatch(text)
    if match is None:
        raise LayerCorrupt("a pax header of the layer has a time that is none", seen=repr(text[:40]))
    value = int(match[2]) * _NANO + int((match[3] or b"")[:9].ljust(9, b"0"))
    return -value if match[1] else value


def _device(block: bytes) -> int:
    major, minor = _number(block[329:337]), _number(block[337:345])
    # 12 and 20 bits is what Linux has (linux/kdev_t.h); cut off, 0/0 could be what is left.
    if major >= 1 << 12 or minor >= 1 << 20:
        raise LayerCorrupt(
            "a header of the layer has a device number that cannot be", seen=f"{major}:{minor}"
        )
    return os.makedev(major, minor)


def _xattrs(pax: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    # SCHILY is star's name for them; it is the one that Go, GNU tar and bsdtar read and write.
    return {key[len(_XATTR) :]: value for key, value in pax.items() if key.startswith(_XATTR)}


def _extend(pax: dict[bytes, bytes], data: bytes) -> None:
    for key, value in _records(data):
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            # Version 0.0 of GNU's sparse format repeats these two; 0.1 writes them as one list.
            map_so_far = pax.get(b"GNU.sparse.map")
            pax[b"GNU.sparse.map"] = value if map_so_far is None else map_so_far + b"," + value
        else:
            pax[key] = value


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    r"""Yield key and value of every ``length key=value\n`` record; values are bytes of any sort."""
    at = 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > at else b""
        end = at + int(digits) if digits.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not (space < end - 1 < len(data) and data[end - 1] == 0x0A and equals and key):
            raise LayerCorrupt("a pax header of the layer is damaged", seen=repr(data[at : at + 40]))
        yield key, value
        at = end


def _is_header(block: bytes) -> bool:
    """Return whether the block's checksum is that of a header; text is no number and so is none."""
    try:
        written = _number(block[148:156])
    except LayerCorrupt:
        return False
    return written in {sum(block) - sum(block[148:156]) + _SPACES, _signed_sum(block)}


def _signed_sum(block: bytes) -> int:
    """Return the checksum as old Suns made it: over signed bytes (tar.info, "Checksumming")."""
    plain = block[:148] + b" " * 8 + block[156:]
    return sum(plain) - 256 * sum(byte > 127 for byte in plain)
