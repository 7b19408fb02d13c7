"""DNS messages, as far as a resolver for container names needs them (RFC 1035, section 4).

Bytes in, values out, no sockets. A query that cannot be read is None, never an exception: what
arrives here was written by whatever runs in a container.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = [
    "ANY",
    "FORMAT_ERROR",
    "NAME_ERROR",
    "NOT_IMPLEMENTED",
    "NO_ERROR",
    "PTR",
    "SERVER_FAILURE",
    "A",
    "Question",
    "address_record",
    "answer",
    "answers",
    "identity",
    "malformed",
    "name_record",
    "parse",
    "rcode",
    "reverse",
    "with_identity",
]

# RFC 1035, sections 3.2.2, 3.2.3 and 4.1.1.
A: Final = 1
PTR: Final = 12
ANY: Final = 255
_OPT: Final = 41  # RFC 6891
_IN: Final = 1
NO_ERROR: Final = 0
FORMAT_ERROR: Final = 1
SERVER_FAILURE: Final = 2
NAME_ERROR: Final = 3
NOT_IMPLEMENTED: Final = 4

_HEADER: Final = struct.Struct(">HHHHHH")
_RESPONSE: Final = 0x8000
_OPCODE: Final = 0x7800
_AUTHORITATIVE: Final = 0x0400
_TRUNCATED: Final = 0x0200
_RECURSION_DESIRED: Final = 0x0100
_RECURSION_AVAILABLE: Final = 0x0080
_LABEL_BYTES: Final = 63
_NAME_BYTES: Final = 255
_UDP_BYTES: Final = 512  # RFC 1035, section 2.3.4
_STREAM_BYTES: Final = 65535
# What fits a packet on any path (DNS Flag Day 2020; RFC 6891, section 6.2.5, leaves it to the sender).
_OFFERED_BYTES: Final = 1232
_POINTER_TO_QUESTION: Final = b"\xc0\x0c"
_REVERSE: Final = ".in-addr.arpa"
# A container may be given the address of another under the same name: nobody may keep an answer.
_TTL_S: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A query's one question. *name* is lower case, without the closing dot; *echo* its bytes as sent."""

    identity: int
    flags: int
    name: str
    kind: int
    kind_class: int
    echo: bytes
    limit_bytes: int
    extended: bool

    @property
    def is_standard(self) -> bool:
        """Whether this is a standard query for the Internet class."""
        return not self.flags & _OPCODE and self.kind_class in (_IN, ANY)

    @property
    def labels(self) -> int:
        """The number of labels in the name, 0 for the root."""
        return self.name.count(".") + 1 if self.name else 0


def identity(message: bytes) -> int:
    """Return a message's number, -1 where it is too short to be one."""
    return int.from_bytes(message[:2], "big") if len(message) >= _HEADER.size else -1


def with_identity(message: bytes, number: int) -> bytes:
    """Return *message* with another number."""
    return number.to_bytes(2, "big") + message[2:]


def rcode(message: bytes) -> int:
    """Return a response's code, -1 where it is no response."""
    if len(message) < _HEADER.size or not message[2] & 0x80:
        return -1
    return message[3] & 0x0F


def answers(message: bytes, query: bytes) -> bool:
    """Return whether *message* is a response to the question of *query*, letter case apart.

    A server that could not read the question may leave it out.
    """
    code = rcode(message)
    asked = parse(query)
    if code < 0 or asked is None:
        return False
    if code == FORMAT_ERROR and message[4:6] == b"\0\0":
        return True
    return message[12 : 12 + len(asked.echo)].lower() == asked.echo.lower()


def _name(message: bytes, offset: int) -> tuple[str, int] | None:
    labels: list[str] = []
    start = offset
    while offset < len(message):
        length = message[offset]
        offset += 1
        if length == 0:
            return ".".join(labels).lower(), offset
        # A question has nothing before it to point to, so compression is not understood here.
        if length > _LABEL_BYTES or offset + length - start > _NAME_BYTES:
            return None
        label = message[offset : offset + length]
        labels.append(label.decode("ascii", "backslashreplace").replace(".", "\\."))
        offset += length
    return None


