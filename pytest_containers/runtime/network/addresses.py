"""Which addresses a run uses: its subnet, its networks, its endpoints. Pure arithmetic.

A run has one /18, so that one route on the host leads to all its containers. Its first network is
a /22 (more than a bridge has ports: 1024, net/bridge/br_private.h), later ones are /24. The last
/30 belongs to the uplink between the switch and the host, the one before it to the address that
containers have for the host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final

from pytest_containers.errors import EngineError, SpecInvalid

__all__ = ["Endpoint", "Pool", "Segment", "choose_subnet", "host_address", "uplink_ends"]

_RUN_PREFIX: Final = 18
_FIRST_PREFIX: Final = 22
_LATER_PREFIX: Final = 24
# RFC 1918, section 3, the most seldom used part first, then the benchmarking range (RFC 2544,
# appendix C.2.2), which no router carries.
_POOLS: Final = tuple(IPv4Network(text) for text in ("10.64.0.0/10", "172.16.0.0/12", "198.18.0.0/15"))
_INDEX_BASE: Final = 0x1_0000


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One container's place on a network.

    *ifname* and *index* are those of the veth end in the switch; the other end has the same
    index and is called eth0.
    """

    network: str
    ip: str
    prefix: int
    gateway: str
    mac: str
    ifname: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One network: the bridge *ifname* with its *index* and *mac*, and the bridge's own *gateway* address.

    *name* tells it from all networks of the run, *label* is what its containers call it: two workers
    may both have a network ``default``.
    """

    name: str
    label: str
    subnet: IPv4Network
    gateway: IPv4Address
    internal: bool
    ifname: str
    index: int
    mac: str


def _candidates(pools: Iterable[IPv4Network], seed: int) -> Iterator[IPv4Network]:
    """Return every /18 of *pools*, in each one from a place that *seed* says."""
    for pool in pools:
        count = 1 << (_RUN_PREFIX - pool.prefixlen)
        for number in range(count):
            step = ((seed + number) % count) << (pool.max_prefixlen - _RUN_PREFIX)
            yield IPv4Network((int(pool.network_address) + step, _RUN_PREFIX))


def choose_subnet(taken: Iterable[IPv4Network], seed: int) -> IPv4Network:
    """Return a /18 that no network of *taken* overlaps; *seed* spreads parallel runs.

    Where wide routes cover all candidates (a VPN that takes 10.0.0.0/8, say), one is chosen that
    only wider routes cover: the run's own route is the more specific one and wins.
    Raises EngineError where even that fails.
    """
    others = tuple(taken)
    narrow = tuple(other for other in others if other.prefixlen >= _RUN_PREFIX)
    for pools, obstacles in ((_POOLS[:1], others), (_POOLS, others), (_POOLS, narrow)):
        for candidate in _candidates(pools, seed):
            if not any(candidate.overlaps(obstacle) for obstacle in obstacles):
                return candidate
    raise EngineError(
        "no subnet is left for this run",
        seen=f"the host's {len(others)} routes leave no /{_RUN_PREFIX} of {', '.join(map(str, _POOLS))} free",
        mend="end other runs, or remove routes that lead nowhere",
    )


def uplink_ends(subnet: IPv4Network) -> tuple[IPv4Interface, IPv4Interface]:
    """Return the host's and the switch's address on the uplink: the last /30 of the run."""
    last = int(subnet.broadcast_address)
    return IPv4Interface((last - 2, 30)), IPv4Interface((last - 1, 30))


def host_address(subnet: IPv4Network) -> IPv4Address:
    """Return the address that containers have for the host, where they may reach it."""
    return subnet.broadcast_address - 5


def _reserved(subnet: IPv4Network) -> IPv4Network:
    """Return the addresses that no container gets: the last two /30 of the run."""
    return IPv4Network((int(subnet.broadcast_address) - 7, 29))


def _mac(ip: IPv4Address) -> str:
    # Locally administered and made from the address, so that a peer's ARP entry stays right when
    # an address is used again.
    return "02:42:" + ":".join(f"{byte:02x}" for byte in ip.packed)


class _Leases:
    """The free addresses of one network, the one returned longest ago first."""

    def __init__(self, segment: Segment, avoid: IPv4Network) -> None:
        self.segment = segment
        self._avoid = avoid
        self._fresh = self._addresses()
        self._returned: deque[IPv4Address] = deque()
        self._used: set[IPv4Address] = set()

    def _addresses(self) -> Iterator[IPv4Address]:
        for ip in self.segment.subnet.hosts():
            if ip != self.segment.gateway and ip not in self._avoid:
                yield ip

    @property
    def used(self) -> int:
        return len(self._used)

    def take(self) -> IPv4Address:
        ip = next(self._fresh, None) or (self._returned.popleft() if self._returned else None)
        if ip is None:
            raise EngineError(
                f"network {self.segment.label} has no address left",
                seen=f"{len(self._used)} containers on {self.segment.subnet}",
                mend="remove containers, or use a second network",
            )
        self._used.add(ip)
        return ip

    def give_back(self, ip: IPv4Address) -> bool:
        if ip not in self._used:
            return False
        self._used.remove(ip)
        self._returned.append(ip)
        return True


class Pool:
    """The addresses of one run."""

    def __init__(self, subnet: IPv4Network) -> None:
        self.subnet = subnet
        self._networks: dict[str, _Leases] = {}
        self._reserved = _reserved(subnet)

    def _index(self, ip: IPv4Address) -> int:
        # Unique in the switch, since addresses are, and known before the link is made.
        return _INDEX_BASE + int(ip) - int(self.subnet.network_address)

    def _free_subnet(self) -> IPv4Network | None:
        taken = [leases.segment.subnet for leases in self._networks.values()]
        first = next(self.subnet.subnets(new_prefix=_FIRST_PREFIX))
        later = (one for one in self.subnet.subnets(new_prefix=_LATER_PREFIX) if not one.subnet_of(first))
        free = (one for one in (first, *later) if not any(one.overlaps(other) for other in taken))
        return next(free, None)

    def create(self, name: str, *, label: str = "", internal: bool = False) -> Segment:
        """Return a new network. Raises SpecInvalid where *name* is taken, EngineError where none is free."""
        if name in self._networks:
            raise SpecInvalid(f"network {label or name} is there already", mend="choose another name")
        subnet = self._free_subnet()
        if subnet is None:
            raise EngineError(
                f"no subnet is left for network {label or name}",
                seen=f"{len(self._networks)} networks in {self.subnet}",
                mend="remove networks that are not used any more",
            )
        gateway = subnet.network_address + 1
        segment = Segment(
            name=name,
            label=label or name,
            subnet=subnet,
            gateway=gateway,
            internal=internal,
            ifname=f"b{int(gateway):08x}",
            index=self._index(gateway),
            mac=_mac(gateway),
        )
        self._networks[name] = _Leases(segment, self._reserved)
        return segment

    def _leases(self, name: str) -> _Leases:
        leases = self._networks.get(name)
        if leases is None:
            known = ", ".join(self._networks) or "none"
            raise SpecInvalid(f"there is no network {name}", seen=f"networks: {known}")
        return leases

    def segment(self, name: str) -> Segment:
        """Return a network. Raises SpecInvalid where it is not there."""
        return self._leases(name).segment

    def remove(self, name: str) -> Segment:
        """Free a network's subnet. Raises EngineError while addresses of it are in use."""
        leases = self._leases(name)
        if leases.used:
            raise EngineError(
                f"network {leases.segment.label} is in use",
                seen=f"{leases.used} containers are on it",
                mend="remove them first",
            )
        return self._networks.pop(name).segment

    def endpoint(self, name: str) -> Endpoint:
        """Return a free place on a network; no address comes twice while others are free."""
        leases = self._leases(name)
        ip = leases.take()
        return Endpoint(
            network=name,
            ip=str(ip),
            prefix=leases.segment.subnet.prefixlen,
            gateway=str(leases.segment.gateway),
            mac=_mac(ip),
            ifname=f"v{int(ip):08x}",
            index=self._index(ip),
        )

    def release(self, endpoint: Endpoint) -> bool:
        """Give an address back; return whether it was in use."""
        leases = self._networks.get(endpoint.network)
        return leases is not None and leases.give_back(IPv4Address(endpoint.ip))
