"""Ports of the host that a container may reach: what ``host_access=`` opens.

The switch has an address of its own for the host, and a socket there for each port that somebody
may reach. What comes to it is carried to the same port of the host's loopback, where a test's own
servers listen. The switch's rules let in whom they should; who asks is looked up here once more.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from pytest_containers.runtime.network.acceptor import Acceptor, reset
from pytest_containers.runtime.network.flows import Flows, Party
from pytest_containers.runtime.network.quota import Quota
from pytest_containers.runtime.network.reactor import READ, Reactor, Timer

__all__ = ["Door", "HostAccess"]

_LOOPBACK: Final = ("127.0.0.1", "::1")
_DATAGRAM_BYTES: Final = 65535
_DATAGRAMS_A_TURN: Final = 32
_IDLE_S: Final = 60.0  # RFC 4787, REQ-5, asks a translator for two minutes; a test's server is nearer


class Door(NamedTuple):
    """A port of the host: *transport* is ``tcp`` or ``udp``."""

    transport: str
    port: int


class _Association:
    """The datagrams of one client's socket, and the socket of ours that stands for it on the host."""

    def __init__(self, reactor: Reactor, port: int, deliver: Callable[[bytes], None]) -> None:
        self._reactor = reactor
        self._port = port
        self._deliver = deliver
        self._addresses = list(_LOOPBACK)
        self._last = b""
        self._line = self._connect()
        self.used = time.monotonic()
        self.refused = False

    def _connect(self) -> socket.socket:
        host = self._addresses.pop(0)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        line = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            line.connect((host, self._port))
            self._reactor.watch(line, READ, self._read)
        except OSError:
            line.close()
            raise
        return line

    def send(self, content: bytes) -> None:
        """Send a client's datagram on; one that cannot be sent is lost, as datagrams are."""
        self.used = time.monotonic()
        self._last = content
        try:
            self._line.send(content)
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        """Turn to the next address where nobody listens at this one (ECONNREFUSED, udp(7))."""
        if error.errno != errno.ECONNREFUSED:
            return
        if not self._addresses:
            self.refused = True
            return
        with contextlib.suppress(OSError):
            line = self._connect()
            self._reactor.close(self._line)
            self._line = line
            self._line.send(self._last)

    def _read(self, _: int) -> None:
        for _ in range(_DATAGRAMS_A_TURN):
            try:
                content = self._line.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error)
                return
            self.used = time.monotonic()
            self._addresses.clear()  # somebody answers here
            self._deliver(content)

    def close(self) -> None:
        """Close the socket."""
        self._reactor.close(self._line)


class _Relay:
    """The datagrams that come to one port."""

    def __init__(
        self,
        reactor: Reactor,
        line: socket.socket,
        port: int,
        admits: Callable[[str], bool],
        quota: Quota[str],
    ) -> None:
        self._reactor = reactor
        self._line = line
        self._port = port
        self._admits = admits
        self._quota = quota
        self._associations: dict[tuple[str, int], _Association] = {}
        self._timer: Timer | None = None
        line.setblocking(False)
        reactor.watch(line, READ, self._read)

    def _read(self, _: int) -> None:
        for _ in range(_DATAGRAMS_A_TURN):
            try:
                content, sender = self._line.recvfrom(_DATAGRAM_BYTES)
            except OSError:
                return
            if self._admits(sender[0]):
                self._forward(content, sender)

    def _forward(self, content: bytes, sender: tuple[str, int]) -> None:
        association = self._associations.get(sender)
        if association is not None and association.refused:  # its server may be there by now, at any address
            self._end([sender])
            association = None
        if association is None:
            if not self._quota.take(sender[0]):
                return
            try:
                association = _Association(self._reactor, self._port, self._to(sender))
            except OSError:
                self._quota.give_back(sender[0])
                return
            self._associations[sender] = association
            if self._timer is None:
                self._timer = self._reactor.later(_IDLE_S, self._sweep)
        association.send(content)

    def _to(self, sender: tuple[str, int]) -> Callable[[bytes], None]:
        def deliver(content: bytes) -> None:
            with contextlib.suppress(OSError):
                self._line.sendto(content, sender)

        return deliver

    def _sweep(self) -> None:
        limit = time.monotonic() - _IDLE_S
        self._end([sender for sender, one in self._associations.items() if one.used <= limit])
        self._timer = self._reactor.later(_IDLE_S, self._sweep) if self._associations else None

    def _end(self, senders: list[tuple[str, int]]) -> None:
        for sender in senders:
            self._associations.pop(sender).close()
            self._quota.give_back(sender[0])

    def drop(self, ip: str) -> None:
        """Forget the sockets of *ip*."""
        self._end([sender for sender in self._associations if sender[0] == ip])

    def close(self) -> None:
        """Close every socket."""
        if self._timer is not None:
            self._timer.cancel()
        self._end(list(self._associations))
        self._reactor.close(self._line)


class HostAccess:
    """Who may reach which port of the host; *limit* is the number of UDP clients at a time."""

    def __init__(self, reactor: Reactor, flows: Flows, limit: int) -> None:
        self._reactor = reactor
        self._flows = flows
        self._quota: Quota[str] = Quota(limit)
        self._granted: dict[str, set[Door]] = {}
        self._open: dict[Door, Acceptor | _Relay] = {}

    def admits(self, ip: str) -> bool:
        """Return whether the container at *ip* may reach a port of the host."""
        return ip in self._granted

    def grant(self, ip: str, door: Door, line: socket.socket | None) -> None:
        """Let the container at *ip* through *door*; *line* is its socket in the switch, if it is new."""
        self._granted.setdefault(ip, set()).add(door)
        if line is not None:
            before = self._open.pop(door, None)
            if before is not None:
                before.close()
            self._open[door] = self._serve(door, line)

    def _serve(self, door: Door, line: socket.socket) -> Acceptor | _Relay:
        def admits(ip: str) -> bool:
            return door in self._granted.get(ip, ())

        def take(client: socket.socket, ip: str) -> None:
            if admits(ip):
                self._flows.begin(client, [(host, door.port) for host in _LOOPBACK], Party(ip))
            else:
                reset(client)

        if door.transport == "tcp":
            return Acceptor(self._reactor, line, take)
        return _Relay(self._reactor, line, door.port, admits, self._quota)

    def revoke(self, ip: str) -> None:
        """Close every door for *ip*, and those that nobody else may use."""
        for door in self._granted.pop(ip, ()):
            served = self._open.get(door)  # its socket may have been lost on the way (MSG_CTRUNC)
            if isinstance(served, _Relay):
                served.drop(ip)
            if served is not None and not any(door in doors for doors in self._granted.values()):
                del self._open[door]
                served.close()
