"""Samples of one figure, and how they are taken: in turns, so that a slow minute is everybody's."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Collection", "Contest", "Samples", "in_turns"]

# With fewer samples than this, the ninety-fifth of a hundred is the slowest one of all.
_ENOUGH_FOR_P95: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What was seen of one figure, in the order it was seen: seconds, or bytes. Never empty."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("no samples")

    @property
    def p50(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def p95(self) -> float | None:
        """The value that 95 of 100 do not pass (nearest rank); None where there are too few."""
        if len(self.values) < _ENOUGH_FOR_P95:
            return None
        return sorted(self.values)[math.ceil(0.95 * len(self.values)) - 1]


class Collection:
    """Values by figure and contestant, and why a contestant has no more of them."""

    def __init__(self, values: Mapping[str, Mapping[str, Sequence[float]]] | None = None) -> None:
        self.values = {
            figure: {name: list(seen) for name, seen in by_name.items()}
            for figure, by_name in (values or {}).items()
        }
        self.failed: dict[str, str] = {}

    def add(self, contestant: str, figures: Mapping[str, float]) -> None:
        """Keep one value of each of *figures*."""
        for figure, value in figures.items():
            self.values.setdefault(figure, {}).setdefault(contestant, []).append(value)

    def of(self, figure: str) -> dict[str, Samples]:
        """Return the samples of *figure* by contestant."""
        return {name: Samples(values=tuple(values)) for name, values in self.values.get(figure, {}).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """One contestant's turn: *measure* is called *times* a turn and returns figures by name."""

    contestant: str
    measure: Callable[[], Mapping[str, float]]
    times: int = 1


def in_turns(
    collected: Collection, contests: Sequence[Contest], rounds: int, *, vital: Iterable[str]
) -> None:
    """Let each of *contests* have its turn, *rounds* times over: A B C, A B C, ...

    A contestant that breaks is out, and *collected* says why; one that is *vital* ends it all.
    """
    vital = frozenset(vital)
    for _ in range(rounds):
        for contest in contests:
            if contest.contestant in collected.failed:
                continue
            try:
                for _ in range(contest.times):
                    collected.add(contest.contestant, contest.measure())
            except Exception as error:
                if contest.contestant in vital:
                    raise
                collected.failed[contest.contestant] = f"{type(error).__name__}: {error}"
