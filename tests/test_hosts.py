"""What a test may write for ``host_access=`` and ``extra_hosts=``."""

from __future__ import annotations

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.hosts import extra_hosts_of, host_ports_of
from pytest_containers.order import Order
from pytest_containers.spec import Port


def test_host_access_is_a_list_of_ports() -> None:
    """Numbers and texts with a transport, each once; nothing is no port."""
    assert host_ports_of(None) == ()
    assert host_ports_of([8080, "53/udp", "8080", "53"]) == (Port(8080), Port(53, "udp"), Port(53))
    assert Order.of("host", host_access=(8080,)).needs("owner") == ("host-access",)
    assert Order.of("host").needs("owner") == ()


@pytest.mark.parametrize(
    ("given", "mend"),
    [
        (8080, r"host_access=\[8080\]"),
        ("53/udp", r"host_access=\['53/udp'\]"),
        (True, r"host_access=\[8080\]"),
        ([0], "1 to 65535"),
        (["http"], "1 to 65535"),
    ],
)
def test_host_access_of_another_form_is_refused_with_the_right_one(given: object, mend: str) -> None:
    """A bare port, a switch and what is no port are told how to write it."""
    with pytest.raises(SpecInvalid, match=mend):
        Order.of("host", host_access=given)  # type: ignore[arg-type]


def test_host_access_needs_a_network() -> None:
    """Where there is no network the mistake is told; on the host's own network the ports are there."""
    with pytest.raises(SpecInvalid, match="without a network"):
        Order.of("host", host_access=[80], network="none")
    assert Order.of("host", network="none").spec.host_access == ()
    assert Order.of("host", host_access=[80], network="host").spec.host_access == (Port(80),)


def test_extra_hosts_maps_names_to_addresses() -> None:
    """IPv4 and IPv6 addresses, and the machine itself where a port of it may be reached."""
    hosts = {"db": "192.0.2.7", "my_db.example": "2001:db8::1", "api": "host-gateway"}
    assert extra_hosts_of(hosts, (Port(80),)) == hosts
    assert extra_hosts_of(None, ()) == {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["db:192.0.2.7", "v6=2001:db8::1"], r'extra_hosts=\{"db": "192.0.2.7", "v6": "2001:db8::1"\}'),
        ("db:192.0.2.7", r'extra_hosts=\{"db": "192.0.2.7"\}'),
        ({"a b": "192.0.2.7"}, "has the name 'a b'"),
        ({"a\n192.0.2.9 b": "192.0.2.7"}, "has the name"),
        ({"#": "192.0.2.7"}, "has the name"),
        ({"db": "192.0.2.7\n192.0.2.9 x"}, "the address of db"),
        ({"db": "localhost"}, "the address of db"),
        ({"db": 7}, "the address of db"),
        ({"api": "host-gateway"}, r"add host_access=\[8080\]"),
    ],
)
def test_extra_hosts_of_another_form_is_refused_with_the_right_one(given: object, told: str) -> None:
    """A list as compose has it, names and addresses that hosts(5) would misread, a gateway without ports."""
    with pytest.raises(SpecInvalid, match=told):
        Order.of("host", extra_hosts=given)  # type: ignore[arg-type]
