"""What client and supervisor say to each other (floor 1).

One SEQPACKET message is one JSON object: ``{"id", "op", "body"}`` asks, ``{"id", "ok"}`` or
``{"id", "error"}`` answers; descriptors travel beside it (SCM_RIGHTS, unix(7)). Answers may come
in another order than the questions. A message longer than a socket buffer takes is put into a
memory file, whose descriptor then comes first (memfd_create(2)).

Each request is a frozen dataclass here; its `answer` says of what class the answer is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import json
import math
import os
import socket
import struct
import types
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Generic, Literal, NamedTuple, TypeVar, cast

from pytest_containers.errors import ContainersError, EngineError, from_wire, to_wire
from pytest_containers.spec import ContainerSpec, ContainerState, FileStat, ImageConfig, ProcessEntry, Stats

__all__ = [
    "VERSION",
    "Changed",
    "Changes",
    "Create",
    "CreateNetwork",
    "Created",
    "Done",
    "ExecRequest",
    "Exited",
    "Greeting",
    "Hello",
    "Layer",
    "Listening",
    "Measure",
    "NetworkCreated",
    "Pause",
    "Ports",
    "Processes",
    "Publish",
    "Read",
    "Received",
    "Remove",
    "RemoveNetwork",
    "Request",
    "Shutdown",
    "Signal",
    "Start",
    "Started",
    "Stat",
    "State",
    "Top",
    "Unpause",
    "Write",
    "decode",
    "error_message",
    "message",
    "parse",
    "receive",
    "send",
]

Answer = TypeVar("Answer")
_Noun = TypeVar("_Noun")
# Raised with every change of the messages; both sides come from one installation as a rule.
VERSION: Final = "2"
# Well below net.core.wmem_default (212,992 bytes on most machines, socket(7)).
_INLINE_BYTES: Final = 1 << 16
_MESSAGE_BYTES: Final = 2 * _INLINE_BYTES
# Far above what any request or answer holds; who sends more wants our memory.
_FILE_BYTES: Final = 256 << 20
_IN_FILE: Final = b"\0memory file"
_HEAD_BYTES: Final = 64
_INTEGER_BOUND: Final = 1 << 63
_NUMBER: Final = struct.Struct("i")
_RIGHTS_BYTES: Final = socket.CMSG_LEN(8 * _NUMBER.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """It is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """The supervisor's own words: its version."""

    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCreated:
    """A network's addresses, as ``10.64.0.0/22``."""

    subnet: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A container's id and address; *found* where one of that name was there already.

    Its log comes along as a descriptor.
    """

    id: str
    ip: str
    found: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The exec has happened. A pidfd of the first process comes along."""

    started_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """An exec's end; *reason* where it never began."""

    exit_code: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Bound ports as ``6379/tcp``; *aside* are those a peer cannot reach, each with its address."""

    ports: tuple[str, ...]
    aside: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """The processes of a container; *user* of each is its number."""

    processes: tuple[ProcessEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Kind and path of each change."""

    changes: tuple[tuple[Literal["A", "C", "D"], str], ...]


