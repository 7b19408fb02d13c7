"""A loop over epoll(7) with timers: all that the gateway waits with.

asyncio would do, at 20 ms of import and 8 MB in a process that has a few dozen sockets; and the
gateway must reset connections and stop reading where nobody takes the bytes, which is plainer here.
"""

from __future__ import annotations

import heapq
import itertools
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["READ", "RETRY_S", "WRITE", "Reactor", "Timer"]

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
RETRY_S: Final = 0.1


@dataclass(slots=True, kw_only=True)
class Timer:
    """A call that is due at *due* of the monotonic clock; `cancel` forgets it."""

    due: float
    call: Callable[[], None] | None

    def cancel(self) -> None:
        """Never make the call; allowed after it was made."""
        self.call = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watch:
    line: socket.socket
    events: int
    call: Callable[[int], None]
    serial: int


def _ignore(_: Exception) -> None:
    return


class Reactor:
    """Calls back when sockets are ready and times are due, until `stop`.

    A call that raises does not end the loop: *report* gets the error, and a socket's call is not made
    again for `RETRY_S`, since what was ready may be ready still.
    """

    def __init__(self, report: Callable[[Exception], None] = _ignore) -> None:
        self._report = report
        self._poll = select.epoll()
        self._watches: dict[int, _Watch] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._serials = itertools.count()
        self._running = True

    def watch(self, line: socket.socket, events: int, call: Callable[[int], None]) -> None:
        """Call *call* with the events seen whenever one of *events* (READ, WRITE) holds for *line*.

        Replaces what was watched for *line* before; no events is `forget`. Errors and hang-ups
        are reported too (epoll_ctl(2)): the call finds out by reading or writing.
        """
        if not events:
            self.forget(line)
            return
        number = line.fileno()
        before = self._watches.get(number)
        if before is None:
            self._poll.register(number, events)
        elif before.events != events:
            self._poll.modify(number, events)
        serial = before.serial if before is not None else next(self._serials)
        self._watches[number] = _Watch(line=line, events=events, call=call, serial=serial)

    def forget(self, line: socket.socket) -> None:
        """Watch *line* no more: to be called before it is closed; doing so twice is allowed."""
        if self._watches.pop(line.fileno(), None) is not None:
            self._poll.unregister(line.fileno())

    def close(self, line: socket.socket) -> None:
        """Forget *line* and close it."""
        self.forget(line)
        line.close()

    def close_all(self) -> None:
        """Close every socket that is watched, and the loop."""
        for watch in tuple(self._watches.values()):
            self.close(watch.line)
        self._poll.close()

    def later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """Make *call* once, after *delay_s*."""
        timer = Timer(due=time.monotonic() + delay_s, call=call)
        heapq.heappush(self._timers, (timer.due, next(self._serials), timer))
        return timer

    def stop(self) -> None:
        """Let `run` return after the calls at hand."""
        self._running = False

    def run(self) -> None:
        """Wait and call until `stop`; sockets still watched are left as they are."""
        while self._running:
            self._once()

    def _once(self) -> None:
        newest = next(self._serials)
        for number, events in self._poll.poll(self._patience()):
            watch = self._watches.get(number)
            # A call before this one may have closed the socket and given its number to a new one.
            if watch is not None and watch.serial < newest:
                self._call(watch, events)
        self._run_timers()

    def _call(self, watch: _Watch, events: int) -> None:
        try:
            watch.call(events)
        except Exception as error:  # noqa: BLE001 - one connection's trouble is not everybody's
            self._report(error)
            if self._watches.get(watch.line.fileno()) is watch:
                self._suspend(watch)

    def _suspend(self, watch: _Watch) -> None:
        """Watch again after a moment, unless somebody has closed or watched the socket meanwhile."""

        def resume() -> None:
            if watch.line.fileno() >= 0 and watch.line.fileno() not in self._watches:
                self.watch(watch.line, watch.events, watch.call)

        self.forget(watch.line)
        self.later(RETRY_S, resume)

    def _patience(self) -> float:
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1.0

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.call is None:
                continue
            try:
                timer.call()
            except Exception as error:  # noqa: BLE001 - as above
                self._report(error)
