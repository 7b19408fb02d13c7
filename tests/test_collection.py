"""The suite runs all of itself: every test file of the tree is collected by the plain command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]


def test_every_test_file_is_collected() -> None:
    """`pytest` without arguments collects each tests/**/test_*.py: a folder's name can hide it."""
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    # With -qq a line is "path: number of tests".
    collected = {line.partition(":")[0] for line in told.stdout.splitlines() if line.startswith("tests/")}
    there = {str(path.relative_to(ROOT)) for path in ROOT.glob("tests/**/test_*.py")}
    assert len(there) > 100
    assert there - collected == set()
