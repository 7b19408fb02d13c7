"""The gateway as a process: what it serves comes by its control socket, and so does its end."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from pytest_containers.runtime import gateway
from pytest_containers.runtime.network import dns
from pytest_containers.runtime.network.names import Line, Record

SUBNET = IPv4Network("10.64.0.0/22")
QUERY = b"\x12\x67\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05redis\x00\x00\x01\x00\x01"


class Running:
    """A gateway in a thread, with one network whose resolver listens on loopback."""

    def __init__(self, control: socket.socket) -> None:
        self.line = Line(control)
        self._udp = socket.socket(type=socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._udp.getsockname()
        with self._udp, socket.socket() as tcp:
            tcp.bind(("127.0.0.1", 0))
            tcp.listen()
            self.line.open("default", subnet=SUBNET, internal=True, sockets=(self._udp, tcp))

    def ask(self, query: bytes) -> bytes:
        """Return the answer to one query."""
        with socket.socket(type=socket.SOCK_DGRAM) as line:
            line.settimeout(10)
            line.connect(self.address)
            line.send(query)
            return line.recv(512)


@pytest.fixture
def running() -> Iterator[Running]:
    """Return a gateway; at the end its control socket is closed and it must end by itself."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=gateway.serve, args=(theirs,))
    with ours, theirs:
        thread.start()
        yield Running(ours)
        ours.close()
        thread.join(10)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not thread.is_alive(), "the gateway outlived its control socket"


def test_gateway_ends_with_its_control_socket() -> None:
    """EOF is the end, without a message."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    with theirs:
        gateway.serve(theirs)


def test_gateway_answers_with_every_name_sent_before_the_query(running: Running) -> None:
    """A name that was sent is known to the next query, however quickly that comes."""
    for last in range(2, 200):
        ip = f"10.64.0.{last}"
        running.line.add([Record(network="default", name="redis", ip=ip)])
        reply = running.ask(QUERY)
        assert int.from_bytes(reply[6:8], "big") == 1
        assert reply[-4:] == socket.inet_aton(ip)
        running.line.forget("default", ip)
        assert dns.rcode(running.ask(QUERY)) == dns.NAME_ERROR


def test_gateway_serves_the_next_network_of_a_subnet_on_the_same_sockets(running: Running) -> None:
    """A network that is closed takes its names along; the next one begins with its own."""
    running.line.add([Record(network="default", name="redis", ip="10.64.0.2")])
    assert dns.rcode(running.ask(QUERY)) == dns.NO_ERROR
    running.line.close("default")
    assert dns.rcode(running.ask(QUERY)) == dns.SERVER_FAILURE
    running.line.open("next", subnet=SUBNET, internal=True)
    assert dns.rcode(running.ask(QUERY)) == dns.NAME_ERROR
    running.line.add([Record(network="next", name="redis", ip="10.64.0.3")])
    assert running.ask(QUERY)[-4:] == socket.inet_aton("10.64.0.3")


def test_gateway_survives_noise(running: Running) -> None:
    """Bytes of any kind on its sockets do not end it."""
    with socket.socket(type=socket.SOCK_DGRAM) as line:
        for size in (0, 1, 11, 12, 40, 500):
            line.sendto(os.urandom(size), running.address)
    assert dns.rcode(running.ask(QUERY)) == dns.NAME_ERROR
