"""The end of a build's other stages when one has failed: their commands are killed, no step begins."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

from pytest_containers.errors import EngineError
from pytest_containers.images.build.runner import Workspace

__all__ = ["Halt"]


class Halt:
    """What all stages of one build look at between their steps; *event* is set at their end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.event = threading.Event()
        self._running: frozenset[Workspace] = frozenset()

    def check(self) -> None:
        """Raise CancelledError where another stage has failed."""
        if self.event.is_set():
            raise CancelledError

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Have a wait that `event` ends raise CancelledError: another stage's failure is to be told."""
        try:
            yield
        except EngineError:
            self.check()
            raise

    @contextlib.contextmanager
    def running(self, workspace: Workspace) -> Iterator[None]:
        """Have `halt` stop the command of *workspace*. Raises CancelledError where it did, or has been."""
        with self._lock:
            self.check()
            self._running |= {workspace}
        try:
            yield
        finally:
            with self._lock:
                self._running -= {workspace}
            self.check()

    def halt(self) -> None:
        """Stop every command, and every stage before its next step."""
        with self._lock:
            self.event.set()
            running = self._running
        for workspace in running:
            workspace.stop()
