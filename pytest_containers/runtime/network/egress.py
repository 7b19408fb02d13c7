"""TCP that leaves the run: taken from the switch's redirection, dialled again from the host.

A redirected connection still knows where it was meant to go (SO_ORIGINAL_DST); the same address is
dialled from the host's network namespace, and bytes are carried both ways, with no more in memory
than one piece a direction: a reader that is slow makes the writer wait, as on a direct connection.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from pytest_containers.runtime.network.reactor import READ, WRITE, Reactor

__all__ = ["Egress", "Flow", "may_leave"]

_SO_ORIGINAL_DST: Final = 80  # linux/netfilter_ipv4.h
_PIECE_BYTES: Final = 1 << 18
_ACCEPTS_A_TURN: Final = 64
_ROUNDS_A_TURN: Final = 4
_SPARE_DESCRIPTORS: Final = 256
_LEAST_FLOWS: Final = 64
_RETRY_S: Final = 0.1
# A container that is killed takes its namespace along and never answers again: 30 s, not the
# quarter of an hour of tcp_retries2 (tcp(7)).
_SILENCE_MS: Final = 30_000

# What is meant for the machine itself, or describes it to whoever asks.
_REFUSED: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # "this host" (RFC 1122, section 3.2.1.3)
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; 169.254.169.254 gives out a cloud machine's credentials
        "100.100.100.200/32",  # the same at Alibaba Cloud
        "168.63.129.16/32",  # the same at Azure (WireServer)
        "192.0.0.192/32",  # the same at Oracle Cloud, first generation
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved, and the broadcast address (RFC 1112, section 4)
    )
)


def may_leave(ip: IPv4Address, run: IPv4Network) -> bool:
    """Return whether a container may connect to *ip*, seen from the host of *run*."""
    return ip not in run and not any(ip in network for network in _REFUSED)


def _original(client: socket.socket) -> tuple[str, int]:
    """Return where a redirected connection was meant to go: struct sockaddr_in (ip(7))."""
    name = client.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, 16)
    port, packed = struct.unpack_from(">2xH4s", name)
    return socket.inet_ntoa(packed), port


def _reset(line: socket.socket) -> None:
    """Close *line* so that its peer gets RST, not a polite end (socket(7), SO_LINGER)."""
    with contextlib.suppress(OSError):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()


class _Half:
    """One direction of a connection: bytes from *source* that *sink* has not taken yet."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.pending = memoryview(b"")
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
        return count == len(buffer)


class Flow:
    """One connection through the gateway: *client* on its one side, what `dial` reaches on the other."""

    def __init__(
        self, reactor: Reactor, client: socket.socket, buffer: memoryview, gone: Callable[[Flow], None]
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._buffer = buffer
        self._gone = gone
        self._upstream = socket.socket(
            socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        self._up = _Half(client, self._upstream)
        self._down = _Half(self._upstream, client)

    def dial(self, address: tuple[str, int]) -> None:
        """Connect upstream; the client's bytes wait in the kernel until that is done."""
        number = self._upstream.connect_ex(address)
        if number not in (0, errno.EINPROGRESS):
            self.reset()
            return
        self._reactor.watch(self._upstream, WRITE, self._connected)

    def _connected(self, _: int) -> None:
        try:
            self._check()
        except OSError:
            self.reset()
            return
        self._arrange()

    def _check(self) -> None:
        number = self._upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        for line in (self._client, self._upstream):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENCE_MS // 1000)
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS)

    def _arrange(self) -> None:
        """Watch what can make progress; close when both directions have ended."""
        if self._up.ended and self._down.ended:
            self._close()
            return
        for line, here, away, call in (
            (self._client, self._up, self._down, self._on_client),
            (self._upstream, self._down, self._up, self._on_upstream),
        ):
            events = (READ if here.wants_read else 0) | (WRITE if away.pending else 0)
            self._reactor.watch(line, events, call)

    def _on_client(self, events: int) -> None:
        self._turn(events, self._up, self._down)

    def _on_upstream(self, events: int) -> None:
        self._turn(events, self._down, self._up)

    def _turn(self, events: int, here: _Half, away: _Half) -> None:
        try:
            if away.pending and events & ~READ:
                away.pump(self._buffer)
            if here.wants_read and events & ~WRITE:
                here.pump(self._buffer)
        except OSError:
            self.reset()
            return
        self._arrange()

    def _close(self) -> None:
        self._reactor.close(self._client)
        self._reactor.close(self._upstream)
        self._gone(self)

    def reset(self) -> None:
        """End the connection at both ends, at once."""
        for line in (self._client, self._upstream):
            self._reactor.forget(line)
            _reset(line)
        self._gone(self)


class Egress:
    """Every connection to the outside, and the listener they come from."""

    def __init__(self, reactor: Reactor, listener: socket.socket, run: IPv4Network) -> None:
        self._reactor = reactor
        self._listener = listener
        self._run = run
        self._buffer = memoryview(bytearray(_PIECE_BYTES))
        self._flows: dict[Flow, str] = {}
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._limit = max(_LEAST_FLOWS, (files - _SPARE_DESCRIPTORS) // 2)
        listener.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        self._reactor.watch(self._listener, READ, self._accept)

    def _accept(self, _: int) -> None:
        for client, ip in self._waiting():
            try:
                host, port = _original(client)
                if not may_leave(ipaddress.IPv4Address(host), self._run):
                    _reset(client)
                    continue
                flow = Flow(self._reactor, client, self._buffer, self._gone)
            except OSError:
                _reset(client)
                continue
            self._flows[flow] = ip
            flow.dial((host, port))

    def _waiting(self) -> Iterator[tuple[socket.socket, str]]:
        for _ in range(_ACCEPTS_A_TURN):
            if len(self._flows) >= self._limit:
                self._pause()
                return
            try:
                client, (ip, _port) = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # ECONNABORTED and its kin concern one connection (accept(2), "Error handling").
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._pause()
                    return
                continue
            client.setblocking(False)
            yield client, ip

    def _pause(self) -> None:
        """Leave connections waiting in the kernel while no descriptor is free for them."""
        self._reactor.forget(self._listener)
        self._reactor.later(_RETRY_S, self._listen)

    def _gone(self, flow: Flow) -> None:
        self._flows.pop(flow, None)

    def drop(self, ip: str) -> None:
        """End every connection of the container at *ip*."""
        for flow in [flow for flow, owner in self._flows.items() if owner == ip]:
            flow.reset()
