"""TCP that leaves the run, from a container to an address of the host's world."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import select
import signal
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

import pytest

from pytest_containers.runtime.network.egress import may_leave

if TYPE_CHECKING:
    from tests.runtime.network.conftest import Container, Stage

    Eventually = Callable[[Callable[[], bool]], None]

# More than the buffers of both connections together (tcp_rmem, tcp_wmem; tcp(7)).
_MUCH = 1 << 28
RUN = IPv4Network("10.64.64.0/18")


@pytest.mark.parametrize(
    "ip",
    [
        "0.0.0.0",
        "127.0.0.1",
        "127.255.0.9",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "224.0.0.1",
        "255.255.255.255",
        "10.64.64.1",
        "10.64.127.254",
    ],
)
def test_may_leave_refuses_the_machine_itself(ip: str) -> None:
    """Loopback, metadata services, multicast and the run's own addresses are nobody's to dial."""
    assert not may_leave(IPv4Address(ip), RUN)


@pytest.mark.parametrize("ip", ["10.64.63.255", "10.64.128.0", "192.168.1.1", "8.8.8.8", "128.0.0.1"])
def test_may_leave_allows_all_others(ip: str) -> None:
    """Private networks of the machine and the Internet are reached."""
    assert may_leave(IPv4Address(ip), RUN)


def _pair(stage: Stage, place: Container, port: int = 443) -> tuple[socket.socket, socket.socket]:
    """Return a connection out of *place* and the outside's end of it."""
    listener = stage.host.listen(stage.outside, port)
    line = place.connect(stage.outside, port)
    return line, stage.host.accept(listener)


@pytest.mark.kernel
def test_egress_dials_what_the_container_dialled(stage: Stage) -> None:
    """Address and port arrive as they were meant, and bytes go both ways."""
    line, served = _pair(stage, stage.container(), 8443)
    assert served.getsockname() == (stage.outside, 8443)
    assert line.getpeername() == (stage.outside, 8443)
    line.sendall(b"GET /")
    assert served.recv(16) == b"GET /"
    served.sendall(b"200 OK")
    assert line.recv(16) == b"200 OK"


@pytest.mark.kernel
def test_egress_keeps_the_other_direction_open_after_a_half_close(stage: Stage) -> None:
    """Who has sent its last byte can still receive (RFC 9293, section 3.6)."""
    line, served = _pair(stage, stage.container())
    line.sendall(b"all of it")
    line.shutdown(socket.SHUT_WR)
    assert served.recv(16) == b"all of it"
    assert served.recv(16) == b""
    served.sendall(b"answer")
    served.close()
    assert line.recv(16) == b"answer"
    assert line.recv(16) == b""


@pytest.mark.kernel
def test_egress_resets_the_container_when_nothing_listens_outside(stage: Stage) -> None:
    """A refused connection is a reset one, at once, and no silence."""
    place = stage.container()
    with pytest.raises(ConnectionResetError):
        place.connect(stage.outside, 9).recv(1)


@pytest.mark.kernel
@pytest.mark.parametrize("ip", ["169.254.169.254", "100.100.100.200"])
def test_egress_refuses_metadata_services(stage: Stage, ip: str) -> None:
    """What hands out a machine's credentials is not reached, although the host has the address."""
    stage.host.agent.ask("own", address=f"{ip}/32")
    stage.host.listen(ip, 80)
    place = stage.container()
    with pytest.raises(ConnectionResetError):
        place.connect(ip, 80).recv(1)


@pytest.mark.kernel
def test_egress_port_itself_is_no_door(stage: Stage) -> None:
    """The gateway's listener takes redirected connections only."""
    place = stage.container()
    rows = stage.switch.ask("read", path="/proc/net/tcp").splitlines()[1:]
    (port,) = (int(row.split()[1][9:], 16) for row in rows if row.split()[1].startswith("00000000:"))
    with pytest.raises(OSError, match="No route to host"):
        place.connect(place.resolver, port)


@pytest.mark.kernel
@pytest.mark.parametrize("reader", ["outside", "container"])
def test_egress_makes_a_fast_writer_wait_for_a_slow_reader(stage: Stage, reader: str) -> None:
    """Bytes nobody takes stay with the writer; taken later, they are all there and in order."""
    ends = _pair(stage, stage.container())
    writer, slow = ends if reader == "outside" else ends[::-1]
    written = _fill(writer)
    assert len(written) < _MUCH, "somebody keeps in memory what nobody reads"
    writer.shutdown(socket.SHUT_WR)
    assert stage.host.read(slow, len(written) + 1) == written


def _fill(writer: socket.socket) -> bytes:
    """Write until *writer* has not taken a byte for a while; return what it took."""
    piece = os.urandom(1 << 20)
    written = b""
    writer.setblocking(False)
    while len(written) < _MUCH and select.select([], [writer], [], 0.3)[1]:
        written += piece[: writer.send(piece)]
    return written


