"""A stage for the network: a namespace that plays the host, a switch, and containers.

Every part is a process of its own (agent.py). A socket belongs to the namespace it was made in,
so a test asks an agent for one and then uses it itself, in plain order, in its own process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import pytest

from pytest_containers.errors import from_wire
from pytest_containers.runtime.network import dns
from tests.plugins.clock import scaled

_AGENT: Final = Path(__file__).with_name("agent.py")
_ROOT: Final = Path(__file__).resolve().parents[3]
_PATIENCE_S: Final = scaled(10.0)
OUTSIDE: Final = "198.51.100.1"  # RFC 5737: for documentation, so nobody's
RESOLVERS: Final = ("198.51.100.53", "198.51.100.54")


class Agent:
    """One process of the stage."""

    def __init__(self, control: socket.socket, pid: int = 0) -> None:
        self.pid = pid
        self._control = control
        control.settimeout(_PATIENCE_S)

    def call(self, verb: str, **words: str) -> tuple[object, tuple[socket.socket, ...]]:
        """Have the agent do *verb*; raise what it raised."""
        self._control.send(json.dumps({"verb": verb, **words}).encode())
        data, descriptors, _, _ = socket.recv_fds(self._control, 1 << 18, 4, socket.MSG_CMSG_CLOEXEC)
        assert data, f"the agent died at {verb}"
        reply = json.loads(data)
        if "error" in reply:
            raise from_wire(reply["error"])
        return reply["value"], tuple(socket.socket(fileno=number) for number in descriptors)

    def ask(self, verb: str, **words: str) -> str:
        """Return the answer to *verb* as text; JSON where it is more than a string."""
        value, _ = self.call(verb, **words)
        return value if isinstance(value, str) else json.dumps(value)

    def seen(self) -> dict[str, list[str]]:
        """Return the links and routes of the agent's namespace."""
        fields = json.loads(self.ask("seen"))
        return {"links": sorted(fields["links"]), "routes": sorted(fields["routes"])}

    def index(self, link: str) -> int:
        """Return the index of a link."""
        return int(json.loads(self.ask("seen"))["links"][link])

    def descriptors(self) -> int:
        """Return how many descriptors the agent has open."""
        return int(json.loads(self.ask("seen"))["descriptors"])

    def hatch(self, verb: str, **words: str) -> tuple[int, socket.socket]:
        """Have the agent fork another one."""
        pids, control = self.hatch_pids(verb, **words)
        return pids["pid"], control

    def hatch_pids(self, verb: str, **words: str) -> tuple[dict[str, int], socket.socket]:
        """Have the agent fork; return the pids of all that it forked."""
        value, (control,) = self.call(verb, **words)
        pids: dict[str, int] = json.loads(json.dumps(value))
        return pids, control

    def close(self) -> None:
        """Hang up: the agent ends."""
        self._control.close()


class Place:
    """A namespace whose sockets a test uses; all are closed at the end of the stage."""

    def __init__(self, agent: Agent, scope: contextlib.ExitStack) -> None:
        self.agent = agent
        self._scope = scope

    def _socket(self, kind: str) -> socket.socket:
        _, (made,) = self.agent.call("socket", kind=kind)
        made.settimeout(_PATIENCE_S)
        return self._scope.enter_context(made)

    def udp(self, ip: str = "", port: int = 0) -> socket.socket:
        """Return a UDP socket, bound to *ip* and *port*."""
        made = self._socket("udp")
        made.bind((ip, port))
        return made

    def listen(self, ip: str = "", port: int = 0) -> socket.socket:
        """Return a TCP listener."""
        made = self._socket("tcp")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((ip, port))
        made.listen(64)
        return made

    def connect(self, ip: str, port: int) -> socket.socket:
        """Return a TCP connection to *ip*:*port*."""
        made = self._socket("tcp")
        made.connect((ip, port))
        return made

    def ask(self, server: str, name: str, kind: int = dns.A) -> socket.socket:
        """Send a DNS query to *server*; return the socket that the answer comes to."""
        line = self.udp()
        line.connect((server, 53))
        line.send(query_bytes(name, kind))
        return line

    @staticmethod
    def read(line: socket.socket, count: int) -> bytes:
        """Return *count* bytes, fewer at the end; MSG_WAITALL is no help where there is a timeout."""
        content = bytearray()
        while len(content) < count and (more := line.recv(count - len(content))):
            content += more
        return bytes(content)

    def accept(self, listener: socket.socket) -> socket.socket:
        """Return the next connection of *listener*."""
        made, _ = listener.accept()
        made.settimeout(_PATIENCE_S)
        return self._scope.enter_context(made)


class Container(Place):
    """A container's namespace, on a network and with an address."""

    def __init__(
        self, agent: Agent, scope: contextlib.ExitStack, endpoint: dict[str, str | int], messages: str
    ) -> None:
        super().__init__(agent, scope)
        self.endpoint = endpoint
        self.messages = messages

    @property
    def endpoint_text(self) -> str:
        """Its place on the network, as the switch's agent takes it."""
        return json.dumps(self.endpoint)

    @property
    def ip(self) -> str:
        """Its address."""
        return str(self.endpoint["ip"])

    @property
    def resolver(self) -> str:
        """The address of its network's bridge, where names are answered."""
        return str(self.endpoint["gateway"])

    def query(self, name: str, kind: int = dns.A) -> tuple[int, bytes]:
        """Ask the resolver; return the response's code and its bytes."""
        with self.ask(self.resolver, name, kind) as line:
            reply = line.recv(4096)
        return dns.rcode(reply), reply

    def lookup(self, name: str) -> tuple[str, ...]:
        """Return the addresses of *name*: the last four bytes of each record, in order."""
        _, reply = self.query(name)
        count = int.from_bytes(reply[6:8], "big")
        records = reply[len(query_bytes(name)) :]
        assert len(records) == 16 * count, "an answer has A records and nothing else"
        return tuple(socket.inet_ntoa(records[16 * n + 12 : 16 * n + 16]) for n in range(count))


