"""The gateway: the one process of a run that lives in the host's network namespace.

It is forked from the supervisor before that leaves the host's namespace, gets every socket it
serves over its control socket, and ends with it. Containers reach the outside through it alone:
TCP by `egress`, names by `resolver`. It needs no privilege and changes nothing on the host.
"""

from __future__ import annotations

import resource
import socket
from ipaddress import IPv4Network

from pytest_containers.runtime.network.egress import Egress
from pytest_containers.runtime.network.ingress import Ingress
from pytest_containers.runtime.network.names import Directory, Message, Zone, receive
from pytest_containers.runtime.network.reactor import READ, Reactor
from pytest_containers.runtime.network.resolver import Resolver
from pytest_containers.runtime.network.upstream import Upstream

__all__ = ["serve"]


def serve(control: socket.socket) -> None:
    """Serve until the other end of *control* is closed; runs in a process of its own.

    Raises the soft limit of open files to the hard one: each connection needs two.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    reactor = Reactor()
    gateway = _Gateway(reactor, control)
    reactor.watch(control, READ, lambda _: gateway.take_in())
    try:
        reactor.run()
    finally:
        reactor.close_all()


class _Gateway:
    """Carries out what the supervisor says."""

    def __init__(self, reactor: Reactor, control: socket.socket) -> None:
        self._reactor = reactor
        self._control = control
        self._directory = Directory()
        self._resolver = Resolver(reactor, self._directory, Upstream(reactor), self.take_in)
        self._egress: Egress | None = None
        self._ingress = Ingress(reactor)

    def take_in(self) -> None:
        """Read every message that waits."""
        while True:
            try:
                message = receive(self._control)
            except BlockingIOError:
                return
            except ConnectionError:
                message = None
            if message is None:
                self._reactor.stop()
                return
            self._obey(message)

    def _obey(self, message: Message) -> None:
        words = message.words
        match message.verb:
            case "egress":
                self._egress = Egress(self._reactor, message.sockets[0], IPv4Network(words["subnet"]))
            case "open":
                zone = Zone(words["network"], IPv4Network(words["subnet"]), internal=bool(words["internal"]))
                self._directory.open(zone)
                if message.sockets:
                    self._resolver.open(zone.subnet, *message.sockets)
            case "close":
                self._close(words["network"])
            case "add":
                self._directory.add(message.records)
            case "share":
                self._directory.share(words["network"])
            case "publish":
                self._ingress.open(message.sockets[0], words["ip"], int(words["port"]))
            case "forget":
                self._forget(words["network"], words["ip"])

    def _close(self, network: str) -> None:
        if zone := self._directory.zone(network):
            self._directory.close(network)
            self._resolver.hang_up(zone.subnet)

    def _forget(self, network: str, ip: str) -> None:
        if zone := self._directory.zone(network):
            zone.forget(ip)
        self._ingress.drop(ip)
        if self._egress is not None:
            self._egress.drop(ip)