@pytest.mark.kernel
def test_egress_carries_hundreds_of_connections(stage: Stage) -> None:
    """Three hundred connections live beside each other, and each gets its own bytes."""
    listener = stage.host.listen(stage.outside, 443)
    place = stage.container()
    pairs: list[tuple[socket.socket, socket.socket]] = []
    for _ in range(300):
        line = place.connect(stage.outside, 443)
        pairs.append((line, stage.host.accept(listener)))
    for number, (line, _) in enumerate(pairs):
        line.sendall(number.to_bytes(4, "big"))
    heard = [int.from_bytes(stage.host.read(served, 4), "big") for _, served in pairs]
    assert heard == list(range(300))


@pytest.mark.kernel
def test_egress_passes_a_reset_on(stage: Stage) -> None:
    """A connection that the outside breaks is broken for the container, and the other way round."""
    for breaker in (0, 1):
        ends = _pair(stage, stage.container(), 443 + breaker)
        ends[0].sendall(b"x")
        assert ends[1].recv(1) == b"x"
        ends[breaker].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ends[breaker].close()
        with pytest.raises(ConnectionResetError):
            ends[1 - breaker].recv(1)


@pytest.mark.kernel
def test_egress_ends_the_connections_of_a_released_container(stage: Stage) -> None:
    """The outside learns at once that a container is gone; others keep their connections."""
    leaver, stayer = stage.container(), stage.container()
    listener = stage.host.listen(stage.outside, 443)
    leaver.connect(stage.outside, 443)
    left = stage.host.accept(listener)
    line = stayer.connect(stage.outside, 443)
    kept = stage.host.accept(listener)
    os.kill(leaver.agent.pid, signal.SIGSTOP)
    stage.switch.ask("release", endpoint=leaver.endpoint_text)
    with pytest.raises(ConnectionResetError):
        left.recv(1)
    line.sendall(b"still here")
    assert kept.recv(16) == b"still here"
    os.kill(leaver.agent.pid, signal.SIGKILL)


@pytest.mark.kernel
@pytest.mark.parametrize("seed", range(3))
def test_egress_keeps_no_descriptor_of_a_connection_that_ended(
    stage: Stage, eventually: Eventually, seed: int
) -> None:
    """However connections end, in whatever order, the gateway's table of open files does not grow."""
    dice = random.Random(seed)
    folder = f"/proc/{stage.gateway}/fd"
    listener = stage.host.listen(stage.outside, 443)
    place = stage.container()
    place.query("nobody")  # when that is answered the gateway has all its own sockets
    before = len(os.listdir(folder))
    open_ends: list[socket.socket] = []
    for _ in range(100):
        open_ends += (place.connect(stage.outside, 443), stage.host.accept(listener))
        with contextlib.suppress(ConnectionResetError):
            place.connect(stage.outside, 9)
        for _ in range(dice.randrange(4)):
            _disturb(dice, open_ends)
    for end in open_ends:
        end.close()
    eventually(lambda: len(os.listdir(folder)) == before)


@pytest.mark.kernel
def test_egress_lets_connections_wait_while_the_gateway_has_no_descriptor_left(
    root_stage: Stage, eventually: Eventually
) -> None:
    """With no descriptor and with a single one: a connection waits, and is carried when there are more."""
    stage = root_stage
    listener = stage.host.listen(stage.outside, 443)
    place = stage.container()
    place.query("nobody")  # when that is answered the gateway has all its own sockets
    limit = resource.prlimit(stage.gateway, resource.RLIMIT_NOFILE)[1]
    for spare in (0, 1):
        used = {int(number) for number in os.listdir(f"/proc/{stage.gateway}/fd")}
        free = [number for number in range(1000) if number not in used]
        resource.prlimit(stage.gateway, resource.RLIMIT_NOFILE, (free[spare], limit))
        line = place.connect(stage.outside, 443)
        line.sendall(b"patience")
        listener.settimeout(0.5)
        with pytest.raises(TimeoutError):
            stage.host.accept(listener)
        resource.prlimit(stage.gateway, resource.RLIMIT_NOFILE, (limit, limit))
        listener.settimeout(10)
        served = stage.host.accept(listener)
        assert stage.host.read(served, 8) == b"patience"
        line.close()
        served.close()
        _until_idle(stage, eventually, len(used))


def _until_idle(stage: Stage, eventually: Eventually, count: int) -> None:
    """Wait until the gateway has no more than *count* descriptors."""
    eventually(lambda: len(os.listdir(f"/proc/{stage.gateway}/fd")) <= count)


def _disturb(dice: random.Random, ends: list[socket.socket]) -> None:
    """Write to an end, shut it, close it or reset it; one that is broken already may say so."""
    if not ends:
        return
    end = dice.choice(ends)
    with contextlib.suppress(OSError):
        match dice.randrange(5):
            case 0 | 1:
                end.send(bytes(dice.randrange(1 << 18)), socket.MSG_DONTWAIT)
            case 2:
                end.shutdown(socket.SHUT_WR)
            case 3:
                end.close()
            case _:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()