class Request(Generic[Answer]):
    """Base of what a client asks; the type parameter is the answer's class."""

    __slots__ = ()
    answer: ClassVar[type[object]] = Done
    # How many descriptors must come along.
    brings: ClassVar[int] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Request[Greeting]):
    """The first message; a pidfd of the asking process comes along, whose end ends the connection."""

    answer: ClassVar[type[object]] = Greeting
    version: str
    guest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateNetwork(Request[NetworkCreated]):
    """Make a network."""

    answer: ClassVar[type[object]] = NetworkCreated
    name: str
    internal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNetwork(Request[Done]):
    """Take a network down."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(Request[Created]):
    """Prepare a container over *layers*, oldest first.

    A *bare* one has the layers' files and no more; it cannot be started. *interfaces* of the ``host``
    are those of its network namespace, and ``none`` is lo alone: no argument of a test asks for
    either. Where it is *leased*, the
    descriptor that keeps the layers from being pruned comes along, first; a tar of files to write
    may come behind it.
    """

    answer: ClassVar[type[object]] = Created
    spec: ContainerSpec
    config: ImageConfig
    layers: tuple[str, ...]
    leased: bool = False
    bare: bool = False
    interfaces: Literal["switch", "host", "none"] = "switch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Request[Started]):
    """Run the first process."""

    answer: ClassVar[type[object]] = Started
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State(Request[ContainerState]):
    """Ask for the state as it is now; with *pidfd* that of the first process comes along while it runs."""

    answer: ClassVar[type[object]] = ContainerState
    id: str
    pidfd: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal(Request[Done]):
    """Send a signal to the first process."""

    id: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Request[Done]):
    """Stop all processes until they are unpaused."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpause(Request[Done]):
    """Let paused processes go on."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure(Request[Stats]):
    """Ask what the container uses."""

    answer: ClassVar[type[object]] = Stats
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Top(Request[Processes]):
    """Ask for the processes."""

    answer: ClassVar[type[object]] = Processes
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRequest(Request[Exited]):
    """Run one more process; its standard input, output and error come along."""

    answer: ClassVar[type[object]] = Exited
    brings: ClassVar[int] = 3
    id: str
    argv: tuple[str, ...]
    user: str | None
    workdir: str | None
    env: Mapping[str, str | None]
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(Request[Done]):
    """Write *path* as a tar into the descriptor that comes along."""

    brings: ClassVar[int] = 1
    id: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Write(Request[Done]):
    """Unpack the tar in the descriptor that comes along below *folder*."""

    brings: ClassVar[int] = 1
    id: str
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat(Request[FileStat]):
    """Ask what is at *path*, links followed."""

    answer: ClassVar[type[object]] = FileStat
    id: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes(Request[Changed]):
    """Ask what differs from the image."""

    answer: ClassVar[type[object]] = Changed
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer(Request[Done]):
    """Write what differs as a layer tar into the descriptor that comes along."""

    brings: ClassVar[int] = 1
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(Request[Ports]):
    """Ask for the bound ports."""

    answer: ClassVar[type[object]] = Ports
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish(Request[Done]):
    """Carry what connects to the listening socket that comes along to the container's TCP *port*."""

    brings: ClassVar[int] = 1
    id: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove(Request[Done]):
    """End a container and drop its files."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown(Request[Done]):
    """End the run."""


_REQUESTS: Final = types.MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            *(Hello, CreateNetwork, RemoveNetwork, Create, Start, State, Signal, ExecRequest),
            *(Pause, Unpause, Measure, Top),
            *(Read, Write, Stat, Changes, Layer, Listening, Publish, Remove, Shutdown),
        )
    }
)


def _plain(noun: object) -> object:
    if dataclasses.is_dataclass(noun) and not isinstance(noun, type):
        return {field.name: _plain(getattr(noun, field.name)) for field in dataclasses.fields(noun)}
    if isinstance(noun, Mapping):
        return {str(key): _plain(item) for key, item in noun.items()}
    if isinstance(noun, (tuple, list)):
        return [_plain(item) for item in noun]
    return noun


_Read = Callable[[object], object]


@functools.cache
def _fields(kind: Hashable) -> dict[str, _Read]:
    return {name: _reader(hint) for name, hint in typing.get_type_hints(kind).items()}


@functools.cache
def _reader(hint: Hashable) -> _Read:
    """Return what makes a value of the type *hint* from JSON's values, or raises EngineError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = tuple(_reader(one) for one in arguments if one is not type(None))
        read = kinds[0] if len(kinds) == 1 else functools.partial(_read_any, kinds)
        return functools.partial(_read_optional, read) if len(kinds) < len(arguments) else read
    if origin is Literal:
        return functools.partial(_read_literal, arguments)
    if origin is tuple:
        items = tuple(_reader(one) for one in arguments if one is not Ellipsis)
        return functools.partial(_read_tuple, items, Ellipsis in arguments)
    if origin is Mapping:
        return functools.partial(_read_mapping, _reader(arguments[1]))
    if isinstance(hint, type) and issubclass(hint, tuple):
        return functools.partial(_read_named_tuple, hint, tuple(_fields(hint).values()))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return functools.partial(decode, hint)
    return functools.partial(_read_scalar, hint)


def _foreign(wanted: object, plain: object) -> EngineError:
    return EngineError(f"a message holds no {getattr(wanted, '__name__', wanted)}", seen=repr(plain)[:200])


def _read_optional(read: _Read, plain: object) -> object:
    return None if plain is None else read(plain)


def _read_any(kinds: tuple[_Read, ...], plain: object) -> object:
    for read in kinds[:-1]:
        with contextlib.suppress(EngineError):
            return read(plain)
    return kinds[-1](plain)


def _read_literal(choices: tuple[object, ...], plain: object) -> object:
    if isinstance(plain, str) and plain in choices:
        return plain
    raise _foreign(f"word of {choices}", plain)


def _read_tuple(items: tuple[_Read, ...], repeated: bool, plain: object) -> tuple[object, ...]:
    if not isinstance(plain, list) or not (repeated or len(plain) == len(items)):
        raise _foreign(tuple, plain)
    readers = items * len(plain) if repeated else items
    return tuple(read(item) for read, item in zip(readers, plain, strict=True))


def _read_named_tuple(kind: Callable[..., object], items: tuple[_Read, ...], plain: object) -> object:
    return kind(*_read_tuple(items, False, plain))


def _read_mapping(read: _Read, plain: object) -> object:
    if not isinstance(plain, dict):
        raise _foreign(Mapping, plain)
    return {_read_scalar(str, key): read(item) for key, item in plain.items()}


def _read_scalar(kind: object, plain: object) -> object:
    """Return *plain*, which must be of *kind* and of a size and form that the kernel's calls take."""
    if kind is float and type(plain) is int:
        plain = float(plain) if abs(plain) < _INTEGER_BOUND else plain
    if type(plain) is not kind:
        raise _foreign(kind, plain)
    if isinstance(plain, str) and not plain.isascii():
        try:
            os.fsencode(plain)
        except UnicodeEncodeError as error:
            raise _foreign(kind, plain) from error
    if isinstance(plain, int) and abs(plain) >= _INTEGER_BOUND:
        raise _foreign("64-bit integer", plain)
    if isinstance(plain, float) and math.isnan(plain):
        raise _foreign(kind, plain)
    return plain


