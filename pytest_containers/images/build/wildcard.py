r"""Go's path patterns: ``*``, ``?``, ``[a-z]`` and ``\``; with ``**`` where the ignore file has it.

Syntax: https://pkg.go.dev/path/filepath#Match. A star and a question mark match no slash; a
bracket may.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

from pytest_containers.errors import SpecInvalid

__all__ = ["bracket", "check", "clean", "has_wildcard", "match", "split"]

_WILD: Final = "*?["


def match(pattern: str, path: str) -> bool:
    """Return whether all of *path* matches *pattern*; raise SpecInvalid for a malformed pattern."""
    return re.fullmatch(_translate(pattern), path, re.DOTALL) is not None


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


def _translate(pattern: str) -> str:
    pieces: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if not pieces or pieces[-1] != "[^/]*":
                pieces.append("[^/]*")
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
    return "".join(pieces)
