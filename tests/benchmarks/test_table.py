"""The table: budgets, ratios, who is missing, and its place in the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.budgets import FIGURES, rows
from benchmarks.report import OURS, Machine, Report, Row, plain
from benchmarks.samples import Collection, Samples
from benchmarks.table import BEGIN, END, insert, markdown

ROOT = Path(__file__).resolve().parents[2]


def _samples(*values: float) -> Samples:
    return Samples(values=values)


def _row(ours: float, *, budget: float | None = None, podman: float | None = None) -> Row:
    samples = {OURS: _samples(ours)} | ({} if podman is None else {"podman": _samples(podman)})
    return Row(key="pull", what="pull", unit="s", samples=samples, budget=budget, shares={"podman": 0.5})


def _report(*shown: Row, left: tuple[str, ...] = ()) -> Report:
    machine = Machine(
        processors=2,
        processor="a processor",
        memory_bytes=8_000_000_000,
        kernel="6.1.2",
        system="a system",
        python="3.11.2",
        filesystem="ext4",
        file_s=2e-5,
        load=0.25,
    )
    return Report(
        date="2025-01-31",
        command="python -m benchmarks",
        machine=machine,
        versions={"podman": "4.3.1"},
        skipped={"docker": "docker not installed"},
        rows=shown,
        left=left,
    )


def _line(text: str, beginning: str) -> list[str]:
    """Return the cells of the table's line that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {beginning}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_budget_is_met_up_to_itself() -> None:
    """A median equal to the budget keeps it, a larger one does not."""
    assert _row(4.0, budget=4.0).met is True
    assert _row(4.1, budget=4.0).met is False


def test_budget_by_a_peer_counts_where_the_peer_is() -> None:
    """A share of a peer's median is a limit like any other, and none where nobody measured the peer."""
    assert _row(3.0, budget=4.0, podman=5.0).met is False
    assert _row(2.0, budget=4.0, podman=5.0).met is True
    assert _row(3.0, budget=4.0).met is True
    assert _row(3.0).met is None


def test_ratio_is_the_peers_over_ours() -> None:
    """The ratio says how many times ours the peer's median is, and nothing of what nobody has."""
    assert _row(2.0, podman=5.0).ratio("podman") == 2.5
    assert _row(2.0, podman=0.0).ratio("podman") is None
    assert _row(2.0).ratio("podman") is None
    assert _row(-0.001, podman=5.0).ratio("podman") is None


def test_table_shows_medians_budget_and_ratio() -> None:
    """A line has the budget, our median, whether it is met, and each peer's median with the ratio."""
    text = markdown(_report(_row(3.0, budget=4.0, podman=5.0)))
    assert _line(text, "pull") == [
        "pull",
        "≤ 4 s, ≤ 0.5 × podman",
        "3.00 s",
        "–",
        "**no**",
        "5.00 s (1.7 ×)",
    ]


def test_table_has_a_column_for_those_who_came() -> None:
    """A peer without any figure has no column, one without this figure a dash."""
    text = markdown(
        _report(_row(3.0, podman=5.0), Row(key="a", what="alone", unit="ms", samples={OURS: _samples(1)}))
    )
    assert _line(text, "what") == ["what", "budget", "p50", "p95", "met", "podman"]
    assert _line(text, "alone") == ["alone", "–", "1000 ms", "–", "–", "–"]


def test_tail_is_shown_where_it_makes_sense() -> None:
    """The ninety-fifth percentile stands in rows that ask for it and have the samples."""
    many = {OURS: _samples(*(0.001 * number for number in range(1, 41)))}
    asked = Row(key="a", what="asked", unit="ms", samples=many, tail=True)
    unasked = Row(key="b", what="unasked", unit="ms", samples=many)
    text = markdown(_report(asked, unasked))
    assert _line(text, "asked")[2:4] == ["20.5 ms", "38.0 ms"]
    assert _line(text, "unasked")[2:4] == ["20.5 ms", "–"]


def test_report_names_who_is_missing_and_what_is_left() -> None:
    """A skipped peer has its reason in the text, and so has whatever the run left on the machine."""
    text = markdown(_report(_row(1.0), left=("interface ptc0",)))
    assert "Not measured: docker: docker not installed" in text
    assert "Left behind on the machine: interface ptc0" in text
    assert "Left behind" not in markdown(_report(_row(1.0)))


def test_report_is_plain_json() -> None:
    """Every sample, median and verdict is in the JSON."""
    content = json.loads(json.dumps(plain(_report(_row(3.0, budget=4.0, podman=5.0)))))
    (row,) = content["rows"]
    assert row["samples"]["podman"]["values"] == [5.0]
    assert (row["p50"][OURS], row["met"], content["machine"]["kernel"]) == (3.0, False, "6.1.2")


def test_table_replaces_what_stands_between_the_markers() -> None:
    """A page keeps its text around the markers, and inserting twice is inserting once."""
    page = f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    once = insert(page, "new")
    assert once == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    assert insert(once, "new") == once


@pytest.mark.parametrize("page", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n"])
def test_table_is_not_put_into_a_page_without_markers(page: str) -> None:
    """A page that lacks a marker, or has them the wrong way about, is refused."""
    with pytest.raises(ValueError, match="no lines"):
        insert(page, "new")


def test_performance_page_has_its_place() -> None:
    """docs/performance.md can take the table."""
    assert "new table" in insert((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"), "new table")


def test_rows_are_in_the_order_of_the_budgets() -> None:
    """A row is made of each figure that we have ourselves, whatever order they came in."""
    collected = Collection()
    for figure in reversed(FIGURES):
        collected.add(OURS, {figure.key: 1.0})
    collected.add("docker", {"unheard of": 1.0})
    assert [row.key for row in rows(collected, quick=False)] == [figure.key for figure in FIGURES]


def test_quick_run_judges_no_pull() -> None:
    """The small image of a quick run is not the image of the budget."""
    collected = Collection()
    collected.add(OURS, {"pull": 0.1})
    (quick,), (full,) = rows(collected, quick=True), rows(collected, quick=False)
    assert (quick.met, full.met) == (None, True)
    assert quick.what != full.what
