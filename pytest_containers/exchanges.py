"""Probes that talk to a server as a client would, from the test process (floor 3).

Nothing is needed inside the image. The address is the one a test gets, so what a probe sees is
what the test will see.
"""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass

from pytest_containers.checks import READY, Probe, Target, Verdict, in_words
from pytest_containers.spec import Address, Port

__all__ = ["Exchange", "Http"]

_ANSWER_LIMIT_BYTES = 1 << 20
_QUOTED_BYTES = 80
# How long after a piece of an answer another one is awaited.
_PIECE_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Http(Probe):
    """Holds when a request from the test process is answered with one of *statuses*."""

    port: Port
    path: str = "/"
    statuses: frozenset[int] = frozenset({200})
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    expect: re.Pattern[bytes] | None = None
    tls: bool = False

    def describe(self) -> str:
        """Return what is waited for."""
        wanted = "/".join(map(str, sorted(self.statuses)))
        return f"{self.method} {self.path} on {self.port} to answer {wanted}"

    def check(self, target: Target) -> Verdict:
        """Make one request."""
        import http.client

        address = target.handle.address(self.port)
        limit_s = target.look_s()
        try:
            status, body = self._ask(address, limit_s)
        except TimeoutError:
            return target.unanswered(self, f"{address}{self.path}: {_silent(target, limit_s)}")
        except (OSError, http.client.HTTPException) as error:
            return target.unanswered(self, f"{address}{self.path}: {in_words(error)}")
        if status not in self.statuses:
            return target.answered(self, f"{address}{self.path} answered {status}{_quoted(body)}")
        if self.expect is not None and not self.expect.search(body):
            return target.answered(self, f"{address}{self.path} answered {body[:_QUOTED_BYTES]!r}")
        return READY

    def _ask(self, address: Address, timeout_s: float) -> tuple[int, bytes]:
        import http.client
        import ssl

        if self.tls:
            # A service under test shows a certificate of its own making; what is asked is whether it answers.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                address.host, address.port, timeout=timeout_s, context=context
            )
        else:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
        try:
            connection.request(self.method, self.path, headers=dict(self.headers))
            answer = connection.getresponse()
            return answer.status, answer.read(_ANSWER_LIMIT_BYTES)
        finally:
            connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange(Probe):
    """Holds when a plain socket connects, and the answer to *send* matches *expect*."""

    port: Port
    send: bytes = b""
    expect: re.Pattern[bytes] | None = None

    def describe(self) -> str:
        """Return what is waited for."""
        answer = "a connection" if self.expect is None else f"an answer like {self.expect.pattern!r}"
        return f"{answer} on {self.port}"

    def check(self, target: Target) -> Verdict:
        """Connect, send and read until the answer matches, ends or stays away."""
        address = target.handle.address(self.port)
        limit_s = target.look_s()
        deadline = time.monotonic() + limit_s
        kind = socket.SOCK_DGRAM if self.port.transport == "udp" else socket.SOCK_STREAM
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            with socket.socket(family, kind) as peer:
                peer.settimeout(max(0.01, deadline - time.monotonic()))
                peer.connect(address)
                peer.sendall(self.send)
                answer = b"" if self.expect is None else _answer(peer, self.expect, deadline)
        except TimeoutError:
            return target.unanswered(self, f"{address}: {_silent(target, limit_s)}")
        except OSError as error:
            return target.unanswered(self, f"{address}: {in_words(error)}")
        if self.expect is None or self.expect.search(answer):
            return READY
        return target.answered(self, f"{address} answered {answer[:_QUOTED_BYTES]!r}")


def _answer(peer: socket.socket, expect: re.Pattern[bytes], deadline: float) -> bytes:
    """Return what *peer* sends: until it matches, ends, or nothing follows a piece of it for a moment.

    A server keeps the connection open after an answer that is not the one, so its end is not awaited.
    Raises TimeoutError where nothing came.
    """
    answer = bytearray()
    while len(answer) < _ANSWER_LIMIT_BYTES:
        left_s = max(0.01, deadline - time.monotonic())
        peer.settimeout(min(_PIECE_S, left_s) if answer else left_s)
        try:
            piece = peer.recv(65536)
        except TimeoutError:
            if not answer:
                raise
            break
        answer += piece
        if not piece or expect.search(answer):
            break
    return bytes(answer)


def _silent(target: Target, limit_s: float) -> str:
    """Return the reason of a look in which nobody answered within *limit_s* seconds."""
    if time.monotonic() >= target.deadline:
        return f"no answer when the deadline cut it off after {limit_s:.2f} s"
    return f"no answer within {limit_s:.1f} s"


def _quoted(body: bytes) -> str:
    return f": {body[:_QUOTED_BYTES]!r}" if body else ""
