"""A run: its census, its machine, and the command itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import census, machine, table

ROOT = Path(__file__).resolve().parents[2]


def test_census_sees_a_process_of_the_run(tmp_path: Path) -> None:
    """A process that still works on the run's folder is counted, and no longer when it has ended."""
    program = "import sys; sys.stdout.write('here'); sys.stdout.flush(); sys.stdin.read()"
    before = census.look(tmp_path)
    argv = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"here"
        found = {line for line in census.look(tmp_path) - before if line.startswith("process ")}
        process.communicate()
    assert [line.split()[1] for line in found] == [str(process.pid)]
    assert not [line for line in census.look(tmp_path) if line.startswith("process ")]


def test_machine_is_a_class_and_not_a_name(tmp_path: Path) -> None:
    """The kernel is told by its version alone, without what its builder added."""
    seen = machine.look(tmp_path)
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)+", seen.kernel)
    assert seen.processors >= 1
    assert seen.memory_bytes > 0
    assert seen.filesystem


@pytest.mark.kernel
def test_run_prints_and_keeps_its_table(tmp_path: Path) -> None:
    """One command prints the table, puts it into the page, and leaves nothing on the machine."""
    page, samples = tmp_path / "page.md", tmp_path / "samples.json"
    page.write_text(f"# Page\n\n{table.BEGIN}\n{table.END}\n")
    argv = [sys.executable, "-m", "benchmarks", "--quick", "--only", "startup", "--write", str(page)]
    ended = subprocess.run(
        [*argv, "--json", str(samples)], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    printed = ended.stdout.strip()
    assert "| import of the plugin, after pytest" in printed
    assert printed in page.read_text()
    kept = json.loads(samples.read_text())
    assert [row["key"] for row in kept["rows"]] == ["import", "startup"]
    assert kept["left"] == []


def test_run_refuses_a_page_without_markers_before_it_measures(tmp_path: Path) -> None:
    """A page that cannot take the table is told of at once."""
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    argv = [sys.executable, "-m", "benchmarks", "--quick", "--write", str(page)]
    ended = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "the page has no lines" in ended.stderr
    assert "measuring" not in ended.stderr
