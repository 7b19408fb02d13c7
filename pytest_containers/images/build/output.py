"""What a step tells while it is made, and its last lines for the error that says why it failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal

from pytest_containers.progress import BuildEvent, BuildWatch

__all__ = ["StepReport", "Tail"]

_KEPT_BYTES: Final = 1 << 14
_LINES: Final = 20


class StepReport:
    """Tells of one step: its beginning now, later its output and its end."""

    def __init__(self, watch: BuildWatch, step: str) -> None:
        self._watch = watch
        self._step = step
        self._began = time.monotonic()
        self._cached = False
        self._tell("begin")

    def output(self, piece: bytes) -> None:
        """Hand on a piece of what the step's command wrote."""
        self._tell("output", piece)

    def cached(self) -> None:
        """Say that the cache has the step's layer."""
        self._cached = True

    def end(self, *, failed: bool = False) -> None:
        """Say that the step is over."""
        self._tell("failed" if failed else "cached" if self._cached else "done")

    def _tell(
        self, kind: Literal["begin", "output", "cached", "done", "failed"], output: bytes = b""
    ) -> None:
        passed = time.monotonic() - self._began
        self._watch(BuildEvent(step=self._step, kind=kind, output=output, duration_s=passed))


class Tail:
    """Hands pieces of output on and keeps the last of them."""

    def __init__(self, onward: Callable[[bytes], None]) -> None:
        self._onward = onward
        self._kept = b""

    def add(self, piece: bytes) -> None:
        """Take a piece as it was written."""
        self._onward(piece)
        self._kept = (self._kept + piece)[-_KEPT_BYTES:]

    def text(self) -> str:
        """Return the last twenty lines."""
        return "\n".join(self._kept.decode("utf-8", "replace").splitlines()[-_LINES:])
