"""What the kernel tells of links and routes."""

from __future__ import annotations

import socket
import struct

from pytest_containers.runtime.network import links, netlink

IFINFO = struct.Struct("=BxHiII")


def test_networks_in_reads_destinations() -> None:
    """Routes become networks, host routes included; the default route does not."""
    header = struct.Struct("=BBBBBBBBI")

    def body(prefix: int, ip: str = "") -> bytes:
        destination = netlink.attribute(1, socket.inet_aton(ip)) if ip else b""
        return header.pack(socket.AF_INET, prefix, 0, 0, 254, 0, 0, 1, 0) + destination

    found = links.networks_in([body(0), body(24, "192.0.2.0"), body(32, "192.0.2.7"), body(24, "192.0.2.0")])
    assert [str(network) for network in found] == ["192.0.2.0/24", "192.0.2.7/32"]


def test_link_in_reads_a_port_of_a_bridge() -> None:
    """Index, bridge, other end and its namespace are those of the message; state up is working."""
    body = IFINFO.pack(0, 1, 66, 0, 0) + b"".join(
        (
            netlink.text(3, "veth"),
            netlink.u32(5, 1000),
            netlink.u32(10, 7),
            netlink.attribute(16, bytes([6])),
            netlink.u32(37, 2),
        )
    )
    assert links.link_in(body) == links.Link(index=66, works=True, peer=1000, namespace=2, master=7)


def test_link_in_knows_a_link_that_does_not_work_yet() -> None:
    """A lower layer that is down, as of a veth whose other end is, is not working (RFC 2863)."""
    body = IFINFO.pack(0, 1, 66, 0, 0) + netlink.attribute(16, bytes([3]))
    assert links.link_in(body) == links.Link(index=66, works=False, peer=0, namespace=-1, master=0)


def test_requests_name_what_they_do() -> None:
    """Each request can be told from its error alone."""
    requests = (
        links.loopback_up(),
        links.bridge("b0a400001", 7, "02:42:0a:40:00:01"),
        links.veth("v0a400002", 8, peer="eth0", pid=1),
        links.remove(8, "v0a400002"),
    )
    assert [request.what for request in requests] == [
        "set lo up",
        "make the bridge b0a400001",
        "make the veth pair v0a400002 - eth0",
        "remove the link v0a400002",
    ]
