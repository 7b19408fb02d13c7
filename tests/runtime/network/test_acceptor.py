"""Connections taken from a listener, also where the machine has nothing left to take them with."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from pytest_containers.runtime.network.acceptor import SHORTAGE, Acceptor
from pytest_containers.runtime.network.reactor import Reactor

Take = Callable[[socket.socket, str], None]


class Bench:
    """A listener on loopback, and a reactor that a test turns by hand."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.taken: list[socket.socket] = []
        self._open: list[socket.socket] = []

    def take(self, client: socket.socket, ip: str) -> None:
        """Keep a connection."""
        assert ip == "127.0.0.1"
        self.taken.append(client)

    def connect(self) -> socket.socket:
        """Return a connection to the listener."""
        self._open.append(socket.create_connection(self.listener.getsockname(), timeout=10))
        return self._open[-1]

    def turn(self, until: Callable[[], bool]) -> None:
        """Turn the reactor until a condition holds."""
        deadline = time.monotonic() + 10

        def look() -> None:
            assert time.monotonic() < deadline, "it did not come true"
            if until():
                self.reactor.stop()
            else:
                self.reactor.later(0.001, look)

        look()
        self.reactor.run()
        self.reactor._running = True

    def close(self) -> None:
        """Close everything."""
        for one in (*self._open, *self.taken, self.listener):
            one.close()
        self.reactor.close_all()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Return a bench."""
    made = Bench()
    yield made
    made.close()


def test_acceptor_lets_connections_wait_while_there_is_no_room(bench: Bench) -> None:
    """What does not fit stays in the kernel's queue, and is taken when there is room again."""
    limit = [2]
    Acceptor(bench.reactor, bench.listener, bench.take, lambda: len(bench.taken) < limit[0])
    clients = [bench.connect() for _ in range(5)]
    bench.turn(lambda: len(bench.taken) == 2)
    for client in clients:
        client.sendall(b"x")
    limit[0] = 5
    bench.turn(lambda: len(bench.taken) == 5)
    assert [one.recv(1) for one in bench.taken] == [b"x"] * 5


@pytest.mark.parametrize("number", sorted(SHORTAGE))
def test_acceptor_offers_a_connection_again_after_a_shortage(bench: Bench, number: int) -> None:
    """A connection for which there were no descriptors or no memory is neither lost nor reset."""
    tries: list[int] = []

    def take(client: socket.socket, ip: str) -> None:
        tries.append(client.fileno())
        if len(tries) < 3:
            raise OSError(number, os.strerror(number))
        bench.take(client, ip)

    Acceptor(bench.reactor, bench.listener, take)
    client = bench.connect()
    bench.turn(lambda: len(bench.taken) == 1)
    assert len(set(tries)) == 1
    bench.taken[0].sendall(b"served")
    assert client.recv(9) == b"served"


@pytest.mark.parametrize("error", [OSError(errno.EHOSTUNREACH, "no way"), ValueError("a mistake")])
def test_acceptor_goes_on_after_a_connection_that_fails(bench: Bench, error: Exception) -> None:
    """One connection's failure resets that one, and the next one is served."""

    def take(client: socket.socket, ip: str) -> None:
        if bench.taken or failed:
            bench.take(client, ip)
        else:
            failed.append(True)
            raise error

    failed: list[bool] = []
    Acceptor(bench.reactor, bench.listener, take)
    first, second = bench.connect(), bench.connect()
    bench.turn(lambda: len(bench.taken) == 1)
    with pytest.raises(ConnectionResetError):
        first.recv(1)
    bench.taken[0].sendall(b"served")
    assert second.recv(9) == b"served"


def test_acceptor_passes_over_a_connection_that_gave_up(bench: Bench) -> None:
    """A client that is gone before it is accepted costs the others nothing."""
    hasty = bench.connect()
    hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    hasty.close()
    client = bench.connect()
    Acceptor(bench.reactor, bench.listener, bench.take)
    bench.turn(lambda: len(bench.taken) >= 1)
    bench.taken[-1].sendall(b"served")
    assert client.recv(9) == b"served"


def test_acceptor_leaves_a_socket_that_does_not_listen(bench: Bench) -> None:
    """A socket on which accept can never succeed is closed, and the loop does not spin on it."""
    bench.listener.shutdown(socket.SHUT_RDWR)
    Acceptor(bench.reactor, bench.listener, bench.take)
    bench.turn(lambda: bench.listener.fileno() < 0)


def test_acceptor_closes_with_a_connection_in_its_hand(bench: Bench) -> None:
    """A connection that waits for descriptors is reset when its listener goes."""
    tries: list[int] = []

    def take(client: socket.socket, _ip: str) -> None:
        tries.append(client.fileno())
        raise OSError(errno.EMFILE, "none left")

    acceptor = Acceptor(bench.reactor, bench.listener, take)
    client = bench.connect()
    bench.turn(lambda: bool(tries))
    acceptor.close()
    acceptor.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
