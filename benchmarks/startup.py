"""What the plugin costs a pytest run that starts no container. Needs no privilege."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.report import OURS
from benchmarks.samples import Collection, Contest, in_turns

__all__ = ["environment", "measure"]

_IMPORT: Final = """
import time, pytest
began = time.perf_counter()
import pytest_containers.plugin
print(time.perf_counter() - began)
"""
_TRIES: Final = 5
_TEST: Final = '"""A test that starts nothing."""\n\n\ndef test_nothing() -> None:\n    """Nothing."""\n'


def measure(collected: Collection, work: Path, *, quick: bool) -> None:
    """Collect ``import`` and ``startup``."""
    project = work / "project"
    project.mkdir()
    (project / "test_nothing.py").write_text(_TEST, encoding="utf-8")
    _import(project)  # writes the compiled files
    _added(project)
    contests = [
        Contest(contestant=OURS, measure=lambda: _import(project), times=4),
        Contest(contestant=OURS, measure=lambda: _added(project)),
    ]
    in_turns(collected, contests, 1 if quick else 8, vital=[OURS])


def environment() -> dict[str, str]:
    """Return our environment without what would make Python compile everything again each time."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _environment() -> dict[str, str]:
    """Return an environment without the plugins that happen to be installed, and without chance."""
    return {**environment(), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONHASHSEED": "0"}


def _import(project: Path) -> Mapping[str, float]:
    ended = subprocess.run(
        [sys.executable, "-c", _IMPORT],
        check=True,
        capture_output=True,
        text=True,
        cwd=project,
        env=_environment(),
    )
    return {"import": float(ended.stdout)}


def _added(project: Path) -> Mapping[str, float]:
    """Run pytest without and with the plugin in turns; return by how much the cheapest runs differ.

    What disturbs a run only ever adds to it, and far more than what is looked for.
    """
    plugin = ("-p", "pytest_containers.plugin")
    without, with_it = zip(*((_whole(project), _whole(project, *plugin)) for _ in range(_TRIES)), strict=True)
    return {"startup": min(with_it) - min(without)}


def _whole(project: Path, *options: str) -> float:
    """Return the processor time of one run: beside a whole pytest, the clock sees its neighbours only."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "test_nothing.py"]
    began = _children_s()
    subprocess.run(argv, check=True, capture_output=True, cwd=project, env=_environment())
    return _children_s() - began


def _children_s() -> float:
    """Return what our ended children have taken (getrusage(2))."""
    taken = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken.ru_utime + taken.ru_stime
