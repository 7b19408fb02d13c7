"""Compressed streams to plain bytes, by what they begin with and not by what they are called.

Registries hold layers whose media type names another compression than they have, so the first
bytes decide, as in the other engines (containerd, archive/compression/compression.go). Output
comes in bounded pieces: a bomb costs time until somebody's limit, never memory.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import BinaryIO, Final, Literal, Protocol, cast

from pytest_containers.errors import ImageError, LayerCorrupt, LayerTooLarge
from pytest_containers.images import deflate

__all__ = ["PIECE_BYTES", "Compression", "Readable", "ahead", "compression", "decompress", "pieces"]

Compression = Literal["", "gzip", "zstd", "bzip2", "xz"]

# Twice as much costs twice the page faults: the C library gives memory of that size back each time.
PIECE_BYTES: Final = 1 << 18
_INPUT_BYTES: Final = 1 << 17
_ZSTD_INPUT_BYTES: Final = 1 << 11
_GZIP: Final = b"\x1f\x8b"
_BZIP2: Final = b"BZh"
_XZ: Final = b"\xfd7zXZ\x00"
_XZ_LIMIT_BYTES: Final = 128 << 20
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
# A zstd stream may begin with a frame to be skipped, magic 184D2A50 to 5F (RFC 8878, 3.1.2).
_ZSTD_SKIPPABLE: Final = tuple(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60))
_MAGIC_BYTES: Final = 6
_QUEUED: Final = 16


class Readable(Protocol):
    """What bytes can be read from, one after another."""

    def read(self, size: int, /) -> bytes:
        """Return at most *size* bytes; none at the end."""


class _Opener(Protocol):
    def __call__(self, stream: Readable, /) -> Readable: ...


class _ZstdFrame(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class _ZstdPackage(Protocol):
    def decompressobj(self) -> _ZstdFrame: ...


def compression(head: bytes) -> Compression:
    """Name the format of data that begins with *head*, six bytes or more; empty for none we read."""
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith((_ZSTD, *_ZSTD_SKIPPABLE)):
        return "zstd"
    if head.startswith(_BZIP2):
        return "bzip2"
    return "xz" if head.startswith(_XZ) else ""


def decompress(stream: BinaryIO) -> BinaryIO:
    """Return what *stream* holds as a plain stream: gzip, zstd, bzip2, xz, or as it is.

    Reading raises LayerCorrupt for damaged or cut data. Raises ImageError for zstd where this
    Python cannot read it.
    """
    return io.BufferedReader(_Pieces(pieces(stream)), PIECE_BYTES)


def pieces(stream: Readable) -> Iterator[bytes]:
    """Yield the plain bytes of *stream* in pieces of at most `PIECE_BYTES`.

    The first bytes are read at once, so that an unknown or unreadable format shows here.
    """
    head = _read_fully(stream, _MAGIC_BYTES)
    whole, kind = _Joined(head, stream), compression(head)
    if kind == "gzip":
        return _gunzip(whole)
    if kind == "zstd":
        return _zstd(whole)
    if kind == "bzip2":
        return _copied("bzip2", _opener("bz2", "BZ2File")(whole), (OSError, EOFError, ValueError))
    if kind == "xz":
        return _unxz(whole)
    return iter(lambda: whole.read(PIECE_BYTES), b"")


def ahead(chunks: Iterator[bytes], see: Callable[[bytes], None]) -> Generator[bytes, None, None]:
    """Yield *chunks*, made by a thread that is a few of them ahead and shows each to *see*.

    zlib and hashlib let other threads run while they work: inflating and hashing on one
    processor hide behind the writing of files on the other. *see* has had every byte when the
    iterator ends by itself. Close the iterator to stop the thread.
    """
    made: queue.Queue[bytes | Exception | None] = queue.Queue(_QUEUED)
    stopped = threading.Event()

    def fill() -> None:
        try:
            for chunk in chunks:
                if stopped.is_set():
                    return
                made.put(chunk)
                see(chunk)
        except Exception as error:  # noqa: BLE001  # whatever it is, the reader raises it
            made.put(error)
        else:
            made.put(None)

    thread = threading.Thread(target=fill, name="inflate", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                made.get(timeout=0.01)
        thread.join()


class _Pieces(io.RawIOBase):
    """An iterator of bytes as a raw stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # Buffer is 3.12's
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class _Joined:
    """What was read to look at it, then the rest of the stream."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        if not self._head:
            return self._stream.read(size)
        head = self._head if size < 0 else self._head[:size]
        self._head = self._head[len(head) :]
        return head

    # bz2 and lzma ask for these of a stream they are given.
    def seekable(self) -> bool:
        return False


def _read_fully(stream: Readable, size: int) -> bytes:
    head = b""
    while len(head) < size and (part := stream.read(size - len(head))):
        head += part
    return head


def _copied(name: str, stream: Readable, errors: tuple[type[Exception], ...]) -> Iterator[bytes]:
    try:
        while chunk := stream.read(PIECE_BYTES):
            yield chunk
    except errors as error:
        raise _corrupt(name, str(error)) from error


def _gunzip(stream: Readable) -> Iterator[bytes]:
    """Inflate every member of a gzip stream (RFC 1952, 2.2); layers of eStargz have one a file."""
    data = stream.read(_INPUT_BYTES)
    while data:
        inflater = deflate.inflater()
        try:
            while not inflater.eof:
                if not data and not (data := stream.read(_INPUT_BYTES)):
                    raise _corrupt("gzip", "the stream ends too early")
                if plain := inflater.decompress(data, PIECE_BYTES):
                    yield plain
                data = inflater.unconsumed_tail
        except deflate.broken() as error:
            raise _corrupt("gzip", str(error)) from error
        data = inflater.unused_data or stream.read(_INPUT_BYTES)
        # Zeros behind the last member are padding, as gzip(1) takes them.
        while data and not data.strip(b"\0"):
            data = stream.read(_INPUT_BYTES)
        if len(data) == 1:
            data += stream.read(_INPUT_BYTES)
        if data and not data.startswith(_GZIP):
            raise _corrupt("gzip", "bytes behind the end that are no gzip")


def _unxz(stream: Readable) -> Iterator[bytes]:
    """Inflate every stream of an xz file (xz(1), "Memory usage").

    The dictionary's size stands in the header, and 98 KB of data can ask for gigabytes: `_XZ_LIMIT_BYTES`
    is twice what ``xz -9`` takes.
    """
    import lzma

    data = b""
    try:
        while data := data or stream.read(_INPUT_BYTES):
            inflater = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_LIMIT_BYTES)
            while not inflater.eof:
                if inflater.needs_input and not data and not (data := stream.read(_INPUT_BYTES)):
                    raise _corrupt("xz", "the stream ends too early")
                if plain := inflater.decompress(data, PIECE_BYTES):
                    yield plain
                data = b""
            # Streams are padded by zeros, in fours.
            data = inflater.unused_data.lstrip(b"\0")
            while not data and (more := stream.read(_INPUT_BYTES)):
                data = more.lstrip(b"\0")
            if data and not data.startswith(_XZ[: len(data)]):
                return  # xz(1) ignores other bytes behind the end, with a warning
    except lzma.LZMAError as error:
        if "memory" in str(error).lower():
            raise LayerTooLarge(
                "the xz data of the layer asks for too much memory",
                seen=f"more than {_XZ_LIMIT_BYTES >> 20} MiB",
                mend="pack it again with xz -9 or less, or with gzip or zstd",
            ) from error
        raise _corrupt("xz", str(error)) from error


def _zstd(stream: Readable) -> Iterator[bytes]:
    with contextlib.suppress(ImportError):
        module = "compression.zstd"
        return _copied("zstd", _opener(module, "ZstdFile")(stream), (_error(module, "ZstdError"), EOFError))
    try:
        decompressor = cast("_ZstdPackage", importlib.import_module("zstandard").ZstdDecompressor())
    except ImportError as error:
        raise ImageError(
            "this layer is compressed with zstd, which this Python cannot read",
            seen="neither compression.zstd (Python 3.14) nor the zstandard package is there",
            mend="pip install zstandard",
        ) from error
    return _unzstd(stream, decompressor, _error("zstandard", "ZstdError"))


def _unzstd(stream: Readable, decompressor: _ZstdPackage, broken: type[Exception]) -> Iterator[bytes]:
    """Inflate every frame with the zstandard package (RFC 8878, 3).

    Its stream reader takes a cut stream for a whole one, so this asks the frame itself. A frame
    has no bound on what one call returns; a short input has: 128 KiB for every 4 bytes.
    """
    data = b""
    made: list[bytes] = []
    size = 0
    try:
        while data := data or stream.read(_ZSTD_INPUT_BYTES):
            frame = decompressor.decompressobj()
            while not frame.eof:
                if not data and not (data := stream.read(_ZSTD_INPUT_BYTES)):
                    raise _corrupt("zstd", "the stream ends too early")
                made.append(frame.decompress(data))
                data = b""
                size += len(made[-1])
                if size >= PIECE_BYTES // 2:
                    yield from _bounded(b"".join(made))
                    made, size = [], 0
            data = frame.unused_data
    except broken as error:
        raise _corrupt("zstd", str(error)) from error
    yield from _bounded(b"".join(made))


def _bounded(data: bytes) -> Iterator[bytes]:
    return (data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))


# Imported when a layer needs it: most are gzip, and a start of a container needs none.
def _opener(module: str, name: str) -> _Opener:
    return cast("_Opener", getattr(importlib.import_module(module), name))


def _error(module: str, name: str) -> type[Exception]:
    return cast("type[Exception]", getattr(importlib.import_module(module), name))


def _corrupt(name: str, seen: str) -> LayerCorrupt:
    return LayerCorrupt(
        f"the {name} data of the layer is damaged", seen=seen, mend="fetch or make the layer again"
    )
