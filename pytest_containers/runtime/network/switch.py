"""The switch: the network namespace where a run's bridges are, and everything that is told to it.

It is used by one process, which has left the host's network namespace for an empty one before.
Nothing is undone at the end: links, addresses, rules and routes go with the namespace.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final, Self

from pytest_containers.errors import EngineError
from pytest_containers.runtime.network import firewall, links, sysctl, uplink, veth
from pytest_containers.runtime.network.addresses import Endpoint, Pool, Segment, choose_subnet, host_address
from pytest_containers.runtime.network.names import Line, Record
from pytest_containers.runtime.network.netlink import Channel, errno_of
from pytest_containers.runtime.network.uplink import Host
from pytest_containers.spec import Port

__all__ = ["Switch"]

_DNS: Final = 53
_BACKLOG: Final = 4096
_ATTEMPTS: Final = 16
# Bridges and their ports answer nothing by IPv6; packets that are switched need no rule
# (kernel documentation, networking/ip-sysctl.rst). Each is a saving, none is needed.
_SETTINGS: Final = (
    ("ipv6.conf.all.disable_ipv6", "1"),
    ("ipv6.conf.default.disable_ipv6", "1"),
    ("bridge.bridge-nf-call-iptables", "0"),
    ("bridge.bridge-nf-call-ip6tables", "0"),
    ("bridge.bridge-nf-call-arptables", "0"),
)


class Switch:
    """The run's networks. Made by `open`."""

    def __init__(self, channel: Channel, subnet: IPv4Network, line: Line) -> None:
        self._channel = channel
        self._line = line
        self._pool = Pool(subnet)
        # Every subnet that has a bridge, and whether its packets may leave the run.
        self._outward: dict[IPv4Network, bool] = {}
        # Ports of the host: those of each container, and how many containers have each.
        self._granted: dict[str, tuple[Port, ...]] = {}
        self._grants: Counter[Port] = Counter()

    @classmethod
    def open(cls, outside: Host, *, line: Line, routed: bool) -> Self:
        """Build the switch in the current network namespace, which must be fresh.

        *outside* was opened in the host's namespace. *routed* gives the host a link and a route to
        the containers, which needs CAP_NET_ADMIN there. *line* leads to the gateway. Raises
        EngineError with what the kernel refused.
        """
        channel = Channel()
        channel.run(links.loopback_up(), links.prohibited())
        for name, value in _SETTINGS:
            sysctl.write(name, value)
        subnet = _connected(channel, outside) if routed else choose_subnet(outside.networks(), _seed())
        with _listener(socket.SOCK_STREAM, "0.0.0.0", 0) as egress:
            port: int = egress.getsockname()[1]
            host = host_address(subnet)
            channel.run(links.address(IPv4Interface(host), links.LOOPBACK, "lo"))
            firewall.lay_down(subnet, egress_port=port, uplink=uplink.NAME, host=host)
            line.egress(egress, subnet)
        return cls(channel, subnet, line)

    def close(self) -> None:
        """Close the socket to the kernel; the links stay as long as their namespace."""
        self._channel.close()

    @property
    def subnet(self) -> IPv4Network:
        """The addresses of the run."""
        return self._pool.subnet

    @property
    def host(self) -> IPv4Address:
        """The address that containers have for the host."""
        return host_address(self._pool.subnet)

    def create(self, network: str, *, label: str = "", internal: bool = False) -> IPv4Network:
        """Make a network with its bridge and its resolver; return its subnet.

        *label* is what containers call it, *network* where it is empty. From an *internal* one nothing
        leaves the run. Raises SpecInvalid where *network* is there.
        """
        segment = self._pool.create(network, label=label, internal=internal)
        try:
            self._open(segment)
        except EngineError:
            self._pool.remove(network)
            raise
        return segment.subnet

    def _open(self, segment: Segment) -> None:
        """Put a network on its subnet's bridge, which is made where there is none yet."""
        with contextlib.ExitStack() as scope, contextlib.ExitStack() as undo:
            sockets = () if segment.subnet in self._outward else self._build(segment, scope, undo)
            if self._outward[segment.subnet] == segment.internal:
                firewall.let_out(segment, not segment.internal)
                self._outward[segment.subnet] = not segment.internal
            self._line.open(
                segment.name,
                subnet=segment.subnet,
                internal=segment.internal,
                label=segment.label,
                sockets=sockets,
            )
            undo.pop_all()

    def _build(
        self, segment: Segment, scope: contextlib.ExitStack, undo: contextlib.ExitStack
    ) -> tuple[socket.socket, ...]:
        """Make a bridge with its address; return its resolver's sockets, which *scope* closes."""
        gateway = IPv4Interface(f"{segment.gateway}/{segment.subnet.prefixlen}")
        self._channel.run(links.bridge(segment.ifname, segment.index, segment.mac))
        undo.callback(self._channel.run, links.remove(segment.index, segment.ifname))
        self._channel.run(
            links.address(gateway, segment.index, segment.ifname),
            links.forwarding(segment.index, segment.ifname),
        )
        firewall.admit(segment)
        self._outward[segment.subnet] = False
        undo.callback(self._outward.pop, segment.subnet)
        kinds = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
        return tuple(scope.enter_context(_listener(kind, str(segment.gateway), _DNS)) for kind in kinds)

    def share(self, network: str) -> None:
        """Let the containers of every network reach those of this one, by name too; for the run's own."""
        firewall.share(self._pool.segment(network))
        self._line.share(network)

    def remove(self, network: str) -> None:
        """Take a network down. Raises EngineError while endpoints of it are in use.

        Its bridge stays for the next network: deleting one costs 60 ms of RCU grace periods.
        """
        self._pool.remove(network)
        self._line.close(network)

    def endpoint(self, network: str) -> Endpoint:
        """Return a free place on *network*. Raises SpecInvalid where there is no such network."""
        return self._pool.endpoint(network)

    def name(self, endpoint: Endpoint, names: Iterable[str]) -> None:
        """Make *names* known on the endpoint's network, at once: do it before the first process runs."""
        self._line.add(Record(network=endpoint.network, name=name, ip=endpoint.ip) for name in names)

    def unname(self, endpoint: Endpoint) -> None:
        """Forget the names of an endpoint, as when its container has stopped; it keeps its address."""
        self._line.unname(endpoint.network, endpoint.ip)

    def grant(self, endpoint: Endpoint, ports: Iterable[Port]) -> None:
        """Let the endpoint reach *ports* of the host's loopback at the address `host`, until its release."""
        wanted = tuple(dict.fromkeys(ports))
        for port in wanted:
            kind = socket.SOCK_STREAM if port.transport == "tcp" else socket.SOCK_DGRAM
            with contextlib.ExitStack() as scope:
                listener = None
                if not self._grants[port]:
                    listener = scope.enter_context(_listener(kind, str(self.host), port.number))
                self._line.grant(endpoint.ip, port.transport, port.number, listener)
            firewall.grant(IPv4Address(endpoint.ip), port, allowed=True)
            self._grants[port] += 1
            self._granted[endpoint.ip] = (*self._granted.get(endpoint.ip, ()), port)

    def _revoke(self, ip: str) -> None:
        for port in self._granted.pop(ip, ()):
            self._grants[port] -= 1
            firewall.grant(IPv4Address(ip), port, allowed=False)

    def attach(self, endpoint: Endpoint, pid: int) -> None:
        """Give the namespace of process *pid* its eth0; `veth.configure` is its own part.

        Raises EngineError with the errno's name where the process is gone (ESRCH).
        """
        bridge = self._pool.segment(endpoint.network).index
        veth.attach(self._channel, endpoint, bridge=bridge, pid=pid)

    def publish(self, endpoint: Endpoint, port: int, listener: socket.socket) -> None:
        """Carry what connects to *listener*, a socket of the host's namespace, to the endpoint's *port*."""
        self._line.publish(listener, endpoint.ip, port)

    def release(self, endpoint: Endpoint) -> None:
        """Give an address back and forget its names; doing so twice is allowed.

        The link goes with the container's namespace, unasked and at no cost to the caller.
        """
        if self._pool.release(endpoint):
            self._line.forget(endpoint.network, endpoint.ip)
            self._revoke(endpoint.ip)


def _seed() -> int:
    return int.from_bytes(os.urandom(8), "little")


def _connected(channel: Channel, host: Host) -> IPv4Network:
    """Choose a subnet and route the host to it; another one where a parallel run was faster."""
    attempts = _ATTEMPTS
    while True:
        subnet = choose_subnet(host.networks(), _seed())
        attempts -= 1
        try:
            uplink.connect(channel, host, subnet)
        except EngineError as error:
            if errno_of(error) != errno.EEXIST or not attempts:
                raise
        else:
            return subnet


def _listener(kind: socket.SocketKind, ip: str, port: int) -> socket.socket:
    """Return a bound socket of this namespace, one that never waits."""
    made = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # A port of the host may have the number of the egress listener, which has all addresses; the
        # socket with the address wins (socket(7), SO_REUSEPORT; net/ipv4/inet_hashtables.c, compute_score).
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((ip, port))
        if kind == socket.SOCK_STREAM:
            made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        raise EngineError(f"no socket at {ip}:{port} of the switch", seen=str(error)) from error
    return made
