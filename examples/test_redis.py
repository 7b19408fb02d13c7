"""A real Redis: started for a test, gone after it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_containers import Container, ContainerFactory


def ask(redis: Container, request: bytes, answer: bytes) -> None:
    """Send *request* and compare what comes back."""
    with socket.create_connection(redis.address(6379), timeout=5) as client:
        client.sendall(request)
        got = b""
        while len(got) < len(answer) and (more := client.recv(4096)):
            got += more
    assert got == answer


def test_set_and_get(container: ContainerFactory, redis_image: str) -> None:
    """What was set is what one gets."""
    redis = container(redis_image)
    ask(redis, b"SET colour green\r\nGET colour\r\n", b"+OK\r\n$5\r\ngreen\r\n")


def test_every_test_has_an_empty_redis(container: ContainerFactory, redis_image: str) -> None:
    """Nothing of the test before is left."""
    redis = container(redis_image)
    ask(redis, b"DBSIZE\r\n", b":0\r\n")


def test_peer_is_reached_by_name(container: ContainerFactory, redis_image: str) -> None:
    """Containers of one network find each other by name."""
    container(redis_image, name="cache")
    client = container(redis_image, name="client", command=["sleep", "infinity"], ready=lambda _: True)
    pong = client.exec(["redis-cli", "-h", "cache", "ping"], check=True)
    assert pong.stdout == "PONG\n"
