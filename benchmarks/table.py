"""The report as Markdown, and its place in a page."""

from __future__ import annotations

from typing import Final

from benchmarks.report import OURS, Report, Row, Unit
from benchmarks.samples import Samples

__all__ = ["BEGIN", "END", "PEERS", "insert", "markdown"]

PEERS: Final = ("docker", "podman", "testcontainers")
BEGIN: Final = "<!-- measured by python -m benchmarks: begin -->"
END: Final = "<!-- measured by python -m benchmarks: end -->"

_SCALE: Final[dict[Unit, float]] = {"ms": 1e3, "s": 1.0, "MB": 1e-6}
_NOTHING: Final = "–"


def _number(value: float, unit: Unit) -> str:
    """Return three figures that count, and the unit."""
    scaled = value * _SCALE[unit]
    decimals = 2 if abs(scaled) < 10 else 1 if abs(scaled) < 100 else 0
    return f"{scaled:.{decimals}f} {unit}"


def _budget(row: Row) -> str:
    limits = [] if row.budget is None else [f"≤ {row.budget * _SCALE[row.unit]:g} {row.unit}"]
    limits += [f"≤ {share:g} × {peer}" for peer, share in row.shares.items()]
    return ", ".join(limits) or _NOTHING


def _peer(row: Row, peer: str) -> str:
    samples: Samples | None = row.samples.get(peer)
    if samples is None:
        return _NOTHING
    ratio = row.ratio(peer)
    shown = "" if ratio is None else f" ({ratio:.0f} ×)" if ratio >= 10 else f" ({ratio:.1f} ×)"
    return _number(samples.p50, row.unit) + shown


def _cells(row: Row, peers: tuple[str, ...]) -> list[str]:
    ours = row.samples[OURS]
    p95 = ours.p95 if row.tail else None
    return [
        row.what,
        _budget(row),
        _number(ours.p50, row.unit),
        _NOTHING if p95 is None else _number(p95, row.unit),
        {True: "yes", False: "**no**", None: _NOTHING}[row.met],
        *(_peer(row, peer) for peer in peers),
    ]


def _aligned(lines: list[list[str]]) -> list[str]:
    """Return a Markdown table that is also one on a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    head, *body = (f"| {' | '.join(line)} |" for line in padded)
    return [head, rule, *body]


def _about(report: Report) -> list[str]:
    machine = report.machine
    measured = (
        f"Measured on {report.date}: {machine.processors} processors ({machine.processor}),"
        f" {machine.memory_bytes / 1e9:.0f} GB of memory, Linux {machine.kernel}, {machine.system},"
        f" Python {machine.python}, files on {machine.filesystem} ({machine.file_s * 1e6:.0f} µs to make"
        f" one); load {machine.load:.1f} at the start."
    )
    lines = [measured, ""]
    if report.versions:
        lines += ["Beside " + ", ".join(f"{n} {v}" for n, v in report.versions.items()) + ".", ""]
    if report.skipped:
        lines += [*(f"Not measured: {name}: {reason}" for name, reason in report.skipped.items()), ""]
    return lines


def markdown(report: Report) -> str:
    """Return the whole report: the machine, one table of medians, the command that makes it again.

    Behind a peer's figure stands how many times ours it is.
    """
    peers = tuple(peer for peer in PEERS if any(peer in row.samples for row in report.rows))
    head = ["what", "budget", "p50", "p95", "met", *peers]
    lines = [*_about(report), *_aligned([head, *(_cells(row, peers) for row in report.rows)]), ""]
    if report.left:
        lines += ["Left behind on the machine: " + ", ".join(report.left), ""]
    return "\n".join([*lines, "```console", f"# {report.command}", "```"])


def insert(page: str, text: str) -> str:
    """Return *page* with *text* between the two markers. Raises ValueError where they are not."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
