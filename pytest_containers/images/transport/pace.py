"""How fast a body comes: a server that sends a trickle must not hold a pull for ever."""

from __future__ import annotations

from collections.abc import Callable

from pytest_containers.images.transport.settings import Settings

__all__ = ["Pace", "TooSlow"]


class TooSlow(Exception):
    """A body came at less than the settings' floor."""


class Pace:
    """The speed of one body, judged a window at a time as curl does (curl(1), ``--speed-limit``).

    Only the time spent in waiting for the other side counts: a slow disk of ours is not its fault.
    """

    def __init__(self, settings: Settings) -> None:
        self._floor_bytes_per_s = settings.floor_bytes_per_s
        self._window_s = settings.floor_window_s
        self._clock = settings.clock
        self._waited_s = 0.0
        self._came_bytes = 0

    def read(self, read: Callable[[], bytes]) -> bytes:
        """Return what *read* returns, and count it."""
        begun = self._clock()
        data = read()
        self._waited_s += self._clock() - begun
        self._came_bytes += len(data)
        return data

    def judge(self) -> None:
        """Raise TooSlow where a window has ended in which too little came."""
        if self._waited_s < self._window_s:
            return
        if self._came_bytes < self._floor_bytes_per_s * self._waited_s:
            raise TooSlow(
                f"only {self._came_bytes} bytes in {self._waited_s:.1f} s; "
                f"the floor is {self._floor_bytes_per_s} bytes/s"
            )
        self._waited_s, self._came_bytes = 0.0, 0