def decode(kind: type[_Noun], plain: object) -> _Noun:
    """Return a dataclass of *kind* from JSON's values. Raises EngineError for a foreign shape.

    Every field is checked, down to the scalars inside of it. Unknown ones are left out.
    """
    if not isinstance(plain, dict):
        raise _foreign(kind, plain)
    fields = _fields(cast(Hashable, kind))
    return kind(**{name: fields[name](item) for name, item in plain.items() if name in fields})


def message(number: int, noun: object) -> bytes:
    """Return a request or an answer, ready to send."""
    if isinstance(noun, Request):
        plain: dict[str, object] = {"id": number, "op": type(noun).__name__, "body": _plain(noun)}
    else:
        plain = {"id": number, "ok": _plain(noun)}
    return json.dumps(plain, separators=(",", ":")).encode()


def error_message(number: int, error: ContainersError) -> bytes:
    """Return an answer that says what went wrong."""
    return json.dumps({"id": number, "error": to_wire(error)}).encode()


def parse(content: bytes, *, lost: bool = False) -> tuple[int, Request[object] | ContainersError | object]:
    """Return a message's number, and a request, an error, or an answer's plain values.

    *lost* as in `Received`: then there may be nothing but the number.
    """
    try:
        plain = json.loads(content)
        number = plain["id"]
        if type(number) is not int:
            raise _foreign("number", number)
        if lost:
            return number, plain.get("ok")
        if "op" in plain:
            return number, decode(_REQUESTS[plain["op"]], plain["body"])
        if "error" in plain:
            return number, from_wire(plain["error"])
        return number, plain["ok"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EngineError("a message nobody can read", seen=repr(content[:200])) from error


def send(to: socket.socket, content: bytes, descriptors: Sequence[int] = (), *, wait: bool = True) -> None:
    """Send one message; the descriptors stay the caller's as well.

    Without *wait* it raises BlockingIOError where the other side has not read enough to take it.
    """
    # Not socket.send_fds: it leaves its flags unused (CPython 3.11, Lib/socket.py).
    flags = socket.MSG_NOSIGNAL | (0 if wait else socket.MSG_DONTWAIT)
    if len(content) <= _INLINE_BYTES:
        to.sendmsg([content], _rights(descriptors), flags)
        return
    file = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(file), "wb") as whole:
            whole.write(content)
        # The number goes along, so that the message can be answered where the file is lost.
        head = content[:_HEAD_BYTES].partition(b",")[0]
        to.sendmsg([_IN_FILE, head], _rights((file, *descriptors)), flags)
    finally:
        os.close(file)


def _rights(descriptors: Sequence[int]) -> list[tuple[int, int, bytes]]:
    if not descriptors:
        return []
    numbers = struct.pack(f"{len(descriptors)}i", *descriptors)
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]


class Received(NamedTuple):
    """One message and its descriptors, now the caller's; no *content* means the other side is gone.

    *lost*: not all of its descriptors came, since this process may open no more (unix(7),
    MSG_CTRUNC). Those that did are closed, and the content may be the message's number alone.
    """

    content: bytes
    descriptors: list[int]
    lost: bool = False


def receive(source: socket.socket) -> Received:
    """Return the next message. Raises EngineError for one that is malformed; its descriptors are closed."""
    # Close-on-exec from the first moment: another thread of pytest's may be starting a process.
    # socket.recv_fds of Python 3.11 drops the flags it is given (Lib/socket.py).
    content, rights, flags, _ = source.recvmsg(_MESSAGE_BYTES, _RIGHTS_BYTES, socket.MSG_CMSG_CLOEXEC)
    descriptors = [number for _, _, numbers in rights for (number,) in _NUMBER.iter_unpack(numbers)]
    lost = bool(flags & socket.MSG_CTRUNC)
    with contextlib.ExitStack() as undo:
        for descriptor in descriptors:
            undo.callback(os.close, descriptor)
        if flags & socket.MSG_TRUNC:
            raise EngineError("a message is too long", seen=f"more than {_MESSAGE_BYTES} bytes")
        if lost:
            return Received(content.removeprefix(_IN_FILE) + b"}" * content.startswith(_IN_FILE), [], True)
        if content.startswith(_IN_FILE) and descriptors:
            content = _in_file(descriptors[0])
            os.close(descriptors.pop(0))
        undo.pop_all()
    return Received(content, descriptors)


def _in_file(descriptor: int) -> bytes:
    """Return what a memory file holds; nothing else is read, for it might make us wait for ever."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)  # EINVAL for what is no memory file (memfd_create(2))
        size = os.fstat(descriptor).st_size
        if size <= _FILE_BYTES:
            return os.pread(descriptor, size, 0)
        seen = f"{size} bytes"
    except OSError as error:
        seen = f"not in a memory file: {error}"
    raise EngineError("a long message cannot be read", seen=seen)
