"""Files with holes in tar archives: where the data lies (tar.info, "Storing Sparse Files").

Go's tar writer makes none, GNU tar does with ``--sparse``; /var/log/lastlog of an image imported
from a machine is the usual one. Old GNU headers and pax versions 0.0, 0.1 and 1.0 are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from pytest_containers.errors import LayerCorrupt

__all__ = ["BLOCK", "Segment", "gnu_segments", "pax_segments"]

BLOCK: Final = 512
_PAIR: Final = 24
_MAP_LIMIT: Final = 1 << 20
_SIZE_LIMIT: Final = (1 << 63) - 1  # off_t


class Segment(NamedTuple):
    """A run of data in a sparse file."""

    offset: int
    size: int


# Size of the file, where its data lies, and how many bytes of the entry's data the map took.
_Map = tuple[int, tuple[Segment, ...], int]


def gnu_segments(header: bytes, take: Callable[[int], bytes]) -> _Map:
    """Read the map of an old GNU header (type S); *take* reads on behind the header.

    Four pairs are in the header, 21 in each block behind it as long as a flag says so. These
    blocks are not counted in the entry's size.
    """
    pairs = list(_fields(header[386:482]))
    more = header[482]
    while more:
        if len(pairs) * _PAIR > _MAP_LIMIT:
            raise _damaged("its map is too long")
        block = take(BLOCK)
        pairs.extend(_fields(block[:504]))
        more = block[504]
    return *_checked(_octal(header[483:495]), pairs), 0


def pax_segments(pax: Mapping[bytes, bytes], take: Callable[[int], bytes]) -> _Map:
    """Read the map of a pax sparse file; version 1.0 keeps it in front of the data."""
    size = _decimal(pax.get(b"GNU.sparse.realsize", pax.get(b"GNU.sparse.size", b"")))
    if b"GNU.sparse.map" in pax:
        numbers = (
            [_decimal(text) for text in pax[b"GNU.sparse.map"].split(b",")] if pax[b"GNU.sparse.map"] else []
        )
        return *_checked(size, _paired(numbers)), 0
    read = 0
    text = b""
    wanted = 1
    while text.count(b"\n") < wanted:
        if read > _MAP_LIMIT:
            raise _damaged("its map is too long")
        text += take(BLOCK)
        read += BLOCK
        if b"\n" in text:
            wanted = 1 + 2 * _decimal(text.partition(b"\n")[0])
    numbers = [_decimal(line) for line in text.split(b"\n")[1:wanted]]
    return *_checked(size, _paired(numbers)), read


def _fields(raw: bytes) -> Iterator[Segment]:
    for at in range(0, len(raw), _PAIR):
        offset, size = raw[at : at + 12], raw[at + 12 : at + _PAIR]
        if size[0] == 0 or offset[0] == 0:
            return
        yield Segment(_octal(offset), _octal(size))


def _paired(numbers: list[int]) -> list[Segment]:
    if len(numbers) % 2:
        raise _damaged("its map has an odd count of numbers")
    return [Segment(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]


def _checked(size: int, pairs: list[Segment]) -> tuple[int, tuple[Segment, ...]]:
    end = 0
    for pair in pairs:
        if pair.offset < end:
            raise _damaged("its map goes backwards")
        end = pair.offset + pair.size
    if end > size:
        raise _damaged("its map is longer than the file")
    if size > _SIZE_LIMIT:
        raise _damaged(f"a size of {size} bytes cannot be")
    return size, tuple(pairs)


def _octal(raw: bytes) -> int:
    if raw[0] & 0x80:
        return int.from_bytes(raw[1:], "big")
    try:
        return int(raw.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError as error:
        raise _damaged(f"{raw!r} is not a number") from error


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise _damaged(f"{text[:40]!r} is not a number")
    return int(text)


def _damaged(seen: str) -> LayerCorrupt:
    return LayerCorrupt("a sparse file of the layer cannot be read", seen=seen)
