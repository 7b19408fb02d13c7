"""Connections from a listening socket, taken as long as the machine has room for them.

Without descriptors or memory for one more, accept(2) fails and the connection stays in the queue;
epoll(7) reports the queue again at once. So the listener is left alone for a moment then: nothing
is lost, and nothing spins.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from typing import Final

from pytest_containers.runtime.network.reactor import READ, RETRY_S, Reactor, Timer

__all__ = ["SHORTAGE", "Acceptor", "reset"]

_ACCEPTS_A_TURN: Final = 64
# What passes by itself: no descriptor or no memory at the moment (accept(2), socket(2), epoll_ctl(2)).
SHORTAGE: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC))
# The socket is none that accepts, and never will be (accept(2)).
_USELESS: Final = frozenset((errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP, errno.EBADF))


def reset(line: socket.socket) -> None:
    """Close *line* so that its peer gets RST instead of FIN (socket(7), SO_LINGER)."""
    with contextlib.suppress(OSError):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()


def _always() -> bool:
    return True


class Acceptor:
    """Accepts the connections of *listener* and gives each to *take*, with its peer's address.

    *take* owns the connection when it returns. Where it raises OSError, the connection is reset, or
    kept and offered again where the error is one of `SHORTAGE`. While *room* returns False
    connections wait in the listener's queue.
    """

    def __init__(
        self,
        reactor: Reactor,
        listener: socket.socket,
        take: Callable[[socket.socket, str], None],
        room: Callable[[], bool] = _always,
    ) -> None:
        self._reactor = reactor
        self._listener = listener
        self._take = take
        self._room = room
        self._kept: tuple[socket.socket, str] | None = None
        self._timer: Timer | None = None
        listener.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        self._timer = None
        try:
            self._reactor.watch(self._listener, READ, self._turn)
        except OSError:
            self._pause()

    def _pause(self) -> None:
        self._reactor.forget(self._listener)
        self._timer = self._reactor.later(RETRY_S, self._resume)

    def _resume(self) -> None:
        self._listen()
        if self._kept is not None and self._timer is None:
            self._turn(READ)

    def _turn(self, _: int) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            if self._kept is None and not self._accept():
                return
            if not self._hand_over():
                return

    def _accept(self) -> bool:
        """Keep the next connection; return whether there is one."""
        if not self._room():
            self._pause()
            return False
        while True:
            try:
                client, address = self._listener.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in SHORTAGE:
                    self._pause()
                    return False
                if error.errno in _USELESS:
                    self.close()
                    return False
                continue  # ECONNABORTED and others concern one connection (accept(2), "Error handling")
            client.setblocking(False)
            self._kept = (client, str(address[0]) if address else "")
            return True

    def _hand_over(self) -> bool:
        """Give the kept connection away; return whether the next one may be accepted."""
        if self._kept is None:
            return True
        client, ip = self._kept
        try:
            self._take(client, ip)
        except OSError as error:
            if error.errno in SHORTAGE:
                self._pause()
                return False
            reset(client)
        except Exception:
            reset(client)
            self._kept = None
            raise
        self._kept = None
        return True

    def close(self) -> None:
        """Close the listener; a connection that was kept is reset. Doing so twice is allowed."""
        if self._timer is not None:
            self._timer.cancel()
        if self._kept is not None:
            reset(self._kept[0])
        self._kept = None
        self._reactor.close(self._listener)
