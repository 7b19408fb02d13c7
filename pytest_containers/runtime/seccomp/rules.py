"""What a profile comes to for one processor and one set of capabilities: rules by number (floor 1).

A rule is a tuple of comparisons, which must all hold, and the value the kernel is to act on. Of the rules
of a call the first that holds counts; where none does, it is the default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

__all__ = [
    "ALLOW",
    "EPERM",
    "ERRNO",
    "KILL_PROCESS",
    "KILL_THREAD",
    "LOG",
    "TRACE",
    "TRAP",
    "WORD",
    "Comparison",
    "Rule",
    "Ruleset",
    "verdict",
]

# What a filter returns (include/uapi/linux/seccomp.h): the lower sixteen bits are the action's data.
KILL_PROCESS: Final = 0x8000_0000
KILL_THREAD: Final = 0x0000_0000
TRAP: Final = 0x0003_0000
ERRNO: Final = 0x0005_0000
TRACE: Final = 0x7FF0_0000
LOG: Final = 0x7FFC_0000
ALLOW: Final = 0x7FFF_0000
EPERM: Final = ERRNO | 1

# An argument of 64 bits; one that the kernel takes as an int has the lower 32 of them alone.
WORD: Final = 0xFFFF_FFFF_FFFF_FFFF


class Comparison(NamedTuple):
    """One comparison of an argument, counted from 0, as an unsigned number after *mask* was laid over it.

    Only ``==`` and ``!=`` take a mask.
    """

    argument: int
    operator: Literal["==", "!=", "<", "<=", ">", ">="]
    value: int
    mask: int = WORD

    def holds(self, argument: int) -> bool:
        """Return whether the comparison holds for the 64 bits of *argument*."""
        left = argument & self.mask
        return {
            "==": left == self.value,
            "!=": left != self.value,
            "<": left < self.value,
            "<=": left <= self.value,
            ">": left > self.value,
            ">=": left >= self.value,
        }[self.operator]


class Rule(NamedTuple):
    """What is answered where all of *comparisons* hold."""

    comparisons: tuple[Comparison, ...]
    action: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    """Rules for the calls of one processor, by number.

    *default* is for calls without a rule that holds, *newer* for those behind the last number of the table:
    what such a call does is not known.
    """

    machine: str
    rules: Mapping[int, tuple[Rule, ...]]
    default: int
    newer: int


def verdict(rules: Sequence[Rule], arguments: Sequence[int], default: int) -> int:
    """Return what is answered to a call with *arguments*: by its first rule that holds, or *default*."""
    for rule in rules:
        if all(one.holds(arguments[one.argument]) for one in rule.comparisons):
            return rule.action
    return default
