"""A container's output as text and as lines (floor 3).

An engine hands over chunks as they were read from two pipes; a chunk may end inside a line and
inside a character. Both are put together here, each stream for itself, so that neither a match
nor a character is lost at a border.
"""

from __future__ import annotations

import codecs
import datetime
from collections import deque
from collections.abc import Iterable

from pytest_containers.engines.base import Handle
from pytest_containers.exits import describe_state
from pytest_containers.spec import LogChunk, LogLine, Stream

__all__ = ["Lines", "joined", "last_lines", "transcript"]


class Lines:
    """Cuts chunks into lines; feed it in order, and ask for the rest at the end."""

    def __init__(self) -> None:
        self._open: dict[Stream, tuple[float, bytearray]] = {}

    def feed(self, chunks: Iterable[LogChunk]) -> tuple[LogLine, ...]:
        """Return the lines that *chunks* complete, in the order of their ends."""
        return tuple(line for chunk in chunks for line in self._cut(chunk))

    def rest(self) -> tuple[LogLine, ...]:
        """Return what stands after the last line end of each stream, without consuming it."""
        return tuple(_line(time, stream, bytes(content)) for stream, (time, content) in self._open.items())

    def _cut(self, chunk: LogChunk) -> Iterable[LogLine]:
        *ended, rest = chunk.content.split(b"\n")
        for piece in ended:
            time, begun = self._open.pop(chunk.stream, (chunk.time, bytearray()))
            yield _line(time, chunk.stream, bytes(begun) + piece)
        if rest:
            self._open.setdefault(chunk.stream, (chunk.time, bytearray()))[1].extend(rest)


def _line(time: float, stream: Stream, content: bytes) -> LogLine:
    return LogLine(
        time=datetime.datetime.fromtimestamp(time, datetime.UTC),
        stream=stream,
        text=content.removesuffix(b"\r").decode("utf-8", "replace"),
    )


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
    """Return the last *count* lines of both streams, unfinished ones included."""
    lines = Lines()
    chunks, _ = handle.logs()
    kept = deque(lines.feed(chunks), maxlen=max(0, count))
    kept.extend(lines.rest())
    return tuple(kept)


def transcript(handle: Handle, count: int) -> str:
    """Return the state and the last *count* lines, each with its time (UTC) and stream."""
    lines = last_lines(handle, count)
    shown = [f"{line.time:%H:%M:%S.%f} {line.stream} | {line.text}" for line in lines]
    return "\n".join([describe_state(handle.state()), *(shown or ["no output"])])
