"""A container's output: written by the supervisor, read by whoever holds the descriptor (floor 1).

The log is a file without a name (O_TMPFILE, open(2)), so it is gone with its last descriptor.
The supervisor appends records of 13 bytes of header (seconds as a double, stream, length) and
the bytes as they were read; the test process reads them with pread(2), without asking anybody,
also when the container, or even the supervisor, is dead.
"""

from __future__ import annotations

import os
import struct
import tempfile
import time
from typing import Final

from pytest_containers.spec import LogChunk, Stream

__all__ = ["LogWriter", "create_log", "read_log"]

_HEADER: Final = struct.Struct("<dBI")
_STREAMS: Final[tuple[Stream, Stream]] = ("stdout", "stderr")
_READ_BYTES: Final = 1 << 16
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
        record = _HEADER.pack(time.time(), _STREAMS.index(stream), len(content)) + content
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


def read_log(log: int, since: int = 0) -> tuple[tuple[LogChunk, ...], int]:
    """Return the chunks from byte *since* on, and the byte to ask from next."""
    chunks: list[LogChunk] = []
    size = os.fstat(log).st_size
    while since + _HEADER.size <= size:
        moment, stream, length = _HEADER.unpack(os.pread(log, _HEADER.size, since))
        if since + _HEADER.size + length > size:
            break
        content = os.pread(log, length, since + _HEADER.size)
        chunks.append(LogChunk(time=moment, stream=_STREAMS[stream], content=content))
        since += _HEADER.size + length
    return tuple(chunks), since
