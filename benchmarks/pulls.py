"""Images on their way: commit, pull and unpack, push, save and load, and what memory that takes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import contexts, image, registry
from benchmarks.contestants.base import ImageContestant
from benchmarks.report import OURS
from benchmarks.samples import Collection, Contest, in_turns

__all__ = ["measure"]

_Images = Sequence[Sequence[image.Layer]]


def measure(
    collected: Collection, everyone: Sequence[ImageContestant], work: Path, program: Path, *, quick: bool
) -> None:
    """Collect ``commit pull push push-top save load peak-pull peak-push peak-build``.

    *program* is docker-registry.
    """
    numbers = itertools.count()
    commits = [Contest(contestant=one.name, measure=_bound(_commit, one, numbers)) for one in everyone]
    in_turns(collected, commits, 2 if quick else 5, vital=[OURS])
    rounds = 1 if quick else 3
    again = 1 if quick else 2
    made = image.editions(image.QUICK if quick else image.FULL, rounds + 1)
    _archives(collected, everyone, work, made[rounds:])
    with (
        registry.serve(program, work / "registry") as address,
        # One of its own, so that nobody can have a blob mounted that it was pulled from.
        registry.serve(program, work / "registry-empty") as empty,
    ):
        references = [image.push(address, f"large:{tag}", one) for tag, one in enumerate(made[:rounds])]
        del made
        pulls = [Contest(contestant=one.name, measure=_pulled(one, references)) for one in everyone]
        in_turns(collected, pulls, rounds, vital=[OURS])
        pushes = [
            Contest(contestant=one.name, measure=_pushed(one, references, empty, work)) for one in everyone
        ]
        in_turns(collected, pushes, again, vital=[OURS])
        peaks = _Peaks(work, references[0], f"{empty}/peak:1")
        in_turns(collected, [Contest(contestant=OURS, measure=peaks.measure)], 1, vital=[OURS])


def _bound(
    measured: Callable[[ImageContestant, Iterator[int]], Mapping[str, float]],
    one: ImageContestant,
    numbers: Iterator[int],
) -> Callable[[], Mapping[str, float]]:
    return lambda: measured(one, numbers)


def _timed(figure: str, verb: Callable[[], None]) -> Mapping[str, float]:
    os.sync()  # what others have written is not this one's to wait for
    began = time.perf_counter()
    verb()
    return {figure: time.perf_counter() - began}


def _pulled(one: ImageContestant, references: Sequence[str]) -> Callable[[], Mapping[str, float]]:
    left = iter(references)
    return lambda: _timed("pull", lambda: one.pull(next(left)))


def _pushed(
    one: ImageContestant, references: Sequence[str], registry_address: str, work: Path
) -> Callable[[], Mapping[str, float]]:
    """Measure the push of an image pulled before, then of the same with a small layer more."""
    left = iter(references)
    numbers = itertools.count()

    def measured() -> Mapping[str, float]:
        number = next(numbers)
        whole = f"{registry_address}/{one.name}/large:{number}"
        larger = f"{registry_address}/{one.name}/large:{number}-top"
        one.tag(next(left), whole)
        figures = _timed("push", lambda: one.push(whole))
        one.build(contexts.top(work / f"top-{one.name}-{number}", whole, larger), larger)
        return {**figures, **_timed("push-top", lambda: one.push(larger))}

    return measured


def _archives(collected: Collection, everyone: Sequence[ImageContestant], work: Path, made: _Images) -> None:
    """Measure load and save of an image that nobody has, one archive at a time on disk."""
    for number, layers in enumerate(made):
        archive, name = work / "archive.tar", f"localhost/archive:{number}"
        image.archive(archive, name, layers)
        loads = [
            Contest(contestant=one.name, measure=_loaded_and_saved(one, archive, name, work))
            for one in everyone
        ]
        in_turns(collected, loads, 1, vital=[OURS])
        archive.unlink()


def _loaded_and_saved(
    one: ImageContestant, archive: Path, name: str, work: Path
) -> Callable[[], Mapping[str, float]]:
    def measured() -> Mapping[str, float]:
        saved = work / f"saved-{one.name}.tar"
        figures = _timed("load", lambda: one.load(archive))
        figures = {**figures, **_timed("save", lambda: one.save(name, saved))}
        saved.unlink()
        return figures

    return measured


def _commit(one: ImageContestant, numbers: Iterator[int]) -> Mapping[str, float]:
    name = f"changed-{next(numbers)}"
    one.start(name)
    one.change(name)
    figures = _timed("commit", lambda: one.commit(name, f"{name}:1"))
    one.remove([name])
    return figures


class _Peaks:
    """Memory: a fresh process for each verb, on a store of its own."""

    def __init__(self, work: Path, reference: str, target: str) -> None:
        self._work = work
        self._reference = reference
        self._target = target

    def measure(self) -> Mapping[str, float]:
        """Pull the large image, put a layer on it, push both."""
        context = contexts.top(self._work / "peak", self._reference, self._target)
        return {
            "peak-pull": self._most_bytes("pull", self._reference),
            "peak-build": self._most_bytes("build", str(context), self._target),
            "peak-push": self._most_bytes("push", self._target),
        }

    def _most_bytes(self, verb: str, *words: str) -> float:
        argv = [sys.executable, "-m", "benchmarks.peak", str(self._work / "peak-store"), verb, *words]
        return float(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
