"""Attacks on the other containers of a run: what one takes of the gateway, others do not lack."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.runtime import gateway
from pytest_containers.runtime.network import dns
from pytest_containers.runtime.network.names import Line
from tests.plugins.clock import scaled
from tests.runtime.network.conftest import eventually, host, small_stage, stage

if TYPE_CHECKING:
    from tests.runtime.network.conftest import Container, Stage

    Eventually = Callable[[Callable[[], bool]], None]

__all__ = ["eventually", "host", "small_stage", "stage"]

pytestmark = pytest.mark.kernel

_MIB: Final = 1 << 20
_ROOT: Final = Path(__file__).resolve().parents[2]


def test_connections_of_one_container_leave_room_for_others(
    small_stage: Stage, eventually: Eventually
) -> None:
    """A container at its ceiling is reset while others get out, and has new ones when its old ones end."""
    stage = small_stage
    listener = stage.host.listen(stage.outside, 443)
    place, other = stage.container(), stage.container()
    for _ in range(2):
        ends, refused = _flood(stage, place, listener, 60)
        assert (len(ends), refused) == (64, 28)
        others, _ = _flood(stage, other, listener, 1)
        assert len(others) == 2
        for end in (*ends, *others):
            end.close()
        # Whether the gateway has noticed is seen by what it holds: two descriptors a connection.
        eventually(lambda: len(os.listdir(f"/proc/{stage.gateway}/fd")) < 30)


def _flood(
    stage: Stage, place: Container, listener: socket.socket, count: int
) -> tuple[list[socket.socket], int]:
    """Open connections out of *place*; return both ends of each that is carried, and how many were reset."""
    ends: list[socket.socket] = []
    refused = 0
    for _ in range(count):
        try:
            line = place.connect(stage.outside, 443)
            line.sendall(b"?")
            if not select.select([listener, line], [], [], 10)[0]:
                pytest.fail("a connection is neither carried nor reset")
            if select.select([line], [], [], 0)[0]:
                line.recv(1)
            ends += (line, stage.host.accept(listener))
        except ConnectionError:
            refused += 1
    return ends, refused


def test_resolver_hears_others_while_a_container_has_all_its_sessions(stage: Stage) -> None:
    """Who opens hundreds of idle TCP connections to the resolver is refused, and nobody else is."""
    hog, other = stage.container("default", "hog"), stage.container()
    idle = [hog.connect(hog.resolver, 53) for _ in range(300)]
    query = stage.query_bytes("hog")
    for line in (idle[0], other.connect(other.resolver, 53)):
        line.sendall(len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(stage.host.read(line, 2), "big")
        assert stage.host.read(line, size)[-4:] == socket.inet_aton(hog.ip)
    assert idle[-1].recv(1) == b""


def test_resolver_asks_for_others_while_a_container_has_all_its_queries(stage: Stage) -> None:
    """Who asks a silent server hundreds of things is told SERVFAIL, and others' queries are still sent."""
    server = stage.host.udp(stage.resolvers[0], 53)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    hog, other = stage.container(), stage.container()
    lines = [hog.ask(hog.resolver, f"n{number}.example") for number in range(400)]
    for number in range(400, 420):  # on a busy machine the kernel drops some (udp(7))
        with contextlib.suppress(TimeoutError):
            assert dns.rcode(lines[-1].recv(512)) == dns.SERVER_FAILURE
            break
        lines.append(hog.ask(hog.resolver, f"n{number}.example"))
    else:
        pytest.fail("no query is refused")
    line = other.ask(other.resolver, "wanted.example")
    while b"wanted" not in (asked := server.recvfrom(512))[0]:
        assert b"example" in asked[0]
    query, sender = asked
    server.sendto(query[:2] + b"\x81\x80" + query[4:], sender)
    assert dns.rcode(line.recv(512)) == dns.NO_ERROR


def test_slow_readers_of_one_container_cost_the_gateway_little(stage: Stage, eventually: Eventually) -> None:
    """A hundred connections that nobody reads are kept in the kernel, and not in the gateway's memory."""
    place = stage.container()
    # The kernel keeps much before the gateway and little behind it, and 100 MB at most (tcp(7)).
    stage.host.agent.ask("write", path="/proc/sys/net/ipv4/tcp_rmem", text="4096 524288 524288")
    for agent in (stage.switch, place.agent):
        agent.ask("write", path="/proc/sys/net/ipv4/tcp_rmem", text="4096 4096 4096")
        agent.ask("write", path="/proc/sys/net/ipv4/tcp_wmem", text="4096 4096 4096")
    listener = stage.host.listen(stage.outside, 443)
    place.query("nobody")
    before = _memory_bytes(stage)
    pairs = [(place.connect(stage.outside, 443), stage.host.accept(listener)) for _ in range(100)]
    content = bytes(_MIB)
    for _, served in pairs:
        served.setblocking(False)
    full: set[int] = set()

    def fill() -> bool:
        for number, (_, served) in enumerate(pairs):
            with contextlib.suppress(BlockingIOError):
                served.send(content)
                full.discard(number)
                continue
            full.add(number)
        return len(full) == len(pairs)

    # What has come together while the gateway sleeps is read in whole pieces when it wakes.
    os.kill(stage.gateway, signal.SIGSTOP)
    eventually(fill)
    os.kill(stage.gateway, signal.SIGCONT)
    place.query("nobody")
    eventually(fill)
    assert _memory_bytes(stage) - before < 14 * _MIB


