"""What may pass the switch: the one table of rules in its network namespace.

Containers of one network talk freely: their packets are switched, not routed. All else is routed
and so meets these rules: TCP that leaves the run is turned to the gateway's listener, a network's
resolver is reached at the address of its bridge and nowhere else, networks do not reach each other,
and the host reaches every container by the uplink. What may not pass is refused and not swallowed,
so that nobody waits for a timeout.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from pytest_containers.runtime.network import nftables as nft
from pytest_containers.runtime.network.addresses import Segment
from pytest_containers.runtime.network.netlink import Request
from pytest_containers.spec import Port

__all__ = ["admit", "grant", "lay_down", "let_out", "share"]

_DNS: Final = 53
_TABLE: Final = nft.Table("pytest_containers")
_REDIRECTION: Final = nft.Chain(name="prerouting", kind="nat", priority=-100, policy="accept")
_FORWARD: Final = nft.Chain(name="forward", kind="filter", priority=0, policy="drop")
_INPUT: Final = nft.Chain(name="input", kind="filter", priority=0, policy="drop")
_OUTWARD: Final = "outward"  # bridges of networks that may leave the run
_SHARED: Final = "shared"  # bridges that every network of the run reaches
_WITHIN: Final = "within"  # bridge . bridge
_DOORS: Final = "doors"  # bridge . its own address
_GRANTS: Final = "grants"  # container's address . transport . port of the host
_IFNAME_BYTES: Final = 16


def lay_down(subnet: IPv4Network, *, egress_port: int, uplink: str, host: IPv4Address) -> None:
    """Make the table, without any network in it yet. One transaction.

    *host* is the switch's address for the host, which `grant` opens.
    Raises EngineError where the kernel lacks a part of nf_tables.
    """
    nft.commit(
        (
            _TABLE.create(),
            _TABLE.set(_OUTWARD, 1, _IFNAME_BYTES),
            _TABLE.set(_WITHIN, 2, 2 * _IFNAME_BYTES),
            _TABLE.set(_DOORS, 3, _IFNAME_BYTES + 4),
            _TABLE.set(_SHARED, 4, _IFNAME_BYTES),
            _TABLE.set(_GRANTS, 5, nft.FLOW_KEY_BYTES),
            *_redirection(subnet, egress_port),
            *_forward(uplink),
            *_input(egress_port, uplink, host),
        )
    )


def _redirection(subnet: IPv4Network, egress_port: int) -> Iterator[Request]:
    leaving = nft.not_in_subnet(subnet.network_address.packed, subnet.netmask.packed)
    yield _TABLE.chain(_REDIRECTION)
    matches = (nft.in_set(_OUTWARD), nft.ipv4(), leaving, nft.ip_protocol(socket.IPPROTO_TCP))
    yield _TABLE.rule(_REDIRECTION, *matches, nft.redirect(egress_port))


def _forward(uplink: str) -> Iterator[Request]:
    yield _TABLE.chain(_FORWARD)
    yield _TABLE.rule(_FORWARD, nft.connection_state(nft.ESTABLISHED), nft.ACCEPT)
    yield _TABLE.rule(_FORWARD, nft.interface(uplink), nft.ACCEPT)
    # Where br_netfilter is loaded and on, switched packets come by here too (kernel documentation,
    # networking/ip-sysctl.rst, bridge-nf-call-iptables).
    yield _TABLE.rule(_FORWARD, nft.same(_WITHIN), nft.ACCEPT)
    yield _TABLE.rule(_FORWARD, nft.towards(_SHARED), nft.ACCEPT)
    yield _TABLE.rule(_FORWARD, nft.REJECT)


def _input(egress_port: int, uplink: str, host: IPv4Address) -> Iterator[Request]:
    yield _TABLE.chain(_INPUT)
    yield _TABLE.rule(_INPUT, nft.connection_state(nft.ESTABLISHED), nft.ACCEPT)
    for trusted in ("lo", uplink):
        yield _TABLE.rule(_INPUT, nft.interface(trusted), nft.ACCEPT)
    redirected = nft.connection_status(nft.DNATTED)
    for matches in (
        (nft.ip_protocol(socket.IPPROTO_UDP), nft.port(_DNS)),
        (nft.ip_protocol(socket.IPPROTO_TCP), nft.port(_DNS)),
        (nft.ip_protocol(socket.IPPROTO_ICMP),),
        (redirected, nft.ip_protocol(socket.IPPROTO_TCP), nft.port(egress_port)),
    ):
        yield _TABLE.rule(_INPUT, nft.ipv4(), nft.destination(_DOORS), *matches, nft.ACCEPT)
    granted = (nft.ipv4(), nft.towards_address(host.packed), nft.flow_in(_GRANTS))
    yield _TABLE.rule(_INPUT, *granted, nft.ACCEPT)
    yield _TABLE.rule(_INPUT, nft.REJECT)


def _ifname(segment: Segment) -> bytes:
    return segment.ifname.encode().ljust(_IFNAME_BYTES, b"\0")


def admit(segment: Segment) -> None:
    """Let a network's containers reach each other and their resolver."""
    name = _ifname(segment)
    nft.commit(
        (
            _TABLE.element(_WITHIN, name + name, present=True),
            _TABLE.element(_DOORS, name + segment.gateway.packed, present=True),
        )
    )


def share(segment: Segment) -> None:
    """Let the containers of all networks reach this one's; not the other way."""
    nft.commit((_TABLE.element(_SHARED, _ifname(segment), present=True),))


def let_out(segment: Segment, allowed: bool) -> None:
    """Turn a network's way out of the run on or off; it is off at first."""
    nft.commit((_TABLE.element(_OUTWARD, _ifname(segment), present=allowed),))


def grant(ip: IPv4Address, port: Port, *, allowed: bool) -> None:
    """Let the container at *ip* reach a port of the host, or let it no more."""
    protocol = socket.IPPROTO_TCP if port.transport == "tcp" else socket.IPPROTO_UDP
    key = nft.flow_key(ip.packed, protocol, port.number)
    nft.commit((_TABLE.element(_GRANTS, key, present=allowed),))
