"""The supervisor's heart: one thread, many recipes (floor 1).

A *recipe* is a generator that reads from top to bottom like the work it does and yields a `Wait`
wherever it must wait for a descriptor; the loop goes on with another meanwhile. Closing a recipe
runs its ``with`` blocks, so a start that nobody wants any more undoes itself.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable, Generator
from typing import Generic, NamedTuple, Protocol, TypeVar

__all__ = ["Loop", "Recipe", "Task", "Wait"]

Outcome = TypeVar("Outcome")


class Wait(NamedTuple):
    """Go on when *descriptor* is readable (True), or at *deadline* on the monotonic clock (False)."""

    descriptor: int
    deadline: float | None = None


Recipe = Generator[Wait, bool, Outcome]


class _Timed(Protocol):
    """A task of whatever outcome."""

    @property
    def deadline(self) -> float | None: ...

    def resume(self, readable: bool | None = None) -> None: ...


class Task(Generic[Outcome]):
    """A recipe under way."""

    def __init__(
        self,
        loop: Loop,
        recipe: Recipe[Outcome],
        done: Callable[[Outcome], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._recipe = recipe
        self._done = done
        self._failed = failed
        self._wait: Wait | None = None

    @property
    def pending(self) -> bool:
        """Whether it waits for something."""
        return self._wait is not None

    @property
    def deadline(self) -> float | None:
        """When it wants to be resumed at the latest."""
        return self._wait.deadline if self._wait else None

    def resume(self, readable: bool | None = None) -> None:
        """Run to the next wait or to the end; None begins."""
        if self._wait is not None:
            self._loop.forget(self._wait.descriptor, self._on_readable)
            self._wait = None
        try:
            self._wait = next(self._recipe) if readable is None else self._recipe.send(readable)
        except StopIteration as end:
            self._loop.finished(self)
            self._done(end.value)
        except Exception as error:  # noqa: BLE001 - whoever asked is told; the loop goes on
            self._loop.finished(self)
            self._failed(error)
        else:
            self._loop.watch(self._wait.descriptor, self._on_readable)

    def _on_readable(self) -> None:
        self.resume(True)

    def cancel(self) -> None:
        """Let the recipe undo what it did so far; neither callback is called."""
        if self._wait is not None:
            self._loop.forget(self._wait.descriptor, self._on_readable)
            self._wait = None
        self._loop.finished(self)
        self._recipe.close()


class Loop:
    """Waits for descriptors and calls whoever watches them; several may watch one."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._watchers: dict[int, list[Callable[[], None]]] = {}
        self._closing: set[int] = set()
        self._tasks: set[_Timed] = set()
        self._ended = False

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call *callback* whenever *descriptor* is readable."""
        watchers = self._watchers.setdefault(descriptor, [])
        if not watchers:
            self._selector.register(descriptor, selectors.EVENT_READ)
        watchers.append(callback)

    def forget(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Do not call *callback* any more."""
        watchers = self._watchers.get(descriptor, [])
        if callback in watchers:
            watchers.remove(callback)
            if not watchers:
                del self._watchers[descriptor]
                self._selector.unregister(descriptor)
                self._close_if_idle(descriptor)

    def close(self, descriptor: int) -> None:
        """Close *descriptor*, which must be readable, when all who wait for it have woken.

        Closed at once it would never wake them, and its number, given to another, would be taken
        for watched already: epoll(7) knows the open file, we know the number.
        """
        self._closing.add(descriptor)
        self._close_if_idle(descriptor)

    def _close_if_idle(self, descriptor: int) -> None:
        if descriptor in self._closing and descriptor not in self._watchers:
            self._closing.remove(descriptor)
            os.close(descriptor)

    def begin(
        self,
        recipe: Recipe[Outcome],
        done: Callable[[Outcome], None],
        failed: Callable[[Exception], None],
    ) -> Task[Outcome]:
        """Run *recipe*; at its end exactly one of the two callbacks is called."""
        task = Task(self, recipe, done, failed)
        self._tasks.add(task)
        task.resume()
        return task

    def finished(self, task: Task[Outcome]) -> None:
        """Take *task* off the list; tasks call this themselves."""
        self._tasks.discard(task)

    def end(self) -> None:
        """Return from `spin` after this turn."""
        self._ended = True

    def spin(self) -> None:
        """Serve until `end`."""
        while not self._ended:
            deadlines = [task.deadline for task in self._tasks if task.deadline is not None]
            timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
            for key, _ in self._selector.select(timeout):
                for callback in tuple(self._watchers.get(key.fd, ())):
                    # An earlier callback of this turn may have ended this watch.
                    if callback in self._watchers.get(key.fd, ()):
                        callback()
            now = time.monotonic()
            for task in tuple(self._tasks):
                if task.deadline is not None and task.deadline <= now:
                    task.resume(False)
