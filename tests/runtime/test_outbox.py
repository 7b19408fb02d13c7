"""Laws of what is sent to a client that reads slowly, or not at all."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from pytest_containers.runtime import messages
from pytest_containers.runtime.outbox import Outbox

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return two connected sockets."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def _filled(outbox: Outbox) -> int:
    """Post until a message is kept; return how many were posted."""
    count = 0
    while not outbox.pending:
        outbox.post(b"%d" % count)
        count += 1
        assert count < 100_000, "the socket takes whatever comes"
    return count


def _post(outbox: Outbox, content: bytes, count: int, descriptors: tuple[int, ...] = ()) -> None:
    for _ in range(count):
        outbox.post(content, descriptors)


def test_outbox_keeps_order_and_descriptors(pair: Pair) -> None:
    """What a slow client reads late are all messages in their order, with the descriptors they had."""
    outbox = Outbox(pair[0])
    count = _filled(outbox)
    file = os.memfd_create("log")
    inode = os.fstat(file).st_ino
    before = len(os.listdir("/proc/self/fd"))
    outbox.post(b"long" * 100_000, (file,))
    os.close(file)
    outbox.post(b"last")
    read: list[bytes] = []
    while True:
        outbox.flush()
        content, descriptors, _ = messages.receive(pair[1])
        read.append(content)
        for descriptor in descriptors:
            assert os.fstat(descriptor).st_ino == inode
            os.close(descriptor)
        if content == b"last":
            break
    assert read == [*(b"%d" % number for number in range(count)), b"long" * 100_000, b"last"]
    assert not outbox.pending
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_outbox_has_a_bound(pair: Pair) -> None:
    """A client that reads nothing costs a bounded number of messages, whose copies `close` closes."""
    outbox = Outbox(pair[0])
    _filled(outbox)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError, match="unread"):
        _post(outbox, b"x", 10_000, (0,))
    outbox.close()
    assert not outbox.pending
    assert len(os.listdir("/proc/self/fd")) == before


def test_outbox_has_a_bound_in_bytes(pair: Pair) -> None:
    """Long messages that nobody reads do not fill the memory."""
    outbox = Outbox(pair[0])
    _filled(outbox)
    with pytest.raises(BlockingIOError, match="unread"):
        _post(outbox, bytes(8 << 20), 5)
    outbox.close()


def test_outbox_of_a_client_that_is_gone_is_an_error(pair: Pair) -> None:
    """A closed client is told from a slow one, for a new message and for one that was kept."""
    outbox = Outbox(pair[0])
    _filled(outbox)
    pair[1].close()
    with pytest.raises(ConnectionError):
        outbox.flush()
    outbox.close()
    with pytest.raises(ConnectionError):
        outbox.post(b"x")
