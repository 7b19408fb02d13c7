"""Compressed streams: known by their first bytes, bounded pieces, damage told."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import os
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator

import pytest

from pytest_containers.errors import ImageError, LayerCorrupt, LayerTooLarge
from pytest_containers.images.decompress import PIECE_BYTES, ahead, decompress, pieces

PLAIN = b"".join(b"line %d of a layer\n" % number for number in range(100_000))


def _zstd(data: bytes) -> bytes:
    """Pack two frames: a layer may have many (zstd:chunked)."""
    half = len(data) // 2
    run = [
        subprocess.run(["zstd", "-qc"], input=part, capture_output=True, check=True).stdout
        for part in (data[:half], data[half:])
    ]
    return b"".join(run)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": _zstd,
    "plain": bytes,
}


@pytest.mark.parametrize("packer", PACKERS)
def test_stream_is_known_by_its_first_bytes(packer: str) -> None:
    """Every format comes out plain; nobody says which it is."""
    assert decompress(io.BytesIO(PACKERS[packer](PLAIN))).read() == PLAIN


@pytest.mark.parametrize("dictionary_bytes", [128 << 20, 1 << 30])
def test_xz_that_asks_for_much_memory_is_refused(dictionary_bytes: int) -> None:
    """A dictionary's size is a number in the header: one above what xz -9 takes is refused unread."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 16}]
    packed = bytearray(lzma.compress(PLAIN[:1000], filters=filters))
    # The block header's filter property is 2 * log2(size) - 24 (xz file format, 5.3.1), behind which
    # stand padding and a checksum of the header.
    header_bytes = (packed[12] + 1) * 4
    at = packed.index(bytes((0x21, 1)), 12) + 2
    packed[at] = 2 * dictionary_bytes.bit_length() - 2 - 24
    body = bytes(packed[12 : 12 + header_bytes - 4])
    packed[12 + header_bytes - 4 : 12 + header_bytes] = zlib.crc32(body).to_bytes(4, "little")
    with pytest.raises(LayerTooLarge, match="too much memory"):
        decompress(io.BytesIO(bytes(packed))).read()


def test_xz_streams_are_joined() -> None:
    """An xz file may have many streams, padded by zeros between them and behind the last."""
    half = len(PLAIN) // 2
    packed = lzma.compress(PLAIN[:half]) + bytes(8) + lzma.compress(PLAIN[half:]) + bytes(4)
    assert decompress(io.BytesIO(packed)).read() == PLAIN
    assert decompress(io.BytesIO(lzma.compress(PLAIN, preset=9))).read() == PLAIN


@pytest.mark.parametrize("packer", PACKERS)
def test_pieces_are_bounded(packer: str) -> None:
    """No piece is larger than its bound: memory does not grow with the data."""
    sizes = [len(piece) for piece in pieces(io.BytesIO(PACKERS[packer](bytes(8 * PIECE_BYTES))))]
    assert max(sizes) <= PIECE_BYTES
    assert sum(sizes) == 8 * PIECE_BYTES


def test_gzip_members_are_joined() -> None:
    """A gzip stream may have many members, each a file of its own, with zeros behind the last."""
    packed = b"".join(gzip.compress(PLAIN[at : at + 1000]) for at in range(0, 300_000, 1000))
    assert decompress(io.BytesIO(packed + bytes(1000))).read() == PLAIN[:300_000]


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz", "zstd"])
@pytest.mark.parametrize("kept", [10, 5000, -1])
def test_cut_stream_is_refused(packer: str, kept: int) -> None:
    """A compressed stream that stops early is corrupt, whatever came out of it."""
    with pytest.raises(LayerCorrupt, match=packer):
        decompress(io.BytesIO(PACKERS[packer](PLAIN)[:kept])).read()


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz", "zstd"])
def test_damaged_stream_is_refused(packer: str) -> None:
    """A changed byte in the middle is corrupt."""
    packed = bytearray(PACKERS[packer](os.urandom(50_000)))
    packed[25_000] ^= 0xFF
    with pytest.raises(LayerCorrupt, match=packer):
        decompress(io.BytesIO(bytes(packed))).read()


def test_bytes_behind_gzip_are_refused() -> None:
    """What follows the last member must be a member or zeros."""
    with pytest.raises(LayerCorrupt, match="no gzip"):
        decompress(io.BytesIO(gzip.compress(PLAIN) + b"<html>")).read()


def test_empty_stream_is_plain() -> None:
    """Nothing is nothing, and no error of a format."""
    assert decompress(io.BytesIO(b"")).read() == b""


def test_zstd_without_a_reader_names_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no module can read zstd, the error says what to install."""

    def absent(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImageError, match="zstd") as caught:
        decompress(io.BytesIO(b"\x28\xb5\x2f\xfd" + bytes(20)))
    assert caught.value.mend == "pip install zstandard"


def test_ahead_yields_everything_and_shows_it() -> None:
    """The iterator's order and content are kept, and the observer has had all of it at the end."""
    seen: list[bytes] = []
    chunks = [bytes([number]) * 10 for number in range(100)]
    assert list(ahead(iter(chunks), seen.append)) == chunks
    assert seen == chunks


def test_ahead_raises_what_the_source_raised() -> None:
    """An error in the thread reaches the reader, behind what came before it."""

    def source() -> Iterator[bytes]:
        yield b"a"
        raise LayerCorrupt("bad")

    made = ahead(source(), lambda _: None)
    assert next(made) == b"a"
    with pytest.raises(LayerCorrupt, match="bad"):
        next(made)


def test_ahead_ends_its_thread_when_closed() -> None:
    """Closing the iterator in the middle leaves no thread waiting for room."""
    made = ahead(iter([b"x"] * 1000), lambda _: None)
    next(made)
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "inflate"]
