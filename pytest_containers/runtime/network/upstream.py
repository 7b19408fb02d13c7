"""DNS queries that the host's own resolvers answer.

The resolvers are those of the host's resolv.conf(5), read again when it changes. Each query gets a
socket and a number of its own, so that an answer nobody asked for is told from a true one
(RFC 5452, sections 4.3 and 4.5).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Final

from pytest_containers.runtime.network import dns
from pytest_containers.runtime.network.quota import Quota
from pytest_containers.runtime.network.reactor import READ, WRITE, Reactor, Timer

__all__ = ["Upstream", "nameservers"]

_PORT: Final = 53
_MAX_SERVERS: Final = 3  # MAXNS (resolv.conf(5))
_DEFAULT: Final = ("127.0.0.1",)
# All tries together end before the 5 s after which a stub resolver asks again (resolv.conf(5)).
_PATIENCE_S: Final = 4.5
_LEAST_TRIES: Final = 2
_DATAGRAM_BYTES: Final = 65535
_UNHELPFUL: Final = frozenset({dns.SERVER_FAILURE, dns.NOT_IMPLEMENTED, 5})  # 5: REFUSED

Reply = Callable[[bytes | None], None]


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word.partition("%")[0])
    except ValueError:
        return False
    return word.isascii()


def nameservers(text: str) -> tuple[str, ...]:
    """Return the servers of a resolv.conf; 127.0.0.1 where it names none, as the C library does.

    What is no address is passed over.
    """
    words = [line.split() for line in text.splitlines()]
    named = [pair[1] for pair in words if len(pair) >= 2 and pair[0] == "nameserver" and _is_address(pair[1])]
    return tuple(named[:_MAX_SERVERS]) or _DEFAULT


class _Inquiry:
    """One query on its way through the servers; calls back once."""

    def __init__(self, owner: Upstream, query: bytes, servers: tuple[str, ...], *, stream: bool) -> None:
        self._owner = owner
        self._reactor = owner.reactor
        self._query = query
        self._stream = stream
        self._tries = [servers[turn % len(servers)] for turn in range(max(_LEAST_TRIES, len(servers)))]
        self._try_s = _PATIENCE_S / len(self._tries)
        self._line: socket.socket | None = None
        self._timer: Timer | None = None
        self._number = 0
        self._received = b""
        self._last: bytes | None = None

    def next(self) -> None:
        """Ask the next server; report the last answer there was when none is left."""
        self._hang_up()
        while self._tries:
            server = self._tries.pop(0)
            try:
                self._ask(server)
            except OSError:
                self._hang_up()
                continue
            self._timer = self._reactor.later(self._try_s, self.next)
            return
        self._owner.done(self, self._last)

    def _hang_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._line is not None:
            self._reactor.close(self._line)
        self._line = None
        self._received = b""

    def _ask(self, server: str) -> None:
        kind = socket.SOCK_STREAM if self._stream else socket.SOCK_DGRAM
        # As bytes: a str would be encoded by a codec that is loaded from files (Lib/encodings/idna.py).
        found = socket.getaddrinfo(server.encode(), _PORT, type=kind, flags=socket.AI_NUMERICHOST)
        family, _, _, _, address = found[0]
        line = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._line = line
        self._number = int.from_bytes(os.urandom(2), "big")
        number = line.connect_ex(address)
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, os.strerror(number))
        if self._stream:
            self._reactor.watch(line, WRITE, self._write)
        else:
            line.send(dns.with_identity(self._query, self._number))
            self._reactor.watch(line, READ, self._read)

    def _write(self, _: int) -> None:
        line = self._line
        if line is None:
            return
        query = dns.with_identity(self._query, self._number)
        try:
            # Two bytes of length before each message (RFC 1035, section 4.2.2). It fits the
            # empty buffer of a new connection.
            line.send(len(query).to_bytes(2, "big") + query)
        except OSError:
            self.next()
            return
        self._reactor.watch(line, READ, self._read)

    def _read(self, _: int) -> None:
        if self._line is None:
            return
        try:
            data = self._line.recv(_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.next()
            return
        if not self._stream:
            self._judge(data)
        elif not data:
            self.next()
        else:
            self._received += data
            end = 2 + int.from_bytes(self._received[:2], "big")
            if len(self._received) >= max(end, 2 + 12):
                self._judge(self._received[2:end])

    def _judge(self, message: bytes) -> None:
        """Take the answer, ask on where it helps nobody, wait on where it is not ours."""
        if dns.identity(message) != self._number or not dns.answers(message, self._query):
            return
        self._last = dns.with_identity(message, dns.identity(self._query))
        if dns.rcode(message) in _UNHELPFUL and self._tries:
            self.next()
            return
        self._hang_up()
        self._owner.done(self, self._last)


class Upstream:
    """The host's resolvers, as the first of *paths* that is there names them.

    At most *limit* queries are on their way at a time, shared fairly among those who ask.
    """

    def __init__(
        self, reactor: Reactor, *, limit: int, paths: tuple[str, ...] = ("/etc/resolv.conf",)
    ) -> None:
        self.reactor = reactor
        self._paths = paths
        self._seen: tuple[int, int, int] | None = None
        self._servers: tuple[str, ...] = _DEFAULT
        self._quota: Quota[str] = Quota(limit)
        self._waiting: dict[_Inquiry, tuple[str, Reply]] = {}

    def _current(self) -> tuple[str, ...]:
        for path in self._paths:
            try:
                status = os.stat(path)
                seen = (status.st_mtime_ns, status.st_ino, status.st_dev)
                if seen != self._seen:
                    with open(path, encoding="utf-8", errors="replace") as file:
                        self._servers = nameservers(file.read())
                    self._seen = seen
            except OSError:
                continue
            return self._servers
        return _DEFAULT

    def forward(self, query: bytes, reply: Reply, *, asker: str, stream: bool) -> None:
        """Ask the servers in order; call *reply* with the answer, or None where there is none.

        *stream* asks by TCP. A server that is silent or cannot say hands on to the next one. Where
        *asker* has as many queries on their way as it may, the answer is None at once.
        """
        if not self._quota.take(asker):
            reply(None)
            return
        inquiry = _Inquiry(self, query, self._current(), stream=stream)
        self._waiting[inquiry] = (asker, reply)
        inquiry.next()

    def done(self, inquiry: _Inquiry, message: bytes | None) -> None:
        """Deliver the outcome of *inquiry*."""
        waiting = self._waiting.pop(inquiry, None)
        if waiting is not None:
            asker, reply = waiting
            self._quota.give_back(asker)
            reply(message)
