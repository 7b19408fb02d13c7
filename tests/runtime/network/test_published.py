"""Published ports and addresses of servers that cannot be reached: what a client sees, and how soon."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.spec import ContainerSpec, Port

if TYPE_CHECKING:
    from pytest_containers.engines.native_container import NativeHandle
    from pytest_containers.spec import Address
    from tests.runtime.conftest import Boxes

pytestmark = pytest.mark.kernel

# Listens on argv[1]:7000, with IPV6_V6ONLY where argv[2] is "only".
_SERVER: Final = """
import socket, sys
server = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
if ":" in sys.argv[1]:
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, sys.argv[2] == "only")
server.bind((sys.argv[1], 7000))
server.listen()
print("up", flush=True)
while True:
    server.accept()[0].send(b"hello")
"""


def _started(boxes: Boxes, host: str, only: str = "") -> NativeHandle:
    command = ("/usr/bin/python3", "-c", _SERVER, host, only)
    handle = boxes.start(ContainerSpec(name="box", command=command))
    while not handle.logs()[0]:
        assert handle.wait(0.01).status == "running", handle.logs()
    return handle


def _read(address: Address) -> bytes:
    """Connect and read; at once, whatever the outcome is."""
    began = time.monotonic()
    try:
        with socket.create_connection(address, timeout=20) as line:
            return line.recv(100)
    finally:
        assert time.monotonic() - began < 2, "it took long"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_server_on_all_addresses_is_reached(boxes: Boxes, host: str) -> None:
    """A server on ``::`` takes IPv4 too, as the kernel has it by default (ipv6(7))."""
    box = _started(boxes, host)
    assert _read(box.address(Port(7000))) == b"hello"
    assert _read(box.address(Port(7000), published=True)) == b"hello"


@pytest.mark.parametrize(("host", "only"), [("::", "only"), ("::1", ""), ("127.0.0.1", "")])
def test_server_that_ipv4_does_not_reach_is_refused_at_once(boxes: Boxes, host: str, only: str) -> None:
    """The address refuses, the published port resets, and nothing is told to listen."""
    box = _started(boxes, host, only)
    assert box.listening() == frozenset()
    with pytest.raises(ConnectionRefusedError):
        _read(box.address(Port(7000)))
    with pytest.raises(ConnectionResetError):
        _read(box.address(Port(7000), published=True))


def test_published_port_that_nobody_serves_is_reset_at_once(boxes: Boxes) -> None:
    """The kernel accepts before the gateway can ask inside; a reset follows, and no silence."""
    box = boxes.start(ContainerSpec(name="box", command=("sleep", "60")))
    with pytest.raises(ConnectionResetError):
        _read(box.address(Port(7000), published=True))
