"""TCP that leaves the run: taken from the switch's redirection, dialled again from the host.

A redirected connection still knows where it was meant to go (SO_ORIGINAL_DST); the same address is
dialled from the host's network namespace (`flows`).
"""

from __future__ import annotations

import re
import socket
import struct
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from pytest_containers.errors import EngineError
from pytest_containers.runtime.network import links, uplink
from pytest_containers.runtime.network.acceptor import Acceptor, reset
from pytest_containers.runtime.network.flows import Flows, Party
from pytest_containers.runtime.network.netlink import Channel
from pytest_containers.runtime.network.reactor import Reactor

__all__ = ["Egress", "Routes", "may_leave"]

_SO_ORIGINAL_DST: Final = 80  # linux/netfilter_ipv4.h
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


_LINK_OF_A_RUN: Final = re.compile(rf"{uplink.PREFIX}[0-9a-f]{{8}}")


class Routes:
    """What the routes of the namespace that it is made in lead to."""

    def __init__(self) -> None:
        self._channel = Channel()

    def close(self) -> None:
        """Close the socket to the kernel."""
        self._channel.close()

    def lead_to_a_run(self, ip: IPv4Address) -> bool:
        """Return whether *ip* is reached by the uplink of a run, ours or anybody's.

        Each run trusts what comes by its uplink, because it comes from the host; a container that is
        dialled for another run's container would pass for it. So it is stopped on the way there.
        """
        try:
            index = links.link_of_route(self._channel.ask(links.route_to(ip)))
            return bool(_LINK_OF_A_RUN.fullmatch(socket.if_indextoname(index)))
        except (EngineError, OSError):
            return False  # no route, or no such link any more: dialling will say so


class Egress:
    """Connections to the outside, from the listener that they are redirected to."""

    def __init__(
        self, reactor: Reactor, listener: socket.socket, run: IPv4Network, flows: Flows, routes: Routes
    ) -> None:
        self._run = run
        self._flows = flows
        self._routes = routes
        self._acceptor = Acceptor(reactor, listener, self._take)

    def _take(self, client: socket.socket, ip: str) -> None:
        host, port = _original(client)
        wanted = IPv4Address(host)
        if not may_leave(wanted, self._run) or self._routes.lead_to_a_run(wanted):
            reset(client)
            return
        self._flows.begin(client, ((host, port),), Party(ip))

    def close(self) -> None:
        """Close the listener; connections live on."""
        self._acceptor.close()
