"""A container's output as text and as lines (floor 3).

An engine hands over chunks as they were read from two pipes; a chunk may end inside a line and
inside a character. Both are put together here, each stream for itself, so that neither a match
nor a character is lost at a border.
"""

from __future__ import annotations

import codecs
import datetime
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from pytest_containers.engines.base import Handle
from pytest_containers.exits import describe_state
from pytest_containers.spec import LogChunk, LogLine, Stream

__all__ = [
    "PIECE_BYTES",
    "Lines",
    "RawLine",
    "as_line",
    "decoded",
    "excerpt",
    "joined",
    "last_lines",
    "shown",
    "through",
    "transcript",
]

# How much of a log is held at a time, how much of its end a report reads, how much of a line it shows.
PIECE_BYTES: Final = 1 << 20
_TAIL_BYTES: Final = 64 << 10
_SHOWN_CHARACTERS: Final = 4096
# A terminal obeys these (ECMA-48), and a log must not write to the terminal of whoever reads a report.
_CONTROLS: Final = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]")
# The time of a line's first byte, its stream, and its bytes without the line end.
RawLine = tuple[float, Stream, bytes]


class Lines:
    """Cuts chunks into lines; feed it in order, and ask for the rest at the end."""

    def __init__(self, *, limit_bytes: int | None = None) -> None:
        """Of a line longer than *limit_bytes* the beginning is kept alone."""
        self._open: dict[Stream, tuple[float, bytearray]] = {}
        self._limit_bytes = limit_bytes

    def feed(self, chunks: Iterable[LogChunk]) -> tuple[LogLine, ...]:
        """Return the lines that *chunks* complete, in the order of their ends."""
        return tuple(as_line(*raw) for raw in self.cut(chunks))

    def cut(self, chunks: Iterable[LogChunk]) -> Iterator[RawLine]:
        """Yield what `feed` returns, not decoded yet."""
        for chunk in chunks:
            yield from self._cut(chunk)

    def rest(self) -> tuple[LogLine, ...]:
        """Return what stands after the last line end of each stream, without consuming it."""
        return tuple(as_line(time, stream, bytes(content)) for stream, (time, content) in self._open.items())

    def _cut(self, chunk: LogChunk) -> Iterable[RawLine]:
        *ended, rest = chunk.content.split(b"\n")
        for piece in ended:
            time, begun = self._open.pop(chunk.stream, (chunk.time, bytearray()))
            yield time, chunk.stream, (bytes(begun) + piece)[: self._limit_bytes]
        if rest:
            kept = self._open.setdefault(chunk.stream, (chunk.time, bytearray()))[1]
            kept.extend(rest if self._limit_bytes is None else rest[: max(0, self._limit_bytes - len(kept))])


def decoded(content: bytes) -> str:
    """Return a line's text: UTF-8, what is none replaced, without the carriage return of other systems."""
    return content.removesuffix(b"\r").decode("utf-8", "replace")


def as_line(time: float, stream: Stream, content: bytes) -> LogLine:
    """Return a raw line as a test sees it."""
    return LogLine(
        time=datetime.datetime.fromtimestamp(time, datetime.UTC), stream=stream, text=decoded(content)
    )


def through(handle: Handle) -> Iterator[LogChunk]:
    """Yield the output up to now, a piece of it in memory at a time."""
    position = 0
    while True:
        chunks, position = handle.logs(position, limit_bytes=PIECE_BYTES)
        if not chunks:
            return
        yield from chunks


def shown(text: str) -> str:
    r"""Return a line as a report shows it: control characters as ``\x1b``, 4,096 characters at most."""
    kept = _CONTROLS.sub(lambda one: f"\\x{ord(one[0]):02x}", text[:_SHOWN_CHARACTERS])
    left = len(text) - _SHOWN_CHARACTERS
    return f"{kept} [{left} more characters]" if left > 0 else kept


def excerpt(text: str) -> str:
    """Return the end of a command's output as an error shows it: lines as `shown`, no more than 64 KiB."""
    left = len(text) - _TAIL_BYTES
    lines = text[max(0, left) :].splitlines()
    return "\n".join([*([f"[{left} characters before]"] if left > 0 else []), *map(shown, lines)])


def joined(
    chunks: Iterable[LogChunk], *, stream: Stream | None = None, since: datetime.datetime | None = None
) -> str:
    """Return the output as one text: of *stream*, or of both as they came.

    A chunk older than *since* is left out; undecodable bytes are replaced.
    """
    begin = 0.0 if since is None else since.timestamp()
    utf8 = codecs.getincrementaldecoder("utf-8")
    decoders = {"stdout": utf8("replace"), "stderr": utf8("replace")}
    parts = [
        decoders[chunk.stream].decode(chunk.content)
        for chunk in chunks
        if chunk.time >= begin and stream in (None, chunk.stream)
    ]
    return "".join([*parts, *(decoder.decode(b"", True) for decoder in decoders.values())])


def last_lines(handle: Handle, count: int) -> tuple[LogLine, ...]:
    """Return the last *count* lines of both streams, unfinished ones included.

    No more than 64 KiB of output is read, from its end; a line that begins before that begins with ``[...]``.
    """
    lines = Lines()
    tail = handle.log_tail(_TAIL_BYTES)
    found = [*lines.feed(tail.chunks), *lines.rest()]
    if tail.is_cut:
        for stream in ("stdout", "stderr"):
            first = next((at for at, line in enumerate(found) if line.stream == stream), None)
            if first is not None:
                found[first] = replace(found[first], text=f"[...] {found[first].text}")
    return tuple(deque(found, maxlen=max(0, count)))


def transcript(handle: Handle, count: int) -> str:
    """Return the state and the last *count* lines, each with its time (UTC) and stream."""
    lines = [
        f"{line.time:%H:%M:%S.%f} {line.stream} | {shown(line.text)}" for line in last_lines(handle, count)
    ]
    return "\n".join([describe_state(handle.state()), *(lines or ["no output"])])
