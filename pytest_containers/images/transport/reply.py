"""One answer to one request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Self

from pytest_containers.errors import RegistryError
from pytest_containers.images.origin import printable
from pytest_containers.images.transport.connections import failure
from pytest_containers.images.transport.pace import Pace, TooSlow
from pytest_containers.images.transport.settings import Settings

if TYPE_CHECKING:
    import urllib3

__all__ = ["Reply"]

_READ_BYTES = 256 << 10
# A new connection costs more than reading what is left of an error's text.
_DRAIN_BYTES = 64 << 10


class Reply:
    """The answer to one request; a context manager that gives the connection back.

    *tries* tells how often it had to be asked for.
    """

    def __init__(
        self,
        response: urllib3.BaseHTTPResponse,
        url: str,
        method: str,
        settings: Settings,
        done: Callable[[Reply], None],
    ) -> None:
        self._response = response
        self._settings = settings
        self._done = done
        self._begun = False
        self.tries = 1
        self.url = url
        self.method = method
        self.status = response.status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def header(self, name: str) -> str:
        """Return a header's value, empty where it is absent; names know no case."""
        return self._response.headers.get(name, "")

    def headers(self, name: str) -> tuple[str, ...]:
        """Return every value of a header that may come more than once."""
        return tuple(self._response.headers.getlist(name))

    @property
    def length(self) -> int | None:
        """The body's announced length in bytes; None where only the body's end will tell."""
        text = self.header("Content-Length")
        return int(text[:18]) if text.isascii() and text.isdigit() else None

    def chunks(self) -> Iterator[bytes]:
        """Read the body piece by piece, as it is on the wire. Raises urllib3's errors, TooSlow."""
        self._begun = True
        pace, taken = Pace(self._settings), 0
        # One receive a piece: a read of so many bytes would wait for all of them, however slowly
        # they come, and a socket's timeout begins anew with each byte.
        while piece := pace.read(lambda: self._response.read1(_READ_BYTES, decode_content=False)):
            yield piece
            taken += len(piece)
            if taken != self.length:
                pace.judge()

    def pieces(self) -> Iterator[bytes]:
        """Read the body piece by piece; raise RegistryError where it breaks off."""
        import urllib3

        try:
            yield from self.chunks()
        except (urllib3.exceptions.HTTPError, TooSlow) as error:
            raise failure(self.method, self.url, error) from error

    def read(self, limit_bytes: int) -> bytes:
        """Return the body; raise RegistryError where it breaks off or is longer than *limit_bytes*."""
        import urllib3

        found = bytearray()
        try:
            for chunk in self.chunks():
                found += chunk
                if len(found) > limit_bytes:
                    raise RegistryError(
                        f"{printable(self.url)} answers with too much", seen=f"more than {limit_bytes} bytes"
                    )
        except (urllib3.exceptions.HTTPError, TooSlow) as error:
            raise failure(self.method, self.url, error) from error
        finally:
            self.close()
        return bytes(found)

    def abort(self) -> None:
        """Make the thread that reads the body end with an error; called from another one."""
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError, OSError):
            self._response.shutdown()

    def close(self) -> None:
        """Give the connection back where little of the body is unread, else close it."""
        import urllib3

        self._done(self)
        length = 0 if self.method == "HEAD" else self.length
        if not self._begun and length is not None and length <= _DRAIN_BYTES:
            with contextlib.suppress(urllib3.exceptions.HTTPError, OSError, TooSlow):
                for _ in self.chunks():
                    continue
        self._response.close()
