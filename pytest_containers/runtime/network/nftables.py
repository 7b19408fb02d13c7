"""The words of nf_tables as netlink messages: tables, chains, rules, sets (nft(8)).

Numbers are those of linux/netfilter/nf_tables.h; integers travel in network byte order. A rule is
a list of expressions that load a register, compare it, and end in a verdict: what ``nft
--debug=netlink`` prints.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from pytest_containers.runtime.network.netlink import ACK, CREATE, Channel, Request, attribute, nested, text

__all__ = [
    "ACCEPT",
    "DNATTED",
    "ESTABLISHED",
    "FLOW_KEY_BYTES",
    "REJECT",
    "Chain",
    "Table",
    "commit",
    "connection_state",
    "connection_status",
    "destination",
    "flow_in",
    "flow_key",
    "in_set",
    "interface",
    "ip_protocol",
    "ipv4",
    "not_in_subnet",
    "port",
    "redirect",
    "same",
    "towards",
    "towards_address",
]

_NETFILTER: Final = 12  # NETLINK_NETFILTER
_SUBSYSTEM: Final = 10 << 8  # NFNL_SUBSYS_NFTABLES
_BEGIN: Final = 16  # NFNL_MSG_BATCH_BEGIN
_END: Final = 17
_NEW_TABLE: Final = _SUBSYSTEM | 0
_NEW_CHAIN: Final = _SUBSYSTEM | 3
_NEW_RULE: Final = _SUBSYSTEM | 6
_NEW_SET: Final = _SUBSYSTEM | 9
_NEW_ELEMENT: Final = _SUBSYSTEM | 12
_DEL_ELEMENT: Final = _SUBSYSTEM | 14
_APPEND: Final = 0xC00  # NLM_F_CREATE | NLM_F_APPEND
_CREATE_OR_KEEP: Final = 0x400  # NLM_F_CREATE alone
_INET: Final = 1

# Registers of 16 bytes; one behind the other they hold a key of two parts.
_FIRST: Final = 1
_SECOND: Final = 2
# The first one's four words, each a register of its own (NFT_REG32_00 and the next).
_WORDS: Final = (8, 9, 10)
FLOW_KEY_BYTES: Final = 12
_VERDICT: Final = 0
_EQUAL: Final = 0
_UNEQUAL: Final = 1
_NETWORK_HEADER: Final = 1
_TRANSPORT_HEADER: Final = 2
_IFNAME_BYTES: Final = 16
_META_IIFNAME: Final = 6
_META_OIFNAME: Final = 7
_META_NFPROTO: Final = 15
_META_L4PROTO: Final = 16
_CT_STATE: Final = 0
_CT_STATUS: Final = 2
ESTABLISHED: Final = 0x2 | 0x4  # established and related (linux/netfilter/nf_conntrack_common.h, as bits)
DNATTED: Final = 0x20  # IPS_DST_NAT
_HOOKS: Final = MappingProxyType({"prerouting": 0, "input": 1, "forward": 2})

Expressions = tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A base chain: its *name* is the hook it sits on; *policy* is what befalls the unmatched."""

    name: Literal["prerouting", "input", "forward"]
    kind: Literal["nat", "filter"]
    priority: int
    policy: Literal["accept", "drop"]


def _be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value & 0xFFFF_FFFF))


def _value(kind: int, value: bytes) -> bytes:
    return nested(kind, attribute(1, value))


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *parts))


def _message(kind: int, what: str, *parts: bytes, flags: int = 0) -> Request:
    header = struct.pack(">BBH", _INET, 0, 0)
    return Request(kind=kind, flags=flags, body=header + b"".join(parts), what=what)


def _meta(key: int, register: int = _FIRST) -> bytes:
    return _expression("meta", _be32(1, register), _be32(2, key))


def _compare(value: bytes, operation: int = _EQUAL) -> bytes:
    return _expression("cmp", _be32(1, _FIRST), _be32(2, operation), _value(3, value))


