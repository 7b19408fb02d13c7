"""The rows of the table, in order, with what each is allowed to cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from benchmarks.report import OURS, Row, Unit
from benchmarks.samples import Collection

__all__ = ["FIGURES", "Figure", "named", "rows"]


_LARGE: Final = "191 MB gzip, 15,700 files"
_APPLICATION: Final = "2 stages, 6,800 files"
# What a quick run has in their place.
_SMALLER: Final = ((_LARGE, "38 MB gzip, 3,140 files"), (_APPLICATION, "2 stages, 2,000 files"))
# For an image of any size.
_MOST_BYTES: Final = 150e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row without its samples; the fields are those of `benchmarks.report.Row`."""

    key: str
    what: str
    unit: Unit
    budget: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    tail: bool = False
    full_only: bool = False


FIGURES: Final = (
    Figure(key="import", what="import of the plugin, after pytest", unit="ms", budget=0.005, tail=True),
    Figure(
        key="startup", what="pytest start-up, processor time the unused plugin adds", unit="ms", budget=0.005
    ),
    Figure(key="first", what="first container of a run, imports and engine included", unit="ms", budget=0.3),
    Figure(key="start", what="start to exec, own interface and address", unit="ms", budget=0.015, tail=True),
    Figure(key="exec", what="exec of one more process", unit="ms", tail=True),
    Figure(key="teardown", what="teardown, past the process's own exit", unit="ms", budget=0.005, tail=True),
    Figure(key="stop", what="kill, exit and teardown", unit="ms", tail=True),
    Figure(key="twenty", what="20 × Redis on one port, all started", unit="s", budget=0.4),
    Figure(key="answering", what="20 × Redis on one port, all answer PING", unit="s"),
    Figure(key="hundred", what="100 instances, all started", unit="s", budget=2.0),
    Figure(key="memory", what="memory of the engine's own processes", unit="MB", budget=60e6),
    Figure(key="added", what="memory added by one container more", unit="MB", budget=1e6),
    Figure(
        key="pull",
        what=f"pull and unpack, {_LARGE}",
        unit="s",
        budget=4.0,
        shares={"podman": 0.6},
        full_only=True,
    ),
    Figure(key="push", what=f"push, {_LARGE}", unit="s", full_only=True),
    Figure(key="push-top", what="push of one small layer on those", unit="ms"),
    Figure(key="save", what=f"save to an archive, {_LARGE}", unit="s", full_only=True),
    Figure(key="load", what=f"load of a docker archive, {_LARGE}", unit="s", full_only=True),
    Figure(key="peak-pull", what="memory of that pull, all of the process", unit="MB", budget=_MOST_BYTES),
    Figure(key="peak-push", what="memory of that push, the same", unit="MB", budget=_MOST_BYTES),
    Figure(key="peak-build", what="memory of a build on it, the same", unit="MB", budget=_MOST_BYTES),
    Figure(key="build", what=f"build, {_APPLICATION}", unit="s", full_only=True),
    Figure(key="cached", what="build again, nothing changed", unit="ms"),
    Figure(key="rebuild", what="build again, a line of the last COPY changed", unit="ms"),
    Figure(key="commit", what="commit of 8 MiB and 200 small files", unit="ms"),
)


def rows(collected: Collection, *, quick: bool) -> tuple[Row, ...]:
    """Return a row for each figure that we have samples of.

    A quick run has smaller images, which are other figures: it is said, and they have no budget.
    """
    return tuple(_row(figure, collected, quick=quick) for figure in _seen(collected))


def named(figure: Figure, *, quick: bool) -> str:
    """Return what the row is called: a quick run's images are smaller ones."""
    what = figure.what
    for large, small in _SMALLER if quick else ():
        what = what.replace(large, small)
    return what


def _seen(collected: Collection) -> Iterable[Figure]:
    return (figure for figure in FIGURES if OURS in collected.of(figure.key))


def _row(figure: Figure, collected: Collection, *, quick: bool) -> Row:
    if quick and figure.full_only:
        figure = replace(figure, what=named(figure, quick=True), budget=None, shares={})
    return Row(
        key=figure.key,
        what=figure.what,
        unit=figure.unit,
        budget=figure.budget,
        shares=figure.shares,
        tail=figure.tail,
        samples=collected.of(figure.key),
    )
