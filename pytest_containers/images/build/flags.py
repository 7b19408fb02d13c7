"""An instruction's keyword, its ``--flags`` and the rest of its line.

Rules: the split and ``bflag`` code of https://github.com/moby/buildkit. Quotes and backslashes in
flags are the shell's, whatever the escape directive says, and nothing is expanded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.values import SPACES, nearest, split_blanks

__all__ = ["Command", "Flags"]

_QUOTES: Final = "'\""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A logical line in its three parts; *keyword* is in upper case, *flags* still carry ``--``."""

    keyword: str
    flags: tuple[str, ...]
    rest: str

    @classmethod
    def split(cls, line: str) -> Command:
        """Cut *line*; flags end at the first word without ``--``, or behind a ``--`` alone."""
        parts = split_blanks(line.strip(SPACES), 2)
        keyword, tail = (*parts, "", "")[:2]
        flags, rest = _take_flags(tail)
        return cls(keyword=keyword.upper(), flags=tuple(flags), rest=rest.strip(SPACES))


def _take_flags(line: str) -> tuple[list[str], str]:
    flags: list[str] = []
    at = 0
    while True:
        while at < len(line) and line[at] in SPACES:
            at += 1
        if not line.startswith("--", at):
            return flags, line[at:]
        word, at = _take_word(line, at)
        if word == "--":
            return flags, line[at:]
        flags.append(word)


def _take_word(line: str, at: int) -> tuple[str, int]:
    """Return the word that begins at *at*, without its quotes and escapes, and where it ends."""
    word: list[str] = []
    quote = ""
    while at < len(line):
        char = line[at]
        if not quote and char in SPACES:
            break
        if char == "\\":
            # One at the line's end is dropped.
            word.append(line[at + 1 : at + 2])
            at += 1
        elif quote:
            quote = "" if char == quote else quote
            word.append("" if not quote else char)
        elif char in _QUOTES:
            quote = char
        else:
            word.append(char)
        at += 1
    return "".join(word), min(at, len(line))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The flags of one instruction, validated: each known, given once unless it is a list."""

    switches: Mapping[str, bool] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        given: Sequence[str],
        *,
        switches: Sequence[str] = (),
        texts: Sequence[str] = (),
        lists: Sequence[str] = (),
    ) -> Flags:
        """Sort *given* by the names an instruction knows.

        ``--name`` alone is true for a switch; the others need a value, which may be empty. Raises
        SpecInvalid for an unknown flag, a second one of its name, and a missing or wrong value.
        """
        known = (*switches, *texts, *lists)
        truths: dict[str, bool] = {}
        values: dict[str, str] = {}
        rows: dict[str, tuple[str, ...]] = {}
        for flag in given:
            name, equals, value = flag.removeprefix("--").partition("=")
            if name not in known:
                raise _unknown(name, known)
            if name in truths or name in values:
                raise SpecInvalid(f"the flag --{name} is given twice", mend="leave one of them out")
            if name in switches:
                truths[name] = _truth(name, equals, value)
            elif not equals:
                raise SpecInvalid(
                    f"the flag --{name} has no value", mend=f"write --{name}=VALUE, without blanks"
                )
            elif name in texts:
                values[name] = value
            else:
                rows[name] = (*rows.get(name, ()), value)
        return cls(switches=truths, texts=values, lists=rows)

    def switch(self, name: str) -> bool:
        """Return whether the switch is on; one that is not given is off."""
        return self.switches.get(name, False)

    def text(self, name: str) -> str:
        """Return the flag's value, empty where it is not given."""
        return self.texts.get(name, "")

    def list(self, name: str) -> tuple[str, ...]:
        """Return every value given for the flag, in order."""
        return self.lists.get(name, ())


def _truth(name: str, equals: str, value: str) -> bool:
    if not equals:
        return True
    if value.lower() not in {"true", "false"}:
        raise SpecInvalid(
            f"the flag --{name} cannot be {value!r}", mend=f"write --{name} alone, or true or false"
        )
    return value.lower() == "true"


def _unknown(name: str, known: Sequence[str]) -> SpecInvalid:
    mend = nearest(name, known)
    if not mend:
        names = ", ".join(f"--{flag}" for flag in sorted(known))
        mend = f"the instruction knows {names}" if known else "the instruction takes no flags"
    elif mend.startswith("did you mean "):
        mend = mend.replace("did you mean ", "did you mean --", 1)
    return SpecInvalid(f"unknown flag --{name}", mend=mend)
