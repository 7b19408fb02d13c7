"""Bytes to logical lines: directives, comments, continuations, heredoc bodies, and where each stands."""

from __future__ import annotations

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.source import LogicalLine, Source, read


def lines(content: str | bytes) -> tuple[LogicalLine, ...]:
    """Return the logical lines of *content*."""
    return read(content if isinstance(content, bytes) else content.encode(), "Dockerfile").lines


def texts(content: str | bytes) -> list[str]:
    """Return the texts of the logical lines."""
    return [line.text for line in lines(content)]


def refused(content: str | bytes) -> SpecInvalid:
    """Return the error that *content* raises."""
    with pytest.raises(SpecInvalid) as caught:
        lines(content)
    return caught.value


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("FROM a", ["FROM a"]),
        ("FROM a\n", ["FROM a"]),
        ("\n\n  \t\nFROM a\n\n", ["FROM a"]),
        ("\ufeffFROM a\n", ["FROM a"]),
        ("FROM a\r\nRUN b\r\n", ["FROM a", "RUN b"]),
        ("  \tFROM a", ["FROM a"]),
        ("\u00a0\u3000FROM a", ["FROM a"]),
        ("FROM a  ", ["FROM a  "]),
        ("# one\n  # two\nFROM a\n#three", ["FROM a"]),
        ("RUN a # not a comment", ["RUN a # not a comment"]),
        ("RUN a\x0bb\x0cc\u2028d", ["RUN a\x0bb\x0cc\u2028d"]),
    ],
)
def test_source_lines_end_at_newlines(content: str, expected: list[str]) -> None:
    """Only a newline ends a line; blank lines, comments, a BOM and blanks in front are dropped."""
    assert texts(content) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("RUN a \\\n b", ["RUN a  b"]),
        ("RUN a\\\nb", ["RUN ab"]),
        ("RUN a \\  \t\n  b", ["RUN a   b"]),
        ("RUN a \\\r\nb\r\n", ["RUN a b"]),
        ("RUN a \\\n# comment\nb", ["RUN a b"]),
        ("RUN a \\\n  # comment \\\nb", ["RUN a b"]),
        ("RUN a \\\n\n \nb", ["RUN a b"]),
        ("RUN a \\\n", ["RUN a "]),
        ("RUN a \\", ["RUN a "]),
        ("RUN a \\\n# only comments follow", ["RUN a "]),
        ("RUN a \\\\\nRUN b", ["RUN a \\\\", "RUN b"]),
        ("RUN a \\\\\\\nRUN b", ["RUN a \\\\\\", "RUN b"]),
        ("\\\nRUN a", ["RUN a"]),
        ("  \\\n  RUN a", ["  RUN a"]),
        ("RUN a \\ b\nRUN c", ["RUN a \\ b", "RUN c"]),
        ("RUN a \\\nb \\\nc\nRUN d", ["RUN a b c", "RUN d"]),
        ("RUN a `\nb", ["RUN a `", "b"]),
        ("# escape=`\nRUN a `\nb \\\nRUN c", ["RUN a b \\", "RUN c"]),
    ],
)
def test_source_joins_continuations(content: str, expected: list[str]) -> None:
    """An escape character at the end continues a line; comments inside go, blanks in front stay."""
    assert texts(content) == expected


def test_source_notices_empty_continuation() -> None:
    """An empty line inside a continued instruction is passed over and told with its line number."""
    notices = read(b"FROM a\nRUN a \\\n\n  b\nRUN c \\\n# fine\nd", "Dockerfile").notices
    assert [(notice.rule, notice.location.first) for notice in notices] == [("NoEmptyContinuation", 3)]
    assert str(notices[0]).startswith("Dockerfile:3: ")


