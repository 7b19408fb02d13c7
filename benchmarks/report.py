"""The result of a run: rows of samples with their budgets, and on what they were taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from benchmarks.samples import Samples

__all__ = ["OURS", "Machine", "Report", "Row", "Unit", "plain"]

OURS = "pytest-containers"
Unit = Literal["ms", "s", "MB"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of the table. *budget* and the samples are in seconds or bytes; *unit* is for reading.

    *shares* are budgets relative to a peer's median: ``{"podman": 0.6}``. *tail* says whether a
    ninety-fifth percentile makes sense.
    """

    key: str
    what: str
    unit: Unit
    samples: Mapping[str, Samples]
    budget: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    tail: bool = False

    @property
    def met(self) -> bool | None:
        """Whether our median keeps every budget there is to compare with; None where there is none."""
        ours = self.samples[OURS].p50
        limits = [] if self.budget is None else [self.budget]
        limits += [
            self.samples[peer].p50 * share for peer, share in self.shares.items() if peer in self.samples
        ]
        return all(ours <= limit for limit in limits) if limits else None

    def ratio(self, peer: str) -> float | None:
        """Return how many times our median the peer's is; None where one of them is nothing."""
        if peer not in self.samples or self.samples[OURS].p50 <= 0:
            return None
        return self.samples[peer].p50 / self.samples[OURS].p50 or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The class of a machine: enough to compare, not enough to find it.

    *file_s* is what making one small file takes, *load* the load average, both before the run.
    """

    processors: int
    processor: str
    memory_bytes: int
    kernel: str
    system: str
    python: str
    filesystem: str
    file_s: float
    load: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run. *skipped* are peers without figures and the reason; *left* is what the run left behind."""

    date: str
    command: str
    machine: Machine
    versions: Mapping[str, str]
    skipped: Mapping[str, str]
    rows: tuple[Row, ...]
    left: tuple[str, ...] = ()


def plain(report: Report) -> dict[str, object]:
    """Return *report* as JSON has it, with medians beside the samples."""
    content = asdict(report)
    content["rows"] = [
        {
            **asdict(row),
            "met": row.met,
            "p50": {name: samples.p50 for name, samples in row.samples.items()},
            "p95": {name: samples.p95 for name, samples in row.samples.items()},
        }
        for row in report.rows
    ]
    return content
