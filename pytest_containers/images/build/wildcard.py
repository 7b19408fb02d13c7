r"""Go's path patterns: ``*``, ``?``, ``[a-z]`` and ``\``; with ``**`` where the ignore file has it.

Syntax: https://pkg.go.dev/path/filepath#Match. A star and a question mark match no slash; a
bracket may.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import Final, Protocol

from pytest_containers.errors import SpecInvalid

__all__ = [
    "FOLDERS",
    "STAR",
    "WHATEVER",
    "Matcher",
    "bracket",
    "check",
    "clean",
    "has_wildcard",
    "match",
    "matcher",
    "plain",
    "split",
]

# What a pattern is made of, as regular expressions: these, and others for one character each.
STAR: Final = "[^/]*"
WHATEVER: Final = ".*"
FOLDERS: Final = "(?:.*/)?"
_LOOPS: Final = frozenset({STAR, WHATEVER, FOLDERS})
# A backtracking engine takes the square of the path's length for two loops, and more for each further one.
_MOST_LOOPS: Final = 2

_WILD: Final = "*?["


def match(pattern: str, path: str) -> bool:
    """Return whether all of *path* matches *pattern*; raise SpecInvalid for a malformed pattern."""
    return matcher(_translate(pattern)).matches(path)


class Matcher(Protocol):
    """A pattern that is ready to be compared with paths."""

    def matches(self, path: str) -> bool:
        """Return whether all of *path* matches."""


def matcher(pieces: Sequence[str]) -> Matcher:
    """Return what matches *pieces* one after another: loops of this module, or one character each.

    The time is bounded by the product of the lengths of pattern and path, as Go's is.
    """
    if sum(piece in _LOOPS for piece in pieces) <= _MOST_LOOPS:
        return _Expression(pieces)
    return _Automaton(pieces)


class _Expression:
    def __init__(self, pieces: Sequence[str]) -> None:
        self._regex = re.compile("".join(pieces), re.DOTALL)

    def matches(self, path: str) -> bool:
        return self._regex.fullmatch(path) is not None


class _Automaton:
    """Follows all ways through a pattern at once (Thompson, "Regular Expression Search Algorithm", 1968).

    State ``2 * n`` stands before piece n; ``2 * n + 1`` is within the folders of piece n.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self._pieces = tuple(pieces)
        self._single = [None if p in _LOOPS else re.compile(p, re.DOTALL) for p in pieces]

    def matches(self, path: str) -> bool:
        states = self._closed({0})
        for char in path:
            states = self._closed({new for state in states for new in self._step(state, char)})
            if not states:
                return False
        return 2 * len(self._pieces) in states

    def _closed(self, states: set[int]) -> set[int]:
        """Return *states* and those that are reached by passing over loops."""
        found: set[int] = set()
        for begun in states:
            state = begun
            found.add(state)
            while not state % 2 and state // 2 < len(self._pieces) and self._pieces[state // 2] in _LOOPS:
                state += 2
                found.add(state)
        return found

    def _step(self, state: int, char: str) -> tuple[int, ...]:
        number = state // 2
        if number == len(self._pieces):
            return ()
        piece, single = self._pieces[number], self._single[number]
        if single is not None:
            return (state + 2,) if single.fullmatch(char) else ()
        if piece == STAR:
            return (state,) if char != "/" else ()
        if piece == WHATEVER:
            return (state,)
        inside = 2 * number + 1
        return (inside, inside + 1) if char == "/" else (inside,)


def check(pattern: str) -> None:
    """Raise SpecInvalid where *pattern* is malformed."""
    _translate(pattern)


def has_wildcard(path: str) -> bool:
    """Return whether *path* has a wildcard that no backslash escapes."""
    at = 0
    while at < len(path):
        if path[at] in _WILD:
            return True
        at += 2 if path[at] == "\\" else 1
    return False


def split(path: str) -> tuple[str, str]:
    """Return the folder in front of the first component with a wildcard, and the pattern from there.

    The pattern is empty where there is no wildcard.
    """
    parts = clean(path).split("/")
    for at, part in enumerate(parts):
        if has_wildcard(part):
            folder = "/".join(parts[:at])
            return folder or ("/" if path.startswith("/") else ""), "/".join(parts[at:])
    return clean(path), ""


def clean(path: str) -> str:
    """Return the shortest path that means the same, as https://pkg.go.dev/path/filepath#Clean does."""
    # POSIX lets two leading slashes mean something of their own; Go does not.
    return posixpath.normpath(re.sub(r"\A/+", "/", path))


def plain(char: str) -> str:
    """Return the piece that is the character itself."""
    return re.escape(char)


def bracket(pattern: str, at: int) -> tuple[str, int]:
    """Return the bracket that begins at *at* as a regular expression, and where it ends.

    Raises SpecInvalid for one that is empty or does not end.
    """
    start = at
    at += 1
    negated = pattern[at : at + 1] == "^"
    at += negated
    ranges: list[str] = []
    while pattern[at : at + 1] != "]" or not ranges:
        low, at = _member(pattern, at, start)
        high = low
        if pattern[at : at + 1] == "-":
            high, at = _member(pattern, at + 1, start)
        # A range from high to low matches nothing.
        ranges.append(f"{re.escape(low)}-{re.escape(high)}" if low <= high else "")
    members = "".join(ranges)
    if not members:
        return ("." if negated else r"(?!)"), at + 1
    return f"[{'^' if negated else ''}{members}]", at + 1


def _member(pattern: str, at: int, start: int) -> tuple[str, int]:
    char = pattern[at : at + 1]
    if char == "\\":
        at += 1
        char = pattern[at : at + 1]
    elif char in {"-", "]"}:
        char = ""
    if not char or at + 1 >= len(pattern):
        raise SpecInvalid(f"the pattern {pattern[:80]!r} is malformed", seen=pattern[start : start + 20])
    return char, at + 1


def _translate(pattern: str) -> list[str]:
    pieces: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if not pieces or pieces[-1] != STAR:
                pieces.append(STAR)
        elif char == "?":
            pieces.append("[^/]")
        elif char == "[":
            piece, at = bracket(pattern, at - 1)
            pieces.append(piece)
        elif char == "\\":
            if at == len(pattern):
                raise SpecInvalid(
                    f"the pattern {pattern[:80]!r} ends in a backslash", mend="remove it, or double it"
                )
            pieces.append(re.escape(pattern[at]))
            at += 1
        else:
            pieces.append(re.escape(char))
    return pieces
