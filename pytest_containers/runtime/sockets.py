"""Which ports are bound in a network namespace, by the kernel's own tables (floor 1).

No connection is made and no tool of the image is needed. /proc/PID/net/tcp has one socket a
line: local address and port in hexadecimal, the address in host byte order, and the state, where
0A is LISTEN; an unconnected UDP socket is in state 07 (proc_pid_net(5), include/net/tcp_states.h).
"""

from __future__ import annotations

from typing import Final

from pytest_containers.spec import Port, Transport

__all__ = ["bound_ports", "parse_table"]

_TABLES: Final[tuple[tuple[str, Transport, str], ...]] = (
    ("tcp", "tcp", "0A"),
    ("tcp6", "tcp", "0A"),
    ("udp", "udp", "07"),
    ("udp6", "udp", "07"),
)


def _is_loopback(address: str) -> bool:
    # 127.0.0.0/8 ends in 7F as a little-endian word; ::1 and ::ffff:127.0.0.0/104 are spelled out.
    if len(address) == 8:
        return address.endswith("7F")
    mapped = address.startswith("0000000000000000FFFF0000") and address.endswith("7F")
    return mapped or address == "00000000000000000000000001000000"


def parse_table(table: str, transport: Transport, state: str) -> set[Port]:
    """Return the ports of one table's sockets in *state*, without those on loopback alone."""
    found: set[Port] = set()
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) > 3 and columns[3] == state:
            address, _, number = columns[1].partition(":")
            if not _is_loopback(address):
                found.add(Port(int(number, 16), transport))
    return found


def bound_ports(pid: int) -> frozenset[Port]:
    """Return the ports bound in the network namespace of *pid*; empty when it is gone."""
    found: set[Port] = set()
    for name, transport, state in _TABLES:
        try:
            with open(f"/proc/{pid}/net/{name}") as table:
                found |= parse_table(table.read(), transport, state)
        except OSError:  # no such process any more, or a kernel without IPv6
            continue
    return frozenset(found)
