"""Attacks on the run's socket: no client of a run, however it behaves, harms the others."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import select
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from pytest_containers.errors import ContainersError
from pytest_containers.runtime import client, folders, messages
from pytest_containers.spec import ContainerSpec, ImageConfig
from tests.plugins.clock import scaled

pytestmark = pytest.mark.kernel

_PATIENCE_S: Final = scaled(20.0)
_LOOK_AGAIN_S: Final = 0.01


class Run:
    """A run with a well-behaved client, and a supervisor whose descriptors can be counted."""

    def __init__(self, folder: Path, supervisor: int, good: client.Connection) -> None:
        self.folder = folder
        self.good = good
        self._supervisor = supervisor

    def descriptors(self) -> int:
        """Return how many descriptors the supervisor has open."""
        return len(os.listdir(f"/proc/{self._supervisor}/fd"))

    def cpu_ticks(self) -> int:
        """Return the processor time of the supervisor in ticks (proc_pid_stat(5))."""
        fields = Path(f"/proc/{self._supervisor}/stat").read_text().rpartition(") ")[2].split()
        return int(fields[11]) + int(fields[12])

    def serves(self) -> bool:
        """Return whether a request of the well-behaved client is answered in time."""
        asked = self.good.post(messages.CreateNetwork(name=os.urandom(4).hex()))
        return bool(asked.result(_PATIENCE_S)[0].subnet)

    def attack(self, scope: ExitStack) -> socket.socket:
        """Return a bare connection."""
        line = scope.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        line.settimeout(_PATIENCE_S)
        line.connect(str(self.folder / folders.SOCKET))
        return line


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Return a run of this module's own."""
    folder = folders.fresh()
    janitor = client.spawn(folder, os.getpid())
    assert janitor is not None
    good = client.connect(folder)
    (supervisor,) = map(int, Path(f"/proc/{janitor.pid}/task/{janitor.pid}/children").read_text().split())
    yield Run(folder, supervisor, good)
    good.tell(messages.Shutdown())
    good.close()
    janitor.wait(_PATIENCE_S)


@pytest.fixture
def scope() -> Iterator[ExitStack]:
    """Return a stack that is unwound at the end of the test."""
    with ExitStack() as stack:
        yield stack


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        threading.Event().wait(_LOOK_AGAIN_S)


def _flood(line: socket.socket, content: bytes, most: int) -> int:
    """Send a request again and again, and read nothing; return how many were taken."""
    line.setblocking(False)
    for sent in range(most):
        if not select.select([], [line], [], _PATIENCE_S)[1]:
            return sent
        try:
            line.send(content)
        except OSError:
            return sent
    return most


@pytest.mark.parametrize("asked", ["small", "descriptors", "errors"])
def test_client_that_reads_no_answer_keeps_nobody_waiting(run: Run, scope: ExitStack, asked: str) -> None:
    """Who asks without end and reads nothing is dropped in the end; others are served all the while."""
    before = run.descriptors()
    line = run.attack(scope)
    request: messages.Request[object] = messages.State(id="0" * 64)  # type: ignore[assignment]
    if asked == "small":
        request = messages.Hello(version=messages.VERSION)  # type: ignore[assignment]
    if asked == "descriptors":
        spec = ContainerSpec(name="box", command=("true",), lifetime="run")
        request = messages.Create(spec=spec, config=ImageConfig(), layers=("/",))  # type: ignore[assignment]
    taken = _flood(line, messages.message(1, request), 5000)
    assert run.serves()
    assert taken > 100
    _until(lambda: run.descriptors() <= before + 4, "the supervisor keeps what nobody will read")
    if asked == "descriptors":  # the container of the run that it made: its log, its turn
        created = run.good.tell(request)
        run.good.tell(messages.Remove(id=created.id))  # type: ignore[attr-defined]
    _until(lambda: run.descriptors() <= before, "a descriptor is left")
    assert run.serves()


@pytest.mark.parametrize(
    "content",
    [
        b"no message",
        b'{"id":1,"op":"Nonsense","body":{}}',
        b'{"id":1,"ok":{}}',
        b'{"id":1,"op":"State","body":{"id":5}}',
        b"\0memory file",
        b"x" * 200_000,
    ],
)
def test_descriptors_of_a_malformed_message_are_closed(run: Run, scope: ExitStack, content: bytes) -> None:
    """A message that is none takes its sender's connection, and leaves no descriptor."""
    before = run.descriptors()
    for _ in range(20):
        line = run.attack(scope)
        reading, writing = os.pipe()
        socket.send_fds(line, [content], [reading, writing, reading])
        os.close(reading)
        os.close(writing)
        assert line.recv(100) == b""
        line.close()
    _until(lambda: run.descriptors() <= before, "a descriptor is left")
    assert run.serves()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 100])
def test_descriptors_of_a_request_that_wants_none_are_closed(run: Run, scope: ExitStack, count: int) -> None:
    """Whatever number of descriptors comes with whatever request, the supervisor keeps none of them."""
    before = run.descriptors()
    missing = "0" * 64
    requests: list[messages.Request[object]] = [
        messages.Hello(version=messages.VERSION),  # type: ignore[list-item]
        messages.State(id=missing),  # type: ignore[list-item]
        messages.Publish(id=missing, port=1),  # type: ignore[list-item]
        messages.Create(  # type: ignore[list-item]
            spec=ContainerSpec(name=f"box{count}", command=("true",)),
            config=ImageConfig(),
            layers=("/",),
            leased=True,
        ),
        messages.ExecRequest(id=missing, argv=("true",), user=None, workdir=None, env={}),  # type: ignore[list-item]
    ]
    file = os.memfd_create("given")
    scope.callback(os.close, file)
    line = run.attack(scope)
    for number, request in enumerate(requests):
        socket.send_fds(line, [messages.message(number, request)], [file] * count)
        answer = messages.receive(line)
        assert answer.content, request
        for descriptor in answer.descriptors:
            os.close(descriptor)
    line.close()
    _until(lambda: run.descriptors() <= before, "a descriptor is left")
    assert run.serves()


