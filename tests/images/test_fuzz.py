"""The targets of the fuzzers on what they begin with, on what they have found, and on damage."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

FOUND: Final = Path(__file__).parents[1] / "fuzz" / "found"


def _inputs() -> Iterator[tuple[str, str, bytes]]:
    for target in TARGETS:
        for name, data in seeds(target).items():
            yield target, name, data
        for path in sorted((FOUND / target).glob("*")):
            yield target, path.name, path.read_bytes()


@pytest.mark.parametrize(
    ("target", "data"),
    [pytest.param(target, data, id=f"{target}-{name}") for target, name, data in _inputs()],
)
def test_input_of_the_fuzzers_is_taken(target: str, data: bytes) -> None:
    """What a fuzzer has found once is never found again."""
    TARGETS[target](data)


def _damaged(data: bytes, seed: int) -> bytes:
    """Return *data* with a few bytes changed, a part doubled, or the end cut off."""
    chance = random.Random(seed)
    made = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(made))
        match chance.randrange(4):
            case 0:
                made[at] = chance.randrange(256)
            case 1:
                made[at : at + 8] = chance.choice((b"\xff" * 8, b"77777777", bytes(8), b"../../.."))
            case 2:
                at -= at % 512
                made[at:at] = made[at : at + 512 * chance.randrange(1, 4)]
            case _:
                made = made[: max(at, 1)]
    return bytes(made)


@pytest.mark.parametrize(
    ("target", "examples"), [("reference", 300), ("document", 500), ("tar", 500), ("layer", 400)]
)
def test_damaged_input_is_taken(target: str, examples: int) -> None:
    """Near what is honest lies most of what is dangerous."""
    honest = sorted(seeds(target).items())

    @settings(max_examples=examples, deadline=None, database=None)
    @given(st.sampled_from(honest), st.integers(0, 2**32))
    def damage(named: tuple[str, bytes], seed: int) -> None:
        TARGETS[target](_damaged(named[1], seed))

    damage()