def _payload(base: int, offset: int, length: int, register: int = _FIRST) -> bytes:
    return _expression("payload", _be32(1, register), _be32(2, base), _be32(3, offset), _be32(4, length))


def _masked(mask: bytes) -> bytes:
    return _expression(
        "bitwise",
        _be32(1, _FIRST),
        _be32(2, _FIRST),
        _be32(3, len(mask)),
        _value(4, mask),
        _value(5, bytes(len(mask))),
    )


def _has_bits(key: int, bits: int) -> Expressions:
    # ct values are numbers of the machine's byte order, unlike everything read from a packet.
    load = _expression("ct", _be32(1, _FIRST), _be32(2, key))
    return load, _masked(struct.pack("=I", bits)), _compare(bytes(4), _UNEQUAL)


def connection_state(bits: int) -> Expressions:
    """Match ``ct state`` with any of *bits*."""
    return _has_bits(_CT_STATE, bits)


def connection_status(bits: int) -> Expressions:
    """Match ``ct status`` with any of *bits*."""
    return _has_bits(_CT_STATUS, bits)


def _ifname(name: str) -> bytes:
    return name.encode().ljust(_IFNAME_BYTES, b"\0")


def interface(name: str) -> Expressions:
    """Match ``iifname`` *name*."""
    return _meta(_META_IIFNAME), _compare(_ifname(name))


def ipv4() -> Expressions:
    """Match ``meta nfproto ipv4``, without which an IPv4 header must not be read."""
    return _meta(_META_NFPROTO), _compare(bytes([socket.AF_INET]))


def ip_protocol(number: int) -> Expressions:
    """Match ``meta l4proto``."""
    return _meta(_META_L4PROTO), _compare(bytes([number]))


def port(number: int) -> Expressions:
    """Match the destination port of TCP or UDP; comes behind `ip_protocol`."""
    return _payload(_TRANSPORT_HEADER, 2, 2), _compare(struct.pack(">H", number))


def not_in_subnet(network: bytes, mask: bytes) -> Expressions:
    """Match ``ip daddr != network/mask``; comes behind `ipv4`."""
    return _payload(_NETWORK_HEADER, 16, 4), _masked(mask), _compare(network, _UNEQUAL)


def in_set(name: str) -> Expressions:
    """Match ``iifname @name``."""
    return _meta(_META_IIFNAME), _lookup(name)


def destination(name: str) -> Expressions:
    """Match ``iifname . ip daddr @name``; comes behind `ipv4`."""
    load = _payload(_NETWORK_HEADER, 16, 4, _SECOND)
    return _meta(_META_IIFNAME), load, _lookup(name)


def same(name: str) -> Expressions:
    """Match ``iifname . oifname @name``."""
    return _meta(_META_IIFNAME), _meta(_META_OIFNAME, _SECOND), _lookup(name)


def towards(name: str) -> Expressions:
    """Match ``oifname @name``."""
    return _meta(_META_OIFNAME), _lookup(name)


def towards_address(packed: bytes) -> Expressions:
    """Match ``ip daddr`` *packed*; comes behind `ipv4`."""
    return _payload(_NETWORK_HEADER, 16, 4), _compare(packed)


def flow_in(name: str) -> Expressions:
    """Match ``ip saddr . meta l4proto . th dport @name``, a set of `flow_key`; comes behind `ipv4`."""
    source, protocol, number = _WORDS
    return (
        _payload(_NETWORK_HEADER, 12, 4, source),
        _meta(_META_L4PROTO, protocol),
        _payload(_TRANSPORT_HEADER, 2, 2, number),
        _lookup(name, source),
    )


def flow_key(source: bytes, protocol: int, number: int) -> bytes:
    """Return the key of `flow_in` for packets of *source* to the port *number*."""
    return source + struct.pack(">B3xH2x", protocol, number)


def _lookup(name: str, register: int = _FIRST) -> bytes:
    return _expression("lookup", text(1, name), _be32(2, register))


