"""What client and supervisor say to each other (floor 1).

One SEQPACKET message is one JSON object: ``{"id", "op", "body"}`` asks, ``{"id", "ok"}`` or
``{"id", "error"}`` answers; descriptors travel beside it (SCM_RIGHTS, unix(7)). Answers may come
in another order than the questions. A message longer than a socket buffer takes is put into a
memory file, whose descriptor then comes first (memfd_create(2)).

Each request is a frozen dataclass here; its `answer` says of what class the answer is.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import socket
import struct
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Generic, Literal, TypeVar, cast

from pytest_containers.errors import ContainersError, EngineError, from_wire, to_wire
from pytest_containers.spec import ContainerSpec, ContainerState, ImageConfig

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
    "NetworkCreated",
    "Ports",
    "Publish",
    "Read",
    "Remove",
    "RemoveNetwork",
    "Request",
    "Shutdown",
    "Signal",
    "Start",
    "Started",
    "State",
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
VERSION: Final = "1"
# Well below net.core.wmem_default (212,992 bytes on most machines, socket(7)).
_INLINE_BYTES: Final = 1 << 16
_IN_FILE: Final = b"\0memory file"
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
    """Bound ports as ``6379/tcp``."""

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Kind and path of each change."""

    changes: tuple[tuple[Literal["A", "C", "D"], str], ...]


class Request(Generic[Answer]):
    """Base of what a client asks; the type parameter is the answer's class."""

    __slots__ = ()
    answer: ClassVar[type[object]] = Done


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Request[Greeting]):
    """The first message; a pidfd of the asking process comes along, whose end ends the connection."""

    answer: ClassVar[type[object]] = Greeting
    version: str


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
    """Ask for the state as it is now."""

    answer: ClassVar[type[object]] = ContainerState
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal(Request[Done]):
    """Send a signal to the first process."""

    id: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRequest(Request[Exited]):
    """Run one more process; its standard input, output and error come along."""

    answer: ClassVar[type[object]] = Exited
    id: str
    argv: tuple[str, ...]
    user: str | None
    workdir: str | None
    env: Mapping[str, str]
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(Request[Done]):
    """Write *path* as a tar into the descriptor that comes along."""

    id: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Write(Request[Done]):
    """Unpack the tar in the descriptor that comes along below *folder*."""

    id: str
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes(Request[Changed]):
    """Ask what differs from the image."""

    answer: ClassVar[type[object]] = Changed
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer(Request[Done]):
    """Write what differs as a layer tar into the descriptor that comes along."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(Request[Ports]):
    """Ask for the bound ports."""

    answer: ClassVar[type[object]] = Ports
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish(Request[Done]):
    """Carry what connects to the listening socket that comes along to the container's TCP *port*."""

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
            *(Read, Write, Changes, Layer, Listening, Publish, Remove, Shutdown),
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


@functools.cache
def _hints(kind: Hashable) -> dict[str, object]:
    return dict(typing.get_type_hints(kind))


def _build(hint: object, plain: object) -> object:
    """Return *plain*, JSON's values, as what *hint* asks for."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if plain is None:
            return None
        return _build(next(one for one in arguments if one is not type(None)), plain)
    if origin is tuple and isinstance(plain, list):
        items = arguments[:1] * len(plain) if arguments[-1] is Ellipsis else arguments
        return tuple(_build(one, item) for one, item in zip(items, plain, strict=True))
    if isinstance(hint, type) and issubclass(hint, tuple) and isinstance(plain, list):
        return hint(*plain)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return decode(hint, plain)
    return float(plain) if hint is float and isinstance(plain, int) else plain


def decode(kind: type[_Noun], plain: object) -> _Noun:
    """Return a dataclass of *kind* from JSON's values. Raises EngineError for a foreign shape."""
    if not isinstance(plain, dict):
        raise EngineError(f"a message holds no {kind.__name__}", seen=repr(plain)[:200])
    hints = _hints(cast(Hashable, kind))
    return kind(**{name: _build(hints[name], item) for name, item in plain.items() if name in hints})


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


def parse(content: bytes) -> tuple[int, Request[object] | ContainersError | object]:
    """Return a message's number, and a request, an error, or an answer's plain values."""
    try:
        plain = json.loads(content)
        number = int(plain["id"])
        if "op" in plain:
            return number, decode(_REQUESTS[plain["op"]], plain["body"])
        if "error" in plain:
            return number, from_wire(plain["error"])
        return number, plain["ok"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EngineError("a message nobody can read", seen=repr(content[:200])) from error


def send(to: socket.socket, content: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one message; the descriptors stay the caller's as well."""
    if len(content) <= _INLINE_BYTES:
        socket.send_fds(to, [content], list(descriptors))
        return
    file = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(file), "wb") as whole:
            whole.write(content)
        socket.send_fds(to, [_IN_FILE], [file, *descriptors])
    finally:
        os.close(file)


def receive(source: socket.socket) -> tuple[bytes, list[int]]:
    """Return one message and its descriptors, now the caller's; no bytes mean the other side is gone."""
    # Close-on-exec from the first moment: another thread of pytest's may be starting a process.
    # socket.recv_fds of Python 3.11 drops the flags it is given (Lib/socket.py).
    content, rights, _, _ = source.recvmsg(2 * _INLINE_BYTES, _RIGHTS_BYTES, socket.MSG_CMSG_CLOEXEC)
    descriptors = [number for _, _, numbers in rights for (number,) in _NUMBER.iter_unpack(numbers)]
    if content == _IN_FILE and descriptors:
        with os.fdopen(descriptors.pop(0), "rb") as whole:
            whole.seek(0)
            content = whole.read()
    return content, descriptors
