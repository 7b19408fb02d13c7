"""The targets of the fuzzers on what they begin with, on what they have found, and on damage."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS, Fault

FOUND: Final = Path(__file__).parents[1] / "fuzz" / "found"
CLOCK_S: Final = 10.0
MEMORY_KIB: Final = 256 << 10


def _inputs() -> Iterator[tuple[str, str, bytes]]:
    for target in TARGETS:
        for name, data in seeds(target).items():
            yield target, name, data
        for path in sorted((FOUND / target).glob("*")):
            yield target, path.name, path.read_bytes()


def _peak_kib() -> int:
    status = Path("/proc/self/status").read_text("ascii", "replace")
    return int(status.partition("VmHWM:")[2].split()[0])


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Have what takes longer than ten seconds, or 256 MiB more than before, be a fault."""

    def ring(*_: object) -> None:
        raise Fault(f"an input takes longer than {CLOCK_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, CLOCK_S)
    # The peak of the process so far, which other tests have made, begins anew (proc_pid_clear_refs(5)).
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    begun_kib = _peak_kib()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    grown_kib = _peak_kib() - begun_kib
    if grown_kib > MEMORY_KIB:
        raise Fault(f"an input takes {grown_kib} KiB")


@pytest.mark.parametrize(
    ("target", "data"),
    [pytest.param(target, data, id=f"{target}-{name}") for target, name, data in _inputs()],
)
def test_input_of_the_fuzzers_is_taken(target: str, data: bytes) -> None:
    """What a fuzzer has found once is never found again."""
    with _bounded():
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
    ("target", "examples"),
    [
        ("reference", 300),
        ("document", 500),
        ("config", 500),
        ("ignore", 500),
        ("tar", 500),
        ("layer", 400),
    ],
)
def test_damaged_input_is_taken(target: str, examples: int) -> None:
    """Near what is honest lies most of what is dangerous."""
    honest = sorted(seeds(target).items())

    @settings(max_examples=examples, deadline=None, database=None)
    @given(st.sampled_from(honest), st.integers(0, 2**32))
    def damage(named: tuple[str, bytes], seed: int) -> None:
        with _bounded():
            TARGETS[target](_damaged(named[1], seed))

    damage()


def _hang() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while True:
        signal.pause()


def _swell() -> None:
    assert len(b"x" * (MEMORY_KIB * 1024 + (64 << 20))) > 0


@pytest.mark.parametrize(("act", "told"), [(_hang, "longer than"), (_swell, "KiB")])
def test_bounds_of_the_fuzzers_hold(act: Callable[[], None], told: str) -> None:
    """An input that takes too long, or too much memory, is a fault."""
    with pytest.raises(Fault, match=told), _bounded():
        act()
