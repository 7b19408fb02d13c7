"""Medians, percentiles, and turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from benchmarks.samples import Collection, Contest, Samples, in_turns


def test_p50_is_the_middle_value() -> None:
    """The median of an odd number of samples is one of them, of an even number between two."""
    assert Samples(values=(9.0, 1.0, 2.0)).p50 == 2.0
    assert Samples(values=(1.0, 9.0, 2.0, 4.0)).p50 == 3.0


def test_p95_is_the_nearest_rank() -> None:
    """Of twenty samples the nineteenth is the ninety-fifth percentile, of a hundred the 95th."""
    assert Samples(values=tuple(map(float, range(20, 0, -1)))).p95 == 19.0
    assert Samples(values=tuple(map(float, range(1, 101)))).p95 == 95.0


def test_p95_is_not_said_of_few_samples() -> None:
    """Nineteen samples have no ninety-fifth percentile other than their slowest."""
    assert Samples(values=(1.0,) * 19).p95 is None


def test_samples_are_never_empty() -> None:
    """There is no median of nothing."""
    with pytest.raises(ValueError, match="no samples"):
        Samples(values=())


def _noting(notes: list[str], name: str) -> Callable[[], Mapping[str, float]]:
    def measure() -> Mapping[str, float]:
        notes.append(name)
        return {"figure": float(len(notes))}

    return measure


def _broken() -> Mapping[str, float]:
    raise RuntimeError("no daemon")


def test_contestants_take_turns() -> None:
    """Nobody's samples are taken in one go: all have a turn, then all have the next."""
    notes: list[str] = []
    collected = Collection()
    contests = [
        Contest(contestant="a", measure=_noting(notes, "a"), times=2),
        Contest(contestant="b", measure=_noting(notes, "b")),
    ]
    in_turns(collected, contests, 2, vital=["a"])
    assert notes == ["a", "a", "b", "a", "a", "b"]
    assert collected.of("figure")["b"].values == (3.0, 6.0)


def test_contestant_that_breaks_is_out() -> None:
    """A peer that fails is named with the reason and asked no more, and the others go on."""
    notes: list[str] = []
    collected = Collection()
    contests = [
        Contest(contestant="peer", measure=_broken),
        Contest(contestant="ours", measure=_noting(notes, "ours")),
    ]
    in_turns(collected, contests, 3, vital=["ours"])
    assert collected.failed == {"peer": "RuntimeError: no daemon"}
    assert notes == ["ours"] * 3


def test_vital_contestant_that_breaks_ends_the_run() -> None:
    """Without our own figures there is nothing to compare."""
    with pytest.raises(RuntimeError, match="no daemon"):
        in_turns(Collection(), [Contest(contestant="ours", measure=_broken)], 1, vital=["ours"])


def test_collection_is_made_of_its_values() -> None:
    """What one process has collected another can go on with."""
    first = Collection()
    first.add("ours", {"start": 1.0, "stop": 2.0})
    second = Collection(first.values)
    second.add("ours", {"start": 3.0})
    assert second.of("start")["ours"].values == (1.0, 3.0)
    assert first.of("start")["ours"].values == (1.0,)
    assert second.of("nothing") == {}
