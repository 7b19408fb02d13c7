"""Writes a layer's tar: the same entries are always the same bytes.

POSIX ustar headers, with a pax header where an entry needs one (pax(1), "pax Interchange Format").
The standard library's writer costs 80 us an entry and keeps each of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from pytest_containers.errors import LayerCorrupt
from pytest_containers.images.decompress import PIECE_BYTES
from pytest_containers.images.tarstream import Entry, TarStream

__all__ = ["LayerTar", "clamp"]

_BLOCK: Final = 512
_NANO: Final = 10**9
_NAME_BYTES: Final = 100
_MOST_ID: Final = 0o7777777
_MOST_SIZE: Final = 0o77777777777
_BLANK_SUM: Final = b" " * 8
_FOLDER: Final = b"5"
_DEVICES: Final = (b"3", b"4")


class LayerTar:
    """A layer on its way to *out*; no time in it is later than *latest_ns*, where that is given."""

    def __init__(self, out: BinaryIO, *, latest_ns: int | None = None) -> None:
        self._out = out
        self._latest_ns = latest_ns
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self.entries = 0

    def add(self, entry: Entry, content: Iterable[bytes] = ()) -> None:
        """Write *entry* and its content. Raises LayerCorrupt where that has not the entry's size."""
        self._write(self._header(entry))
        self.entries += 1
        left = entry.size
        for piece in content:
            left -= len(piece)
            self._write(piece)
        if left:
            raise LayerCorrupt(f"{entry.name!r} is not of its size", seen=f"{entry.size - left} bytes")
        self._write(bytes(-entry.size % _BLOCK))

    def close(self) -> None:
        """Write the end; a layer without entries has no bytes at all."""
        if self.entries:
            self._write(bytes(2 * _BLOCK))
        self._flush()

    def _write(self, data: bytes) -> None:
        self._kept.append(data)
        self._kept_bytes += len(data)
        if self._kept_bytes >= PIECE_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._out.write(b"".join(self._kept))
        self._kept.clear()
        self._kept_bytes = 0

    def _header(self, entry: Entry) -> bytes:
        mtime_ns = entry.mtime_ns if self._latest_ns is None else min(entry.mtime_ns, self._latest_ns)
        name = entry.name + b"/" if entry.kind == _FOLDER else entry.name
        records = sorted(_records(entry, name, mtime_ns))
        extended = b"".join(_record(key, value) for key, value in records)
        block = _block(entry, name, entry.kind, entry.size, max(mtime_ns // _NANO, 0))
        if not extended:
            return block
        about = b"PaxHeaders/" + entry.name.rpartition(b"/")[2][:80]
        front = _block(entry, about, b"x", len(extended), 0)
        return b"".join((front, extended, bytes(-len(extended) % _BLOCK), block))


def clamp(layer: BinaryIO, out: BinaryIO, latest_ns: int) -> None:
    """Copy a plain layer tar with no time later than *latest_ns*; raise LayerCorrupt for what is none.

    A layer without entries stays as it is.
    """
    tar = LayerTar(out, latest_ns=latest_ns)
    stream = TarStream(iter(lambda: layer.read(PIECE_BYTES), b""), limit_bytes=1 << 62)
    for entry in stream:
        tar.add(entry, stream.pieces(entry) if entry.size else ())
    tar.close()


def _records(entry: Entry, name: bytes, mtime_ns: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield what no ustar header can say of the entry."""
    if len(name) > _NAME_BYTES or not name.isascii():
        yield b"path", name
    if len(entry.link) > _NAME_BYTES or not entry.link.isascii():
        yield b"linkpath", entry.link
    for key, number, most in (
        (b"uid", entry.uid, _MOST_ID),
        (b"gid", entry.gid, _MOST_ID),
        (b"size", entry.size, _MOST_SIZE),
    ):
        if number > most:
            yield key, b"%d" % number
    seconds, fraction = divmod(abs(mtime_ns), _NANO)
    if fraction or mtime_ns < 0 or seconds > _MOST_SIZE:
        sign = b"-" if mtime_ns < 0 else b""
        yield b"mtime", sign + b"%d" % seconds + (b".%09d" % fraction if fraction else b"")
    for key, value in entry.xattrs.items():
        yield b"SCHILY.xattr." + key, value


def _record(key: bytes, value: bytes) -> bytes:
    """Return one record, whose length counts its own digits."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while length != len(b"%d" % length) + len(rest):
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def _block(entry: Entry, name: bytes, kind: bytes, size: int, mtime_s: int) -> bytes:
    device = entry.device if kind in _DEVICES else 0
    link = b"" if kind == b"x" else entry.link
    front = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"),
        entry.mode,
        entry.uid if entry.uid <= _MOST_ID else 0,
        entry.gid if entry.gid <= _MOST_ID else 0,
        size if size <= _MOST_SIZE else 0,
        min(mtime_s, _MOST_SIZE),
    )
    back = b"%s%s%s%s%07o\0%07o\0%s" % (
        kind,
        link[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"),
        b"ustar\x0000",
        bytes(64),
        os.major(device),
        os.minor(device),
        bytes(167),
    )
    total = sum(front) + sum(_BLANK_SUM) + sum(back)
    return b"%s%06o\0 %s" % (front, total, back)
