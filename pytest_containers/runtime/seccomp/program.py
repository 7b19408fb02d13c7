"""Write a set of rules as a program of classic BPF, which seccomp(2) takes (floor 1).

Numbers with the same rules that follow each other are one run. A balanced tree of comparisons finds the run
of a call, so that the program takes seven or eight steps for any call. Each part of the program ends in a
return on every way, so parts are joined without any address to be filled in later. The instructions are those
of Documentation/networking/filter.rst; the data is struct seccomp_data (include/uapi/linux/seccomp.h).
"""

from __future__ import annotations

import struct
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.runtime.seccomp.numbers import AUDIT_ARCH
from pytest_containers.runtime.seccomp.rules import EPERM, WORD, Comparison, Rule, Ruleset

__all__ = ["INSTRUCTION", "write"]

# struct sock_filter: code, two distances to jump where a comparison holds and where not, a constant.
INSTRUCTION: Final = struct.Struct("=HBBI")

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP: Final = 0x05  # BPF_JMP | BPF_JA
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_GREATER: Final = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_IF_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_NUMBER: Final = 0
_ARCH: Final = 4
_ARGUMENTS: Final = 16
_HALF: Final = 0xFFFF_FFFF
_FARTHEST: Final = 255
# BPF_MAXINSNS (include/uapi/linux/bpf_common.h).
_LONGEST: Final = 4096
# x32 shares the architecture of x86_64 and sets this bit (arch/x86/include/uapi/asm/unistd.h).
_X32: Final = 0x4000_0000

_Instruction = tuple[int, int, int, int]
_Part = list[_Instruction]


def write(ruleset: Ruleset) -> bytes:
    """Return the program of *ruleset*, as an array of struct sock_filter.

    A call of another architecture is answered EPERM. Raises SpecInvalid for more than the kernel takes.
    """
    program = [
        (_LOAD, 0, 0, _ARCH),
        (_IF_EQUAL, 1, 0, AUDIT_ARCH[ruleset.machine]),
        (_RETURN, 0, 0, EPERM),
        (_LOAD, 0, 0, _NUMBER),
        *_tree(_runs(ruleset), ruleset.default),
    ]
    if len(program) > _LONGEST:
        raise SpecInvalid(
            "the seccomp profile is too long for the kernel",
            seen=f"{len(program)} instructions, {_LONGEST} are the limit",
            mend="give calls with the same action one rule, and compare fewer arguments",
        )
    return b"".join(INSTRUCTION.pack(*instruction) for instruction in program)


def _runs(ruleset: Ruleset) -> list[tuple[int, tuple[Rule, ...]]]:
    """Return the first number of each run with its rules, in order."""
    last = max(ruleset.rules, default=-1)
    found: list[tuple[int, tuple[Rule, ...]]] = []
    every = [(number, ruleset.rules.get(number, ())) for number in range(last + 1)]
    every.append((last + 1, (Rule((), ruleset.newer),)))
    if ruleset.machine == "x86_64":
        every.append((_X32, (Rule((), EPERM),)))
    for number, rules in every:
        if not found or found[-1][1] != rules:
            found.append((number, rules))
    return found


def _tree(runs: list[tuple[int, tuple[Rule, ...]]], default: int) -> _Part:
    """Return the part that finds the run of the number in the accumulator, and answers."""
    if len(runs) == 1:
        return _answer(runs[0][1], default)
    middle = len(runs) // 2
    below, above = _tree(runs[:middle], default), _tree(runs[middle:], default)
    if len(below) <= _FARTHEST:
        return [(_IF_AT_LEAST, len(below), 0, runs[middle][0]), *below, *above]
    # A conditional jump has eight bits for its distance, an unconditional one thirty-two.
    return [(_IF_AT_LEAST, 0, 1, runs[middle][0]), (_JUMP, 0, 0, len(below)), *below, *above]


def _answer(rules: tuple[Rule, ...], default: int) -> _Part:
    """Return the part that tries *rules* one after the other."""
    if not rules:
        return [(_RETURN, 0, 0, default)]
    first, others = rules[0], rules[1:]
    part: _Part = [(_RETURN, 0, 0, first.action)]
    for comparison in reversed(first.comparisons):
        part = [*_compare(comparison, len(part)), *part]
    return [*part, *_answer(others, default)] if first.comparisons else part


def _compare(comparison: Comparison, failed: int) -> _Part:
    """Return the part that goes on behind itself where *comparison* holds, else *failed* farther.

    An argument has 64 bits, the accumulator 32: the upper half is compared first.
    """
    at = _ARGUMENTS + 8 * comparison.argument
    low, high = comparison.value & _HALF, comparison.value >> 32
    if comparison.operator in ("==", "!="):
        return _equal(comparison, at, failed)
    if comparison.operator in ("<", "<="):
        # The upper half decides where it differs; where it is equal the lower one does.
        last = (_IF_AT_LEAST if comparison.operator == "<" else _IF_GREATER, failed, 0, low)
        return [
            (_LOAD, 0, 0, at + 4),
            (_IF_GREATER, failed + 3, 0, high),
            (_IF_EQUAL, 0, 2, high),
            (_LOAD, 0, 0, at),
            last,
        ]
    last = (_IF_GREATER if comparison.operator == ">" else _IF_AT_LEAST, 0, failed, low)
    return [
        (_LOAD, 0, 0, at + 4),
        (_IF_GREATER, 3, 0, high),
        (_IF_EQUAL, 0, failed + 2, high),
        (_LOAD, 0, 0, at),
        last,
    ]


def _equal(comparison: Comparison, at: int, failed: int) -> _Part:
    halves = (
        (at + 4, comparison.mask >> 32, comparison.value >> 32),
        (at, comparison.mask & _HALF, comparison.value & _HALF),
    )
    if comparison.mask == WORD:
        loads = [[(_LOAD, 0, 0, offset)] for offset, _, _ in halves]
        values = [value for _, _, value in halves]
    else:
        # A half without a bit in the mask is 0 after it: it need not be loaded if 0 is wanted.
        wanted = [half for half in halves if half[1] or half[2]] or [halves[1]]
        loads = [[(_LOAD, 0, 0, offset), (_AND, 0, 0, mask)] for offset, mask, _ in wanted]
        values = [value for _, _, value in wanted]
    part: _Part = []
    if comparison.operator == "==":
        for load, value in zip(reversed(loads), reversed(values), strict=True):
            part = [*load, (_IF_EQUAL, 0, failed + len(part), value), *part]
        return part
    for load, value in zip(reversed(loads), reversed(values), strict=True):
        # The first half that differs decides; the last one, equal too, has failed.
        differs = (_IF_EQUAL, 0, len(part), value) if part else (_IF_EQUAL, failed, 0, value)
        part = [*load, differs, *part]
    return part
