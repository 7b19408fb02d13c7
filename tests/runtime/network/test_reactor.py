"""The gateway's loop."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from functools import partial

import pytest

from pytest_containers.runtime.network.reactor import READ, WRITE, Reactor

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return two connected sockets."""
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_reactor_calls_when_bytes_are_there(pair: Pair) -> None:
    """A watched socket with something to read is reported, with the event seen."""
    reactor, seen = Reactor(), []

    def read(events: int) -> None:
        seen.append((events, pair[0].recv(16)))
        reactor.stop()

    reactor.watch(pair[0], READ, read)
    pair[1].send(b"hello")
    reactor.run()
    assert seen == [(READ, b"hello")]


def test_reactor_watches_what_was_asked_last(pair: Pair) -> None:
    """A second watch replaces the first: a socket asked for writing is not reported for reading."""
    reactor, seen = Reactor(), []

    def write(events: int) -> None:
        seen.append(events)
        reactor.stop()

    reactor.watch(pair[0], READ, lambda events: seen.append(-events))
    reactor.watch(pair[0], WRITE, write)
    pair[1].send(b"hello")
    reactor.run()
    assert seen == [WRITE]


def test_reactor_forgets(pair: Pair) -> None:
    """Nothing is reported of a socket that is watched no more, however it was said."""
    reactor: Reactor = Reactor()
    seen: list[int] = []
    for line in pair:
        reactor.watch(line, READ, seen.append)
        line.send(b"x")
    reactor.forget(pair[0])
    reactor.forget(pair[0])
    reactor.watch(pair[1], 0, seen.append)
    reactor.later(0.05, reactor.stop)
    reactor.run()
    assert seen == []


def test_reactor_does_not_mistake_a_new_socket_for_a_closed_one(pair: Pair) -> None:
    """An event of a socket that was closed meanwhile is not given to the one that got its number."""
    reactor: Reactor = Reactor()
    calls: list[str] = []
    with contextlib.ExitStack() as scope:
        others = tuple(scope.enter_context(one) for one in socket.socketpair())

        def replace(victim: socket.socket, _: int) -> None:
            """Close the other one, which is ready in this turn too, and take its number."""
            calls.append("ready")
            number = victim.fileno()
            reactor.close(victim)
            os.dup2(pair[1].fileno(), number)
            fresh = scope.enter_context(socket.socket(fileno=number))
            reactor.watch(fresh, READ, lambda _: calls.append("fresh"))
            reactor.stop()

        reactor.watch(pair[0], READ, partial(replace, others[0]))
        reactor.watch(others[0], READ, partial(replace, pair[0]))
        pair[1].send(b"x")
        others[1].send(b"x")
        reactor.run()
    assert calls == ["ready"]


def test_reactor_calls_timers_in_order_and_not_the_cancelled_ones() -> None:
    """Times come due in their order; a cancelled one never does."""
    reactor: Reactor = Reactor()
    seen: list[str] = []
    reactor.later(0.03, reactor.stop)
    reactor.later(0.02, lambda: seen.append("second"))
    cancelled = reactor.later(0.0, lambda: seen.append("never"))
    reactor.later(0.01, lambda: seen.append("first"))
    cancelled.cancel()
    reactor.run()
    assert seen == ["first", "second"]


def test_reactor_goes_on_after_a_call_that_raises(pair: Pair) -> None:
    """The error is reported, others are served meanwhile, and the call is made again a moment later."""
    errors: list[str] = []
    reactor = Reactor(lambda error: errors.append(str(error)))
    served: list[str] = []

    def fail(what: str) -> None:
        raise ValueError(what)

    def serve(_: int) -> None:
        served.append(pair[1].recv(16).decode())
        if errors.count("socket") > 1:
            reactor.stop()

    reactor.watch(pair[0], READ, lambda _: fail("socket"))
    reactor.watch(pair[1], READ, serve)
    reactor.later(0.0, lambda: fail("timer"))
    reactor.later(0.15, lambda: pair[0].sendall(b"again"))
    for line in pair:
        line.send(b"x")
    reactor.run()
    assert served == ["x", "again"]
    assert sorted(errors) == ["socket", "socket", "timer"]
