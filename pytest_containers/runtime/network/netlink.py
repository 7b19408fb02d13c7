"""Netlink messages and the socket that carries them: the kernel's interface to links and firewalls.

The format is that of netlink(7): a message is a header and a body, a body is a fixed struct and
attributes (type, length, value, padded to four bytes). Written by hand because the switch needs a
dozen kinds of message and its start-up is counted in milliseconds: loading pyroute2 0.9.7 cost
140 ms whole and 60 ms for its bare message classes, this file 1 ms (two cores, November 2026).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from pytest_containers.errors import EngineError

__all__ = [
    "ACK",
    "CREATE",
    "Channel",
    "Request",
    "attribute",
    "attributes",
    "encode",
    "errno_of",
    "nested",
    "text",
    "u32",
]

# linux/netlink.h
_REQUEST: Final = 0x01
ACK: Final = 0x04  # NLM_F_ACK
_DUMP: Final = 0x300
CREATE: Final = 0x600  # NLM_F_CREATE | NLM_F_EXCL: make it, and say so when it is there already
_ERROR: Final = 2
_DONE: Final = 3
_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF
_SOL_NETLINK: Final = 270
_CAP_ACK: Final = 10
_EXT_ACK: Final = 11
_ACK_TLVS: Final = 0x200
_ERROR_MESSAGE: Final = 1  # NLMSGERR_ATTR_MSG

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
# One attribute carries 65535 bytes and a dump's message seldom more than 32 KiB (netlink(7)).
_RECEIVE_BYTES: Final = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One message to the kernel: *kind* and *flags* of its header; *what* it does, for an error."""

    kind: int
    body: bytes
    flags: int = 0
    what: str


def attribute(kind: int, payload: bytes = b"") -> bytes:
    """Return one attribute, padded to four bytes (netlink(7), struct nlattr)."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """Return an attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def u32(kind: int, value: int) -> bytes:
    """Return an attribute that holds a 32-bit number in the machine's byte order."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """Return an attribute that holds a string with its closing NUL."""
    return attribute(kind, value.encode() + b"\0")


def attributes(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Read the attributes of a message's body, without their nested and byte-order flags."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, payload[offset + _ATTRIBUTE.size : offset + length]
        offset += length + (-length % 4)


def encode(requests: Sequence[Request]) -> bytes:
    """Return *requests* as the bytes of one write; the kernel executes them in order.

    The last asks for an acknowledgement, and those whose flags say so: errors come unasked
    (netlink(7), NLMSG_ERROR).
    The sequence number is the position, counted from 1.
    """
    parts: list[bytes] = []
    for position, request in enumerate(requests, 1):
        flags = request.flags | _REQUEST | (ACK if position == len(requests) else 0)
        parts.append(_HEADER.pack(_HEADER.size + len(request.body), request.kind, flags, position, 0))
        parts.append(request.body + b"\0" * (-len(request.body) % 4))
    return b"".join(parts)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Split a datagram into (kind, flags, sequence, body)."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += length + (-length % 4)


def _reason(flags: int, body: bytes) -> tuple[int, str]:
    """Read struct nlmsgerr and the sentence some kernels add (linux/netlink.h, NETLINK_EXT_ACK)."""
    number = -struct.unpack_from("=i", body)[0]
    seen = f"{errno.errorcode.get(number, str(number))}: {os.strerror(number)}"
    if flags & _ACK_TLVS:
        for kind, payload in attributes(body[4 + _HEADER.size :]):
            if kind == _ERROR_MESSAGE:
                seen += f" ({payload.rstrip(bytes(1)).decode('utf-8', 'replace')})"
    return number, seen


def _refusal(number: int, seen: str, what: str) -> EngineError:
    error = EngineError(f"the kernel refused to {what}", seen=seen)
    error.__cause__ = OSError(number, os.strerror(number))
    return error


def errno_of(error: EngineError) -> int:
    """Return the errno behind an error of this module, 0 where there is none."""
    cause = error.__cause__
    return (cause.errno or 0) if isinstance(cause, OSError) else 0


class Channel:
    """A netlink socket of the network namespace it was opened in, wherever its owner goes later."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        try:
            self._line = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise EngineError(f"no netlink socket of family {protocol}", seen=str(error)) from error
        for option in (_CAP_ACK, _EXT_ACK):
            self._line.setsockopt(_SOL_NETLINK, option, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._line.close()

    def run(self, *requests: Request) -> None:
        """Have the kernel execute *requests* in order, in one write; raise EngineError if it refuses."""
        self.send(encode(requests), [request.what for request in requests])

    def send(self, data: bytes, what: Sequence[str]) -> None:
        """Have the kernel execute encoded requests; *what* names them, in order, for the error.

        Requests are executed inside send(2), so that when it returns every answer waits in the
        queue. Raises EngineError for the first one refused; those behind it were tried all the
        same, except in a netfilter batch, which is taken whole or not at all.
        """
        try:
            self._line.send(data)
        except OSError as error:
            raise EngineError("a netlink message could not be sent", seen=str(error)) from error
        failures = list(self._waiting())
        for sequence, number, seen in failures:
            if number:
                known = 0 < sequence <= len(what)
                raise _refusal(number, seen, what[sequence - 1] if known else f"take message {sequence}")
        if not failures:
            raise EngineError("the kernel left a netlink message without an answer", seen=", ".join(what))

    def _waiting(self) -> Iterator[tuple[int, int, str]]:
        """Read every acknowledgement there is as (sequence, errno or 0, sentence)."""
        while True:
            try:
                reply = self._line.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            for kind, flags, sequence, body in _messages(reply):
                if kind == _ERROR and len(body) >= 4:
                    number, seen = _reason(flags, body)
                    yield sequence, number, seen

    def ask(self, request: Request) -> bytes:
        """Return the body of the one message that answers *request*."""
        bodies = list(self._answers(encode([request]), request.what))
        if not bodies:
            raise EngineError(f"the kernel had no answer when asked to {request.what}")
        return bodies[0]

    def dump(self, request: Request) -> list[bytes]:
        """Return the bodies of every object *request* asks for (netlink(7), NLM_F_DUMP)."""
        flags = request.flags | _REQUEST | _DUMP
        header = _HEADER.pack(_HEADER.size + len(request.body), request.kind, flags, 1, 0)
        return list(self._answers(header + request.body, request.what))

    def _answers(self, data: bytes, what: str) -> Iterator[bytes]:
        """Read until the end of a dump (NLMSG_DONE) or the acknowledgement of a question."""
        try:
            self._line.send(data)
        except OSError as error:
            raise EngineError("a netlink message could not be sent", seen=str(error)) from error
        while True:
            for kind, flags, _, body in _messages(self._line.recv(_RECEIVE_BYTES)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number, seen = _reason(flags, body)
                    if number:
                        raise _refusal(number, seen, what)
                    return
                yield body
