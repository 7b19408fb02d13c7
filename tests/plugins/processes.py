"""Another process that holds a lock, or waits for one, as tests of waits need it."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["HOLD", "line", "process"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_PATIENCE_S: Final = 20.0
# Holds the lock file that its argument names until its standard input ends; says so when it has it.
HOLD: Final = """
import sys, pathlib
from pytest_containers import _files
with _files.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def process(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program of Python with *arguments*; it is killed at the end of the block."""
    started = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )
    with started:
        try:
            yield started
        finally:
            started.kill()


def line(started: subprocess.Popen[str]) -> str:
    """Return the next line that the process writes, without its end; fail where none comes."""
    assert started.stdout is not None
    assert select.select([started.stdout], [], [], _PATIENCE_S)[0], "it says nothing"
    return started.stdout.readline().strip()
