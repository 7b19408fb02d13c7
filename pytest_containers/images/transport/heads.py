"""The head of a reply: read to its end, and within a time.

http.client takes the end of a connection for the end of the headers (http/client.py,
"_read_headers"), so that a reply cut there looks whole, without the headers that did not come; and
a socket's timeout begins anew with each byte of a head that trickles.
"""

from __future__ import annotations

import http.client
import io
import time
from typing import TYPE_CHECKING

from pytest_containers.images.transport.settings import Settings

if TYPE_CHECKING:
    import urllib3

__all__ = ["pools"]


class _Stream(io.BufferedReader):
    """A reply's bytes, whose head must have come *window_s* after its first byte."""

    def __init__(self, raw: io.RawIOBase, window_s: float) -> None:
        super().__init__(raw)
        self._window_s = window_s
        self._until = float("inf")
        self._in_head = True
        self._last = b""

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return a line; raise TimeoutError for one of a head that comes too slowly."""
        if not self._in_head:
            return super().readline(size)
        line = bytearray()
        limit = size if size is not None and size >= 0 else io.DEFAULT_BUFFER_SIZE
        while not line.endswith(b"\n") and len(line) < limit:
            # At most one receive, where a whole line may be many.
            seen = self.peek(1)
            now = time.monotonic()
            self._until = min(self._until, now + self._window_s)
            if now > self._until:
                raise TimeoutError("the head of the reply comes too slowly")
            if not seen:
                break
            line += self.read(min(seen.find(b"\n") + 1 or len(seen), limit - len(line)))
        self._last = bytes(line)
        return self._last

    def end_head(self) -> None:
        """Say that the head has been read; raise where it did not end by an empty line."""
        self._in_head = False
        if self._last not in (b"\r\n", b"\n"):
            raise http.client.RemoteDisconnected("the connection ended in the head of the reply")


def pools(settings: Settings) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Return urllib3's pools by scheme, with connections that read heads so."""
    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Response(http.client.HTTPResponse):
        def begin(self) -> None:
            stream = _Stream(self.fp.detach(), settings.floor_window_s)
            self.fp = stream
            super().begin()
            stream.end_head()

    class Plain(HTTPConnection):
        response_class = Response

    class Secure(HTTPSConnection):
        response_class = Response

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
