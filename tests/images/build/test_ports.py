"""The ports of EXPOSE."""

from __future__ import annotations

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.ports import read_ports


@pytest.mark.parametrize(
    ("word", "ports"),
    [
        ("80", ["80/tcp"]),
        ("80/tcp", ["80/tcp"]),
        ("53/UDP", ["53/udp"]),
        ("9/sctp", ["9/sctp"]),
        ("80/", ["80/tcp"]),
        ("8000-8002/udp", ["8000/udp", "8001/udp", "8002/udp"]),
        ("7-7", ["7/tcp"]),
        ("8080:80", ["80/tcp"]),
        ("127.0.0.1:8080:80/udp", ["80/udp"]),
        ("127.0.0.1::80", ["80/tcp"]),
        ("[::1]:8080:80", ["80/tcp"]),
        ("8000-8001:80-81", ["80/tcp", "81/tcp"]),
        ("8000-8009:80", ["80/tcp"]),
        ("65535", ["65535/tcp"]),
    ],
)
def test_port_may_be_a_range(word: str, ports: list[str]) -> None:
    """A word gives each of its ports with the transport, TCP where it names none."""
    assert list(read_ports(word)) == ports


@pytest.mark.parametrize(
    "word",
    [
        "",
        "x",
        "/tcp",
        "80/xtp",
        "65536",
        "2-1",
        "1-2-3",
        "80-",
        "-80",
        "x:80",
        "1.2.3:1:80",
        "1-3:80-81",
        "8 0",
        "٣",
    ],
)
def test_port_refuses_the_rest(word: str) -> None:
    """What is no port, range or transport is refused."""
    with pytest.raises(SpecInvalid):
        read_ports(word)
