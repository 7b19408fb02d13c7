"""What is built: as many files as the table says, and new for everybody in each edition."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import budgets, contexts
from pytest_containers.images.build.dockerfile import parse


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("quick", [False, True])
def test_application_has_the_files_that_the_table_tells(tmp_path: Path, quick: bool) -> None:
    """Copied twice, written once and copied once more: the sum, rounded, stands in the row's name."""
    files = contexts.COPIED_FILES // 5 if quick else contexts.COPIED_FILES
    made = _files(contexts.application(tmp_path / "made", 0, files=files))
    vendor = sum(name.startswith("vendor/") for name in made)
    application = sum(name.startswith("app/") for name in made)
    built = 2 * vendor + 2 * contexts.RUN_FILES + application
    (row,) = (figure for figure in budgets.FIGURES if figure.key == "build")
    assert f"{round(built, -2):,} files" in budgets.named(row, quick=quick)


def test_editions_of_an_application_differ_in_one_file(tmp_path: Path) -> None:
    """Nobody finds a step of one edition in the cache of another, and all have the same work."""
    first, second = (_files(contexts.application(tmp_path / f"{n}", n, files=40)) for n in range(2))
    assert [name for name in first if first[name] != second[name]] == ["vendor/edition"]
    assert first.keys() == second.keys()


def test_change_changes_the_application_alone(tmp_path: Path) -> None:
    """One line of the code that the last COPY takes is another; the old line brings the old files back."""
    folder = contexts.application(tmp_path / "made", 0, files=40)
    before = _files(folder)
    contexts.change(folder, "another")
    assert [name for name, data in _files(folder).items() if data != before[name]] == ["app/main.py"]
    contexts.change(folder, "as it was")
    assert _files(folder) == before


def test_top_stands_on_its_base(tmp_path: Path) -> None:
    """The small layer's Dockerfile begins with the image it was made for."""
    folder = contexts.top(tmp_path / "top", "localhost/large:1", "a line")
    (stage,) = parse((folder / "Dockerfile").read_bytes(), name="Dockerfile").stages
    assert stage.begin.base == "localhost/large:1"
