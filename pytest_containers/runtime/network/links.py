"""The rtnetlink requests of the switch: links, addresses, routes (rtnetlink(7)).

Each function returns one request and changes nothing; a `netlink.Channel` has it executed. Links
are named by the index they were made with, because an index can be chosen before the link exists:
the messages of a container are written before its namespace is there.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final

from pytest_containers.runtime.network.netlink import (
    CREATE,
    Request,
    attribute,
    attributes,
    nested,
    text,
    u32,
)

__all__ = [
    "LOOPBACK",
    "Link",
    "address",
    "bridge",
    "forwarding",
    "link_at",
    "link_in",
    "link_named",
    "link_of_route",
    "loopback_up",
    "networks_in",
    "prohibited",
    "quiet",
    "remove",
    "route",
    "route_to",
    "routes",
    "up",
    "veth",
]

LOOPBACK: Final = 1  # the first link of every namespace (net/core/dev.c, LOOPBACK_IFINDEX)

# linux/rtnetlink.h
_NEWLINK: Final = 16
_DELLINK: Final = 17
_GETLINK: Final = 18
_NEWADDR: Final = 20
_NEWROUTE: Final = 24
_GETROUTE: Final = 26
_TABLE_MAIN: Final = 254
_PROTOCOL_BOOT: Final = 3
_UNICAST: Final = 1
_PROHIBIT: Final = 8
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_PREFSRC: Final = 7

# linux/if_link.h, linux/veth.h, linux/if_addr.h, linux/ip.h
_IFF_UP: Final = 1
_MAC: Final = 1
_NAME: Final = 3
_PEER: Final = 5
_MASTER: Final = 10
_STATE: Final = 16
_STATE_UNKNOWN: Final = 0
_STATE_UP: Final = 6
_KIND_OF_LINK: Final = 18
_KIND: Final = 1
_DATA: Final = 2
_NAMESPACE_PID: Final = 19
_AF_SPEC: Final = 26
_NAMESPACE_FD: Final = 28
_TX_QUEUES: Final = 31
_RX_QUEUES: Final = 32
_PEER_NAMESPACE: Final = 37
_TARGET_NAMESPACE: Final = 46
_VETH_PEER: Final = 1
_BRIDGE_FORWARD_DELAY: Final = 1
_BRIDGE_STP: Final = 5
_BRIDGE_SNOOPING: Final = 23
_INET_CONF: Final = 1
_CONF_FORWARDING: Final = 1
_INET6_ADDRESS_MODE: Final = 8
_ADDRESS_MODE_NONE: Final = 1
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2

_LINK: Final = struct.Struct("=BxHiII")  # struct ifinfomsg
_ADDRESS: Final = struct.Struct("=BBBBI")  # struct ifaddrmsg
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # struct rtmsg


def _link(index: int = 0, *, is_up: bool = False) -> bytes:
    flag = _IFF_UP if is_up else 0
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flag, flag)


def _mac(address_text: str) -> bytes:
    return attribute(_MAC, bytes.fromhex(address_text.replace(":", "")))


def up(index: int, name: str) -> Request:
    """Set a link up."""
    return Request(kind=_NEWLINK, body=_link(index, is_up=True), what=f"set {name} up")


def loopback_up() -> Request:
    """Set the namespace's own loopback up; the kernel gives it 127.0.0.1 and ::1."""
    return up(LOOPBACK, "lo")


def bridge(name: str, index: int, mac: str) -> Request:
    """Make a bridge that forwards at once and floods nothing late, and set it up.

    A MAC of its own: a bridge without one takes its smallest port's and changes it as ports come
    and go, which leaves every peer's ARP entry wrong (net/bridge/br_stp_if.c).
    """
    data = (
        u32(_BRIDGE_FORWARD_DELAY, 0),
        u32(_BRIDGE_STP, 0),
        attribute(_BRIDGE_SNOOPING, b"\0"),
    )
    body = (
        _link(index, is_up=True)
        + text(_NAME, name)
        + _mac(mac)
        + nested(_KIND_OF_LINK, text(_KIND, "bridge"), nested(_DATA, *data))
    )
    return Request(kind=_NEWLINK, flags=CREATE, body=body, what=f"make the bridge {name}")


