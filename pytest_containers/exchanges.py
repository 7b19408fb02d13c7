"""Probes that talk to a server as a client would, from the test process (floor 3).

Nothing is needed inside the image. The address is the one a test gets, so what a probe sees is
what the test will see.
"""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass

from pytest_containers.checks import READY, Probe, Target, Verdict, in_words, not_yet
from pytest_containers.spec import Address, Port

__all__ = ["Exchange", "Http"]

_ANSWER_LIMIT_BYTES = 1 << 20


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
        try:
            status, body = self._ask(address, target.look_s())
        except (OSError, http.client.HTTPException) as error:
            return not_yet(f"{address}{self.path}: {in_words(error)}")
        if status not in self.statuses:
            return not_yet(f"{address}{self.path} answered {status}")
        if self.expect is not None and not self.expect.search(body):
            return not_yet(f"{address}{self.path} answered {body[:80]!r}")
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
        deadline = time.monotonic() + target.look_s()
        kind = socket.SOCK_DGRAM if self.port.transport == "udp" else socket.SOCK_STREAM
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            with socket.socket(family, kind) as peer:
                peer.settimeout(max(0.01, deadline - time.monotonic()))
                peer.connect(address)
                peer.sendall(self.send)
                return READY if self.expect is None else self._answer(peer, address, self.expect, deadline)
        except OSError as error:
            return not_yet(f"{address}: {in_words(error)}")

    def _answer(
        self, peer: socket.socket, address: Address, expect: re.Pattern[bytes], deadline: float
    ) -> Verdict:
        answer = bytearray()
        while len(answer) < _ANSWER_LIMIT_BYTES:
            peer.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                piece = peer.recv(65536)
            except TimeoutError:
                break
            answer += piece
            if expect.search(answer):
                return READY
            if not piece:
                break
        return not_yet(f"{address} answered {bytes(answer[:80])!r}")