@pytest.mark.parametrize(
    ("content", "escape"),
    [
        ("# escape=`\nFROM a", "`"),
        ("#escape=`\nFROM a", "`"),
        ("#  EsCaPe \t=  `  \nFROM a", "`"),
        ("# escape=\\\nFROM a", "\\"),
        ("# escape\f=\r`\nFROM a", "`"),
        ("# syntax=x\n# escape=`\nFROM a", "`"),
        ("# check=skip=all\n# escape=`\nFROM a", "`"),
        ("\ufeff# escape=`\nFROM a", "`"),
        ("  # escape=`\nFROM a", "`"),
        ("# escape=`\r\nFROM a", "`"),
        ("\n# escape=`\nFROM a", "\\"),
        ("# a comment\n# escape=`\nFROM a", "\\"),
        ("# unknown=1\n# escape=`\nFROM a", "\\"),
        ("FROM a\n# escape=`\nRUN b", "\\"),
        ("#!/usr/bin/x\n# escape=`\nFROM a", "\\"),
    ],
)
def test_source_obeys_directives_at_the_top_only(content: str, escape: str) -> None:
    """A directive counts before anything else, in any case; anything else ends the directives."""
    assert read(content.encode(), "Dockerfile").escape == escape


@pytest.mark.parametrize(
    ("content", "word", "line"),
    [
        ("# escape=`\n# escape=\\\nFROM a", "escape stands twice", 2),
        ("# syntax=a\n# SYNTAX=b\nFROM a", "syntax stands twice", 2),
        ("# check=a\n# check=b\nFROM a", "check stands twice", 2),
        ("# escape=x\nFROM a", "cannot be 'x'", 1),
        ("# escape = \nFROM a", "cannot be ' '", 1),
        ("# escape=``\nFROM a", "cannot be '``'", 1),
    ],
)
def test_source_refuses_wrong_directives(content: str, word: str, line: int) -> None:
    """A repeated directive, and an escape character other than two, are refused with their line."""
    error = refused(content)
    assert word in error.what
    assert error.what.startswith(f"Dockerfile:{line}: ")


@pytest.mark.parametrize(
    ("content", "syntax"),
    [
        ("# syntax=docker/dockerfile:1\nFROM a", "docker/dockerfile:1"),
        ("# Syntax = x:1 with words \nFROM a", "x:1"),
        ("#!/bin/x\n# syntax=y\nFROM a", "y"),
        ("# escape=`\n# syntax=y\nFROM a", "y"),
        ("// syntax=z\nFROM a", "z"),
        ('{"syntax": "j:1", "FROM": 1}', "j:1"),
        ('{"syntax": 1}', ""),
        ('{"syntax"', ""),
        ("FROM a\n# syntax=y", ""),
        ("\n# syntax=y\nFROM a", ""),
        ("FROM a", ""),
    ],
)
def test_source_detects_the_syntax_in_any_form(content: str, syntax: str) -> None:
    """The frontend may be named behind #, behind //, in JSON, and below a shebang line."""
    assert read(content.encode(), "Dockerfile").syntax == syntax


def test_source_keeps_the_check_directive() -> None:
    """The lint options are handed on as written."""
    assert read(b"# check=skip=A,B;error=true\nFROM a", "Dockerfile").check == "skip=A,B;error=true"


@pytest.mark.parametrize(
    ("content", "spans"),
    [
        ("FROM a\nRUN b", [(1, 1), (2, 2)]),
        ("# c\n\nFROM a\nRUN b \\\n c \\\n d\nRUN e", [(3, 3), (4, 6), (7, 7)]),
        ("FROM a\nRUN <<E\nx\nE\nRUN b", [(1, 1), (2, 4), (5, 5)]),
        ("RUN a \\\n b <<E\nx\nE\n", [(1, 4)]),
        ("RUN a \\\n# c\n\nRUN b", [(1, 4)]),
    ],
)
def test_source_counts_lines_from_one(content: str, spans: list[tuple[int, int]]) -> None:
    """A logical line knows its first and last line in the file, heredoc bodies included."""
    assert [(line.location.first, line.location.last) for line in lines(content)] == spans