def veth(
    name: str,
    index: int,
    *,
    peer: str,
    mac: str = "",
    peer_index: int = 0,
    pid: int = 0,
    namespace: int = -1,
    master: int = 0,
) -> Request:
    """Make a veth pair, our end up and a port of *master*, its peer straight in another namespace.

    One request for all of it: moving a finished link costs 20 ms of RCU grace periods, creating it
    in place 0.6 ms. One queue a side: the default is one a processor, each with its folder
    in sysfs (drivers/net/veth.c, veth_get_num_queues). The namespace is *pid*'s or the descriptor's.
    """
    queues = u32(_TX_QUEUES, 1) + u32(_RX_QUEUES, 1)
    place = u32(_NAMESPACE_PID, pid) if pid else u32(_NAMESPACE_FD, namespace)
    # The peer takes its wanted index only where our end wants one too (drivers/net/veth.c).
    far = _link(peer_index) + text(_NAME, peer) + (_mac(mac) if mac else b"") + place + queues
    body = (
        _link(index, is_up=True)
        + text(_NAME, name)
        + (u32(_MASTER, master) if master else b"")
        + queues
        + nested(_KIND_OF_LINK, text(_KIND, "veth"), nested(_DATA, attribute(_VETH_PEER, far)))
    )
    return Request(kind=_NEWLINK, flags=CREATE, body=body, what=f"make the veth pair {name} - {peer}")


def quiet(index: int, name: str) -> Request:
    """Keep a link from giving itself an IPv6 address, and so from announcing it (RFC 4861)."""
    mode = attribute(_INET6_ADDRESS_MODE, bytes([_ADDRESS_MODE_NONE]))
    body = _link(index) + nested(_AF_SPEC, nested(socket.AF_INET6, mode))
    return Request(kind=_NEWLINK, body=body, what=f"keep {name} without IPv6 addresses")


def forwarding(index: int, name: str) -> Request:
    """Let packets that arrive on a link be routed on.

    The same switch as net.ipv4.conf.NAME.forwarding, without a writable /proc/sys
    (net/ipv4/devinet.c, inet_set_link_af).
    """
    conf = nested(_INET_CONF, u32(_CONF_FORWARDING, 1))
    body = _link(index) + nested(_AF_SPEC, nested(socket.AF_INET, conf))
    return Request(kind=_NEWLINK, body=body, what=f"let {name} forward")


def remove(index: int, name: str) -> Request:
    """Delete a link and its peer. Costs about 13 ms; a namespace's end does it unasked."""
    return Request(kind=_DELLINK, body=_link(index), what=f"remove the link {name}")


def address(interface: IPv4Interface, index: int, name: str) -> Request:
    """Give a link an address; the route to its subnet comes with it."""
    body = _ADDRESS.pack(socket.AF_INET, interface.network.prefixlen, 0, 0, index)
    local = interface.ip.packed
    body += attribute(_IFA_LOCAL, local) + attribute(_IFA_ADDRESS, local)
    return Request(kind=_NEWADDR, flags=CREATE, body=body, what=f"give {name} the address {interface}")


def route(
    destination: IPv4Network, gateway: IPv4Address, *, index: int = 0, source: IPv4Address | None = None
) -> Request:
    """Add a route to *destination*; EEXIST where one with this prefix is there."""
    header = (socket.AF_INET, destination.prefixlen, 0, 0, _TABLE_MAIN, _PROTOCOL_BOOT, 0, _UNICAST, 0)
    body = _ROUTE.pack(*header)
    if destination.prefixlen:
        body += attribute(_RTA_DST, destination.network_address.packed)
    body += attribute(_RTA_GATEWAY, gateway.packed)
    if index:
        body += u32(_RTA_OIF, index)
    if source is not None:
        body += attribute(_RTA_PREFSRC, source.packed)
    return Request(
        kind=_NEWROUTE, flags=CREATE, body=body, what=f"add the route to {destination} by {gateway}"
    )


