"""Attacks on servers of this machine: a container reaches those that its test has named, and no others."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Literal

import pytest

from pytest_containers.spec import ContainerSpec, ExecSpec, Port

if TYPE_CHECKING:
    from pytest_containers.engines.base import Handle
    from pytest_containers.engines.native_container import NativeHandle
    from tests.runtime.conftest import Boxes, Shell

pytestmark = pytest.mark.kernel

_SLEEP: Final = ("sleep", "600")
_HOST: Final = "host.docker.internal"
_NAMES: Final = (_HOST, "host.containers.internal")
# Sends a word to argv[2]:argv[3] by argv[1] and prints the answer, or what kept it from coming.
_ASK: Final = """
import socket, sys
kind = socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM
try:
    line = socket.socket(socket.AF_INET, kind)
    line.settimeout(3)
    line.connect((sys.argv[2], int(sys.argv[3])))
    line.send(b"hello")
    print(line.recv(100).decode() or "nothing")
except OSError as error:
    print(type(error).__name__, error.errno)
"""
_LOOK_UP: Final = """
import socket, sys
server = next(line.split()[1] for line in open("/etc/resolv.conf") if line.startswith("nameserver"))
line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
line.settimeout(3)
line.connect((server, 53))
name = b"".join(bytes([len(label)]) + label.encode() for label in sys.argv[1].split("."))
line.send(b"\\x12\\x67\\1\\0\\0\\1" + bytes(6) + name + b"\\0\\0\\1\\0\\1")
reply = line.recv(512)
print(reply[3] & 15, reply[7], socket.inet_ntoa(reply[-4:]) if reply[7] else "")
"""

Serve = Callable[..., int]
Kind = Literal["tcp", "udp"]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that serves on loopback and returns the port; it answers "+" and what it got."""
    with contextlib.ExitStack() as scope:

        def begin(kind: Kind = "tcp", host: str = "127.0.0.1", port: int = 0) -> int:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            server = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
            scope.callback(server.close)
            server.bind((host, port))
            thread = threading.Thread(target=_answer, args=(server, kind))
            if kind == "tcp":
                server.listen()
            thread.start()
            scope.callback(thread.join, 10)
            scope.callback(server.shutdown, socket.SHUT_RDWR) if kind == "tcp" else scope.callback(
                _last, server
            )
            bound: int = server.getsockname()[1]
            return bound

        yield begin


def _last(server: socket.socket) -> None:
    """End a UDP server by an empty datagram."""
    with socket.socket(server.family, socket.SOCK_DGRAM) as line:
        line.sendto(b"", server.getsockname())


def _answer(server: socket.socket, kind: Kind) -> None:
    with contextlib.suppress(OSError):
        while kind == "udp":
            content, sender = server.recvfrom(60_000)
            if not content:
                return
            server.sendto(b"+" + content, sender)
        while True:
            client, _ = server.accept()
            with client:
                client.sendall(b"+" + client.recv(100))


def _ask(handle: Handle, host: str, port: int, kind: Kind = "tcp") -> str:
    result = handle.exec(ExecSpec(argv=("/usr/bin/python3", "-c", _ASK, kind, host, str(port))))
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


def _box(boxes: Boxes, name: str, *ports: Port, network: str = "default") -> NativeHandle:
    return boxes.start(ContainerSpec(name=name, command=_SLEEP, host_access=ports, network=network))


def _host_address(handle: Handle) -> str:
    result = handle.exec(ExecSpec(argv=("getent", "ahostsv4", _HOST)))
    return result.stdout.split()[0]


def _look_up(handle: Handle, name: str) -> str:
    """Return code, number of records and address of the resolver's own answer for *name* (RFC 1035, 4.1)."""
    argv = ("/usr/bin/python3", "-c", _LOOK_UP, name)
    return handle.exec(ExecSpec(argv=argv)).stdout.rstrip("\n")


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_container_reaches_the_port_that_was_named(boxes: Boxes, serve: Serve, kind: Kind, host: str) -> None:
    """By either name, however the server is bound, and by the transport that was named alone."""
    port = serve(kind, host)
    box = _box(boxes, "box", Port(port, kind))
    for name in _NAMES:
        assert _ask(box, name, port, kind) == "+hello"
    other: Kind = "udp" if kind == "tcp" else "tcp"
    assert _ask(box, _HOST, port, other) == "OSError 113"


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_container_reaches_no_other_port_and_no_other_container_does(
    boxes: Boxes, serve: Serve, kind: Kind
) -> None:
    """A port that is not named is refused at once, and so are those of others for who has none of them."""
    named, secret = serve(kind), serve(kind)
    box = _box(boxes, "box", Port(named, kind))
    neighbour = _box(boxes, "neighbour")
    rival = _box(boxes, "rival", Port(secret, kind))
    host = _host_address(box)
    assert _ask(box, host, named, kind) == "+hello"
    assert _ask(box, host, secret, kind) == "OSError 113"
    assert _ask(rival, host, secret, kind) == "+hello"
    assert _ask(rival, host, named, kind) == "OSError 113"
    for port in (named, secret):
        assert _ask(neighbour, host, port, kind) == "OSError 113"


def test_host_has_no_name_where_it_is_not_reached(boxes: Boxes, sh: Shell) -> None:
    """Neither /etc/hosts nor the resolver knows it, at once and without asking anybody outside."""
    box, other = _box(boxes, "box", Port(80)), _box(boxes, "other")
    for name in _NAMES:
        assert sh(other, f"getent ahosts {name} || echo unknown") == "unknown\n"
        assert sh(box, f"grep -w {name} /etc/hosts").split() == [_host_address(box), name]
        assert _look_up(box, name) == f"0 1 {_host_address(box)}"
        assert _look_up(other, name) == "3 0 "


