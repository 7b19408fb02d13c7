"""The name server that containers ask: their own names here, all others by the host's resolvers."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Final

from pytest_containers.runtime.network import dns
from pytest_containers.runtime.network.acceptor import Acceptor
from pytest_containers.runtime.network.names import HOST_NAMES, Directory, Zone
from pytest_containers.runtime.network.quota import Quota
from pytest_containers.runtime.network.reactor import READ, WRITE, Reactor, Timer
from pytest_containers.runtime.network.upstream import Upstream

__all__ = ["Resolver", "answer_locally"]

_QUERY_BYTES: Final = 65535
_QUERIES_A_TURN: Final = 32
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

    def __init__(self, resolver: Resolver, subnet: IPv4Network, line: socket.socket, peer: str) -> None:
        self._resolver = resolver
        self._reactor = resolver.reactor
        self.subnet = subnet
        self.peer = peer
        self._line = line
        self._received = b""
        self._pending = b""
        self._timer: Timer | None = None
        self._watch()

    def _watch(self) -> None:
        events = READ | (WRITE if self._pending else 0)
        self._reactor.watch(self._line, events, self._turn)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._reactor.later(_IDLE_S, self.close)

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
            self._go_on()
        except BlockingIOError:
            self._go_on()
        except OSError:
            self.close()

    def _go_on(self) -> None:
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
            self._resolver.ask(self.subnet, query, self._reply, asker=self.peer, stream=True)
        return bool(data)

    def _reply(self, message: bytes) -> None:
        if self._line.fileno() < 0 or not message:
            return
        self._pending += len(message).to_bytes(2, "big") + message
        if len(self._pending) > _MAX_PENDING_BYTES:
            self.close()
            return
        try:
            self._watch()
        except OSError:
            self.close()


class Resolver:
    """Answers on the DNS sockets of every network.

    *refresh* is called before each answer: it takes in the names that were sent meanwhile. *host*
    returns the host's address for the container at an address, None where it has none. At most
    *sessions* clients ask by TCP at a time, shared fairly among the containers.
    """

    def __init__(
        self,
        reactor: Reactor,
        directory: Directory,
        upstream: Upstream,
        refresh: Callable[[], None],
        *,
        host: Callable[[str], str | None],
        sessions: int,
    ) -> None:
        self.reactor = reactor
        self._directory = directory
        self._upstream = upstream
        self._refresh = refresh
        self._host = host
        self._sessions: set[_Session] = set()
        self._quota: Quota[str] = Quota(sessions)

    def open(self, subnet: IPv4Network, udp: socket.socket, tcp: socket.socket) -> None:
        """Begin to answer on the sockets of *subnet*, for whichever network has it."""
        udp.setblocking(False)
        self.reactor.watch(udp, READ, lambda _: self._datagrams(subnet, udp))
        Acceptor(self.reactor, tcp, lambda line, peer: self._take(subnet, line, peer))

    def hang_up(self, subnet: IPv4Network) -> None:
        """End the sessions of a network that is closed."""
        for session in [one for one in self._sessions if one.subnet == subnet]:
            session.close()

    def session_ended(self, session: _Session) -> None:
        """Forget a session that has closed; doing so twice is allowed."""
        if session in self._sessions:
            self._sessions.remove(session)
            self._quota.give_back(session.peer)

    def _datagrams(self, subnet: IPv4Network, udp: socket.socket) -> None:
        for _ in range(_QUERIES_A_TURN):
            try:
                query, sender = udp.recvfrom(_QUERY_BYTES)
            except OSError:
                return
            self.ask(subnet, query, _to_sender(udp, sender), asker=sender[0], stream=False)

    def _take(self, subnet: IPv4Network, line: socket.socket, peer: str) -> None:
        if not self._quota.take(peer):
            line.close()
            return
        try:
            session = _Session(self, subnet, line, peer)
        except OSError:
            self._quota.give_back(peer)
            raise
        self._sessions.add(session)

    def ask(
        self, subnet: IPv4Network, query: bytes, reply: Callable[[bytes], None], *, asker: str, stream: bool
    ) -> None:
        """Answer one query of *asker* by calling *reply*, now or later; with nothing where it is no query."""
        self._refresh()
        question = dns.parse(query, stream=stream)
        if question is None:
            reply(dns.malformed(query))
            return
        failure = dns.answer(question, dns.SERVER_FAILURE, ours=False)
        zone = self._directory.at(subnet)
        if zone is None:
            reply(failure)
            return
        local = self._answer_host(zone, question, asker) or answer_locally(zone, question)
        if local is not None:
            reply(local)
            return
        self._upstream.forward(query, lambda message: reply(message or failure), asker=asker, stream=stream)

    def _answer_host(self, zone: Zone, question: dns.Question, asker: str) -> bytes | None:
        """Return the answer for a name of the host itself, which exists for who may reach it alone."""
        if question.name not in HOST_NAMES or not question.is_standard or zone.knows(question.name):
            return None
        ip = self._host(asker)
        if ip is None:
            return dns.answer(question, dns.NAME_ERROR)
        wanted = question.kind in (dns.A, dns.ANY)
        return dns.answer(question, dns.NO_ERROR, [dns.address_record(ip)] if wanted else ())


def _to_sender(udp: socket.socket, sender: tuple[str, int]) -> Callable[[bytes], None]:
    def reply(message: bytes) -> None:
        # The network may be closed by now, or the client's namespace gone: nobody is left to tell.
        with contextlib.suppress(OSError):
            if message:
                udp.sendto(message, sender)

    return reply
