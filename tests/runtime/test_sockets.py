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
from pytest_containers.runtime.sockets import bound_ports, parse_table
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


@pytest.mark.parametrize(
    "local",
    ["00000000:18EB", "0200400A:18EB", f"{ANY6}:18EB", "B80D0120000000000000000001000000:18EB"],
    ids=["any", "own address", "any of IPv6", "own address of IPv6"],
)
def test_port_is_seen_when_others_can_reach_it(local: str) -> None:
    """A socket that listens on all addresses or on the container's own one counts."""
    assert parse_table(_table((local, "0A")), "tcp", "0A") == {Port(6379)}


@pytest.mark.parametrize(
    "local",
    [
        "0100007F:18EB",
        "3500007F:18EB",
        "FEFFFF7F:18EB",
        "00000000000000000000000001000000:18EB",
        "0000000000000000FFFF00000100007F:18EB",
        "0000000000000000FFFF00003500007F:18EB",
    ],
    ids=["127.0.0.1", "127.0.0.53", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::ffff:127.0.0.53"],
)
def test_port_is_not_seen_when_it_is_on_loopback(local: str) -> None:
    """What only the container itself can reach does not count."""
    assert parse_table(_table((local, "0A")), "tcp", "0A") == set()


def test_port_mapped_is_seen() -> None:
    """An IPv4 address in the clothes of IPv6 is one that peers reach."""
    assert parse_table(_table(("0000000000000000FFFF00000200400A:0050", "0A")), "tcp", "0A") == {Port(80)}


@pytest.mark.parametrize("state", ["01", "02", "06", "08", "0C"])
def test_port_is_not_seen_when_its_socket_does_not_listen(state: str) -> None:
    """Connections, half-open and closing ones too, are no listeners (net/tcp_states.h)."""
    assert parse_table(_table(("00000000:18EB", state)), "tcp", "0A") == set()


def test_port_of_udp_is_seen_when_unconnected() -> None:
    """A UDP server's socket has no peer; a client's has one."""
    table = _table(("00000000:0035", "07"), ("0200400A:D431", "01"))
    assert parse_table(table, "udp", "07") == {Port(53, "udp")}


def test_ports_are_many() -> None:
    """Each row counts once, however many sockets share a port (SO_REUSEPORT)."""
    table = _table(
        ("00000000:0050", "0A"), ("00000000:0050", "0A"), (f"{ANY6}:0050", "0A"), ("00000000:FFFF", "0A")
    )
    assert parse_table(table, "tcp", "0A") == {Port(80), Port(65535)}


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters=":"), max_size=80), max_size=6))
def test_table_is_read_when_its_lines_are_cut(lines: list[str]) -> None:
    """A line with too few columns, such as the last of a torn read, is passed over."""
    table = HEAD + "\n".join(lines)
    assert parse_table(table, "tcp", "none") == set()


def test_ports_of_a_process_that_is_gone_are_none() -> None:
    """A pid that nobody has listens nowhere."""
    assert bound_ports(1 << 30) == frozenset()


def _bound(family: socket.AddressFamily, kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    made = socket.socket(family, kind)
    made.bind((address, port))
    return made


@pytest.mark.kernel
def test_ports_are_the_kernels(apart: Apart) -> None:
    """Real sockets of a real namespace are found by number and transport, loopback's are not."""
    tcp, udp = socket.SOCK_STREAM, socket.SOCK_DGRAM

    def serve() -> frozenset[Port]:
        with Channel() as channel:
            channel.run(links.loopback_up())
        made = [
            _bound(socket.AF_INET, tcp, "0.0.0.0", 5000),
            _bound(socket.AF_INET6, tcp, "::", 5001),
            _bound(socket.AF_INET, tcp, "127.0.0.1", 5002),
            _bound(socket.AF_INET6, tcp, "::1", 5003),
            _bound(socket.AF_INET6, tcp, "::ffff:127.0.0.1", 5004),
            _bound(socket.AF_INET, udp, "0.0.0.0", 5005),
            _bound(socket.AF_INET, udp, "127.0.0.1", 5006),
            _bound(socket.AF_INET6, udp, "::", 5007),
        ]
        for one in made[:5]:
            one.listen()
        made.append(_bound(socket.AF_INET, tcp, "0.0.0.0", 5008))  # bound, and not listening
        client = _bound(socket.AF_INET, udp, "0.0.0.0", 5009)
        client.connect(("127.0.0.1", 5006))
        return bound_ports(os.getpid())

    expected = {Port(5000), Port(5001), Port(5005, "udp"), Port(5007, "udp")}
    assert apart(serve, flags=syscalls.CLONE_NEWNET) == expected
