"""The messages to one client that its socket has not taken yet (floor 1).

The supervisor has one thread, so it never waits for a client to read. A message that the socket
does not take at once is kept, up to a bound, and sent when the socket is writable again.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Final

from pytest_containers.runtime import messages

__all__ = ["Outbox"]

# A socket of the usual buffer takes some 280 short answers before the first is kept here.
_MESSAGES: Final = 1024
_BYTES: Final = 32 << 20


class Outbox:
    """Sends messages to *channel* in order, without ever waiting."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._kept: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._kept_bytes = 0

    @property
    def pending(self) -> bool:
        """Whether messages wait for the socket to become writable."""
        return bool(self._kept)

    def post(self, content: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a message, or keep it with copies of its descriptors until `flush`.

        Raises OSError where the client is gone, or has left more unread than is kept.
        """
        if not self._kept:
            try:
                messages.send(self._channel, content, descriptors, wait=False)
            except BlockingIOError:
                pass
            else:
                return
        # A single message may be of any size: an answer with all changes of a container is long.
        if self._kept and (len(self._kept) >= _MESSAGES or self._kept_bytes + len(content) > _BYTES):
            raise BlockingIOError(f"{len(self._kept)} messages are unread")
        copies: list[int] = []
        try:
            copies.extend(os.dup(descriptor) for descriptor in descriptors)
        except OSError:
            _close(copies)
            raise
        self._kept.append((content, tuple(copies)))
        self._kept_bytes += len(content)

    def flush(self) -> None:
        """Send what the socket takes now. Raises OSError where the client is gone."""
        while self._kept:
            content, copies = self._kept[0]
            try:
                messages.send(self._channel, content, copies, wait=False)
            except BlockingIOError:
                return
            self._kept.popleft()
            self._kept_bytes -= len(content)
            _close(copies)

    def close(self) -> None:
        """Drop what is kept."""
        while self._kept:
            _close(self._kept.popleft()[1])
        self._kept_bytes = 0


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
