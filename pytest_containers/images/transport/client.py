"""Requests with retry and redirects, and downloads that go on where they broke.

One `Transport` serves one pull or push and may be used by several threads.
"""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Self

from pytest_containers.errors import DigestMismatch, RegistryError
from pytest_containers.images.origin import Origin, check_hop, printable, resolved
from pytest_containers.images.transport.connections import Connections, failure, passing
from pytest_containers.images.transport.pace import TooSlow
from pytest_containers.images.transport.reply import Reply
from pytest_containers.images.transport.settings import Settings
from pytest_containers.images.transport.sink import Sink

if TYPE_CHECKING:
    import tenacity

__all__ = ["Body", "Transport"]

# A body that is sent again on a retry: bytes, or what makes its pieces anew.
Body = bytes | Callable[[], Iterable[bytes]]

# distribution-spec leaves retries to the client; these are go-containerregistry's (pkg/v1/remote,
# options.go); 499 and 520 to 524 come from proxies in front of registries: those of Cloudflare say
# that they cannot reach their origin, or not in time.
_RETRIED = frozenset({408, 429, 499, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 10  # as net/http of Go, with which registries are tried
# A download that goes on, if only a little each time, is given up after this many connections.
_MOST_RESUMES = 100


class Transport:
    """Requests to registries under one `Settings`; a context manager that closes connections."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._connections = Connections(settings)
        self._lock = threading.Lock()
        self._open: set[Reply] = set()
        self._cancelled = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self._connections.close()

    def cancel(self) -> None:
        """Make every request of every thread end soon, with RegistryError; there is no way back."""
        self._cancelled.set()
        with self._lock:
            replies = tuple(self._open)
        for reply in replies:
            reply.abort()

    @property
    def cancelled(self) -> threading.Event:
        """Set by `cancel`: what waits elsewhere on behalf of a transfer ends with it."""
        return self._cancelled

    def pause(self, attempt: int) -> None:
        """Wait before try number *attempt*, counted from 0: twice as long each, not at all before 0."""
        if attempt:
            self._sleep(min(self.settings.backoff_s * 2 ** (attempt - 1), self.settings.wait_limit_s))

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        attempts: int = 0,
    ) -> Reply:
        """Make a request and return the answer, whatever its status; the caller closes it.

        GET and HEAD follow redirects; Authorization stays behind when the origin changes.
        *attempts* of 0 means the settings' number. Raises RegistryError where no answer comes.
        """
        import tenacity
        from urllib3.exceptions import HTTPError

        tries = 1

        def spent(state: tenacity.RetryCallState) -> bool:
            nonlocal tries
            most, tries = attempts or self.settings.attempts, state.attempt_number
            return state.attempt_number >= most or (_asked(state) or 0.0) > self.settings.wait_limit_s

        retrying = tenacity.Retrying(
            stop=spent,
            retry=tenacity.retry_any(
                tenacity.retry_if_exception(passing),
                tenacity.retry_if_result(lambda reply: reply.status in _RETRIED),
            ),
            before_sleep=_discard,
            wait=self._pause,
            sleep=self._sleep,
            retry_error_callback=_last,
        )
        try:
            reply = retrying(self._hop, method, url, headers or {}, body)
        except HTTPError as error:
            raise failure(method, url, error, tries) from error
        reply.tries = tries
        return reply

    def whole(self, open_one: Callable[[], Reply], limit_bytes: int) -> tuple[Reply, bytes]:
        """Return a reply, closed, and its body; *open_one* is called again where a body breaks off.

        Raises what `Reply.read` and *open_one* do.
        """
        attempts = self.settings.attempts
        for attempt in range(attempts - 1):
            self.pause(attempt)
            reply = open_one()
            try:
                return reply, reply.read(limit_bytes)
            except RegistryError as error:
                if error.__cause__ is None or not passing(error.__cause__):
                    raise
        self.pause(attempts - 1)
        reply = open_one()
        return reply, reply.read(limit_bytes)

    def download(self, open_at: Callable[[int], Reply], sink: Sink, size: int, what: str) -> None:
        """Fill *sink* up to *size* bytes; *open_at* gives a reply of status 200, 206 or 416.

        A body that breaks off is continued by another request from where it broke. Raises
        DigestMismatch where the registry has another number of bytes, RegistryError when the
        attempts are used up without progress, or with too little of it. *what* names it in messages.
        """
        import tenacity
        from urllib3.exceptions import HTTPError

        best, idle, tries = sink.offset, 0, 1

        def stalled(state: tenacity.RetryCallState) -> bool:
            nonlocal best, idle, tries
            tries = state.attempt_number
            # What trickles goes on a little each time, and would do so for hours.
            slow = state.outcome is not None and isinstance(state.outcome.exception(), TooSlow)
            idle = 0 if sink.offset > best and not slow else idle + 1
            best = max(best, sink.offset)
            return idle >= self.settings.attempts or state.attempt_number >= _MOST_RESUMES

        def once() -> bool:
            if sink.offset == size:  # it broke off behind the last byte
                return False
            with open_at(sink.offset) as reply:
                _take(reply, sink, size, what)
            return sink.offset < size

        retrying = tenacity.Retrying(
            stop=stalled,
            retry=tenacity.retry_any(tenacity.retry_if_exception(passing), tenacity.retry_if_result(bool)),
            wait=lambda _: min(self.settings.backoff_s * 2**idle, self.settings.wait_limit_s),
            sleep=self._sleep,
            retry_error_callback=_last,
        )
        try:
            short = sink.offset < size and retrying(once)
        except (HTTPError, TooSlow) as error:
            raise failure("GET", what, error, tries) from error
        if short:
            seen = f"{sink.offset} of {size} bytes, after {tries} tries"
            raise RegistryError(f"{what} ended early", seen=seen, mend="try again")

    def _hop(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Reply:
        """Make one try, through its redirects."""
        visited = [url]
        for _ in range(_MOST_REDIRECTS + 1):
            reply = self._request(method, url, headers, body)
            location = reply.header("Location")
            if reply.status not in _REDIRECTS or method not in ("GET", "HEAD") or not location:
                return reply
            reply.close()
            here, url = Origin.of(url), resolved(url, location)
            visited.append(url)
            target = Origin.of(url)
            check_hop(here, target, self.settings.insecure)
            if target != here:
                headers = {name: value for name, value in headers.items() if name != "Authorization"}
        circle = len(set(visited)) < len(visited)
        raise RegistryError(
            f"{printable(url)} leads in a circle" if circle else f"{printable(url)} leads on and on",
            seen=f"{_MOST_REDIRECTS} redirects",
        )

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Reply:
        if self._cancelled.is_set():
            raise RegistryError(f"{method} {printable(url)} was cancelled")
        response = self._connections.pool(url).request(
            method,
            url,
            # A layer must arrive as its digest names it: no Content-Encoding on the way.
            headers={"User-Agent": "pytest-containers", "Accept-Encoding": "identity", **headers},
            body=body() if callable(body) else body,
            preload_content=False,
            decode_content=False,
            redirect=False,
            retries=False,
        )
        reply = Reply(response, url, method, self.settings, self._forget)
        with self._lock:
            self._open.add(reply)
        return reply

    def _forget(self, reply: Reply) -> None:
        with self._lock:
            self._open.discard(reply)

    def _sleep(self, seconds: float) -> None:
        self._cancelled.wait(seconds)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """Return the seconds until the next try: the registry's wish, else twice the last pause."""
        asked = _asked(state)
        return asked if asked is not None else self.settings.backoff_s * 2 ** (state.attempt_number - 1)


def _take(reply: Reply, sink: Sink, size: int, what: str) -> None:
    """Write one reply's body to the sink, checked against the size that is due."""
    start = sink.offset
    if reply.status == 416 or (reply.status == 206 and not _continues(reply, start)):
        # The registry's idea of the blob is not that of what is here: begin again, without a Range.
        if not start:
            raise RegistryError(
                f"{what} cannot be read", seen=f"status {reply.status}, though no Range was asked for"
            )
        sink.restart()
        return
    if reply.status == 200 and start:
        sink.restart()
        start = 0
    # A server may send less of a range than was asked for (RFC 9110, 15.3.7): the rest is asked for again.
    less = reply.status == 206 and reply.length is not None and start + reply.length < size
    if reply.length is not None and start + reply.length != size and not less:
        raise _wrong_size(sink, what, start + reply.length, size)
    for chunk in reply.chunks():
        if sink.offset + len(chunk) > size:
            raise _wrong_size(sink, what, sink.offset + len(chunk), size)
        sink.write(chunk)
    # A chunked body that ended as it should is whole (RFC 9112, 7.1); other ends may be a cut.
    if sink.offset != size and not less and "chunked" in reply.header("Transfer-Encoding").lower():
        raise _wrong_size(sink, what, sink.offset, size)


def _continues(reply: Reply, start: int) -> bool:
    return bool(start) and reply.header("Content-Range").replace("=", " ").startswith(f"bytes {start}-")


def _wrong_size(sink: Sink, what: str, found: int, size: int) -> DigestMismatch:
    sink.restart()
    return DigestMismatch(
        f"{what} is of the wrong size",
        seen=f"{found} bytes or more; the manifest says {size}",
        mend="the registry is damaged, or a proxy changes what it sends; nothing was kept",
    )


def _asked(state: tenacity.RetryCallState) -> float | None:
    """Return the seconds of the last reply's Retry-After, a number or a date (RFC 9110, 10.2.3)."""
    reply = _reply(state)
    text = reply.header("Retry-After").strip() if reply is not None else ""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _reply(state: tenacity.RetryCallState) -> Reply | None:
    if state.outcome is None or state.outcome.failed:
        return None
    result: object = state.outcome.result()
    return result if isinstance(result, Reply) else None


def _discard(state: tenacity.RetryCallState) -> None:
    if (reply := _reply(state)) is not None:
        reply.close()


def _last(state: tenacity.RetryCallState) -> object:
    """Return what the last try returned, or raise what it raised."""
    return state.outcome.result() if state.outcome is not None else None
