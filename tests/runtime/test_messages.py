"""Laws of what client and supervisor say to each other."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.errors import CommandNotFound, EngineError
from pytest_containers.runtime import messages
from pytest_containers.runtime.messages import (
    Received,
    decode,
    error_message,
    message,
    parse,
    receive,
    send,
)
from pytest_containers.spec import (
    Bind,
    ContainerSpec,
    ContainerState,
    ExitStatus,
    Healthcheck,
    ImageConfig,
    Limits,
    Port,
)

Pair = tuple[socket.socket, socket.socket]
# As the file system's names: text, and the bytes that are none as single low surrogates (PEP 383).
_LETTERS: Final = st.characters(exclude_categories=["Cs"]) | st.characters(
    min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]
)
_TEXT: Final = st.text(_LETTERS, max_size=20)
_NAMES: Final = st.lists(_TEXT, max_size=4).map(tuple)
_SECONDS: Final = st.floats(allow_nan=False, allow_infinity=False)
_PORTS: Final = st.lists(
    st.builds(Port, st.integers(1, 65535), st.sampled_from(["tcp", "udp"])), max_size=3
).map(tuple)
_SPECS: Final = st.builds(
    ContainerSpec,
    name=_TEXT,
    hostname=st.none() | _TEXT,
    command=st.none() | _NAMES,
    entrypoint=st.none() | _NAMES,
    env=st.dictionaries(_TEXT, _TEXT, max_size=3),
    user=st.none() | _TEXT,
    workdir=st.none() | _TEXT,
    ports=_PORTS,
    binds=st.lists(st.builds(Bind, source=_TEXT, target=_TEXT, read_only=st.booleans()), max_size=2).map(
        tuple
    ),
    tmpfs=st.dictionaries(_TEXT, st.integers(0, (1 << 63) - 1), max_size=2),
    files=st.just({}),
    aliases=_NAMES,
    limits=st.builds(
        Limits, memory_bytes=st.none() | st.integers(0, (1 << 63) - 1), cpus=st.none() | _SECONDS
    ),
    cap_add=_NAMES,
    stop_signal=st.none() | _TEXT,
    stop_timeout_s=_SECONDS,
    lifetime=st.sampled_from(["owner", "run"]),
)
_CONFIGS: Final = st.builds(
    ImageConfig,
    entrypoint=_NAMES,
    env=_NAMES,
    user=_TEXT,
    ports=_PORTS,
    labels=st.dictionaries(_TEXT, _TEXT, max_size=2),
    healthcheck=st.none()
    | st.builds(Healthcheck, test=_NAMES, interval_s=_SECONDS, retries=st.integers(0, 9)),
)
_REQUESTS: Final = st.one_of(
    st.builds(messages.Hello, version=_TEXT),
    st.builds(messages.CreateNetwork, name=_TEXT, internal=st.booleans()),
    st.builds(messages.Create, spec=_SPECS, config=_CONFIGS, layers=_NAMES),
    st.builds(messages.Signal, id=_TEXT, number=st.integers(0, 64)),
    st.builds(
        messages.ExecRequest,
        id=_TEXT,
        argv=_NAMES,
        user=st.none() | _TEXT,
        workdir=st.none() | _TEXT,
        env=st.dictionaries(_TEXT, _TEXT, max_size=3),
        timeout_s=st.none() | _SECONDS,
    ),
    st.builds(messages.Read, id=_TEXT, path=_TEXT),
    st.builds(messages.Write, id=_TEXT, folder=_TEXT),
    st.just(messages.Shutdown()),
)
_CHANGES: Final = st.lists(st.tuples(st.sampled_from(["A", "C", "D"]), _TEXT), max_size=4).map(tuple)
_STATES: Final = st.builds(
    ContainerState,
    status=st.sampled_from(["created", "running", "exited"]),
    exit=st.none() | st.builds(ExitStatus, code=st.integers(0, 255), signal=st.integers(0, 64)),
    started_at=_SECONDS,
)
_ANSWERS: Final = st.one_of(
    st.just(messages.Done()),
    st.builds(messages.Greeting, version=_TEXT),
    st.builds(messages.Created, id=_TEXT, ip=_TEXT, found=st.booleans()),
    st.builds(messages.Started, started_at=_SECONDS),
    st.builds(messages.Exited, exit_code=st.integers(-1, 255), reason=_TEXT),
    st.builds(messages.Ports, ports=_NAMES),
    st.builds(messages.Changed, changes=_CHANGES),
    _STATES,
)


@given(st.integers(0), _REQUESTS)
def test_request_arrives_as_it_was(number: int, request: messages.Request[object]) -> None:
    """Every request, with all that it holds, is the same on the other side."""
    assert parse(message(number, request)) == (number, request)


@given(st.integers(0), _ANSWERS)
def test_answer_arrives_as_it_was(number: int, answer: object) -> None:
    """Every answer can be made again from its plain values, down to the classes inside."""
    back, plain = parse(message(number, answer))
    assert (back, decode(type(answer), plain)) == (number, answer)


@given(_TEXT, _TEXT, _TEXT)
def test_error_arrives_as_it_was(what: str, seen: str, mend: str) -> None:
    """An error keeps its class and its sentences."""
    number, error = parse(error_message(7, CommandNotFound(what, seen=seen, mend=mend)))
    assert number == 7
    assert isinstance(error, CommandNotFound)
    assert (error.what, error.seen, error.mend) == (what, seen, mend)


def test_request_knows_the_class_of_its_answer() -> None:
    """Each request names an answer that is a noun, and parsing knows each request by its name."""
    for kind in messages._REQUESTS.values():
        assert dataclasses.is_dataclass(kind)
        assert dataclasses.is_dataclass(kind.answer)
    asked = {kind.__name__ for kind in messages.Request.__subclasses__()}
    assert asked == set(messages._REQUESTS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"17",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"id":1}',
        b'{"id":"x","ok":1}',
        b'{"id":null,"ok":1}',
        b'{"id":1,"op":"Nonsense","body":{}}',
        b'{"id":1,"op":["Hello"],"body":{}}',
        b'{"id":1,"op":"Hello"}',
        b'{"id":1,"op":"Hello","body":{}}',
        b'{"id":1,"op":"Hello","body":[]}',
        b'{"id":1,"op":"Create","body":{"spec":{},"config":{},"layers":[]}}',
        b'{"id":1,"op":"Signal","body":null}',
        b'{"id":1,"error":"text"}',
        b"[" * 100_000,
    ],
)
def test_message_is_refused_when_nobody_can_read_it(content: bytes) -> None:
    """Whatever bytes come, the reader raises an error of ours and nothing else."""
    with pytest.raises(EngineError):
        parse(content)


@given(st.binary(max_size=200))
def test_message_of_noise_is_refused(content: bytes) -> None:
    """Random bytes are an EngineError, unless they happen to be a message."""
    with contextlib.suppress(EngineError):
        assert parse(content)[0] == json.loads(content)["id"]


def test_message_with_more_fields_is_read() -> None:
    """A field this version does not know is passed over."""
    plain = {"id": 1, "op": "RemoveNetwork", "body": {"name": "n", "colour": "blue"}}
    assert parse(json.dumps(plain).encode()) == (1, messages.RemoveNetwork(name="n"))


def test_answer_of_another_shape_is_refused() -> None:
    """An answer that is no object is no noun."""
    with pytest.raises(EngineError, match="no Created"):
        decode(messages.Created, ["id"])


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return the two ends of a connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def _open_descriptors() -> set[str]:
    return {name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 131_072, 131_073, 300_000, 5_000_000])
def test_message_arrives_when_it_is_long(pair: Pair, size: int) -> None:
    """A message of any length arrives whole, and neither side keeps a descriptor of it."""
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    before = _open_descriptors()
    send(pair[0], content)
    assert receive(pair[1]) == Received(content, [])
    assert _open_descriptors() == before


@pytest.mark.parametrize("size", [10, 200_000])
def test_message_brings_descriptors_in_order(pair: Pair, size: int) -> None:
    """Descriptors arrive in the order they were given, also beside a long message's own."""
    made = [os.memfd_create(f"file {number}") for number in range(7)]
    received: list[int] = []
    try:
        send(pair[0], b"x" * size, made)
        content, received, lost = receive(pair[1])
        assert not lost
        assert len(content) == size
        assert [os.fstat(one).st_ino for one in received] == [os.fstat(one).st_ino for one in made]
        assert not set(received) & set(made)
        assert not any(os.get_inheritable(one) for one in received)
    finally:
        for descriptor in (*made, *received):
            os.close(descriptor)


