"""The name server that containers ask: their own names here, all others by the host's resolvers."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Final

from pytest_containers.runtime.network import dns
from pytest_containers.runtime.network.names import Directory, Zone
from pytest_containers.runtime.network.reactor import READ, WRITE, Reactor, Timer
from pytest_containers.runtime.network.upstream import Upstream

__all__ = ["Resolver", "answer_locally"]

_QUERY_BYTES: Final = 65535
_QUERIES_A_TURN: Final = 32
_MAX_SESSIONS: Final = 256
_IDLE_S: Final = 20.0  # RFC 7766, section 6.2.3, "in the order of a few seconds"
_MAX_PENDING_BYTES: Final = 1 << 18


def answer_locally(zone: Zone, question: dns.Question) -> bytes | None:
    """Return the answer that needs nobody else, None for a question to hand on.

    A name of a container has addresses and nothing else: other types are answered empty, at once
    (RFC 2308, section 2.2), since a client that asks for AAAA waits for that before it connects.
    """
    if not question.is_standard:
        return dns.answer(question, dns.NOT_IMPLEMENTED)
    if zone.knows(question.name):
        wanted = question.kind in (dns.A, dns.ANY)
        found = zone.addresses(question.name) if wanted else ()
        return dns.answer(question, dns.NO_ERROR, [dns.address_record(ip) for ip in found])
    ip = dns.reverse(question.name)
    if ip is not None and ipaddress.IPv4Address(ip) in zone.subnet:
        return _answer_reverse(zone, question, ip)
    # A single label that is no container is nobody's: no server outside can know it, and a test
    # without network must not wait for one to say so.
    if zone.internal or question.labels == 1:
        return dns.answer(question, dns.NAME_ERROR)
    return None


def _answer_reverse(zone: Zone, question: dns.Question, ip: str) -> bytes:
    name = zone.name_of(ip)
    if name is None:
        return dns.answer(question, dns.NAME_ERROR)
    records = [dns.name_record(name)] if question.kind in (dns.PTR, dns.ANY) else []
    return dns.answer(question, dns.NO_ERROR, records)


class _Session:
    """A client that asks by TCP: messages with their length before them (RFC 7766)."""

    def __init__(self, resolver: Resolver, subnet: IPv4Network, line: socket.socket) -> None:
        self._resolver = resolver
        self._reactor = resolver.reactor
        self.subnet = subnet
        self._line = line
        self._received = b""
        self._pending = b""
        self._timer: Timer | None = None
        self._watch()

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._reactor.later(_IDLE_S, self.close)
        events = READ | (WRITE if self._pending else 0)
        self._reactor.watch(self._line, events, self._turn)

    def close(self) -> None:
        """Hang up."""
        if self._timer is not None:
            self._timer.cancel()
        self._reactor.close(self._line)
        self._resolver.session_ended(self)

    def _turn(self, events: int) -> None:
        try:
            if events & WRITE:
                self._pending = self._pending[self._line.send(self._pending) :]
            if events & ~WRITE and not self._read():
                self.close()
                return
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._line.fileno() >= 0:
            self._watch()

    def _read(self) -> bool:
        data = self._line.recv(_QUERY_BYTES)
        self._received += data
        while len(self._received) >= 2:
            end = 2 + int.from_bytes(self._received[:2], "big")
            if len(self._received) < end:
                break
            query, self._received = self._received[2:end], self._received[end:]
            self._resolver.ask(self.subnet, query, self._reply, stream=True)
        return bool(data)

    def _reply(self, message: bytes) -> None:
        if self._line.fileno() < 0 or not message:
            return
        self._pending += len(message).to_bytes(2, "big") + message
        if len(self._pending) > _MAX_PENDING_BYTES:
            self.close()
            return
        self._watch()


class Resolver:
    """Answers on the DNS sockets of every network.

    *refresh* is called before each answer: it takes in the names that were sent meanwhile.
    """

    def __init__(
        self, reactor: Reactor, directory: Directory, upstream: Upstream, refresh: Callable[[], None]
    ) -> None:
        self.reactor = reactor
        self._directory = directory
        self._upstream = upstream
        self._refresh = refresh
        self._sessions: set[_Session] = set()

    def open(self, subnet: IPv4Network, udp: socket.socket, tcp: socket.socket) -> None:
        """Begin to answer on the sockets of *subnet*, for whichever network has it."""
        for line in (udp, tcp):
            line.setblocking(False)
        self.reactor.watch(udp, READ, lambda _: self._datagrams(subnet, udp))
        self.reactor.watch(tcp, READ, lambda _: self._accept(subnet, tcp))

    def hang_up(self, subnet: IPv4Network) -> None:
        """End the sessions of a network that is closed."""
        for session in [one for one in self._sessions if one.subnet == subnet]:
            session.close()

    def session_ended(self, session: _Session) -> None:
        """Forget a session that has closed."""
        self._sessions.discard(session)

    def _datagrams(self, subnet: IPv4Network, udp: socket.socket) -> None:
        for _ in range(_QUERIES_A_TURN):
            try:
                query, sender = udp.recvfrom(_QUERY_BYTES)
            except OSError:
                return
            self.ask(subnet, query, _to_sender(udp, sender), stream=False)

    def _accept(self, subnet: IPv4Network, tcp: socket.socket) -> None:
        try:
            line, _ = tcp.accept()
        except OSError:
            return
        if len(self._sessions) >= _MAX_SESSIONS:
            line.close()
            return
        line.setblocking(False)
        self._sessions.add(_Session(self, subnet, line))

    def ask(self, subnet: IPv4Network, query: bytes, reply: Callable[[bytes], None], *, stream: bool) -> None:
        """Answer one query by calling *reply*, now or later; with nothing where it is no query."""
        self._refresh()
        question = dns.parse(query, stream=stream)
        if question is None:
            reply(dns.malformed(query))
            return
        failure = dns.answer(question, dns.SERVER_FAILURE, ours=False)
        zone = self._directory.at(subnet)
        local = answer_locally(zone, question) if zone is not None else failure
        if local is not None:
            reply(local)
            return
        self._upstream.forward(query, lambda message: reply(message or failure), stream=stream)


def _to_sender(udp: socket.socket, sender: tuple[str, int]) -> Callable[[bytes], None]:
    def reply(message: bytes) -> None:
        # The network may be closed by now, or the client's namespace gone: nobody is left to tell.
        with contextlib.suppress(OSError):
            if message:
                udp.sendto(message, sender)

    return reply
