"""How far a long operation is: its events counted out, not too many of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Final, Self

from pytest_containers.progress import Phase, Progress, Watch

__all__ = ["Meter"]

# Twenty looks a second is what an eye follows; more would cost and show nothing.
_PAUSE_S: Final = 0.05


class Meter:
    """The events of one subject in one phase, at most one in 50 ms, and one at its end.

    Used as a context manager it tells the end when the block ends without an error. For one
    thread; costs nothing where nobody watches.
    """

    def __init__(
        self, watch: Watch | None, subject: str, phase: Phase, total_bytes: int | None = None
    ) -> None:
        self._watch = watch
        self._subject = subject
        self._phase: Phase = phase
        self._total = total_bytes
        self._done = 0
        self._next = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.end()

    def at(self, done_bytes: int) -> None:
        """Say how many bytes are done by now; nothing is told of the last one before `end`."""
        if self._watch is None:
            return
        with self._lock:
            self._done = done_bytes
            now = time.monotonic()
            if now < self._next or done_bytes == self._total:
                return
            self._next = now + _PAUSE_S
        self._tell(done_bytes, self._total)

    def add(self, count: int) -> None:
        """Say that *count* bytes more are done."""
        self.at(self._done + count)

    def end(self) -> None:
        """Say that all is done."""
        total = self._done if self._total is None else self._total
        self._tell(total, total)

    def waits(self, holder: str) -> None:
        """Say that the subject is another process's at the moment, *holder*."""
        if self._watch is not None:
            self._watch(Progress(subject=self._subject, phase="wait", done_bytes=0, holder=holder))

    def counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield *chunks*, each counted when the next one is asked for."""
        for chunk in chunks:
            yield chunk
            self.add(len(chunk))

    def _tell(self, done_bytes: int, total_bytes: int | None) -> None:
        if self._watch is not None:
            self._watch(
                Progress(
                    subject=self._subject, phase=self._phase, done_bytes=done_bytes, total_bytes=total_bytes
                )
            )