def prohibited() -> Request:
    """Refuse what no other route leads to, with an ICMP error that sockets heed (route type prohibit).

    Without it a datagram's sender learns nothing: "net unreachable" is ignored (net/ipv4/icmp.c,
    icmp_err_convert).
    """
    header = (socket.AF_INET, 0, 0, 0, _TABLE_MAIN, _PROTOCOL_BOOT, 0, _PROHIBIT, 0)
    return Request(kind=_NEWROUTE, flags=CREATE, body=_ROUTE.pack(*header), what="prohibit what has no route")


def link_named(name: str) -> Request:
    """Ask for a link by its name; `link_in` reads the answer."""
    return Request(kind=_GETLINK, body=_link() + text(_NAME, name), what=f"find the link {name}")


def link_at(index: int, namespace: int = -1) -> Request:
    """Ask for a link by its index, in the namespace that ours knows by the number *namespace*."""
    there = u32(_TARGET_NAMESPACE, namespace) if namespace >= 0 else b""
    return Request(kind=_GETLINK, body=_link(index) + there, what=f"find link number {index}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link as the kernel tells it: *works* when it takes packets.

    *peer* is a veth's other end, in the namespace number *namespace*, or -1 where that is the
    link's own; *master* is the bridge it is a port of. Zero where there is none.
    """

    index: int
    works: bool
    peer: int
    namespace: int
    master: int


def link_in(body: bytes) -> Link:
    """Return the link in the answer to `link_named` or `link_at`."""
    index: int = _LINK.unpack_from(body)[2]
    found = {kind: payload for kind, payload in attributes(body[_LINK.size :]) if len(payload) in (1, 4)}
    zero = bytes(4)

    def number(kind: int, default: bytes = zero) -> int:
        return int.from_bytes(found.get(kind, default), sys.byteorder, signed=True)

    return Link(
        index=index,
        # Of the loopback the state is not known, and it always works (RFC 2863, ifOperStatus).
        works=number(_STATE) in (_STATE_UNKNOWN, _STATE_UP),
        peer=number(_PEER),
        namespace=number(_PEER_NAMESPACE, b"\xff" * 4),
        master=number(_MASTER),
    )


def routes() -> Request:
    """Ask for every IPv4 route of every table, those to own addresses included."""
    return Request(
        kind=_GETROUTE, body=_ROUTE.pack(socket.AF_INET, *[0] * 8), what="list the routes of the host"
    )


def route_to(ip: IPv4Address) -> Request:
    """Ask which route a packet to *ip* takes; `link_of_route` reads the answer (rtnetlink(7))."""
    header = (socket.AF_INET, ip.max_prefixlen, *[0] * 7)
    body = _ROUTE.pack(*header) + attribute(_RTA_DST, ip.packed)
    return Request(kind=_GETROUTE, body=body, what=f"find the route to {ip}")


def link_of_route(body: bytes) -> int:
    """Return the index of the link that a route uses, 0 where it has none."""
    found = dict(attributes(body[_ROUTE.size :]))
    return int.from_bytes(found.get(_RTA_OIF, b""), sys.byteorder)


def networks_in(bodies: list[bytes]) -> tuple[IPv4Network, ...]:
    """Return the destinations in the answer to `routes`, without the default route."""
    found: set[IPv4Network] = set()
    for body in bodies:
        prefix = body[1]
        for kind, payload in attributes(body[_ROUTE.size :]):
            if kind == _RTA_DST and prefix and len(payload) == 4:
                found.add(IPv4Network((payload, prefix), strict=False))
    return tuple(sorted(found))
