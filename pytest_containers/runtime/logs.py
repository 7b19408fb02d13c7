"""A container's output: written by the supervisor, read by whoever holds the descriptor (floor 1).

The log is a file without a name (O_TMPFILE, open(2)), so it is gone with its last descriptor.
The supervisor appends records: 13 bytes of header (seconds as a double, stream, length), the bytes as
they were read, and 12 bytes behind them (the length again, and a mark). The test process reads them with
pread(2), without asking anybody, also when the container, or even the supervisor, is dead. The mark is 8
random bytes, the same in all records of a log, which no container knows: by it the end of the last whole
record is found, and the log is read backwards from there, without reading what comes before.
"""

from __future__ import annotations

import os
import struct
import tempfile
import time
from dataclasses import replace
from typing import Final

from pytest_containers.spec import LogChunk, LogTail, Stream

__all__ = ["LogWriter", "create_log", "read_log", "read_tail"]

_HEADER: Final = struct.Struct("<dBI")
_TRAILER: Final = struct.Struct("<I8s")
_MARK_BYTES: Final = 8
_FRAME_BYTES: Final = _HEADER.size + _TRAILER.size
_STREAMS: Final[tuple[Stream, Stream]] = ("stdout", "stderr")
_READ_BYTES: Final = 1 << 16
_RECORD_BYTES: Final = _FRAME_BYTES + _READ_BYTES
_BLOCK_BYTES: Final = 1 << 20
# Past this much the rest is counted and dropped: a container that floods must not fill the disk.
_LIMIT_BYTES: Final = 256 << 20
# A turn moves at least what the largest pipe holds (1 MiB, fs.pipe-max-size, pipe(7)).
_READS_PER_TURN: Final = 17


def create_log(folder: str) -> int:
    """Return the descriptor of a new nameless file, on the file system of *folder*."""
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:  # not every file system knows O_TMPFILE (open(2), "EOPNOTSUPP")
        descriptor, name = tempfile.mkstemp(dir=folder)
        os.unlink(name)
        return descriptor


class LogWriter:
    """Moves what a container writes from its two pipes into its log."""

    def __init__(self, log: int) -> None:
        self._log = log
        self._mark = os.urandom(_MARK_BYTES)
        self._written_bytes = 0
        self._full = False

    def drain(self, pipe: int, stream: Stream) -> bool:
        """Append what *pipe* holds now (it must be non-blocking); return whether it is at its end.

        It comes back while a flood still runs, so that no container holds up the others.
        """
        for _ in range(_READS_PER_TURN):
            try:
                content = os.read(pipe, _READ_BYTES)
            except BlockingIOError:
                return False
            if not content:
                return True
            self._append(stream, content)
            if len(content) < _READ_BYTES:
                return False
        return False

    def _append(self, stream: Stream, content: bytes) -> None:
        if self._full:
            return
        if self._written_bytes + len(content) > _LIMIT_BYTES:
            self._full = True
            content = f"[log ends here: it passed {_LIMIT_BYTES} bytes]\n".encode()
        record = b"".join(
            (
                _HEADER.pack(time.time(), _STREAMS.index(stream), len(content)),
                content,
                _TRAILER.pack(len(content), self._mark),
            )
        )
        try:
            written = os.write(self._log, record)
        except OSError:
            written = 0
        if written < len(record):
            # The disk is full (write(2)): the container goes on without a log, and no half record stays.
            self._full = True
            os.ftruncate(self._log, self._written_bytes)
            return
        self._written_bytes += len(record)


def read_log(log: int, since: int = 0, *, limit_bytes: int | None = None) -> tuple[tuple[LogChunk, ...], int]:
    """Return the chunks from byte *since* on, and the byte to ask from next.

    With *limit_bytes* no more than that of the file, and one record at least.
    """
    chunks: list[LogChunk] = []
    size = os.fstat(log).st_size
    if limit_bytes is not None:
        size = min(size, since + max(limit_bytes, _RECORD_BYTES))
    while block := os.pread(log, min(_BLOCK_BYTES, size - since), since):
        found, used = _parse(block)
        if not used:
            break
        chunks += found
        since += used
    return tuple(chunks), since


def _parse(block: bytes) -> tuple[list[LogChunk], int]:
    """Return the whole records at the beginning of *block*, and how many bytes they take."""
    chunks: list[LogChunk] = []
    at = 0
    while at + _HEADER.size <= len(block):
        moment, stream, length = _HEADER.unpack_from(block, at)
        if at + _FRAME_BYTES + length > len(block):
            break
        begin = at + _HEADER.size
        chunks.append(LogChunk(time=moment, stream=_STREAMS[stream], content=block[begin : begin + length]))
        at += _FRAME_BYTES + length
    return chunks, at


def read_tail(log: int, limit_bytes: int) -> LogTail:
    """Return the end of a log, *limit_bytes* of output or fewer; not much more of the file is read."""
    end, left = _whole_records(log), limit_bytes
    first = max(0, end - limit_bytes - _RECORD_BYTES)
    block = os.pread(log, end - first, first) if left else b""
    begin = len(block)
    # A record is taken while its head and the record before it are in the block, or nothing is before it.
    while left > 0 and begin > 0 and (first == 0 or begin >= _TRAILER.size):
        length, _ = _TRAILER.unpack_from(block, begin - _TRAILER.size)
        if begin < _FRAME_BYTES + length:
            break
        begin -= _FRAME_BYTES + length
        left -= length
    chunks, _ = _parse(block[begin:])
    if left < 0:
        chunks[0] = replace(chunks[0], content=chunks[0].content[-left:])
    before = end - len(block) + begin
    return LogTail(chunks=tuple(chunks), is_cut=left < 0 or before > 0, position=end)


def _whole_records(log: int) -> int:
    """Return where the last whole record ends: the file may just be growing by another (write(2))."""
    size = os.fstat(log).st_size
    head = os.pread(log, _RECORD_BYTES, 0)
    if len(head) < _HEADER.size:
        return 0
    _, _, length = _HEADER.unpack_from(head)
    mark = head[_FRAME_BYTES + length - _MARK_BYTES : _FRAME_BYTES + length]
    if len(mark) < _MARK_BYTES:
        return 0
    begin = max(0, size - _RECORD_BYTES - _MARK_BYTES)
    block = os.pread(log, size - begin, begin)
    return begin + block.rindex(mark) + _MARK_BYTES
