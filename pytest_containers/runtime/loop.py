"""The supervisor's heart: one thread, many recipes (floor 1).

A *recipe* is a generator that reads from top to bottom like the work it does and yields a `Wait`
wherever it must wait for a descriptor; the loop goes on with another meanwhile. Closing a recipe
runs its ``with`` blocks, so a start that nobody wants any more undoes itself.
"""

from __future__ import annotations

import os
import select
import selectors
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

__all__ = ["Loop", "Recipe", "Task", "Wait", "report"]

Outcome = TypeVar("Outcome")
_STDERR: Final = 2
_LONGEST_S: Final = 3600.0


class Wait(NamedTuple):
    """Go on when *descriptor* is readable (True), or at *deadline* on the monotonic clock (False).

    A *descriptor* of -1 waits for the deadline alone.
    """

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
        self._stop_waiting()
        step = partial(next, self._recipe) if readable is None else partial(self._recipe.send, readable)
        while True:
            try:
                wait = step()
            except StopIteration as end:
                self._loop.finished(self)
                self._done(end.value)
                return
            except Exception as error:  # noqa: BLE001 - whoever asked is told; the loop goes on
                self._loop.finished(self)
                self._failed(error)
                return
            try:
                self._begin_waiting(wait)
            except (OSError, ValueError) as error:  # epoll_ctl(2) refuses it: ENOSPC, EPERM, EBADF
                step = partial(self._recipe.throw, error)
            else:
                return

    def _begin_waiting(self, wait: Wait) -> None:
        if wait.descriptor >= 0:
            self._loop.watch(wait.descriptor, self._on_readable)
        self._wait = wait

    def _stop_waiting(self) -> None:
        wait, self._wait = self._wait, None
        if wait is not None and wait.descriptor >= 0:
            self._loop.forget(wait.descriptor, self._on_readable)

    def _on_readable(self) -> None:
        self.resume(True)

    def cancel(self) -> None:
        """Let the recipe undo what it did so far; neither callback is called.

        An error of the undoing is reported by the loop and ends nothing.
        """
        self._stop_waiting()
        self._loop.finished(self)
        self._loop.guard(self._recipe.close)


class Loop:
    """Waits for descriptors and calls whoever watches them; several may watch one.

    An exception of a callback never ends the loop: it is written to standard error, and what the
    callback watched is watched no longer, since it would fail again at once.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._readers: dict[int, list[Callable[[], None]]] = {}
        self._writers: dict[int, list[Callable[[], None]]] = {}
        self._selected: dict[int, int] = {}
        self._closing: set[int] = set()
        self._tasks: set[_Timed] = set()
        self._ended = False

    def watch(self, descriptor: int, callback: Callable[[], None], *, write: bool = False) -> None:
        """Call *callback* whenever *descriptor* is readable, or with *write* writable.

        Raises OSError where the kernel refuses to watch it.
        """
        watchers = self._writers if write else self._readers
        watchers.setdefault(descriptor, []).append(callback)
        try:
            self._select(descriptor)
        except (OSError, ValueError):
            self.forget(descriptor, callback, write=write)
            raise

    def forget(self, descriptor: int, callback: Callable[[], None], *, write: bool = False) -> None:
        """Do not call *callback* any more."""
        watchers = self._writers if write else self._readers
        callbacks = watchers.get(descriptor, [])
        if callback in callbacks:
            callbacks.remove(callback)
            if not callbacks:
                del watchers[descriptor]
                self._select(descriptor)
                self._close_if_idle(descriptor)

    def _select(self, descriptor: int) -> None:
        """Let the selector watch for what there are callbacks for."""
        wanted = (selectors.EVENT_READ if descriptor in self._readers else 0) | (
            selectors.EVENT_WRITE if descriptor in self._writers else 0
        )
        known = self._selected.pop(descriptor, 0)
        if wanted and not known:
            self._selector.register(descriptor, wanted)
        elif known and not wanted:
            self._selector.unregister(descriptor)
        elif wanted != known:
            self._selector.modify(descriptor, wanted)
        if wanted:
            self._selected[descriptor] = wanted

    def close(self, descriptor: int) -> None:
        """Close *descriptor*, which must be readable, when all who wait for it have woken.

        Closed at once it would never wake them, and its number, given to another, would be taken
        for watched already: epoll(7) knows the open file, we know the number.
        """
        self._closing.add(descriptor)
        self._close_if_idle(descriptor)

    def _close_if_idle(self, descriptor: int) -> None:
        if descriptor in self._closing and descriptor not in self._selected:
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

    def begin_apart(self, recipe: Recipe[Outcome]) -> Recipe[Outcome]:
        """Begin *recipe* as a task of its own; return what waits for its result, or raises its error.

        The task runs to its end also where the waiting recipe is cancelled.
        """
        ending = _Ending[Outcome]()
        self.begin(recipe, ending.done, ending.failed)
        return ending.wait()

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
            # epoll_wait(2) counts milliseconds in an int, and a deadline may be further away.
            timeout = min(max(0.0, min(deadlines) - time.monotonic()), _LONGEST_S) if deadlines else None
            for key, events in self._selector.select(timeout):
                if events & selectors.EVENT_READ:
                    self._call(key.fd, self._readers, write=False)
                if events & selectors.EVENT_WRITE:
                    self._call(key.fd, self._writers, write=True)
            now = time.monotonic()
            for task in tuple(self._tasks):
                if task.deadline is not None and task.deadline <= now:
                    self.guard(partial(task.resume, False))

    def _call(
        self, descriptor: int, watchers: Mapping[int, list[Callable[[], None]]], *, write: bool
    ) -> None:
        for callback in tuple(watchers.get(descriptor, ())):
            # An earlier callback of this turn may have ended this watch.
            if callback in watchers.get(descriptor, ()) and not self.guard(callback):
                self.forget(descriptor, callback, write=write)

    def guard(self, action: Callable[[], object]) -> bool:
        """Run *action*; return whether it ended without an exception, which is reported otherwise."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 - one client's fault is not the run's end
            report(error)
            return False
        return True


class _Ending(Generic[Outcome]):
    """How a task of its own ended, for a recipe that may have gone away by then."""

    def __init__(self) -> None:
        self._results: list[Outcome] = []
        self._errors: list[Exception] = []
        self._wake = -1
        self._abandoned = False

    def done(self, result: Outcome) -> None:
        self._results.append(result)
        self._tell()

    def failed(self, error: Exception) -> None:
        self._errors.append(error)
        if self._abandoned:
            report(error)
        self._tell()

    def _tell(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def wait(self) -> Recipe[Outcome]:
        if not self._results and not self._errors:
            try:
                self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                yield Wait(self._wake)
            except BaseException:
                self._abandoned = True
                raise
            finally:
                # From here on nobody writes into it: the number may be another file's soon.
                wake, self._wake = self._wake, -1
                if wake >= 0:
                    os.close(wake)
        if self._errors:
            raise self._errors[0]
        return self._results[0]


def report(error: Exception) -> None:
    """Write what went wrong, and where, to standard error, unless nobody reads that at the moment."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    line = f"pytest-containers: the supervisor goes on after {type(error).__name__}: {error}{where}\n"
    poll = select.poll()
    poll.register(_STDERR, select.POLLOUT)
    with suppress(OSError):
        # A pipe that polls writable takes this many bytes without waiting (pipe(7), PIPE_BUF).
        if any(events & select.POLLOUT for _, events in poll.poll(0)):
            os.write(_STDERR, line.encode(errors="replace")[: select.PIPE_BUF])
