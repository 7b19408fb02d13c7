"""Laws of a container's log: complete, in order, bounded, readable by whoever holds it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.runtime import logs, syscalls
from pytest_containers.runtime.logs import LogWriter, create_log, read_log, read_tail
from pytest_containers.spec import LogChunk, LogTail, Stream

if TYPE_CHECKING:
    from tests.runtime.conftest import Apart

_STREAMS: Final = st.sampled_from(["stdout", "stderr"])


class Ink:
    """A log, its writer and a pipe for each stream."""

    def __init__(self, log: int) -> None:
        self.log = log
        self.writer = LogWriter(log)
        self._pipes: dict[Stream, tuple[int, int]] = {
            "stdout": os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK),
            "stderr": os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK),
        }

    def write(self, content: bytes, stream: Stream = "stdout") -> bool:
        """Put *content* through the pipe into the log; return whether the pipe is at its end."""
        os.write(self._pipes[stream][1], content)
        return self.drain(stream)

    def drain(self, stream: Stream = "stdout") -> bool:
        """Move what is in the pipe."""
        return self.writer.drain(self._pipes[stream][0], stream)

    def hang_up(self, stream: Stream = "stdout") -> None:
        """Close the writing end."""
        ours, theirs = self._pipes[stream]
        os.close(theirs)
        self._pipes[stream] = (ours, -1)

    def close(self) -> None:
        """Close all."""
        for descriptor in (self.log, *(end for pipe in self._pipes.values() for end in pipe if end >= 0)):
            os.close(descriptor)


@pytest.fixture
def ink(tmp_path: Path) -> Iterator[Ink]:
    """Return an empty log with its pipes."""
    made = Ink(create_log(str(tmp_path)))
    yield made
    made.close()


def _content(chunks: tuple[LogChunk, ...], stream: Stream | None = None) -> bytes:
    return b"".join(chunk.content for chunk in chunks if stream in (None, chunk.stream))


def test_log_has_no_name(tmp_path: Path) -> None:
    """The file is on the folder's file system, in no folder, and closed by an exec."""
    log = create_log(str(tmp_path))
    try:
        seen = os.fstat(log)
        assert (seen.st_nlink, seen.st_dev) == (0, tmp_path.stat().st_dev)
        assert list(tmp_path.iterdir()) == []
        assert not os.get_inheritable(log)
    finally:
        os.close(log)


def test_log_has_no_name_when_the_file_system_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where O_TMPFILE is unknown a file is made and its name removed at once."""
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    made = Ink(create_log(str(tmp_path)))
    made.write(b"hello")
    assert list(tmp_path.iterdir()) == []
    assert _content(read_log(made.log)[0]) == b"hello"
    made.close()


def test_log_empty_has_no_chunks(ink: Ink) -> None:
    """Nothing written, nothing read, and the next question begins at the same place."""
    assert read_log(ink.log) == ((), 0)


def test_log_keeps_streams_and_order(ink: Ink) -> None:
    """Chunks come in the order they were read, each with its stream and its time."""
    before = time.time()
    ink.write(b"one\n")
    ink.write(b"two\n", "stderr")
    ink.write(b"three\n")
    chunks, _ = read_log(ink.log)
    assert [(chunk.stream, chunk.content) for chunk in chunks] == [
        ("stdout", b"one\n"),
        ("stderr", b"two\n"),
        ("stdout", b"three\n"),
    ]
    times = [chunk.time for chunk in chunks]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= time.time()


def test_log_is_read_from_where_one_was(ink: Ink) -> None:
    """A position brings what came after it, once."""
    ink.write(b"one")
    first, position = read_log(ink.log)
    assert read_log(ink.log, position) == ((), position)
    ink.write(b"two")
    second, end = read_log(ink.log, position)
    assert (_content(first), _content(second)) == (b"one", b"two")
    assert read_log(ink.log, end) == ((), end)
    assert _content(read_log(ink.log)[0]) == b"onetwo"


@given(st.lists(st.tuples(_STREAMS, st.binary(min_size=1, max_size=3000)), max_size=20))
def test_log_brings_back_every_byte(writes: list[tuple[Stream, bytes]]) -> None:
    """Whatever bytes a container writes, those and no others are in its log."""
    made = Ink(os.memfd_create("log"))
    for stream, content in writes:
        made.write(content, stream)
    chunks, _ = read_log(made.log)
    made.close()
    for stream in ("stdout", "stderr"):
        assert _content(chunks, stream) == b"".join(content for one, content in writes if one == stream)


def test_log_has_all_that_a_full_pipe_holds(ink: Ink) -> None:
    """One call moves a pipe's whole content, more than one read brings."""
    ours, theirs = ink._pipes["stdout"]
    del ours
    size = 0
    try:
        while True:
            size += os.write(theirs, b"x" * 4096)
    except BlockingIOError:
        ink.drain()
    assert size >= 65_536
    assert len(_content(read_log(ink.log)[0])) == size


def test_log_drain_tells_the_end_of_the_pipe(ink: Ink) -> None:
    """False while somebody can still write, True when nobody can, with the last bytes in the log."""
    assert ink.write(b"x" * 10) is False
    assert ink.drain() is False
    os.write(ink._pipes["stdout"][1], b"y" * 65_536)
    ink.hang_up()
    assert ink.drain() is True
    assert _content(read_log(ink.log)[0]) == b"x" * 10 + b"y" * 65_536


def test_log_drain_comes_back_from_a_flood(ink: Ink) -> None:
    """A container that writes faster than we read holds up nobody: after a measure others have a turn."""
    zero = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert ink.writer.drain(zero, "stdout") is False
    finally:
        os.close(zero)
    assert len(_content(read_log(ink.log)[0])) >= 1 << 20, "a pipe's content does not fit into a turn"


