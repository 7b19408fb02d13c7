"""A line on the terminal while a test waits for an image (floor 5).

Without it, a first pull of a minute looks like a test that hangs. It is written through pytest's own
reporter, with its capture suspended for the moment, as pytest's live logging does; a run without a
terminal, a quiet one and a worker of xdist have no such line.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final, Protocol

from pytest_containers.progress import BuildEvent, Progress, Telling, Watches

__all__ = ["Capture", "Reporter", "notice"]

# Nobody has to be told of what takes less, and an eye follows two changes a second.
_DELAY_S: Final = 1.0
_PAUSE_S: Final = 0.5
_MEGABYTE: Final = 1_000_000


class Reporter(Protocol):
    """What is used of pytest's terminal reporter."""

    isatty: bool

    def ensure_newline(self) -> None:
        """End the line of dots."""

    def rewrite(self, line: str, *, erase: bool = False) -> None:
        """Write over the current line; *erase* clears the rest of it."""


class Capture(Protocol):
    """What is used of pytest's capture manager."""

    def global_and_fixture_disabled(self) -> AbstractContextManager[None]:
        """Let what is written reach the terminal."""


def notice(reporter: Reporter | None, capture: Capture | None, *, quiet: bool) -> Telling | None:
    """Return what tells of pulls and builds on pytest's terminal; None where there is nobody to tell."""
    if quiet or reporter is None or not reporter.isatty:
        return None
    lock = threading.Lock()

    @contextlib.contextmanager
    def telling(subject: str) -> Iterator[Watches]:
        # Only while the thread that runs the tests waits is nothing else of pytest's on the terminal.
        if threading.current_thread() is not threading.main_thread():
            yield Watches()
            return
        status = _Status(subject, reporter, capture, lock)
        try:
            yield Watches(transfer=status.transfer, build=status.step)
        except BaseException:
            status.end("")
            raise
        status.end(f"{subject}: ready after {status.age_s:.1f} s")

    return telling


class _Status:
    """The line of one image. Safe between threads."""

    def __init__(
        self, subject: str, reporter: Reporter, capture: Capture | None, lock: threading.Lock
    ) -> None:
        self._subject = subject
        self._reporter = reporter
        self._capture = capture
        self._lock = lock
        self._begun = time.monotonic()
        self._next = self._begun + _DELAY_S
        self._shown = False
        self._moved: dict[str, Progress] = {}

    @property
    def age_s(self) -> float:
        """How long it takes so far."""
        return time.monotonic() - self._begun

    def transfer(self, event: Progress) -> None:
        """Tell how much of all blobs of this phase is done."""
        with self._lock:
            if event.phase == "wait":
                self._tell(f"{self._subject}: waits for {event.holder}")
                return
            self._moved[event.subject] = event
            same = [other for other in self._moved.values() if other.phase == event.phase]
            done = sum(other.done_bytes for other in same) / _MEGABYTE
            total = sum(other.total_bytes or 0 for other in same) / _MEGABYTE
            self._tell(f"{self._subject}: {event.phase} {done:.1f} of {total:.1f} MB")

    def step(self, event: BuildEvent) -> None:
        """Tell the step that a build is at."""
        with self._lock:
            self._tell(f"{self._subject}: {event.step}")

    def end(self, text: str) -> None:
        """Leave *text* in the line's place, where there is a line."""
        with self._lock:
            if self._shown:
                self._write(text, behind="\n" if text else "")

    def _tell(self, text: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PAUSE_S
            self._write(text)

    def _write(self, text: str, *, behind: str | None = None) -> None:
        room = max(shutil.get_terminal_size().columns - 1, 20)
        with self._capture.global_and_fixture_disabled() if self._capture else contextlib.nullcontext():
            if not self._shown:
                self._reporter.ensure_newline()
            self._reporter.rewrite(text.replace("\n", " ")[:room], erase=True)
            if behind is not None:
                self._reporter.rewrite(behind)
            self._shown = True