def test_no_other_address_leads_to_the_hosts_loopback(boxes: Boxes, serve: Serve) -> None:
    """Neither the network's gateway nor any way to write a loopback address is a way around the grant."""
    port, named = serve("tcp", "0.0.0.0"), serve()
    box = _box(boxes, "box", Port(named))
    gateway = box.exec(ExecSpec(argv=("sh", "-c", "ip route show default | cut -d' ' -f3"))).stdout.strip()
    for address in (gateway, "127.0.0.1", "127.8.8.8", "0.0.0.0", "169.254.1.1", _host_address(box)):
        assert "+hello" not in _ask(box, address, port), address


def test_container_of_an_internal_network_reaches_what_was_named(boxes: Boxes, serve: Serve) -> None:
    """It has no way out, but for the port of this machine that its test has opened."""
    port = serve()
    boxes.engine.network("back", internal=True)
    box = _box(boxes, "box", Port(port), network="back")
    assert _ask(box, _HOST, port) == "+hello"
    assert _ask(_box(boxes, "other", network="back"), _host_address(box), port) == "OSError 113"


def test_grant_ends_with_its_container_and_no_other_does(boxes: Boxes, serve: Serve) -> None:
    """Whoever gets the address of a removed container gets none of its ports; others keep theirs."""
    port = serve()
    stayer = _box(boxes, "stayer", Port(port), Port(port, "udp"))
    host = _host_address(stayer)
    for _ in range(5):
        leaver = _box(boxes, "leaver", Port(port), Port(port, "udp"))
        assert _ask(leaver, host, port) == "+hello"
        leaver.remove()
        assert _ask(stayer, host, port) == "+hello"
    stayer.remove()
    later = _box(boxes, "later", Port(port))
    assert _ask(later, host, port) == "+hello"


def test_datagrams_of_any_size_come_back_to_who_sent_them(boxes: Boxes, serve: Serve) -> None:
    """Fragments are put together, and two sockets of one container keep their conversations apart."""
    port = serve("udp")
    box = _box(boxes, "box", Port(port, "udp"))
    script = (
        "import socket, sys\n"
        "a, b = (socket.socket(2, 2) for _ in range(2))\n"
        "for size in (1, 1400, 20000, 50000):\n"
        "    for line, byte in ((a, b'a'), (b, b'b')):\n"
        "        line.settimeout(10)\n"
        f"        line.sendto(byte * size, ('{_HOST}', {port}))\n"
        "    for line, byte in ((b, b'b'), (a, b'a')):\n"
        "        assert line.recv(60000) == b'+' + byte * size\n"
    )
    result = box.exec(ExecSpec(argv=("/usr/bin/python3", "-c", script)))
    assert result.exit_code == 0, result.stderr


def test_container_on_the_hosts_network_knows_the_host_as_its_own_loopback(
    boxes: Boxes, serve: Serve, sh: Shell
) -> None:
    """There is no gateway between, so the names that a test's code uses lead to 127.0.0.1."""
    port = serve()
    engine = boxes.engine
    spec = ContainerSpec(
        name="open",
        command=_SLEEP,
        network="host",
        host_access=(Port(port),),
        extra_hosts={"api": "host-gateway"},
    )
    with contextlib.ExitStack() as scope:
        box = engine.create(spec, engine.images.pull("host"))
        scope.callback(box.remove)
        box.start()
        assert _host_address(box) == "127.0.0.1"
        assert _ask(box, _HOST, port) == "+hello"
        assert _ask(box, "api", port) == "+hello"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams_reach_a_server_that_comes_later(boxes: Boxes, serve: Serve, host: str) -> None:
    """A socket that has sent in vain is answered as soon as there is a server, at whichever address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    script = (
        "import socket\n"
        "line = socket.socket(2, 2)\n"
        "line.settimeout(0.2)\n"
        f"line.connect(('{_HOST}', {port}))\n"
        "for number in range(100):\n"
        "    line.send(b'hello')\n"
        "    print('sent', flush=True) if number == 5 else None\n"
        "    try:\n"
        "        print(line.recv(100).decode())\n"
        "        break\n"
        "    except TimeoutError:\n"
        "        pass\n"
    )
    spec = ContainerSpec(
        name="sender",
        command=("/usr/bin/python3", "-c", script),
        host_access=(Port(port, "udp"),),
    )
    sender = boxes.start(spec)
    while b"sent" not in b"".join(chunk.content for chunk in sender.logs()[0]):
        assert sender.wait(0.01).status == "running", sender.logs()
    serve("udp", host, port)
    sender.wait(30)
    assert b"".join(chunk.content for chunk in sender.logs()[0]) == b"sent\n+hello\n"


def test_port_that_nobody_serves_is_reset(boxes: Boxes, serve: Serve) -> None:
    """A connection to a named port without a server ends at once, and is carried when there is one."""
    port = serve()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        silent: int = closed.getsockname()[1]
    box = _box(boxes, "box", Port(silent), Port(port))
    assert _ask(box, _HOST, silent) in ("ConnectionResetError 104", "BrokenPipeError 32")
    assert _ask(box, _HOST, port) == "+hello"


def test_extra_hosts_are_in_the_containers_hosts_file(boxes: Boxes, sh: Shell) -> None:
    """Names lead where the test says; host-gateway is the machine's address."""
    hosts = {"db": "192.0.2.7", "v6.example": "2001:db8::1", "api": "host-gateway"}
    spec = ContainerSpec(name="box", command=_SLEEP, extra_hosts=hosts, host_access=(Port(80),))
    box = boxes.start(spec)
    assert sh(box, "getent hosts db v6.example api").split() == [
        *("192.0.2.7", "db"),
        *("2001:db8::1", "v6.example"),
        *(_host_address(box), "api"),
    ]
