"""Twenty instances of one image, all bound to one port, each on its own address."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_containers import ContainerFactory


def test_twenty_on_one_port(container: ContainerFactory, redis_image: str) -> None:
    """Each answers on its own address, and what one is told the others do not know."""
    addresses = [container(redis_image, name=f"redis{n}").address(6379) for n in range(20)]
    assert len(set(addresses)) == 20
    assert {address.port for address in addresses} == {6379}

    for number, address in enumerate(addresses):
        with socket.create_connection(address, timeout=5) as client:
            client.sendall(b"INCRBY number %d\r\n" % (number + 1))
            assert client.recv(100) == b":%d\r\n" % (number + 1)
