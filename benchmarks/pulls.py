"""Images: pull and unpack from a registry on loopback, and commit."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import image, registry
from benchmarks.contestants.base import ImageContestant
from benchmarks.report import OURS
from benchmarks.samples import Collection, Contest, in_turns

__all__ = ["measure"]


def measure(
    collected: Collection, everyone: Sequence[ImageContestant], work: Path, program: Path, *, quick: bool
) -> None:
    """Collect ``pull`` and ``commit``; *program* is docker-registry."""
    numbers = itertools.count()
    commits = [Contest(contestant=one.name, measure=_bound(_commit, one, numbers)) for one in everyone]
    in_turns(collected, commits, 2 if quick else 5, vital=[OURS])
    rounds = 1 if quick else 3
    with registry.serve(program, work / "registry") as address:
        made = image.editions(image.QUICK if quick else image.FULL, rounds)
        references = [image.push(address, f"large:{tag}", layers) for tag, layers in enumerate(made)]
        del made
        pulls = [Contest(contestant=one.name, measure=_pulled(one, references)) for one in everyone]
        in_turns(collected, pulls, rounds, vital=[OURS])


def _bound(
    measured: Callable[[ImageContestant, Iterator[int]], Mapping[str, float]],
    one: ImageContestant,
    numbers: Iterator[int],
) -> Callable[[], Mapping[str, float]]:
    return lambda: measured(one, numbers)


def _pulled(one: ImageContestant, references: Sequence[str]) -> Callable[[], Mapping[str, float]]:
    left = iter(references)

    def measured() -> Mapping[str, float]:
        os.sync()  # what others have written is not this one's to wait for
        began = time.perf_counter()
        one.pull(next(left))
        return {"pull": time.perf_counter() - began}

    return measured


def _commit(one: ImageContestant, numbers: Iterator[int]) -> Mapping[str, float]:
    name = f"changed-{next(numbers)}"
    one.start(name)
    one.change(name)
    os.sync()
    began = time.perf_counter()
    one.commit(name, f"{name}:1")
    took = time.perf_counter() - began
    one.remove([name])
    return {"commit": took}
