r"""The shell patterns of ``${v#p}``, ``${v%p}`` and ``${v/p/new}``: ``*`` and ``?``, no brackets.

Source: https://pubs.opengroup.org/onlinepubs/9699919799/utilities/V3_chap02.html, 2.13. As in
BuildKit a wildcard matches no line end, and a backslash escapes only ``* ? \ } /``.
"""

from __future__ import annotations

import re

from pytest_containers.errors import SpecInvalid

__all__ = ["replace", "trim_prefix", "trim_suffix"]


def trim_prefix(value: str, pattern: str, *, longest: bool) -> str:
    """Return *value* without the shortest (or *longest*) start that *pattern* matches."""
    match = re.match("".join(_atoms(pattern, greedy=longest)), value)
    return value[match.end() :] if match else value


def trim_suffix(value: str, pattern: str, *, longest: bool) -> str:
    """Return *value* without the shortest (or *longest*) end that *pattern* matches."""
    # A regular expression finds the leftmost match: both are turned round.
    match = re.match("".join(reversed(_atoms(pattern, greedy=longest))), value[::-1])
    return value[: len(value) - match.end()] if match else value


def replace(value: str, pattern: str, new: str, *, everywhere: bool) -> str:
    """Return *value* with the first match of *pattern*, or each one, replaced by *new*."""
    pieces: list[str] = []
    end = -1
    for match in re.finditer("".join(_atoms(pattern, greedy=True)), value):
        if match.end() == match.start() == end:
            continue
        pieces += [value[max(end, 0) : match.start()], new]
        end = match.end()
        if not everywhere:
            break
    return "".join(pieces) + value[max(end, 0) :]


def _atoms(pattern: str, *, greedy: bool) -> list[str]:
    """Return *pattern* as the pieces of a regular expression, each one character or wildcard."""
    star = ".*" if greedy else ".*?"
    atoms: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            # Neighbouring stars say nothing more and cost a regular expression its linear time.
            if not atoms or atoms[-1] != star:
                atoms.append(star)
        elif char == "?":
            atoms.append(".")
        elif char != "\\":
            atoms.append(re.escape(char))
        elif (following := pattern[at : at + 1]) and following in "*?\\}/":
            atoms.append(re.escape(following))
            at += 1
        else:
            raise SpecInvalid(
                f"the pattern {pattern!r} escapes {following!r}", mend="only * ? \\ } / need it"
            )
    return atoms
