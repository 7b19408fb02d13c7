"""How far it is: bars on a terminal, plain lines elsewhere, all of it on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from pytest_containers.commands.output import size
from pytest_containers.progress import BuildEvent, Progress, Telling, Watches

__all__ = ["Lines", "shown", "telling"]

# What a log shows of a long transfer: enough to see that it goes on.
_PAUSE_S: Final = 5.0
_SHORT: Final = 19


@contextmanager
def shown(*, quiet: bool = False, plain: bool = False) -> Iterator[Watches]:
    """Yield what shows transfers and builds for as long as the block takes."""
    if quiet:
        # A build that nobody watches warns all the same: what is wrong with it is no progress.
        yield Watches(build=lambda event: Lines(sys.stderr).step(event) if event.kind == "notice" else None)
    elif sys.stderr.isatty() and not plain:
        from pytest_containers.commands.terminal import Screen

        with Screen(sys.stderr) as screen:
            yield Watches(transfer=screen.transfer, build=screen.step)
    else:
        lines = Lines(sys.stderr)
        yield Watches(transfer=lines.transfer, build=lines.step)


def telling(*, quiet: bool) -> Telling | None:
    """Return what shows how a container's image comes, on a terminal alone."""
    if quiet or not sys.stderr.isatty():
        return None
    return lambda _: shown()


class Lines:
    """Plain lines: the beginning and the end of each subject, and a few in between. Safe between threads."""

    def __init__(self, out: TextIO, pause_s: float = _PAUSE_S) -> None:
        self._out = out
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._begun: dict[tuple[str, str], float] = {}
        self._next: dict[tuple[str, str], float] = {}
        self._steps: dict[str, int] = {}
        self._unfinished: dict[str, bytes] = {}

    def transfer(self, event: Progress) -> None:
        """Tell of a transfer."""
        key, now = (event.subject, event.phase), time.monotonic()
        done = event.total_bytes is not None and event.done_bytes == event.total_bytes
        if event.phase == "wait":
            with self._lock:
                self._write(f"{event.subject[:_SHORT]} waits for {event.holder}")
            return
        with self._lock:
            begun = self._begun.setdefault(key, now)
            if not done and now < self._next.get(key, 0.0):
                return
            self._next[key] = now + self._pause_s
            total = f" of {size(event.total_bytes)}" if event.total_bytes is not None and not done else ""
            end = f", done in {now - begun:.1f} s" if done else ""
            self._write(f"{event.subject[:_SHORT]} {event.phase} {size(event.done_bytes)}{total}{end}")

    def step(self, event: BuildEvent) -> None:
        """Tell of a build's step, by its number, as BuildKit's plain progress does."""
        with self._lock:
            if event.kind == "notice":
                self._write(f"warning: {event.step}")
                return
            number = self._steps.setdefault(event.step, len(self._steps) + 1)
            if event.kind == "output":
                *whole, rest = (self._unfinished.pop(event.step, b"") + event.output).split(b"\n")
                self._unfinished[event.step] = rest
            else:
                rest = self._unfinished.pop(event.step, b"")
                whole = [rest] if rest else []
            for line in whole:
                self._write(f"#{number} {line.decode('utf-8', 'replace')}")
            told = {
                "begin": event.step,
                "cached": "CACHED",
                "done": f"DONE {event.duration_s:.1f}s",
                "failed": f"ERROR after {event.duration_s:.1f}s",
            }
            if event.kind in told:
                self._write(f"#{number} {told[event.kind]}")

    def _write(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()
