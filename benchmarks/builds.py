"""Builds: all of it, from the cache, and with one line changed."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import contexts
from benchmarks.contestants.base import ImageContestant
from benchmarks.report import OURS
from benchmarks.samples import Collection, Contest, in_turns

__all__ = ["measure"]


def measure(collected: Collection, everyone: Sequence[ImageContestant], work: Path, *, quick: bool) -> None:
    """Collect ``build``, ``cached`` and ``rebuild``."""
    rounds = 1 if quick else 3
    files = contexts.COPIED_FILES // 5 if quick else contexts.COPIED_FILES
    made = [
        contexts.application(work / f"application-{edition}", edition, files=files)
        for edition in range(rounds)
    ]
    builds = [Contest(contestant=one.name, measure=_bound(one, iter(made))) for one in everyone]
    in_turns(collected, builds, rounds, vital=[OURS])


def _bound(one: ImageContestant, left: Iterator[Path]) -> Callable[[], Mapping[str, float]]:
    numbers = itertools.count()
    return lambda: _build(one, next(left), f"localhost/application-{next(numbers)}")


def _build(one: ImageContestant, folder: Path, name: str) -> Mapping[str, float]:
    contexts.change(folder, "as it was")
    os.sync()
    began = time.perf_counter()
    one.build(folder, f"{name}:1")
    built = time.perf_counter()
    one.build(folder, f"{name}:2")
    cached = time.perf_counter()
    contexts.change(folder, "and as it is now")
    changed = time.perf_counter()
    one.build(folder, f"{name}:3")
    return {
        "build": built - began,
        "cached": cached - built,
        "rebuild": time.perf_counter() - changed,
    }
