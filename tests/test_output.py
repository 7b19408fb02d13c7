"""Chunks of output become lines and text."""

from __future__ import annotations

import datetime

from pytest_containers.output import Lines, excerpt, joined, last_lines, shown
from pytest_containers.spec import LogChunk, Stream
from tests.engines.sessions import launch, open_session


def _chunk(content: bytes, *, stream: Stream = "stdout", time: float = 1.0) -> LogChunk:
    return LogChunk(time=time, stream=stream, content=content)


def test_lines_join_what_chunks_cut() -> None:
    """A line that came in pieces is one line, with the time of its first byte."""
    lines = Lines()
    assert lines.feed([_chunk(b"one\ntw", time=1.0)])[0].text == "one"
    (line,) = lines.feed([_chunk(b"o\n", time=2.0)])
    assert (line.text, line.time) == ("two", datetime.datetime.fromtimestamp(1.0, datetime.UTC))
    assert str(line) == "two"


def test_lines_keep_the_streams_apart() -> None:
    """A line of one stream is not cut by the other."""
    lines = Lines()
    chunks = [_chunk(b"o"), _chunk(b"e", stream="stderr"), _chunk(b"ut\n"), _chunk(b"rr\n", stream="stderr")]
    assert [(line.stream, line.text) for line in lines.feed(chunks)] == [("stdout", "out"), ("stderr", "err")]


def test_lines_join_a_character_that_is_cut() -> None:
    """A character of two bytes that came in two chunks is one character."""
    assert [line.text for line in Lines().feed([_chunk(b"caf\xc3"), _chunk(b"\xa9\n")])] == ["café"]


def test_lines_drop_the_carriage_return() -> None:
    """The line end of other systems is a line end, too, and an empty line is a line."""
    assert [line.text for line in Lines().feed([_chunk(b"a\r\n\nb\n")])] == ["a", "", "b"]


def test_lines_tell_the_rest_without_taking_it() -> None:
    """What has not ended yet can be looked at, and ends later."""
    lines = Lines()
    lines.feed([_chunk(b"password: ")])
    assert [line.text for line in lines.rest()] == ["password: "]
    assert [line.text for line in lines.feed([_chunk(b"ok\n")])] == ["password: ok"]
    assert lines.rest() == ()


def test_joined_chooses_stream_and_time() -> None:
    """The text is that of one stream or of both, from a moment on."""
    chunks = [_chunk(b"a\n"), _chunk(b"b\n", stream="stderr", time=2.0), _chunk(b"c\n", time=3.0)]
    assert joined(chunks) == "a\nb\nc\n"
    assert joined(chunks, stream="stderr") == "b\n"
    assert joined(chunks, since=datetime.datetime.fromtimestamp(2.0, datetime.UTC)) == "b\nc\n"


def test_joined_decodes_each_stream_for_itself() -> None:
    """A character that the other stream cuts in two is whole; a broken one is replaced."""
    assert joined([_chunk(b"\xc3"), _chunk(b"!", stream="stderr"), _chunk(b"\xa9")]) == "!é"
    assert joined([_chunk(b"x\xc3")]) == "x\ufffd"


def test_last_lines_are_the_last() -> None:
    """The newest lines are kept, the one that has not ended among them."""
    session = open_session()
    container = launch(session, command=["sh", "-c", "echo a; echo b; echo c; echo d >&2"])
    container.wait()
    assert [line.text for line in last_lines(container._handle, 2)] == ["c", "d"]
    assert last_lines(container._handle, 0) == ()
    session.close()


def test_shown_escapes_what_a_terminal_obeys() -> None:
    """Colours, titles, bells and overwritten lines are told, not obeyed; text and tabs stay."""
    assert shown("\x1b[31mred\x1b]0;title\x07 \x9b2J\rover\x7f") == (
        "\\x1b[31mred\\x1b]0;title\\x07 \\x9b2J\\x0dover\\x7f"
    )
    assert shown("caf\xe9\tx") == "caf\xe9\tx"


def test_shown_cuts_a_line() -> None:
    """A line is shown up to 4,096 characters, and how many follow."""
    assert shown("x" * 4096) == "x" * 4096
    assert shown("x" * 5000) == "x" * 4096 + " [904 more characters]"


def test_excerpt_is_the_end() -> None:
    """Of a long output the last 64 KiB are shown, by lines."""
    said = excerpt("begin\n" + "line \x1b\n" * 20_000).splitlines()
    assert said[0].endswith("characters before]")
    assert said[-1] == "line \\x1b"
    assert excerpt("short\n") == "short"


def test_lines_with_a_limit_keep_the_beginning() -> None:
    """What is past the limit of a line is dropped, in one chunk or in many, and the next line is whole."""
    lines = Lines(limit_bytes=4)
    chunks = [_chunk(b"abcdef"), _chunk(b"ghi\nab"), _chunk(b"cd\nabcdefgh\nx")]
    assert [line.text for line in lines.feed(chunks)] == ["abcd", "abcd", "abcd"]
    assert [line.text for line in lines.rest()] == ["x"]


def test_report_of_a_flood_is_short() -> None:
    """Of megabytes without a line end a report has the end of the last line, and of lines the last."""
    session = open_session()
    for text in ("x" * 300_000, ("y" * 100 + "\n") * 3000):
        container = launch(session, command=["echo", text])
        container.wait()
        report = container.report(50)
        assert len(report) < 10_000
        assert report.splitlines()[0].startswith("exited")
    session.close()
