"""What a step tells while it is made, and its last lines for the error that says why it failed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import Final, Literal

from pytest_containers.progress import BuildEvent, BuildWatch

__all__ = ["Mask", "StepReport", "Tail"]

_KEPT_BYTES: Final = 1 << 14
_LINES: Final = 20
_SECRET_BYTES: Final = 4
_LINE_BYTES: Final = 8


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


class Mask:
    """Hands pieces of output on with ``***`` for each secret, or each longer line of one.

    The form is that of CI systems; a value of less than four bytes is no secret that a mask could
    keep. What may be the beginning of a secret waits for the piece that follows it.
    """

    def __init__(self, onward: Callable[[bytes], None], secrets: Iterable[bytes]) -> None:
        self._onward = onward
        words = {
            word
            for secret in secrets
            for word in (secret.strip(), *(line for line in secret.splitlines() if len(line) >= _LINE_BYTES))
            if len(word) >= _SECRET_BYTES
        }
        self._words = sorted(words, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, self._words)))
        self._waiting = b""

    def add(self, piece: bytes) -> None:
        """Take a piece as it was written."""
        if not self._words:
            self._onward(piece)
            return
        whole = self._masked(self._waiting + piece)
        most = min(len(self._words[0]) - 1, len(whole))
        waiting = next((n for n in range(most, 0, -1) if self._may_begin(whole[-n:])), 0)
        told, self._waiting = whole[: len(whole) - waiting], whole[len(whole) - waiting :]
        if told:
            self._onward(told)

    def end(self) -> None:
        """Hand on what still waits."""
        if self._waiting:
            self._onward(self._waiting)
        self._waiting = b""

    def text(self, text: str) -> str:
        """Return *text* with the same masks."""
        return self._masked(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def _masked(self, content: bytes) -> bytes:
        return self._pattern.sub(b"***", content) if self._words else content

    def _may_begin(self, end: bytes) -> bool:
        return any(word.startswith(end) for word in self._words)


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
