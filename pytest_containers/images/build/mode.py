"""``--chmod`` of COPY and ADD: an octal mode, or symbolic changes as chmod(1) has them.

Forms: https://docs.docker.com/reference/dockerfile/#copy---chown---chmod.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from typing import Final

from pytest_containers.errors import SpecInvalid

__all__ = ["Mode"]

_OCTAL: Final = re.compile(r"[0-7]+")
_CLAUSE: Final = re.compile(r"([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)")
_CHANGE: Final = re.compile(r"([-+=])([rwxXst]*|[ugo])(?=[-+=]|\Z)")
_SHIFTS: Final = (("u", 6), ("g", 3), ("o", 0))
_ALL: Final = 0o7777


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """What a file's mode becomes: *octal* where that is set, or each of *changes* in order.

    A change is who (of ``ugo``), an operator and what.
    """

    octal: int | None = None
    changes: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Mode:
        """Read ``755`` or ``u=rwX,go=rX``; raise SpecInvalid for anything else."""
        if _OCTAL.fullmatch(text) and len(text) < 20:
            octal = int(text, 8)
            if octal <= _ALL:
                return cls(octal=octal)
        changes: list[tuple[str, str, str]] = []
        for clause in text.split(","):
            match = _CLAUSE.fullmatch(clause)
            if match is None:
                raise SpecInvalid(
                    f"the mode cannot be {text!r}",
                    mend="write it in octal up to 7777, or as in chmod: u=rwX,go=rX",
                )
            who = "ugo" if not match[1] or "a" in match[1] else match[1]
            changes += [(who, operator, what) for operator, what in _CHANGE.findall(match[2])]
        return cls(changes=tuple(changes))

    def apply(self, mode: int, *, folder: bool) -> int:
        """Return the permission bits of a file that had *mode*; ``X`` is for folders and programs."""
        if self.octal is not None:
            return self.octal
        bits = stat.S_IMODE(mode)
        for who, operator, what in self.changes:
            mask, wanted = _bits(who, what, bits, folder=folder)
            if operator == "+":
                bits |= wanted
            elif operator == "-":
                bits &= ~wanted
            else:
                bits = bits & ~mask | wanted
        return bits


def _bits(who: str, what: str, bits: int, *, folder: bool) -> tuple[int, int]:
    """Return every bit that *who* has, and those that *what* names."""
    mask = wanted = 0
    for letter, shift in _SHIFTS:
        if letter not in who:
            continue
        mask |= 0o7 << shift
        wanted |= _permissions(what, bits, folder=folder) << shift
    if "u" in who:
        mask |= stat.S_ISUID
        wanted |= stat.S_ISUID if "s" in what else 0
    if "g" in who:
        mask |= stat.S_ISGID
        wanted |= stat.S_ISGID if "s" in what else 0
    if set(who) == {"u", "g", "o"}:
        mask |= stat.S_ISVTX
        wanted |= stat.S_ISVTX if "t" in what else 0
    return mask, wanted


def _permissions(what: str, bits: int, *, folder: bool) -> int:
    copied = dict(_SHIFTS).get(what)
    if copied is not None:
        return bits >> copied & 0o7
    permissions = 0o4 * ("r" in what) | 0o2 * ("w" in what) | ("x" in what)
    if "X" in what and (folder or bits & 0o111):
        permissions |= 0o1
    return permissions
