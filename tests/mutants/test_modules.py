"""The list of what is mutated names what exists, and the sample is what it says."""

from __future__ import annotations

import ast
import random
from pathlib import Path
from typing import Final

import pytest

from tests.mutants.__main__ import Place, left_out, sampled
from tests.mutants.modules import DANGEROUS, MODULES, Dangerous

_ROOT: Final = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", MODULES)
def test_module_and_its_tests_exist(module: str) -> None:
    """A module that is renamed takes its line in the list along."""
    assert (_ROOT / "pytest_containers" / module).is_file()
    assert [name for name in MODULES[module] if not (_ROOT / name).is_file()] == []


@pytest.mark.parametrize("one", DANGEROUS, ids=lambda one: str(one.module))
def test_what_is_dangerous_exists_and_is_left_out(one: Dangerous) -> None:
    """A function that is renamed must not become a mutant by that; each has its reason."""
    source = (_ROOT / "pytest_containers" / one.module).read_text(encoding="utf-8")
    defined = {
        node.name: node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert set(one.names) <= set(defined)
    assert one.module in MODULES
    assert one.reason
    skipped = list(left_out(one.module, source))
    assert all(any(first <= (defined[name], 0) < end for first, end in skipped) for name in one.names)


def test_annotations_are_left_out() -> None:
    """Nothing evaluates an annotation, so no test can notice a change in one."""
    source = (
        "x: int | None\ny: int | None = 1 | 2\n\ndef f(a: int | None = 3 | 4) -> int | None:\n    return a\n"
    )
    spans = list(left_out("order.py", source))
    places = [
        (row, at)
        for row, line in enumerate(source.splitlines(), 1)
        for at, sign in enumerate(line)
        if sign == "|"
    ]
    kept = [place for place in places if not any(first <= place < end for first, end in spans)]
    assert kept == [(2, 18), (4, 24)]


def test_sample_is_that_of_its_seed() -> None:
    """The same seed draws the same places, no place twice, and all where there are fewer than asked for."""
    places = [Place(module=f"m{n % 3}.py", line=n, column=0, job=str(n)) for n in range(50)]
    first, second, other = (sampled(places, 20, random.Random(seed)) for seed in (1, 1, 2))
    assert first == second != other
    assert len({one.job for found in first.values() for one in found}) == 20
    assert sum(map(len, sampled(places, 500, random.Random(1)).values())) == 50