def _memory_bytes(stage: Stage) -> int:
    """Return the memory that is the gateway's own (proc_pid_status(5), RssAnon)."""
    lines = Path(f"/proc/{stage.gateway}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


# A gateway with argv[2] descriptors at most, on the control socket argv[1].
_POOR: Final = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
from pytest_containers.runtime import gateway
gateway.serve(socket.socket(fileno=int(sys.argv[1])))
"""


@contextlib.contextmanager
def _poor_gateway(files: int) -> Iterator[tuple[Line, subprocess.Popen[bytes]]]:
    """Run a gateway that may have *files* descriptors; at the end it must end by itself."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _POOR, str(theirs.fileno()), str(files)],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
            )
        try:
            yield Line(ours), process
        finally:
            ours.close()
            code = process.wait(scaled(20))
    assert code == 0


@pytest.mark.parametrize("files", [40, 41])
def test_busy_published_port_does_not_end_the_gateway(files: int) -> None:
    """With an odd and an even number of descriptors left: connections wait for one, and all are served."""
    with _poor_gateway(files) as (line, process), socket.create_server(("127.0.0.1", 0)) as published:
        with socket.create_server(("127.0.0.1", 0), backlog=100) as inside:
            threading.Thread(target=_echo, args=(inside, 60), daemon=True).start()
            line.publish(published, "127.0.0.1", inside.getsockname()[1])
            clients = [
                socket.create_connection(published.getsockname(), timeout=scaled(20)) for _ in range(60)
            ]
            for client in clients:
                client.sendall(b"x")
            began = time.monotonic()
            for client in clients:
                assert client.recv(1) == b"x"
                client.close()
        assert process.poll() is None
        ticks = sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().split()[13:15]))
        assert ticks / os.sysconf("SC_CLK_TCK") < scaled(1) + (time.monotonic() - began) / 2, "it spins"


def _echo(listener: socket.socket, count: int) -> None:
    """Send back what each of *count* connections sends first."""
    for _ in range(count):
        client, _ = listener.accept()
        with client:
            client.sendall(client.recv(1))


@pytest.mark.parametrize("files", [25, 26, 27])
def test_listener_that_comes_when_no_descriptor_is_left_does_not_end_the_gateway(files: int) -> None:
    """Ports that cannot be taken (MSG_CTRUNC, recvmsg(2)) are reported, and later ones served again."""
    with _poor_gateway(files) as (line, process), contextlib.ExitStack() as scope:
        published = [scope.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(40)]
        inside = scope.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        threading.Thread(target=_echo, args=(inside, 1), daemon=True).start()
        for listener in published:
            line.publish(listener, "127.0.0.1", inside.getsockname()[1])
        reports: list[str] = []
        while not reports:
            assert process.poll() is None
            reports += line.reports() or ()
            select.select([line], [], [], 0.1)
        assert "came with the sockets []" in reports[0]
        line.forget("default", "127.0.0.1")  # which gives descriptors back
        line.publish(published[0], "127.0.0.1", inside.getsockname()[1])
        with socket.create_connection(published[0].getsockname(), timeout=scaled(20)) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\0" * 1000,
        b'{"verb": "publish", "words": {}, "records": []}',
        b'{"verb": "publish", "words": {"ip": "1", "port": "x"}, "records": []}',
        b'{"verb": "egress", "words": {"subnet": "nowhere"}, "records": []}',
        b'{"verb": "open", "words": {"network": "a"}, "records": []}',
        b'{"verb": "grant", "words": {"ip": "10.0.0.1", "transport": "sctp", "port": "1"}, "records": []}',
        b'{"verb": "forget", "words": {}, "records": []}',
        b'{"verb": "shout", "words": {}, "records": []}',
        b'{"verb": "add", "words": {}, "records": [[1, 2, 3]]}',
        b'{"verb": "add", "words": {}, "records": [["default", [], {}]]}',
    ],
)
def test_control_message_that_makes_no_sense_does_not_end_the_gateway(content: bytes) -> None:
    """It is reported, its sockets are closed, and the next message is carried out."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=gateway.serve, args=(theirs,))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as inside:
        line = Line(ours)
        thread.start()
        reading, writing = os.pipe()
        with socket.socket(socket.AF_UNIX) as odd, socket.socket(type=socket.SOCK_DGRAM) as udp:
            socket.send_fds(ours, [content], [odd.fileno(), udp.fileno(), writing])
        os.close(writing)
        assert os.read(reading, 1) == b""
        os.close(reading)
        with socket.create_server(("127.0.0.1", 0)) as published:
            line.publish(published, "127.0.0.1", inside.getsockname()[1])
            address = published.getsockname()
        with socket.create_connection(address, timeout=scaled(20)) as client:
            inside.settimeout(20)
            served, _ = inside.accept()
            with served:
                served.sendall(b"on")
                assert client.recv(2) == b"on"
        if b"records" in content and b'"add"' not in content:
            assert line.reports()
        ours.close()
        thread.join(20)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not thread.is_alive()