def _extension(message: bytes, offset: int, additional: int) -> int | None:
    """Return the answer size an OPT record offers, None without one (RFC 6891, section 6.1.2)."""
    if not additional or len(message) < offset + 11 or message[offset] != 0:
        return None
    kind, size = struct.unpack_from(">HH", message, offset + 1)
    return max(int(size), _UDP_BYTES) if kind == _OPT else None


def parse(message: bytes, *, stream: bool = False) -> Question | None:
    """Read a query; None where it is none, or has more than one question.

    *stream* says that it came by TCP, where an answer may be long.
    """
    if len(message) < _HEADER.size:
        return None
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(message)
    if flags & _RESPONSE or questions != 1:
        return None
    named = _name(message, _HEADER.size)
    if named is None or len(message) < named[1] + 4:
        return None
    name, offset = named
    kind, kind_class = struct.unpack_from(">HH", message, offset)
    end = offset + 4
    size = None if answers or authorities else _extension(message, end, additional)
    return Question(
        identity=number,
        flags=flags,
        name=name,
        kind=kind,
        kind_class=kind_class,
        echo=message[_HEADER.size : end],
        limit_bytes=_STREAM_BYTES if stream else size or _UDP_BYTES,
        extended=size is not None,
    )


def reverse(name: str) -> str | None:
    """Return the address that *name* asks the name of, None where it is not such a question."""
    if not name.endswith(_REVERSE):
        return None
    try:
        return str(ipaddress.IPv4Address(".".join(reversed(name.removesuffix(_REVERSE).split(".")))))
    except ValueError:
        return None


def _record(kind: int, data: bytes) -> bytes:
    return _POINTER_TO_QUESTION + struct.pack(">HHIH", kind, _IN, _TTL_S, len(data)) + data


def address_record(ip: str) -> bytes:
    """Return an A record for the name asked for."""
    return _record(A, ipaddress.IPv4Address(ip).packed)


def name_record(name: str) -> bytes:
    """Return a PTR record for the address asked for; *name* has labels of 1 to 63 bytes."""
    labels = [label.encode("ascii", "replace")[:_LABEL_BYTES] for label in name.split(".") if label]
    return _record(PTR, b"".join(bytes([len(label)]) + label for label in labels) + b"\0")


def answer(question: Question, code: int, records: Sequence[bytes] = (), *, ours: bool = True) -> bytes:
    """Return the response; *ours* marks it authoritative.

    Records that do not fit are left out and the response says so (TC), whereupon the client asks
    again by TCP (RFC 1035, section 4.2.1).
    """
    extension = struct.pack(">BHHIH", 0, _OPT, _OFFERED_BYTES, 0, 0) if question.extended else b""
    room = question.limit_bytes - _HEADER.size - len(question.echo) - len(extension)
    kept: list[bytes] = []
    for record in records:
        room -= len(record)
        if room < 0:
            break
        kept.append(record)
    flags = _RESPONSE | (question.flags & (_OPCODE | _RECURSION_DESIRED)) | _RECURSION_AVAILABLE | code
    flags |= _AUTHORITATIVE if ours else 0
    flags |= _TRUNCATED if len(kept) < len(records) else 0
    header = _HEADER.pack(question.identity, flags, 1, len(kept), 0, 1 if extension else 0)
    return header + question.echo + b"".join(kept) + extension


def malformed(message: bytes) -> bytes:
    """Return the answer to what `parse` could not read: FORMERR, or nothing to what is no query."""
    if len(message) < _HEADER.size or message[2] & 0x80:
        return b""
    number, flags = struct.unpack_from(">HH", message)
    kept = flags & (_OPCODE | _RECURSION_DESIRED)
    return _HEADER.pack(number, _RESPONSE | kept | FORMAT_ERROR, 0, 0, 0, 0)
