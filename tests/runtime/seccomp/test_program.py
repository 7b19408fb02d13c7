"""Laws of the programs that rules are written as, held against the rules and against libseccomp."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.runtime.seccomp.numbers import AUDIT_ARCH, syscall_numbers
from pytest_containers.runtime.seccomp.program import write
from pytest_containers.runtime.seccomp.rules import (
    ALLOW,
    EPERM,
    KILL_PROCESS,
    WORD,
    Comparison,
    Rule,
    Ruleset,
    verdict,
)
from tests.runtime.seccomp import oracle
from tests.runtime.seccomp.interpreter import Program

_MACHINE: Final = "x86_64"
_ARCH: Final = AUDIT_ARCH[_MACHINE]
_OPERATORS: Final = ("==", "!=", "<", "<=", ">", ">=")
# Where halves of 32 bits end, and what lies around.
_VALUES: Final = (
    0,
    1,
    5,
    0xFFFF_FFFE,
    0xFFFF_FFFF,
    1 << 32,
    (1 << 32) + 5,
    5 << 32,
    (5 << 32) + 5,
    1 << 63,
    WORD,
)
_MASKS: Final = (0, 1, 0xFFFF_FFFF, 0xFFFF_FFFF << 32, 0x7E02_0000, (1 << 32) + 1, WORD)


def _around(value: int) -> set[int]:
    return {near & WORD for near in (value - 1, value, value + 1, value ^ (1 << 32), value ^ (1 << 63))}


def _ruleset(rules: Mapping[int, tuple[Rule, ...]], last: int = 20) -> Ruleset:
    every = {number: rules.get(number, ()) for number in range(last + 1)}
    return Ruleset(machine=_MACHINE, rules=every, default=EPERM, newer=EPERM)


@pytest.mark.parametrize("value", _VALUES)
@pytest.mark.parametrize("operator", _OPERATORS)
@pytest.mark.parametrize("argument", [0, 5])
def test_comparison_is_that_of_whole_numbers(operator: str, value: int, argument: int) -> None:
    """Each operator compares all 64 bits as one unsigned number, of each argument."""
    comparison = Comparison(argument, operator, value)  # type: ignore[arg-type]  # a literal's text
    program = Program(write(_ruleset({3: (Rule((comparison,), ALLOW),)})))
    for tried in _around(value) | set(_VALUES):
        arguments = [0xABCD_0000_1234_5678] * 6
        arguments[argument] = tried
        holds = {
            "==": tried == value,
            "!=": tried != value,
            "<": tried < value,
            "<=": tried <= value,
            ">": tried > value,
            ">=": tried >= value,
        }[operator]
        assert program.run(3, _ARCH, arguments) == (ALLOW if holds else EPERM), tried


@pytest.mark.parametrize("mask", _MASKS)
@pytest.mark.parametrize("operator", ["==", "!="])
def test_comparison_lays_its_mask_over_the_argument(operator: str, mask: int) -> None:
    """Bits outside of the mask count for nothing, in either half."""
    for value in (*(value & mask for value in _VALUES), 1):
        comparison = Comparison(1, operator, value, mask)  # type: ignore[arg-type]  # a literal's text
        program = Program(write(_ruleset({3: (Rule((comparison,), ALLOW),)})))
        for tried in _around(value) | set(_VALUES):
            holds = ((tried & mask) == value) == (operator == "==")
            assert program.run(3, _ARCH, (0, tried, 0, 0, 0, 0)) == (ALLOW if holds else EPERM), (
                value,
                tried,
            )


def test_program_answers_as_its_rules() -> None:
    """Of many rules with many comparisons the first that holds counts, for every number."""
    chance = random.Random(20260)
    for _ in range(60):
        rules: dict[int, tuple[Rule, ...]] = {}
        for number in chance.sample(range(300), chance.randrange(1, 120)):
            rules[number] = tuple(
                Rule(
                    tuple(
                        Comparison(chance.randrange(6), chance.choice(_OPERATORS), chance.choice(_VALUES))
                        for _ in range(chance.randrange(4))
                    ),
                    chance.choice((ALLOW, KILL_PROCESS, 0x0005_0000 | chance.randrange(4096))),
                )
                for _ in range(chance.randrange(1, 4))
            )
        ruleset = _ruleset(rules, last=310)
        program = Program(write(ruleset))
        for number in range(311):
            arguments = [chance.choice(sorted(_around(chance.choice(_VALUES)))) for _ in range(6)]
            expected = verdict(ruleset.rules[number], arguments, EPERM)
            assert program.run(number, _ARCH, arguments) == expected, (number, arguments)


def _compared(chance: random.Random) -> tuple[tuple[Comparison, oracle.Asked], ...]:
    """Return comparisons of some arguments, ours and libseccomp's; one of them with a mask."""
    first, *others = chance.sample(range(6), chance.randrange(1, 4))
    mask, value = chance.choice(_MASKS[1:]), chance.choice(_VALUES)
    both = [
        (Comparison(first, "==", value & mask, mask), oracle.Asked(first, "masked ==", mask, value & mask))
    ]
    for argument in others:
        operator, value = chance.choice(_OPERATORS), chance.choice(_VALUES)
        both.append(
            (Comparison(argument, operator, value), oracle.Asked(argument, operator, value))  # type: ignore[arg-type]
        )
    return tuple(both)


def test_program_answers_as_libseccomp() -> None:
    """One rule of several comparisons, and several rules of one, come to the same as in libseccomp."""
    chance = random.Random(20261)
    names = [*syscall_numbers(_MACHINE).items()][:330]
    for _ in range(40):
        wanted: list[oracle.Wanted] = []
        rules: dict[int, tuple[Rule, ...]] = {}
        for name, number in chance.sample(names, 12):
            both = _compared(chance)
            apart = [(one,) for one in both] if chance.random() < 0.5 else [both]
            rules[number] = tuple(Rule(tuple(own for own, _ in part), ALLOW) for part in apart)
            wanted += [
                oracle.Wanted(name, number, ALLOW, tuple(asked for _, asked in part)) for part in apart
            ]
        ours, theirs = Program(write(_ruleset(rules, last=334))), oracle.export(_MACHINE, EPERM, wanted)
        for number, given in rules.items():
            for _ in range(60):
                arguments = [chance.choice(_VALUES) for _ in range(6)]
                answer = theirs.run(number, _ARCH, arguments)
                assert ours.run(number, _ARCH, arguments) == answer, (given, arguments)


def test_program_of_many_long_answers_jumps_far() -> None:
    """Parts farther away than a conditional jump reaches are found, by a jump of their own."""
    comparisons = tuple(Comparison(at, "<", at + 1) for at in range(6))
    rules = {number: (Rule(comparisons, 0x0005_0000 | number), Rule((), ALLOW)) for number in range(1, 100)}
    ruleset = _ruleset(rules, last=120)
    program = Program(write(ruleset))
    assert len(program.code) > 1000
    for number in range(121):
        for arguments in ((0,) * 6, (9,) * 6):
            assert program.run(number, _ARCH, arguments) == verdict(ruleset.rules[number], arguments, EPERM)


def test_program_has_no_more_instructions_than_the_kernel_takes() -> None:
    """A profile of too many comparisons is refused with what to do about it."""
    comparisons = tuple(Comparison(at, "<", at + 1) for at in range(6))
    rules = {number: (Rule(comparisons, 0x0005_0000 | number), Rule((), ALLOW)) for number in range(400)}
    with pytest.raises(SpecInvalid, match="too long for the kernel") as caught:
        write(_ruleset(rules, last=400))
    assert "4096" in caught.value.seen
