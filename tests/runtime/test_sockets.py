"""Laws of reading a network namespace's own tables."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.runtime import syscalls
from pytest_containers.runtime.network import links
from pytest_containers.runtime.network.netlink import Channel
from pytest_containers.runtime.sockets import Bound, bound_ports, ipv6_only_ports, parse_table
from pytest_containers.spec import Port

if TYPE_CHECKING:
    from tests.runtime.conftest import Apart

HEAD: Final = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)
REST: Final = "00000000:00000000 00:00000000 00000000     0        0 7104 1 0000000000000000 100 0 0 10 0\n"
ANY6: Final = "0" * 32


def _table(*rows: tuple[str, str]) -> str:
    """Return a table with a row for each local address and state."""
    return HEAD + "".join(
        f"{n:4}: {local} 00000000:0000 {state} {REST}" for n, (local, state) in enumerate(rows)
    )


def _found(table: str) -> list[tuple[int, str]]:
    return [(port.number, address) for port, address in parse_table(table, "tcp", "0A")]


@pytest.mark.parametrize(
    ("digits", "address"),
    [
        ("00000000", "0.0.0.0"),
        ("0200400A", "10.64.0.2"),
        ("0100007F", "127.0.0.1"),
        ("FEFFFF7F", "127.255.255.254"),
        (ANY6, "::"),
        ("00000000000000000000000001000000", "::1"),
        ("0000000000000000FFFF00003500007F", "127.0.0.53"),
        ("0000000000000000FFFF00000200400A", "10.64.0.2"),
        ("B80D0120000000000000000001000000", "2001:db8::1"),
        ("000080FE00000000FF005450B6BDDEFE", "fe80::5054:ff:fede:bdb6"),
    ],
)
def test_address_is_read(digits: str, address: str) -> None:
    """An address is words in the machine's order; an IPv4 address in the clothes of IPv6 is one of IPv4."""
    assert _found(_table((f"{digits}:18EB", "0A"))) == [(6379, address)]


@pytest.mark.parametrize("state", ["01", "02", "06", "08", "0C"])
def test_port_is_not_seen_when_its_socket_does_not_listen(state: str) -> None:
    """Connections, half-open and closing ones too, are no listeners (net/tcp_states.h)."""
    assert _found(_table(("00000000:18EB", state))) == []


def test_port_of_udp_is_seen_when_unconnected() -> None:
    """A UDP server's socket has no peer; a client's has one."""
    table = _table(("00000000:0035", "07"), ("0200400A:D431", "01"))
    assert list(parse_table(table, "udp", "07")) == [(Port(53, "udp"), "0.0.0.0")]


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters=":"), max_size=80), max_size=6))
def test_table_is_read_when_its_lines_are_cut(lines: list[str]) -> None:
    """A line with too few columns, such as the last of a torn read, is passed over."""
    table = HEAD + "\n".join(lines)
    assert list(parse_table(table, "tcp", "none")) == []


def test_ports_of_a_process_that_is_gone_are_none() -> None:
    """A pid that nobody has listens nowhere."""
    assert bound_ports(1 << 30, ipv6_only_ports) == Bound()


def _bound(
    family: socket.AddressFamily, kind: socket.SocketKind, address: str, port: int, *, alone: bool = False
) -> socket.socket:
    made = socket.socket(family, kind)
    if alone:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind((address, port))
    return made


@pytest.mark.kernel
def test_ports_are_the_kernels(apart: Apart) -> None:
    """Real sockets are found; those that no peer reaches stand aside with their addresses."""
    tcp, udp = socket.SOCK_STREAM, socket.SOCK_DGRAM

    def serve() -> Bound:
        with Channel() as channel:
            channel.run(links.loopback_up())
        made = [
            _bound(socket.AF_INET, tcp, "0.0.0.0", 5000),
            _bound(socket.AF_INET6, tcp, "::", 5001),
            _bound(socket.AF_INET, tcp, "127.0.0.1", 5002),
            _bound(socket.AF_INET6, tcp, "::1", 5003),
            _bound(socket.AF_INET6, tcp, "::ffff:127.0.0.1", 5004),
            _bound(socket.AF_INET6, tcp, "::", 5010, alone=True),
            _bound(socket.AF_INET6, tcp, "::", 5011, alone=True),
            _bound(socket.AF_INET, tcp, "0.0.0.0", 5011),
            _bound(socket.AF_INET, udp, "0.0.0.0", 5005),
            _bound(socket.AF_INET, udp, "127.0.0.1", 5006),
            _bound(socket.AF_INET6, udp, "::", 5007),
            _bound(socket.AF_INET6, udp, "::", 5012, alone=True),
        ]
        for one in made[:8]:
            one.listen()
        made.append(_bound(socket.AF_INET, tcp, "0.0.0.0", 5008))  # bound, and not listening
        client = _bound(socket.AF_INET, udp, "0.0.0.0", 5009)
        client.connect(("127.0.0.1", 5006))
        return bound_ports(os.getpid(), ipv6_only_ports)

    assert apart(serve, flags=syscalls.CLONE_NEWNET) == Bound(
        ports=frozenset({Port(5000), Port(5001), Port(5005, "udp"), Port(5007, "udp"), Port(5011)}),
        aside={
            Port(5002): "127.0.0.1",
            Port(5003): "::1",
            Port(5004): "127.0.0.1",
            Port(5006, "udp"): "127.0.0.1",
            Port(5010): "::",
            Port(5012, "udp"): "::",
        },
    )


@pytest.mark.kernel
def test_kernel_is_asked_for_ipv6_alone_where_it_matters(apart: Apart) -> None:
    """Without a socket on :: there is no second question."""

    def serve() -> Bound:
        with _bound(socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0", 5000) as one:
            one.listen()

            def refuse() -> frozenset[Port]:
                raise RuntimeError

            return bound_ports(os.getpid(), refuse)

    assert apart(serve, flags=syscalls.CLONE_NEWNET) == Bound(ports=frozenset({Port(5000)}))
