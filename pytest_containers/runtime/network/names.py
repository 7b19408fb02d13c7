"""Who is called what on which network, and how the gateway is told.

`Line` is the supervisor's end of the control socket, `receive` the gateway's. The socket keeps
message borders (SOCK_SEQPACKET, unix(7)): one JSON object a message, listeners as descriptors.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from pytest_containers.errors import EngineError

__all__ = ["HOST_NAMES", "Directory", "Line", "Message", "Record", "Zone", "receive", "report"]

_MESSAGE_BYTES: Final = 1 << 17
_DESCRIPTORS: Final = 4
_RECORDS_A_MESSAGE: Final = 128
_PATIENCE_MS: Final = 1000
_REPORT_BYTES: Final = 1 << 12

# What Podman and Docker call the machine that a container runs on.
HOST_NAMES: Final = ("host.containers.internal", "host.docker.internal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A name of the container at *ip* on *network*."""

    network: str
    name: str
    ip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of the control socket: *verb*, its words, and the sockets that came with it."""

    verb: str
    words: Mapping[str, str]
    records: tuple[Record, ...] = ()
    sockets: tuple[socket.socket, ...] = ()


class Line:
    """The supervisor's way to tell the gateway.

    Every method raises EngineError where the gateway is gone, or has read nothing for a second while
    messages wait: the end of hundreds of containers comes faster than it is read.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def _send(
        self, verb: str, words: Mapping[str, str], records: Iterable[Record] = (), *sockets: socket.socket
    ) -> None:
        entries = [[record.network, record.name, record.ip] for record in records]
        data = json.dumps({"verb": verb, "words": dict(words), "records": entries}).encode()
        numbers = struct.pack(f"{len(sockets)}i", *(one.fileno() for one in sockets))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if sockets else []
        # Not socket.send_fds and recv_fds: both leave their flags unused (CPython 3.11, Lib/socket.py).
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            try:
                self._control.sendmsg([data], rights, flags)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._control, select.POLLOUT)
                poll.poll(_PATIENCE_MS)
                self._control.sendmsg([data], rights, flags)
        except OSError as error:
            seen = " ".join(self.reports() or ()) or str(error)
            raise EngineError(f"the gateway could not be told to {verb}", seen=seen) from error

    def reports(self) -> tuple[str, ...] | None:
        """Return what the gateway has reported since the last call; None when its end is closed."""
        found: list[str] = []
        while True:
            try:
                content = self._control.recv(2 * _REPORT_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return tuple(found)
            except OSError:
                return None
            if not content:
                return tuple(found) or None
            found.append(content.decode("utf-8", "replace"))

    def fileno(self) -> int:
        """Return the descriptor that is readable when the gateway has reported something."""
        return self._control.fileno()

    def egress(self, listener: socket.socket, subnet: IPv4Network) -> None:
        """Hand over the listener that TCP leaving the run is redirected to; *subnet* is the run's."""
        self._send("egress", {"subnet": str(subnet)}, (), listener)

    def open(
        self,
        network: str,
        *,
        subnet: IPv4Network,
        internal: bool,
        label: str = "",
        sockets: Iterable[socket.socket] = (),
    ) -> None:
        """Begin a network; an *internal* one learns of nothing outside itself.

        *network* is what other messages call it, *label* the name that its containers know it by,
        *network* where it is empty. *sockets* are those its queries come to, UDP first. They stay where
        they are when the network is closed, and serve the next one that has the same *subnet*.
        """
        words = {
            "network": network,
            "label": label or network,
            "subnet": str(subnet),
            "internal": "yes" if internal else "",
        }
        self._send("open", words, (), *sockets)

    def close(self, network: str) -> None:
        """End a network and forget its names."""
        self._send("close", {"network": network})

    def add(self, records: Iterable[Record]) -> None:
        """Make names known; a query sent after this returns is answered with them."""
        entries = list(records)
        for start in range(0, len(entries), _RECORDS_A_MESSAGE):
            self._send("add", {}, entries[start : start + _RECORDS_A_MESSAGE])

    def share(self, network: str) -> None:
        """Let every network know the names of this one, behind its own."""
        self._send("share", {"network": network})

    def publish(self, listener: socket.socket, ip: str, port: int) -> None:
        """Hand over a listener whose connections are for *port* of the container at *ip*."""
        self._send("publish", {"ip": ip, "port": str(port)}, (), listener)

    def grant(self, ip: str, transport: str, port: int, listener: socket.socket | None) -> None:
        """Let the container at *ip* reach *port* of the host; *listener* is new where nobody could before."""
        sockets = () if listener is None else (listener,)
        self._send("grant", {"ip": ip, "transport": transport, "port": str(port)}, (), *sockets)

    def unname(self, network: str, ip: str) -> None:
        """Drop every name of *ip* on *network*; ports and connections stay."""
        self._send("unname", {"network": network, "ip": ip})

    def forget(self, network: str, ip: str) -> None:
        """Drop every name of *ip* on *network*, its ports, those of the host, and its connections."""
        self._send("forget", {"network": network, "ip": ip})


def report(control: socket.socket, text: str) -> None:
    """Tell the supervisor what went wrong in the gateway; where it does not listen, tell nobody."""
    with contextlib.suppress(OSError):
        control.send(text.encode()[:_REPORT_BYTES], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _sockets(descriptors: Iterable[int]) -> tuple[socket.socket, ...]:
    """Return sockets of *descriptors*; close those that are none."""
    made: list[socket.socket] = []
    for descriptor in descriptors:
        try:
            made.append(socket.socket(fileno=descriptor))
        except OSError:
            os.close(descriptor)
    return tuple(made)


def receive(control: socket.socket) -> Message | None:
    """Return the next message, None at the end of the line.

    Raises BlockingIOError where none waits, and ValueError for one that cannot be read. Sockets may be
    missing where no descriptors were free to take them (MSG_CTRUNC, recvmsg(2)).
    """
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    data, ancillary, _, _ = control.recvmsg(_MESSAGE_BYTES, socket.CMSG_SPACE(4 * _DESCRIPTORS), flags)
    whole = [rights[: len(rights) // 4 * 4] for _, _, rights in ancillary]
    sockets = _sockets(number for rights in whole for (number,) in struct.iter_unpack("i", rights))
    if not data:
        return None
    try:
        fields = json.loads(data)
        return Message(
            verb=str(fields["verb"]),
            words={str(key): str(word) for key, word in fields["words"].items()},
            records=tuple(
                Record(network=str(network), name=str(name), ip=str(ip))
                for network, name, ip in fields["records"]
            ),
            sockets=sockets,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        for one in sockets:
            one.close()
        raise ValueError(f"a control message that cannot be read: {data[:200]!r}") from error


class Zone:
    """The names of one network. Case does not count, nor does a closing dot (RFC 4343, RFC 1034 3.1).

    *network* is the name that its containers know it by, *key* the one that tells it from others of
    the run, which may have the same name; the same as *network* where none is given.
    """

    def __init__(self, network: str, subnet: IPv4Network, *, internal: bool, key: str = "") -> None:
        self.network = network
        self.key = key or network
        self.subnet = subnet
        self.internal = internal
        self.shared: Zone | None = None
        self._addresses: dict[str, list[str]] = {}
        self._names: dict[str, list[str]] = {}

    def _key(self, name: str) -> str:
        return name.rstrip(".").lower().removesuffix(f".{self.network.lower()}")

    def add(self, name: str, ip: str) -> None:
        """Add a name of *ip*; a name may have several addresses and an address several names."""
        addresses = self._addresses.setdefault(self._key(name), [])
        if ip not in addresses:
            addresses.append(ip)
            self._names.setdefault(ip, []).append(name)

    def forget(self, ip: str) -> None:
        """Drop every name of *ip*."""
        for name in self._names.pop(ip, []):
            key = self._key(name)
            self._addresses[key].remove(ip)
            if not self._addresses[key]:
                del self._addresses[key]

    def knows(self, name: str) -> bool:
        """Return whether *name*, or *name*.*network*, is a container's, here or on the shared network."""
        return self._key(name) in self._addresses or (self.shared is not None and self.shared.knows(name))

    def addresses(self, name: str) -> tuple[str, ...]:
        """Return the addresses of *name*, or of *name*.*network*; each call begins with the next."""
        addresses = self._addresses.get(self._key(name), [])
        if not addresses and self.shared is not None:
            return self.shared.addresses(name)
        found = tuple(addresses)
        addresses[:] = [*addresses[1:], *addresses[:1]]
        return found

    def name_of(self, ip: str) -> str | None:
        """Return the first name of *ip* with the network behind it, as Docker's resolver does."""
        names = self._names.get(ip)
        return f"{names[0]}.{self.network}" if names else None


class Directory:
    """The zones of a run, by their keys and by subnet."""

    def __init__(self) -> None:
        self._zones: dict[str, Zone] = {}
        self._by_subnet: dict[IPv4Network, Zone] = {}
        self._shared: Zone | None = None

    def open(self, zone: Zone) -> None:
        """Begin a network."""
        zone.shared = self._shared
        self._zones[zone.key] = zone
        self._by_subnet[zone.subnet] = zone

    def share(self, network: str) -> None:
        """Let every other network know the names of this one."""
        self._shared = self._zones.get(network)
        for zone in self._zones.values():
            zone.shared = self._shared if zone is not self._shared else None

    def close(self, network: str) -> None:
        """End a network."""
        if zone := self._zones.pop(network, None):
            del self._by_subnet[zone.subnet]

    def zone(self, network: str) -> Zone | None:
        """Return a network's names, None where it is not open."""
        return self._zones.get(network)

    def at(self, subnet: IPv4Network) -> Zone | None:
        """Return the names of the network that has *subnet* now."""
        return self._by_subnet.get(subnet)

    def add(self, records: Iterable[Record]) -> None:
        """Add names; those of a network that is not open are dropped."""
        for record in records:
            if zone := self._zones.get(record.network):
                zone.add(record.name, record.ip)
