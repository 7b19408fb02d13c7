"""A container's interface: made by the switch, configured by the container's first process.

Both halves are a few hundred microseconds. The switch makes the pair while the container's process
mounts its files; then that process, alone in its namespace, sets the address.
"""

from __future__ import annotations

import errno
import time
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final

from pytest_containers.errors import EngineError
from pytest_containers.runtime.network import links, sysctl
from pytest_containers.runtime.network.addresses import Endpoint
from pytest_containers.runtime.network.netlink import Channel, encode, errno_of

__all__ = ["INTERFACE", "PEER_INDEX", "attach", "configuration", "configure", "isolate", "settle"]

INTERFACE: Final = "eth0"
# Chosen, so that the messages for it can be written before it is there; and not the index of our
# end, or the kernel takes the link for one without another end and is slow to put it to use
# (net/core/link_watch.c, linkwatch_urgent_event).
PEER_INDEX: Final = 1000
_PATIENCE_S: Final = 1.0
_LOOK_AGAIN_S: Final = 0.001
_ANYWHERE: Final = IPv4Network("0.0.0.0/0")
_STEPS: Final = (
    "set lo up",
    f"keep {INTERFACE} without IPv6 addresses",
    f"give {INTERFACE} its address",
    f"set {INTERFACE} up",
    "add the default route",
)


def attach(channel: Channel, endpoint: Endpoint, *, bridge: int, pid: int) -> None:
    """Give the namespace of process *pid* an eth0 whose other end is a port of *bridge*.

    Raises EngineError, with ESRCH in it where the process is gone.
    """
    pair = links.veth(
        endpoint.ifname,
        endpoint.index,
        peer=INTERFACE,
        mac=endpoint.mac,
        peer_index=PEER_INDEX,
        pid=pid,
        master=bridge,
    )
    try:
        channel.run(pair)
    except EngineError as error:
        if errno_of(error) not in (errno.EEXIST, errno.EBUSY):
            raise
        # The address's last user died a moment ago: the kernel takes a dead namespace's links
        # away later, from a work queue (net/core/net_namespace.c, cleanup_net).
        _remove(channel, endpoint)
        channel.run(pair)


def _remove(channel: Channel, endpoint: Endpoint) -> None:
    try:
        channel.run(links.remove(endpoint.index, endpoint.ifname))
    except EngineError as error:
        if errno_of(error) != errno.ENODEV:
            raise


def configuration(endpoint: Endpoint) -> bytes:
    """Return the netlink messages that `configure` sends from inside the container's namespace."""
    interface = IPv4Interface(f"{endpoint.ip}/{endpoint.prefix}")
    # A kernel without IPv6 refuses its attributes (EAFNOSUPPORT); the step then is one that changes nothing.
    return encode(
        (
            links.loopback_up(),
            links.quiet(PEER_INDEX, INTERFACE) if sysctl.has_ipv6() else links.loopback_up(),
            links.address(interface, PEER_INDEX, INTERFACE),
            links.up(PEER_INDEX, INTERFACE),
            links.route(_ANYWHERE, IPv4Address(endpoint.gateway)),
        )
    )


def configure(messages: bytes) -> None:
    """Set lo up and give eth0 its address and default route, in the caller's own namespace.

    Needs the pair that `attach` makes. Returns when packets flow up to the bridge and beyond it.
    Raises EngineError with the step the kernel refused.
    """
    with Channel() as channel:
        channel.send(messages, _STEPS)
        settle(channel, PEER_INDEX)


def isolate() -> None:
    """Set lo up in the caller's own namespace, which gets nothing else."""
    with Channel() as channel:
        channel.send(encode((links.loopback_up(),)), _STEPS[:1])


def settle(channel: Channel, index: int) -> None:
    """Wait until link *index*, its other end and that one's bridge take packets.

    A link that comes up is put to use by a work queue a moment later (net/core/link_watch.c); what
    is sent before is lost, and its repetition comes a whole second after. Asking for a link has
    that work done at once since Linux 6.8 (rtnl_getlink); before, the wait is a few milliseconds.
    """
    link = _working(channel, index, -1)
    if link is None or not link.peer:
        return
    far = _working(channel, link.peer, link.namespace)
    if far is not None and far.master:
        _working(channel, far.master, link.namespace)


def _working(channel: Channel, index: int, namespace: int) -> links.Link | None:
    """Return a link when it works, or as it is when it does not in time; None where it may not be asked."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            link = links.link_in(channel.ask(links.link_at(index, namespace)))
        except EngineError as error:
            # The other end's namespace may be none that we have a say in (rtnetlink.c,
            # rtnl_get_net_ns_capable), or the peer be gone: then nobody can wait for it.
            if errno_of(error) in (errno.EACCES, errno.EPERM, errno.ENODEV, errno.EINVAL):
                return None
            raise
        if link.works or time.monotonic() > deadline:
            return link
        time.sleep(_LOOK_AGAIN_S)