def query_bytes(name: str, kind: int = dns.A, number: int = 4711) -> bytes:
    """Return a standard query with recursion desired."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    header = number.to_bytes(2, "big") + bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    return header + labels + b"\0" + kind.to_bytes(2, "big") + b"\0\1"


@dataclass
class Stage:
    """The host, its switch, and a way to make containers.

    *gateway* is the gateway's pid. *outside* is an address of the host that containers take for
    one of the Internet; *resolvers* are those of its resolv.conf, addresses of its own as well.
    """

    host: Place
    switch: Agent
    gateway: int
    scope: contextlib.ExitStack
    default: str
    outside: str = OUTSIDE
    resolvers: tuple[str, ...] = RESOLVERS

    @contextlib.contextmanager
    def agent(self, control: socket.socket) -> Iterator[Agent]:
        """Use *control* as an agent's socket and close it afterwards."""
        with control:
            yield Agent(control)

    @staticmethod
    def query_bytes(name: str) -> bytes:
        """Return the query that `Place.ask` sends for *name*."""
        return query_bytes(name)

    def bridges(self) -> list[str]:
        """Return the names of the switch's bridges."""
        return [name for name in self.switch.seen()["links"] if name.startswith("b")]

    def create(self, network: str, *, internal: bool = False, label: str = "") -> str:
        """Make a network; return its subnet."""
        return self.switch.ask("create", network=network, internal="yes" if internal else "", label=label)

    def container(self, network: str = "default", *names: str, patient: bool = False) -> Container:
        """Make a container's namespace with an interface and an address.

        A *patient* one repeats an ARP question after five minutes only.
        """
        fields = json.loads(self.switch.ask("endpoint", network=network))
        endpoint = json.dumps(fields["endpoint"])
        if names:
            self.switch.ask("name", endpoint=endpoint, names=" ".join(names))
        return self._attached(fields["endpoint"], fields["messages"], patient=patient)

    def restart(self, container: Container) -> Container:
        """Make a fresh namespace at the address of *container*, as a container's restart does."""
        return self._attached(container.endpoint, container.messages, patient=False)

    def _attached(self, endpoint: dict[str, str | int], messages: str, *, patient: bool) -> Container:
        pid, control = self.host.agent.hatch("container")
        agent = Agent(control, pid)
        self.scope.callback(agent.close)
        self.switch.ask("attach", endpoint=json.dumps(endpoint), pid=str(pid))
        agent.ask("configure", messages=messages, patient="yes" if patient else "")
        return Container(agent, self.scope, endpoint, messages)

    def release(self, container: Container) -> None:
        """End a container and give its address back."""
        container.agent.close()
        self.switch.ask("release", endpoint=container.endpoint_text)

    @classmethod
    def build(
        cls,
        host: Agent,
        scope: contextlib.ExitStack,
        *,
        routed: bool = True,
        files: int | None = None,
        confined: bool = True,
    ) -> Self:
        """Open a switch beside *host*, with the network ``default`` in it.

        Its gateway may have *files* descriptors, as many as the test where that is None.
        """
        words = {"routed": "yes" if routed else "", "confined": "yes" if confined else ""}
        if files is not None:
            words["files"] = str(files)
        pids, control = host.hatch_pids("switch", **words)
        switch = Agent(control, pids["pid"])
        scope.callback(switch.close)
        default = switch.ask("create", network="default", internal="")
        place = Place(host, scope)
        return cls(host=place, switch=switch, gateway=pids["gateway"], scope=scope, default=default)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent in fresh namespaces that plays the host, with addresses of the outside on lo."""
    resolvers = tmp_path / "resolv.conf"
    resolvers.write_text("".join(f"nameserver {ip}\n" for ip in RESOLVERS))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, str(_AGENT), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
            )
        agent = Agent(ours, process.pid)
        try:
            for ip in (OUTSIDE, *RESOLVERS):
                agent.ask("own", address=f"{ip}/32")
            agent.ask("resolvers", path=str(resolvers))
            yield agent
        finally:
            agent.close()
            process.wait(_PATIENCE_S)


@pytest.fixture
def stage(host: Agent) -> Iterator[Stage]:
    """Return a host with a routed switch and its network ``default``."""
    with contextlib.ExitStack() as scope:
        yield Stage.build(host, scope)


@pytest.fixture
def small_stage(host: Agent) -> Iterator[Stage]:
    """Return a stage whose gateway may have 320 descriptors: room for 64 connections, see gateway.py."""
    with contextlib.ExitStack() as scope:
        yield Stage.build(host, scope, files=320)


@pytest.fixture
def root_stage(host: Agent) -> Iterator[Stage]:
    """Return a stage whose gateway is still root, so that a test may set its limits (prlimit(2))."""
    with contextlib.ExitStack() as scope:
        yield Stage.build(host, scope, confined=False)


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Return a function that waits until a condition holds, and fails where it does not in time."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "it did not come true"
            threading.Event().wait(0.01)

    return wait
