"""Which ports are bound in a network namespace, by the kernel's own tables (floor 1).

No connection is made and no tool of the image is needed. /proc/PID/net/tcp has one socket a
line: local address and port in hexadecimal, the address in host byte order, and the state, where
0A is LISTEN; an unconnected UDP socket is in state 07 (proc_pid_net(5), include/net/tcp_states.h).
Tests and peers come by IPv4. A socket on ``::`` takes IPv4 as well unless IPV6_V6ONLY is set
(ipv6(7)), which only sock_diag(7) tells.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pytest_containers.errors import EngineError
from pytest_containers.runtime.network.netlink import Channel, Request, attributes
from pytest_containers.spec import Port, Transport

__all__ = ["Bound", "bound_ports", "ipv6_only_ports", "parse_table"]

_TABLES: Final[tuple[tuple[str, Transport, str], ...]] = (
    ("tcp", "tcp", "0A"),
    ("tcp6", "tcp", "0A"),
    ("udp", "udp", "07"),
    ("udp6", "udp", "07"),
)
_ANY6: Final = "::"
_LOOPBACK: Final = "127.0.0.1"
_WORD_BYTES: Final = 4
# linux/sock_diag.h, linux/inet_diag.h: SOCK_DIAG_BY_FAMILY, struct inet_diag_req_v2, inet_diag_msg.
_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_ASKED: Final = struct.Struct("=BBBxI48x")
_FOUND: Final = struct.Struct("=BBBB2sH")
_FOUND_BYTES: Final = 72
_SKV6ONLY: Final = 11  # INET_DIAG_SKV6ONLY
_PROTOCOLS: Final[tuple[tuple[int, Transport, int], ...]] = (
    (socket.IPPROTO_TCP, "tcp", 1 << 0x0A),
    (socket.IPPROTO_UDP, "udp", 1 << 0x07),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The ports that a peer can reach by IPv4, and the others with the addresses they are bound to."""

    ports: frozenset[Port] = frozenset()
    aside: dict[Port, str] = field(default_factory=dict)


def _address(digits: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address of a table: words of 32 bits, each in the machine's byte order."""
    raw = bytes.fromhex(digits)
    words = struct.unpack(f"={len(raw) // _WORD_BYTES}I", raw)
    ordered = struct.pack(f">{len(words)}I", *words)
    if len(ordered) == _WORD_BYTES:
        return ipaddress.IPv4Address(ordered)
    found = ipaddress.IPv6Address(ordered)
    return found.ipv4_mapped or found


def parse_table(table: str, transport: Transport, state: str) -> Iterator[tuple[Port, str]]:
    """Yield port and address of one table's sockets in *state*; a line that is cut is passed over."""
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) > 3 and columns[3] == state:
            digits, _, number = columns[1].partition(":")
            yield Port(int(number, 16), transport), str(_address(digits))


def ipv6_only_ports() -> frozenset[Port]:
    """Return the ports of this namespace that a socket has bound on ``::`` for IPv6 alone.

    None where the kernel cannot tell (CONFIG_INET_DIAG).
    """
    found: set[Port] = set()
    for protocol, transport, states in _PROTOCOLS:
        body = _ASKED.pack(socket.AF_INET6, protocol, 0, states)
        request = Request(kind=_BY_FAMILY, body=body, what="list the sockets of a namespace")
        try:
            with Channel(_NETLINK_SOCK_DIAG) as channel:
                answers = channel.dump(request)
        except EngineError:
            continue
        for answer in answers:
            number = int.from_bytes(_FOUND.unpack_from(answer)[4], "big")
            marks = dict(attributes(answer[_FOUND_BYTES:]))
            if marks.get(_SKV6ONLY, b"\0")[0]:
                found.add(Port(number, transport))
    return frozenset(found)


def bound_ports(pid: int, ipv6_only: Callable[[], frozenset[Port]], *, loopback: bool = False) -> Bound:
    """Return the ports bound in the network namespace of *pid*; none when it is gone.

    *ipv6_only* is `ipv6_only_ports` in that namespace; it is called where a socket is on ``::``.
    With *loopback* a peer reaches sockets on 127.0.0.1 as well.
    """
    found: list[tuple[Port, str]] = []
    for name, transport, state in _TABLES:
        try:
            with open(f"/proc/{pid}/net/{name}") as table:
                found.extend(parse_table(table.read(), transport, state))
        except OSError:  # no such process any more, or a kernel without IPv6
            continue
    alone = ipv6_only() if any(address == _ANY6 for _, address in found) else frozenset()
    reached = {
        port
        for port, address in found
        if _is_reached(port, address, alone) or (loopback and address == _LOOPBACK)
    }
    aside = {port: address for port, address in found if port not in reached}
    return Bound(ports=frozenset(reached), aside=aside)


def _is_reached(port: Port, address: str, alone: frozenset[Port]) -> bool:
    if address == _ANY6:
        return port not in alone
    return ":" not in address and not ipaddress.IPv4Address(address).is_loopback