def redirect(to_port: int) -> Expressions:
    """Send the packet to *to_port* of the interface it came in by (``redirect to``)."""
    load = _expression("immediate", _be32(1, _FIRST), _value(2, struct.pack(">H", to_port)))
    return load, _expression("redir", _be32(1, _FIRST))


def _reject() -> bytes:
    # NFT_REJECT_ICMPX_UNREACH with NFT_REJECT_ICMPX_ADMIN_PROHIBITED
    return _expression("reject", _be32(1, 2), attribute(2, bytes([3])))


# ICMP's "communication administratively prohibited" (RFC 1812, section 5.2.7.1), which fails a
# connect, and a datagram's next call, at once; most other codes are ignored (net/ipv4/icmp.c).
REJECT: Final[Expressions] = (_reject(),)
ACCEPT: Final[Expressions] = (
    _expression("immediate", _be32(1, _VERDICT), nested(2, nested(2, _be32(1, 1)))),
)


class Table:
    """Requests for one inet table; nothing happens before `commit`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create(self) -> Request:
        """Make the table; EEXIST where it is there."""
        return _message(_NEW_TABLE, f"make the table {self.name}", text(1, self.name), flags=CREATE)

    def chain(self, chain: Chain) -> Request:
        """Make a base chain."""
        hook = nested(4, _be32(1, _HOOKS[chain.name]), _be32(2, chain.priority))
        return _message(
            _NEW_CHAIN,
            f"make the chain {chain.name}",
            text(1, self.name),
            text(3, chain.name),
            hook,
            _be32(5, 1 if chain.policy == "accept" else 0),
            text(7, chain.kind),
            flags=CREATE,
        )

    def rule(self, chain: Chain, *matches: Expressions) -> Request:
        """Append a rule to *chain*."""
        expressions = nested(4, *(one for match in matches for one in match))
        what = f"add a rule to the chain {chain.name}"
        return _message(_NEW_RULE, what, text(1, self.name), text(2, chain.name), expressions, flags=_APPEND)

    def set(self, name: str, number: int, key_bytes: int) -> Request:
        """Make a set of keys; *number* is unique in the transaction."""
        return _message(
            _NEW_SET,
            f"make the set {name}",
            text(1, self.name),
            text(2, name),
            _be32(3, 0),
            _be32(4, 0),
            _be32(5, key_bytes),
            _be32(10, number),
            flags=CREATE,
        )

    def element(self, name: str, key: bytes, *, present: bool) -> Request:
        """Put *key* into a set, where it may be already, or take it out."""
        elements = nested(3, nested(1, _value(1, key)))
        verb = "add to" if present else "take from"
        return _message(
            _NEW_ELEMENT if present else _DEL_ELEMENT,
            f"{verb} the set {name}",
            text(1, self.name),
            text(2, name),
            elements,
            flags=_CREATE_OR_KEEP if present else 0,
        )


def commit(requests: Iterable[Request]) -> None:
    """Execute *requests*, at least one, as one transaction: all of them or none (nfnetlink batch).

    Raises EngineError with the first that the kernel refused.
    """
    with Channel(_NETFILTER) as channel:
        channel.run(*_batch(requests))


def _batch(requests: Iterable[Request]) -> tuple[Request, ...]:
    """Return *requests* between a batch's begin and end; the last of them asks for an acknowledgement.

    Before Linux 6.10 the kernel ignores NLM_F_ACK on NFNL_MSG_BATCH_END, and a batch that succeeds
    would have no answer (commit bf2ac490d28c, net/netfilter/nfnetlink.c). An operation is
    acknowledged after the commit on every kernel; newer ones answer twice.
    """
    header = struct.pack(">BBH", socket.AF_UNSPEC, 0, 10)
    begin = Request(kind=_BEGIN, body=header, what="begin a firewall transaction")
    end = Request(kind=_END, body=header, what="end a firewall transaction")
    *first, last = requests
    return (begin, *first, replace(last, flags=last.flags | ACK), end)