def test_log_says_that_it_is_full(ink: Ink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit the log ends with a sentence, and what follows is dropped."""
    monkeypatch.setattr(logs, "_LIMIT_BYTES", 1000)
    ink.write(b"a" * 900)
    ink.write(b"b" * 900)
    ink.write(b"c" * 10, "stderr")
    ink.hang_up()
    assert ink.drain() is True
    chunks, _ = read_log(ink.log)
    assert _content(chunks) == b"a" * 900 + b"[log ends here: it passed 1000 bytes]\n"


def _fill(folder: str, chunk: bytes) -> tuple[bytes, bytes, int]:
    """Write to a log on a file system of 64 KiB until it is full; return the log before and after more."""
    syscalls.mount("tmpfs", folder, "tmpfs", 0, "size=64k")
    made = Ink(create_log(folder))
    for _ in range(30):
        made.write(chunk)
    before, position = read_log(made.log)
    made.write(b"after")
    made.write(b"after", "stderr")
    after, _ = read_log(made.log)
    assert read_log(made.log, position) == ((), position)
    return _content(before), _content(after), os.fstat(made.log).st_size - position


@pytest.mark.kernel
@pytest.mark.parametrize("size", [5000, 4096 - 13, 7])
def test_log_stays_readable_when_the_disk_is_full(apart: Apart, tmp_path: Path, size: int) -> None:
    """A record that does not fit is left out whole, and so is all after it."""
    chunk = bytes(range(256)) * (size // 256 + 1)
    before, after, rest = apart(partial(_fill, str(tmp_path), chunk[:size] * (1 + 3000 // size)))
    assert before == after
    assert len(before) % (size * (1 + 3000 // size)) == 0
    assert rest == 0


@given(
    st.lists(st.tuples(_STREAMS, st.binary(min_size=1, max_size=70_000)), max_size=8),
    st.sampled_from([0, 1, 100, 66_000, 100_000, 1 << 20]),
)
def test_log_tail_is_the_end_of_the_log(writes: list[tuple[Stream, bytes]], limit_bytes: int) -> None:
    """The tail is the last bytes with their streams, no more than the limit, and tells what it lacks."""
    made = Ink(os.memfd_create("log"))
    for stream, content in writes:
        for begin in range(0, len(content), 60_000):
            made.write(content[begin : begin + 60_000], stream)
    chunks, end = read_log(made.log)
    tail = read_tail(made.log, limit_bytes)
    size = os.fstat(made.log).st_size
    made.close()
    whole = _content(chunks)
    assert tail.position == end == size
    assert _content(tail.chunks) == whole[max(0, len(whole) - limit_bytes) :]
    assert tail.is_cut == (len(whole) > limit_bytes)
    kept = chunks[len(chunks) - len(tail.chunks) :]
    assert [(one.time, one.stream) for one in tail.chunks] == [(one.time, one.stream) for one in kept]
    assert tail.chunks[1:] == kept[1:]


@given(st.lists(st.binary(min_size=1, max_size=3000), max_size=30), st.integers(1, 100_000))
def test_log_is_read_in_pieces(writes: list[bytes], limit_bytes: int) -> None:
    """Pieces of any size make up the log, and nothing comes only at its end."""
    made = Ink(os.memfd_create("log"))
    for content in writes:
        made.write(content)
    found, position = b"", 0
    while True:
        chunks, position = read_log(made.log, position, limit_bytes=limit_bytes)
        found += _content(chunks)
        if not chunks:
            break
    made.close()
    assert found == b"".join(writes)


def test_log_tail_reads_the_tail_alone(ink: Ink, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a log is, its end costs some 64 KiB to read, and its position less."""
    for _ in range(300):
        ink.write(b"x" * 60_000)
    read: list[int] = []
    whole = os.pread

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        content = whole(descriptor, length, offset)
        read.append(len(content))
        return content

    monkeypatch.setattr(os, "pread", pread)
    assert len(_content(read_tail(ink.log, 1 << 16).chunks)) == 1 << 16
    assert sum(read) < 5 << 16
    for _ in range(100_000):
        ink.writer._append("stdout", b"x")
    read.clear()
    assert 1000 < len(read_tail(ink.log, 1 << 16).chunks) < 6000
    assert sum(read) < 5 << 16


def test_log_torn_record_is_not_in_the_tail(ink: Ink) -> None:
    """While a record is being written the tail ends with the one before, wherever the file ends."""
    ink.write(b"first")
    ink.write(b"whole")
    _, position = read_log(ink.log)
    ink.write(b"torn" * 20)
    content = os.pread(ink.log, 1000, 0)
    torn = os.memfd_create("torn")
    try:
        for cut in range(position, len(content)):
            os.ftruncate(torn, 0)
            os.pwrite(torn, content[:cut], 0)
            tail = read_tail(torn, 5)
            assert (_content(tail.chunks), tail.is_cut, tail.position) == (b"whole", True, position)
        for cut in range(20):
            os.ftruncate(torn, cut)
            assert read_tail(torn, 10) == LogTail(chunks=(), is_cut=False, position=0)
    finally:
        os.close(torn)


def test_log_torn_record_is_not_read(ink: Ink) -> None:
    """A record that is being written is read when it is whole."""
    ink.write(b"whole")
    _, position = read_log(ink.log)
    ink.write(b"torn")
    content = os.pread(ink.log, 1000, 0)
    torn = os.memfd_create("torn")
    try:
        for cut in range(position, len(content)):
            os.ftruncate(torn, 0)
            os.pwrite(torn, content[:cut], 0)
            chunks, end = read_log(torn)
            assert (_content(chunks), end) == (b"whole", position)
    finally:
        os.close(torn)
