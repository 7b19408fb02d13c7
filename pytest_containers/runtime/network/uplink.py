"""The veth between the switch and the host's network namespace, and what the host routes already.

`Host` is opened before the host's namespace is left: a netlink socket belongs to the namespace it
was made in. The link dies with the switch, and its address and route with the link.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Network
from types import TracebackType
from typing import Final, Self

from pytest_containers.errors import EngineError
from pytest_containers.runtime.network import links, sysctl
from pytest_containers.runtime.network.addresses import uplink_ends
from pytest_containers.runtime.network.netlink import Channel
from pytest_containers.runtime.network.veth import settle

__all__ = ["NAME", "PREFIX", "Host", "connect"]

NAME: Final = "uplink"
_INDEX: Final = 0xFFFF
PREFIX: Final = "ptc"


class Host:
    """A foothold in the network namespace that is current when it is made."""

    def __init__(self) -> None:
        self.namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.channel = Channel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close both descriptors; the uplink stays."""
        if self.namespace >= 0:
            os.close(self.namespace)
        self.namespace = -1
        self.channel.close()

    def networks(self) -> tuple[IPv4Network, ...]:
        """Return every network the host routes or has an address on."""
        return links.networks_in(self.channel.dump(links.routes()))


def connect(switch: Channel, host: Host, subnet: IPv4Network) -> str:
    """Link the switch to *host* and route *subnet* by it; return the link's name on the host.

    Raises EngineError, with EEXIST in it where another run took the subnet meanwhile; nothing is
    left then.
    """
    name = f"{PREFIX}{os.urandom(4).hex()}"
    host_end, switch_end = uplink_ends(subnet)
    switch.run(links.veth(NAME, _INDEX, peer=name, namespace=host.namespace))
    try:
        switch.run(links.address(switch_end, _INDEX, NAME), links.forwarding(_INDEX, NAME))
        index = links.link_in(host.channel.ask(links.link_named(name))).index
        if sysctl.has_ipv6():
            host.channel.run(links.quiet(index, name))
        host.channel.run(links.address(host_end, index, name), links.up(index, name))
        # Named as the source, or a host with a strict rp_filter drops answers to another address
        # (kernel documentation, networking/ip-sysctl.rst, rp_filter).
        host.channel.run(links.route(subnet, switch_end.ip, index=index, source=host_end.ip))
        settle(host.channel, index)
    except EngineError:
        switch.run(links.remove(_INDEX, NAME))
        raise
    return name
