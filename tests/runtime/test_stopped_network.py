"""Laws of the network of a container that has ended: it is that of a dead process on a living host."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.spec import ContainerSpec

if TYPE_CHECKING:
    from pytest_containers.engines.native import NativeEngine
    from pytest_containers.engines.native_container import NativeHandle
    from tests.runtime.conftest import Boxes, Shell

pytestmark = pytest.mark.kernel

_PATIENCE_S: Final = 20.0
_PORT: Final = 7000
_SERVER: Final = f"""
import socket, threading
listener = socket.socket()
listener.bind(("0.0.0.0", {_PORT}))
listener.listen(100)
print("listening", flush=True)
held = []
while True:
    client, _ = listener.accept()
    client.sendall(b"hello")
    held.append(client)
"""
# What a client sees: the greeting, then how the connection ends, then how the next one begins.
_CLIENT: Final = f"""
import socket, sys
client = socket.create_connection((sys.argv[1], {_PORT}), timeout={_PATIENCE_S})
print(client.recv(5).decode(), flush=True)
try:
    print("end" if not client.recv(5) else "more", flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
try:
    socket.create_connection((sys.argv[1], {_PORT}), timeout={_PATIENCE_S}).close()
    print("connected", flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
"""


def _python(program: str, *arguments: str, name: str, env: dict[str, str] | None = None) -> ContainerSpec:
    return ContainerSpec(name=name, command=("/usr/bin/python3", "-c", program, *arguments), env=env or {})


def _until_said(box: NativeHandle, word: str) -> str:
    deadline = time.monotonic() + _PATIENCE_S
    while word not in (said := b"".join(chunk.content for chunk in box.logs()[0]).decode()):
        assert time.monotonic() < deadline, f"{word!r} was not said: {said}"
        threading.Event().wait(0.005)
    return said


def _server(boxes: Boxes, name: str = "server") -> NativeHandle:
    box = boxes.start(_python(_SERVER, name=name))
    _until_said(box, "listening")
    return box


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_peers_of_a_container_that_ends_learn_of_it(boxes: Boxes, number: int) -> None:
    """Connections to a container that ends do so too, and new ones are refused, by test and peers."""
    if number == signal.SIGTERM:
        program = f"import signal; signal.signal(signal.SIGTERM, lambda *_: exit(0))\n{_SERVER}"
        server = boxes.start(_python(program, name="server"))
        _until_said(server, "listening")
    else:
        server = _server(boxes)
    peer = boxes.start(_python(_CLIENT, server.ip, name="peer"))
    _until_said(peer, "hello")
    with socket.create_connection((server.ip, _PORT), timeout=_PATIENCE_S) as ours:
        assert ours.recv(5) == b"hello"
        server.signal(number)
        assert server.wait(_PATIENCE_S).status == "exited"
        # Its end, or a reset: silence would be a TimeoutError.
        assert _end_of(ours) in ("end", "ConnectionResetError")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.ip, _PORT), timeout=_PATIENCE_S)
    assert peer.wait(_PATIENCE_S).status == "exited"
    said = _until_said(peer, "hello").split()
    assert said[1] in ("end", "ConnectionResetError")
    assert said[2] == "ConnectionRefusedError"


def _end_of(connection: socket.socket) -> str:
    try:
        return "more" if connection.recv(5) else "end"
    except ConnectionResetError as error:
        return type(error).__name__


def test_container_started_again_has_its_address_and_none_of_its_connections(boxes: Boxes) -> None:
    """After a restart the address is the same, an old connection is reset, and the port is free."""
    server = _server(boxes)
    ip = server.ip
    for turn in range(4):
        with socket.create_connection((ip, _PORT), timeout=_PATIENCE_S) as ours:
            assert ours.recv(5) == b"hello"
            server.signal(signal.SIGKILL)
            server.wait(_PATIENCE_S)
            server.start()
            _until_said(server, "listening\n" * (turn + 2))
            assert server.ip == ip
            with pytest.raises(OSError, match=r"reset|pipe"):
                _send_until_refused(ours)


def _send_until_refused(connection: socket.socket) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        connection.send(b"x")
        threading.Event().wait(0.01)


def test_name_of_a_container_goes_and_comes_with_its_process(boxes: Boxes, sh: Shell) -> None:
    """A peer resolves a container while it runs, not after its end, and again after its next start."""
    box = boxes.start(ContainerSpec(name="box", command=("sleep", "1000"), aliases=("other",)))
    peer = boxes.start(ContainerSpec(name="peer", command=("sleep", "1000")))
    look = "getent ahostsv4 {} | head -1 | cut -d' ' -f1"
    for _ in range(2):
        assert [sh(peer, look.format(name)).strip() for name in ("box", "other")] == [box.ip] * 2
        box.signal(signal.SIGKILL)
        box.wait(_PATIENCE_S)
        assert [sh(peer, look.format(name)).strip() for name in ("box", "other")] == [""] * 2
        box.start()


def test_network_of_an_ended_container_goes_with_its_removal(boxes: Boxes, engine: NativeEngine) -> None:
    """What is kept of a network is one descriptor, and nothing after the removal."""
    assert engine._janitor is not None
    janitor = engine._janitor.pid
    supervisor = int(Path(f"/proc/{janitor}/task/{janitor}/children").read_text())
    boxes.start(ContainerSpec(name="first", command=("true",))).remove()
    before = len(os.listdir(f"/proc/{supervisor}/fd"))
    box = boxes.create(ContainerSpec(name="box", command=("true",)))
    counts = set()
    for _ in range(5):
        box.start()
        assert box.wait(_PATIENCE_S).status == "exited"
        counts.add(len(os.listdir(f"/proc/{supervisor}/fd")))
    assert len(counts) == 1
    box.remove()
    assert len(os.listdir(f"/proc/{supervisor}/fd")) == before
