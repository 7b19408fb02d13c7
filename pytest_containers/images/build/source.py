"""A Dockerfile's bytes as logical lines: directives, comments, continuations and heredoc bodies.

`read` knows lines, not instructions, but for what decides where a line ends: whether it may begin
heredocs. Rules: https://docs.docker.com/reference/dockerfile/ ("Format", "Parser directives",
"Here-documents") and the parser package of https://github.com/moby/buildkit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import heredoc
from pytest_containers.images.build.flags import Command
from pytest_containers.images.build.heredoc import Heredoc
from pytest_containers.images.build.values import SPACES, json_words

__all__ = ["Location", "LogicalLine", "Notice", "Source", "located", "read"]

_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")
_DIRECTIVES: Final = frozenset({"syntax", "escape", "check"})
_DIRECTIVE: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)[ \t\f\r]*=[ \t\f\r]*(.+?)[ \t\f\r]*")
_BODIED: Final = frozenset({"ADD", "COPY", "RUN"})
_UNDECODED: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where something stands: the file's name and its first and last line, counted from 1."""

    name: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.name}:{self.first}"


@contextmanager
def located(location: Location) -> Iterator[None]:
    """Put *location*, once, in front of the first sentence of a SpecInvalid that the block raises."""
    try:
        yield
    except SpecInvalid as error:
        if error.what.startswith(f"{location}: "):
            raise
        raise SpecInvalid(
            f"{location}: {error.what}", seen=error.seen, mend=error.mend, more=error.more
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something legal that is better written otherwise.

    *rule* is its name among https://docs.docker.com/reference/build-checks/, or one of our own.
    """

    rule: str
    location: Location
    text: str

    def __str__(self) -> str:
        return f"{self.location}: {self.text} ({self.rule})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalLine:
    """One instruction's text with its continuations joined, and the heredoc bodies that follow it."""

    location: Location
    text: str
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file read into logical lines.

    *escape* is a backslash or a backtick. *syntax* is the frontend's image the file asks for and
    *check* its lint options, empty where it says nothing; both are for the caller to judge.
    """

    name: str
    lines: tuple[LogicalLine, ...]
    escape: str = "\\"
    syntax: str = ""
    check: str = ""
    notices: tuple[Notice, ...] = ()


def read(content: bytes, name: str) -> Source:
    r"""Return the logical lines of the file *name* whose bytes are *content*.

    Lines end at ``\n``; a ``\r`` in front of it is dropped outside heredoc bodies. Raises
    SpecInvalid, with file and line, for a repeated or invalid directive, a heredoc without its
    end, text that is not UTF-8 (comments may be anything) and a file without instructions.
    """
    if content.startswith(_UTF16_BOMS):
        raise SpecInvalid(f"{name}:1: the file is UTF-16", mend="save it as UTF-8")
    physical = content.removeprefix(_BOM).decode("utf-8", "surrogateescape").split("\n")
    last = physical[-1:] if physical[-1] else []
    reader = _Reader(name, [*(line + "\n" for line in physical[:-1]), *last])
    lines = tuple(reader.logical_lines())
    if not lines:
        raise SpecInvalid(
            f"{name}:1: the file has no instructions", mend="begin it with FROM and the name of an image"
        )
    return Source(
        name=name,
        lines=lines,
        escape=reader.escape,
        syntax=_detect_syntax(physical),
        check=_leading_directives(physical, "#").get("check", ""),
        notices=tuple(reader.notices),
    )


class _Reader:
    """Goes through the physical lines, once, each with its line end."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self._name = name
        self._lines = lines
        self._at = 0
        self._seen: set[str] = set()
        self._in_directives = True
        self.escape = "\\"
        self.notices: list[Notice] = []

    def logical_lines(self) -> Iterator[LogicalLine]:
        while self._at < len(self._lines):
            first = self._at + 1
            text, ended = self._cut(self._next().lstrip(SPACES))
            if ended and not text:
                continue
            if not ended:
                text += self._continued()
            line = LogicalLine(location=self._location(first), text=text)
            with located(line.location):
                _check_text(text)
                line = replace(line, heredocs=self._bodies(text, first))
            yield replace(line, location=self._location(first))

    def _location(self, first: int) -> Location:
        return Location(name=self._name, first=first, last=max(first, self._at))

    def _next(self) -> str:
        """Return the next line without its end, a comment as nothing; act on a directive."""
        line = self._lines[self._at].rstrip("\r\n")
        self._at += 1
        if self._in_directives:
            self._direct(line.lstrip(SPACES))
        return "" if _is_comment(line) else line

    def _direct(self, line: str) -> None:
        directive = _read_directive(line, "#")
        if directive is None:
            self._in_directives = False
            return
        key, value = directive
        with located(self._location(self._at)):
            if key in self._seen:
                raise SpecInvalid(f"the parser directive {key} stands twice", mend="leave one of them out")
            self._seen.add(key)
            if key == "escape":
                if value not in {"\\", "`"}:
                    raise SpecInvalid(f"the escape character cannot be {value!r}", mend="use \\ or `")
                self.escape = value

    def _cut(self, line: str) -> tuple[str, bool]:
        """Return *line* without a continuation character at its end, and whether it ends there.

        An escape character after another one continues nothing, whatever stands before the two.
        """
        stripped = line.rstrip(" \t")
        if not stripped.endswith(self.escape) or stripped.endswith(self.escape * 2):
            return line, True
        return stripped[:-1], False

    def _continued(self) -> str:
        """Return the rest of a continued line; blanks at the start of a continuation are kept."""
        pieces: list[str] = []
        empty = 0
        while self._at < len(self._lines):
            comment = _is_comment(self._lines[self._at].rstrip("\r\n"))
            piece = self._next()
            if comment:
                continue
            if not piece.strip(SPACES):
                empty = empty or self._at
                continue
            piece, ended = self._cut(piece)
            pieces.append(piece)
            if ended:
                break
        if empty:
            text = "an empty line inside a continued instruction: write a comment there, or remove it"
            self.notices.append(Notice(rule="NoEmptyContinuation", location=self._location(empty), text=text))
        return "".join(pieces)

    def _bodies(self, text: str, first: int) -> tuple[Heredoc, ...]:
        if "<<" not in text or not _may_have_bodies(text):
            return ()
        return tuple(replace(doc, content=self._body(doc, first)) for doc in heredoc.find(text))

    def _body(self, doc: Heredoc, first: int) -> str:
        content: list[str] = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            self._at += 1
            end = line.rstrip("\r\n")
            if (end.lstrip("\t") if doc.strip_tabs else end) == doc.name:
                body = "".join(content)
                _check_text(body)
                if "\r\n" in body:
                    self.notices.append(
                        Notice(
                            rule="CarriageReturnInHeredoc",
                            location=self._location(first),
                            text="the heredoc's lines end in CR LF, and each CR is part of its text: a shell"
                            " makes it part of names. Save the file with LF",
                        )
                    )
                return body
            content.append(line)
        raise SpecInvalid(
            f"the heredoc <<{doc.name} does not end",
            seen=f"no line is {doc.name} alone, from line {first} to the end of the file",
            mend=f"write {doc.name} on a line of its own, without blanks around it",
        )


def _check_text(text: str) -> None:
    """Raise SpecInvalid for what can be no argument and no environment (execve(2)): NUL, bad UTF-8."""
    if "\0" in text:
        raise SpecInvalid("the line holds a NUL byte", mend="remove it")
    if _UNDECODED.search(text):
        raise SpecInvalid("the line is not UTF-8", mend="save the file as UTF-8")


def _is_comment(line: str) -> bool:
    return line.lstrip(SPACES).startswith("#")


def _may_have_bodies(text: str) -> bool:
    """Return whether the line is an ADD, COPY or RUN, or an ONBUILD of one, in its shell form."""
    command = Command.split(text)
    if command.keyword == "ONBUILD":
        command = Command.split(command.rest)
    return command.keyword in _BODIED and json_words(command.rest) is None


def _read_directive(line: str, mark: str) -> tuple[str, str] | None:
    if not line.startswith(mark):
        return None
    match = _DIRECTIVE.fullmatch(line.removeprefix(mark).lstrip(SPACES))
    if match is None or match[1].lower() not in _DIRECTIVES:
        return None
    return match[1].lower(), match[2]


def _leading_directives(physical: list[str], mark: str) -> Mapping[str, str]:
    """Return the directives a file begins with; a ``#!`` line may stand before them."""
    found: dict[str, str] = {}
    for line in physical[1:] if physical[0].startswith("#!") else physical:
        directive = _read_directive(line.rstrip("\r"), mark)
        if directive is None or directive[0] in found:
            break
        found[directive[0]] = directive[1]
    return found


def _detect_syntax(physical: list[str]) -> str:
    """Return the frontend image asked for: in a ``#`` or ``//`` directive, or as a JSON member."""
    value = _leading_directives(physical, "#").get("syntax") or _leading_directives(physical, "//").get(
        "syntax"
    )
    if value is None and physical[0].lstrip(SPACES).startswith("{"):
        try:
            document = json.loads("\n".join(physical))
        except (ValueError, RecursionError):
            return ""
        member = document.get("syntax") if isinstance(document, dict) else None
        value = member if isinstance(member, str) else None
    return (value or "").partition(" ")[0]