def test_message_keeps_its_borders(pair: Pair) -> None:
    """Two messages sent at once are two when they are read."""
    send(pair[0], b"first")
    send(pair[0], b"x" * 100_000)
    send(pair[0], b"third")
    assert [len(receive(pair[1])[0]) for _ in range(3)] == [5, 100_000, 5]


def test_message_is_empty_when_the_other_side_is_gone(pair: Pair) -> None:
    """The end of a connection reads as no bytes and no descriptors."""
    pair[0].close()
    assert receive(pair[1]) == Received(b"", [])


def test_message_long_leaves_nothing_when_it_cannot_be_sent(pair: Pair) -> None:
    """A failure to send closes the memory file again."""
    pair[1].close()
    before = _open_descriptors()
    with pytest.raises(OSError, match="Broken pipe"):
        send(pair[0], b"x" * 100_000)
    assert _open_descriptors() == before


def test_message_text_of_a_memory_file_is_only_text(pair: Pair) -> None:
    """The mark of a memory file without a descriptor beside it is a message like others."""
    send(pair[0], messages._IN_FILE)
    assert receive(pair[1]) == Received(messages._IN_FILE, [])


@pytest.mark.parametrize("size", [10, 200_000])
def test_message_whose_descriptors_find_no_room_is_told(pair: Pair, size: int) -> None:
    """Descriptors that our limit of open files keeps out are noticed, and the number is known."""
    request = message(7, messages.Read(id="x" * size, path="/"))
    before = _open_descriptors()
    made = [os.memfd_create(f"file {number}") for number in range(3)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        send(pair[0], request, made)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
        received = receive(pair[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in made:
            os.close(descriptor)
    assert received.lost
    assert received.descriptors == []
    assert parse(received.content, lost=True)[0] == 7
    assert _open_descriptors() == before


def test_message_with_more_descriptors_than_any_needs_is_told(pair: Pair) -> None:
    """What is more than a message may bring is closed by the kernel, and the rest by us."""
    before = _open_descriptors()
    socket.send_fds(pair[0], [b"{}"], [pair[0].fileno()] * 100)
    assert receive(pair[1]) == Received(b"{}", [], True)
    assert _open_descriptors() == before


@pytest.mark.parametrize("kind", ["pipe", "fifo", "device", "folder", "sparse"])
def test_message_in_what_is_no_memory_file_is_refused_at_once(pair: Pair, tmp_path: Path, kind: str) -> None:
    """A long message is read from a memory file of a bearable size, and from nothing that makes us wait."""
    reading, writing = os.pipe()
    os.mkfifo(tmp_path / "fifo")
    made = {
        "pipe": lambda: os.dup(reading),
        "fifo": lambda: os.open(tmp_path / "fifo", os.O_RDWR),
        "device": lambda: os.open("/dev/zero", os.O_RDONLY),
        "folder": lambda: os.open(tmp_path, os.O_RDONLY),
        "sparse": lambda: os.memfd_create("sparse"),
    }[kind]()
    if kind == "sparse":
        os.truncate(made, 1 << 40)
    before = _open_descriptors()
    socket.send_fds(pair[0], [messages._IN_FILE], [made, made])
    with pytest.raises(EngineError, match="long message cannot be read"):
        receive(pair[1])
    assert _open_descriptors() == before
    for descriptor in (reading, writing, made):
        os.close(descriptor)


def test_message_longer_than_the_buffer_is_refused(pair: Pair) -> None:
    """A message that would be cut off is an error, and what came with it is closed."""
    before = _open_descriptors()
    socket.send_fds(pair[0], [b"x" * (messages._MESSAGE_BYTES + 1)], [pair[0].fileno()])
    with pytest.raises(EngineError, match="too long"):
        receive(pair[1])
    assert _open_descriptors() == before


def test_message_to_a_client_that_does_not_read_is_not_waited_for(pair: Pair) -> None:
    """A send that may not wait says so when the other side has read too little."""

    def flood() -> None:
        for _ in range(100_000):
            send(pair[0], b"x" * 1000, wait=False)

    with pytest.raises(BlockingIOError):
        flood()
