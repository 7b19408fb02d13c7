"""Published ports: what connects to a port of the host's loopback is carried to a container.

The listening socket is bound by whoever publishes, the test process, so no port is looked for and
bound later, and it is handed over. The container is reached over the host's own route to it. The
kernel accepts before anybody can ask inside (listen(2)), so a port that nothing listens on in the
container is one that is connected and at once reset.
"""

from __future__ import annotations

import socket
from functools import partial

from pytest_containers.runtime.network.acceptor import Acceptor
from pytest_containers.runtime.network.flows import Flows, Party
from pytest_containers.runtime.network.reactor import Reactor

__all__ = ["Ingress"]


class Ingress:
    """The published ports of a run, by the address of the container behind them."""

    def __init__(self, reactor: Reactor, flows: Flows) -> None:
        self._reactor = reactor
        self._flows = flows
        self._acceptors: dict[str, list[Acceptor]] = {}

    def open(self, listener: socket.socket, ip: str, port: int) -> None:
        """Carry every connection to *listener* to *port* of the container at *ip*."""
        party = Party(ip, published=True)

        def take(client: socket.socket, _: str) -> None:
            self._flows.begin(client, ((ip, port),), party)

        # Who connects is the test itself, which waits while there is no room and is not refused.
        acceptor = Acceptor(self._reactor, listener, take, partial(self._flows.room, party))
        self._acceptors.setdefault(ip, []).append(acceptor)

    def drop(self, ip: str) -> None:
        """Give the ports of the container at *ip* back."""
        for acceptor in self._acceptors.pop(ip, []):
            acceptor.close()
