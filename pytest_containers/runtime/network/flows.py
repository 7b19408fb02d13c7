"""Connections that the gateway carries: bytes both ways between two sockets.

No more than one piece a direction is kept in memory, and less where a container has many slow
readers: a reader that is slow makes the writer wait, as on a direct connection.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pytest_containers.runtime.network.acceptor import reset
from pytest_containers.runtime.network.quota import Quota
from pytest_containers.runtime.network.reactor import READ, WRITE, Reactor

__all__ = ["Flow", "Flows", "Party"]

_PIECE_BYTES: Final = 1 << 18
_LEAST_PIECE_BYTES: Final = 1 << 12
# What all flows of one container may keep in pieces of full size; after that pieces are small.
_KEPT_BYTES: Final = 1 << 23
_ROUNDS_A_TURN: Final = 4
# A container that is killed takes its namespace along and never answers again: 30 s, not the
# quarter of an hour of tcp_retries2 (tcp(7)).
_SILENCE_MS: Final = 30_000


class Party(NamedTuple):
    """Whose flows they are: the container at *ip*, and whether it was *published*, or dialled itself."""

    ip: str
    published: bool = False


class _Half:
    """One direction of a connection: bytes from *source* that *sink* has not taken yet."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.pending = memoryview(b"")
        self.kept_bytes = 0
        self.ended = False

    @property
    def wants_read(self) -> bool:
        return not self.ended and not self.pending

    def pump(self, buffer: memoryview) -> None:
        """Carry what can be carried now; raise OSError where either end is broken."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_ROUNDS_A_TURN):
                if self.pending:
                    self.pending = self.pending[self.sink.send(self.pending) :]
                    self.kept_bytes = self.kept_bytes if self.pending else 0
                if not self.wants_read or not self._carry(buffer):
                    return

    def _carry(self, buffer: memoryview) -> bool:
        count = self.source.recv_into(buffer)
        if count == 0:
            self.ended = True
            self.sink.shutdown(socket.SHUT_WR)
            return False
        try:
            sent = self.sink.send(buffer[:count])
        except BlockingIOError:
            sent = 0
        self.pending = memoryview(bytes(buffer[sent:count]))
        self.kept_bytes = count - sent
        return count == len(buffer)


class Flow:
    """One connection through the gateway: *client* on its one side, what answers a dial on the other."""

    def __init__(self, flows: Flows, party: Party, client: socket.socket) -> None:
        self.party = party
        self.kept_bytes = 0
        self._flows = flows
        self._reactor = flows.reactor
        self._client = client
        self._addresses: list[tuple[str, int]] = []
        self._upstream: socket.socket | None = None
        self._halves: tuple[_Half, ...] = ()
        self._ends: tuple[tuple[socket.socket, _Half, _Half, Callable[[int], None]], ...] = ()

    def dial(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Connect to the first of *addresses* that answers; the client's bytes wait in the kernel meanwhile.

        Raises OSError where there is no socket to begin with; the client is then left as it was.
        """
        self._addresses = list(addresses)
        self._next()

    def _next(self) -> None:
        while True:
            host, port = self._addresses.pop(0)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            number = made.connect_ex((host, port))
            if number in (0, errno.EINPROGRESS):
                break
            made.close()
            if not self._addresses:
                raise OSError(number, os.strerror(number))
        try:
            self._reactor.watch(made, WRITE, self._connected)
        except OSError:
            made.close()
            raise
        self._upstream = made

    def _connected(self, _: int) -> None:
        try:
            upstream = self._checked()
            if upstream is not None:
                up, down = _Half(self._client, upstream), _Half(upstream, self._client)
                self._halves = (up, down)
                self._ends = (
                    (self._client, up, down, lambda events: self._turn(events, up, down)),
                    (upstream, down, up, lambda events: self._turn(events, down, up)),
                )
                self._arrange()
        except OSError:
            self.reset()

    def _checked(self) -> socket.socket | None:
        """Return the upstream socket when it is connected; None where the next address is tried."""
        upstream = self._upstream
        if upstream is None:
            return None
        number = upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number and self._addresses:
            self._reactor.close(upstream)
            self._upstream = None
            self._next()
            return None
        if number:
            raise OSError(number, os.strerror(number))
        for line in (self._client, upstream):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENCE_MS // 1000)
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS)
        return upstream

    def _arrange(self) -> None:
        """Watch what can make progress; close when both directions have ended."""
        self._flows.account(self, sum(half.kept_bytes for half in self._halves))
        if all(half.ended and not half.pending for half in self._halves):
            self._close()
            return
        for line, here, away, call in self._ends:
            events = (READ if here.wants_read else 0) | (WRITE if away.pending else 0)
            self._reactor.watch(line, events, call)

    def _turn(self, events: int, here: _Half, away: _Half) -> None:
        buffer = self._flows.piece(self.party)
        try:
            if away.pending and events & ~READ:
                away.pump(buffer)
            if here.wants_read and events & ~WRITE:
                here.pump(buffer)
            self._arrange()
        except OSError:
            self.reset()

    def _close(self) -> None:
        for line in (self._client, self._upstream):
            if line is not None:
                self._reactor.close(line)
        self._flows.ended(self)

    def reset(self) -> None:
        """End the connection at both ends, at once."""
        for line in (self._client, self._upstream):
            if line is not None:
                self._reactor.forget(line)
                reset(line)
        self._flows.ended(self)


class Flows:
    """Every connection that the gateway carries, at most *limit* of them, shared fairly among parties."""

    def __init__(self, reactor: Reactor, limit: int) -> None:
        self.reactor = reactor
        self._flows: set[Flow] = set()
        self._quota: Quota[Party] = Quota(limit)
        self._kept_bytes: Counter[Party] = Counter()
        self._buffer = memoryview(bytearray(_PIECE_BYTES))

    def room(self, party: Party) -> bool:
        """Return whether *party* may have one more."""
        return self._quota.room(party)

    def begin(self, client: socket.socket, addresses: Sequence[tuple[str, int]], party: Party) -> None:
        """Carry *client* to the first of *addresses* that answers; reset it where none does.

        One more than *party* may have is reset at once. Raises OSError where there is no socket
        for it; the client is then left as it was.
        """
        if not self._quota.take(party):
            reset(client)
            return
        flow = Flow(self, party, client)
        try:
            flow.dial(addresses)
        except OSError:
            self._quota.give_back(party)
            raise
        self._flows.add(flow)

    def piece(self, party: Party) -> memoryview:
        """Return a buffer for what is read next: small where *party* keeps much already."""
        return self._buffer if self._kept_bytes[party] < _KEPT_BYTES else self._buffer[:_LEAST_PIECE_BYTES]

    def account(self, flow: Flow, kept_bytes: int) -> None:
        """Note how much *flow* keeps in memory now."""
        self._kept_bytes[flow.party] += kept_bytes - flow.kept_bytes
        flow.kept_bytes = kept_bytes

    def ended(self, flow: Flow) -> None:
        """Forget a flow that has ended; doing so twice is allowed."""
        if flow not in self._flows:
            return
        self._flows.remove(flow)
        self.account(flow, 0)
        if not self._kept_bytes[flow.party]:
            del self._kept_bytes[flow.party]
        self._quota.give_back(flow.party)

    def drop(self, ip: str) -> None:
        """End every connection of the container at *ip*, whoever began it."""
        for flow in [flow for flow in self._flows if flow.party.ip == ip]:
            flow.reset()