@pytest.mark.parametrize(
    ("content", "bodies"),
    [
        ("RUN <<E\na\nE", ["a\n"]),
        ("RUN <<E\nE", [""]),
        ("RUN <<E\n# kept\n\n  a \\\nE", ["# kept\n\n  a \\\n"]),
        ("RUN <<E\r\na\r\nE\r\n", ["a\r\n"]),
        ("RUN <<-E\n\ta\n\tE", ["\ta\n"]),
        ("RUN <<E\n\tE\nE", ["\tE\n"]),
        ("RUN <<E\n E\nE \nE", [" E\nE \n"]),
        ("COPY <<A <<B /x\n1\nA\n2\nB", ["1\n", "2\n"]),
        ("COPY <<A <<B /x\nB\nA\nA\nB", ["B\n", "A\n"]),
        ("ADD <<A /x\n1\nA", ["1\n"]),
        ("copy <<A /x\n1\nA", ["1\n"]),
        ("ONBUILD RUN <<A\n1\nA", ["1\n"]),
        ("onbuild copy <<A /x\n1\nA", ["1\n"]),
        ("RUN --mount=type=cache,target=/x <<E\na\nE", ["a\n"]),
        ("RUN a \\\n  <<E\nb\nE", ["b\n"]),
        ("RUN echo <<'A B'\nx\nA B", ["x\n"]),
        ("# escape=`\nRUN <<A\\'B\nx\nA'B", ["x\n"]),
    ],
)
def test_source_reads_heredoc_bodies(content: str, bodies: list[str]) -> None:
    """The lines behind RUN, COPY, ADD and their ONBUILD belong to the heredocs, as they are."""
    assert [doc.content for doc in lines(content)[0].heredocs] == bodies


@pytest.mark.parametrize(
    "content",
    [
        "USER <<E\nE",
        "ENV a=<<E\nE",
        "CMD <<E\nE",
        'RUN ["<<E"]\nE',
        'COPY ["<<E", "/x"]\nE',
        'ONBUILD RUN ["<<E"]\nE',
        'RUN "<<E"\nE',
        "RUN '<<E'\nE",
        "RUN a<<E\nE",
        "RUN <<<E\nE",
        "RUN << \nE",
        "RUN it's <<E\nE",
        "RUN \\<<E\nE",
    ],
)
def test_source_leaves_what_is_no_heredoc(content: str) -> None:
    """Other instructions, JSON forms, quoted and glued operators begin no heredoc."""
    assert [len(line.heredocs) for line in lines(content)] == [0, 0]


@pytest.mark.parametrize("content", ["RUN <<E\na\n", "RUN <<E", "FROM a\nRUN x <<A <<B\nA\n", "RUN <<E\n\tE"])
def test_source_refuses_a_heredoc_without_end(content: str) -> None:
    """A heredoc whose word never stands alone on a line is refused where it begins."""
    error = refused(content)
    assert "does not end" in error.what
    assert error.what.startswith(f"Dockerfile:{1 + content.startswith('FROM')}: ")
    assert "on a line of its own" in error.mend


@pytest.mark.parametrize("content", ["", "\n\n", "# only this\n", "\ufeff", "# escape=`\n"])
def test_source_refuses_a_file_without_instructions(content: str) -> None:
    """A file that says nothing is no Dockerfile."""
    assert "no instructions" in refused(content).what


@pytest.mark.parametrize(
    ("content", "word", "line"),
    [
        (b"FROM a\nRUN \xff", "not UTF-8", 2),
        (b"FROM a\nRUN a\0b", "NUL", 2),
        (b"FROM a\nRUN <<E\n\xff\nE", "not UTF-8", 2),
        (b"\xff\xfeF\0R\0", "UTF-16", 1),
        (b"\xfe\xff\0F\0R", "UTF-16", 1),
    ],
)
def test_source_refuses_what_can_be_no_argument(content: bytes, word: str, line: int) -> None:
    """Bytes that no command could be given are refused at their line."""
    error = refused(content)
    assert word in error.what
    assert error.what.startswith(f"Dockerfile:{line}: ")


def test_source_takes_any_bytes_in_comments() -> None:
    """A comment in an old encoding harms nobody."""
    assert texts(b"# caf\xe9\nFROM a\nRUN b \\\n# caf\xe9\n c") == ["FROM a", "RUN b  c"]


def test_source_is_a_value() -> None:
    """The same bytes give the same source."""
    content = b"# escape=`\nFROM a\nRUN <<E\nx\nE\n"
    assert read(content, "D") == read(content, "D")
    assert isinstance(read(content, "D"), Source)