def test_client_that_says_hello_again_and_again_keeps_one_pidfd(run: Run, scope: ExitStack) -> None:
    """A connection has one process, however often it introduces itself."""
    before = run.descriptors()
    line = run.attack(scope)
    pidfd = os.pidfd_open(os.getpid())
    scope.callback(os.close, pidfd)
    for number in range(50):
        hello = messages.message(number, messages.Hello(version=messages.VERSION))
        socket.send_fds(line, [hello], [pidfd])
        assert messages.receive(line).content
    assert run.descriptors() <= before + 2, "more than a socket and a pidfd"


def test_connections_without_end_end_nothing(run: Run, scope: ExitStack) -> None:
    """At the limit of open files new clients wait in the queue, without a busy loop, until there is room."""
    before = run.descriptors()
    limits = resource.prlimit(run._supervisor, resource.RLIMIT_NOFILE)
    scope.callback(resource.prlimit, run._supervisor, resource.RLIMIT_NOFILE, limits)
    resource.prlimit(run._supervisor, resource.RLIMIT_NOFILE, (before + 40, limits[1]))
    with ExitStack() as lines:
        for _ in range(60):
            run.attack(lines)
        assert run.serves()
        ticks, began = run.cpu_ticks(), time.monotonic()
        threading.Event().wait(0.5)
        used = (run.cpu_ticks() - ticks) / os.sysconf("SC_CLK_TCK")
        assert used < (time.monotonic() - began) / 2, "the supervisor spins"
        late = run.attack(lines)
        late.send(messages.message(1, messages.State(id="0" * 64)))
    with ExitStack() as lines:
        line = run.attack(lines)
        line.send(messages.message(1, messages.State(id="0" * 64)))
        assert b"no container" in line.recv(1000)
    _until(lambda: run.descriptors() <= before, "a descriptor is left")


def _mutations(chance: random.Random) -> Iterator[bytes]:
    """Yield messages that are nearly right."""
    missing = "0" * 64
    seeds: list[object] = [
        messages.Hello(version=messages.VERSION),
        messages.Create(spec=ContainerSpec(name="fuzz"), config=ImageConfig(), layers=("/",)),
        messages.Start(id=missing),
        messages.Signal(id=missing, number=9),
        messages.ExecRequest(id=missing, argv=("true",), user=None, workdir=None, env={}, timeout_s=1.0),
        messages.CreateNetwork(name="fuzz"),
        messages.RemoveNetwork(name="fuzz"),
        messages.Read(id=missing, path="/"),
        messages.Publish(id=missing, port=80),
    ]
    values: list[object] = [
        None,
        True,
        -1,
        1 << 70,
        1.5,
        "",
        "x" * 100,
        "\ud800",
        [],
        {},
        [[]],
        {"a": {}},
        "../..",
        float("nan"),
    ]
    while True:
        plain = json.loads(messages.message(chance.randrange(100), chance.choice(seeds)))
        at: object = plain
        for _ in range(chance.randrange(1, 4)):
            if not isinstance(at, dict) or not at:
                break
            key = chance.choice(list(at))
            if chance.random() < 0.6 or not isinstance(at[key], dict):
                at[key] = chance.choice(values)
                break
            at = at[key]
        text = json.dumps(plain).encode()
        if chance.random() < 0.2:
            position = chance.randrange(len(text))
            text = text[:position] + bytes([chance.randrange(256)]) + text[position + 1 :]
        yield text


def test_messages_that_are_nearly_right_harm_nobody(run: Run, scope: ExitStack) -> None:
    """Of thousands of mutated messages each is answered or ends its own connection, and none is a crash."""
    seed = os.urandom(4).hex()
    chance = random.Random(seed)
    before = run.descriptors()
    line = run.attack(scope)
    file = os.memfd_create("given")
    scope.callback(os.close, file)
    mutations = _mutations(chance)
    for _ in range(1500):
        content = next(mutations)
        try:
            socket.send_fds(line, [content], [file] * chance.randrange(4))
            answer = messages.receive(line)
        except OSError:
            answer = messages.Received(b"", [])
        for descriptor in answer.descriptors:
            os.close(descriptor)
        if not answer.content:
            line.close()
            line = run.attack(scope)
        else:
            assert b"this is a fault of the engine" not in answer.content, (seed, content, answer.content)
    line.close()
    assert run.serves(), seed
    _until(lambda: run.descriptors() <= before + 2, f"descriptors are left, seed {seed}")


def test_client_that_is_stopped_keeps_nobody_waiting(run: Run, fork: Callable[[], int]) -> None:
    """A client that is stopped in the middle of its questions costs the others nothing."""
    child = fork()
    if child == 0:
        with contextlib.suppress(OSError, ContainersError):
            line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            line.connect(str(run.folder / folders.SOCKET))
            for number in range(200):
                line.send(messages.message(number, messages.State(id="0" * 64)))
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    assert run.serves()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert run.serves()


@pytest.fixture
def fork() -> Callable[[], int]:
    """Return os.fork for a process with threads."""

    def quiet_fork() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return os.fork()

    return quiet_fork
