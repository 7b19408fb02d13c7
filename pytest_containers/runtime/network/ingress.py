"""Published ports: what connects to a port of the host's loopback is carried to a container.

The listening socket is bound by whoever publishes, the test process, so no port is looked for and
bound later, and it is handed over. The container is reached over the host's own route to it.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from pytest_containers.runtime.network.egress import Flow
from pytest_containers.runtime.network.reactor import READ, Reactor

__all__ = ["Ingress"]

_PIECE_BYTES: Final = 1 << 18
_ACCEPTS_A_TURN: Final = 64


class Ingress:
    """The published ports of a run, by the address of the container behind them."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._buffer = memoryview(bytearray(_PIECE_BYTES))
        self._listeners: dict[str, list[socket.socket]] = {}
        self._flows: dict[Flow, str] = {}

    def open(self, listener: socket.socket, ip: str, port: int) -> None:
        """Carry every connection to *listener* to *port* of the container at *ip*."""
        listener.setblocking(False)
        self._listeners.setdefault(ip, []).append(listener)
        self._reactor.watch(listener, READ, lambda _: self._accept(listener, ip, port))

    def _accept(self, listener: socket.socket, ip: str, port: int) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                client, _address = listener.accept()
            except OSError:  # none waits, or it gave up; out of descriptors: the next turn (accept(2))
                return
            client.setblocking(False)
            flow = Flow(self._reactor, client, self._buffer, self._gone)
            self._flows[flow] = ip
            flow.dial((ip, port))

    def _gone(self, flow: Flow) -> None:
        self._flows.pop(flow, None)

    def drop(self, ip: str) -> None:
        """Give the ports of the container at *ip* back and end its connections."""
        for listener in self._listeners.pop(ip, []):
            with contextlib.suppress(OSError):
                self._reactor.close(listener)
        for flow in [flow for flow, owner in self._flows.items() if owner == ip]:
            flow.reset()
