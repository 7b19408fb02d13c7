"""The arithmetic of a run's addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_containers.errors import EngineError, SpecInvalid
from pytest_containers.runtime.network.addresses import (
    Endpoint,
    Pool,
    choose_subnet,
    host_address,
    uplink_ends,
)

RUN = IPv4Network("10.64.64.0/18")

networks = st.builds(
    lambda number, prefix: IPv4Network((number, prefix), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(11, 32),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(networks, max_size=20), st.integers(0, 2**64))
def test_choose_subnet_never_overlaps_what_is_taken(taken: list[IPv4Network], seed: int) -> None:
    """Whatever the host routes, the run's subnet is a /18 beside it."""
    subnet = choose_subnet(taken, seed)
    assert subnet.prefixlen == 18
    assert not any(subnet.overlaps(other) for other in taken)


def test_choose_subnet_spreads_runs() -> None:
    """Different seeds lead to all 256 subnets of the first range."""
    assert len({choose_subnet([], seed) for seed in range(256)}) == 256


def test_choose_subnet_leaves_the_first_range_when_it_is_taken() -> None:
    """A VPN on 10.0.0.0/8 is passed by."""
    assert not choose_subnet([IPv4Network("10.0.0.0/8")], 7).overlaps(IPv4Network("10.0.0.0/8"))


def test_choose_subnet_lies_within_a_wide_route_when_nothing_else_is_left() -> None:
    """A route wider than the run's own loses against it, so it is no obstacle (longest prefix wins)."""
    wide = [IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "198.18.0.0/15")]
    host = IPv4Network("10.64.0.0/18")
    assert choose_subnet([*wide, host], 0).overlaps(host) is False


def test_choose_subnet_says_when_nothing_is_left() -> None:
    """Where every candidate has a route of its own, the error says so."""
    full = [
        subnet
        for text in ("10.64.0.0/10", "172.16.0.0/12", "198.18.0.0/15")
        for subnet in IPv4Network(text).subnets(new_prefix=18)
    ]
    with pytest.raises(EngineError, match="no subnet is left"):
        choose_subnet(full, 0)


def test_uplink_lies_at_the_end_of_the_run() -> None:
    """The last /30 is the uplink's: the host's address first, then the switch's."""
    assert uplink_ends(RUN) == (IPv4Interface("10.64.127.253/30"), IPv4Interface("10.64.127.254/30"))


def test_pool_gives_no_address_of_the_uplink_host_or_gateway() -> None:
    """With every network made, no endpoint has an address that is somebody else's."""
    pool = Pool(RUN)
    seen: list[Endpoint] = []
    gateways: set[str] = set()
    for number in range(61):
        segment = pool.create(f"net{number}")
        gateways.add(str(segment.gateway))
        seen += (pool.endpoint(segment.name) for _ in range(246))
    ips = {endpoint.ip for endpoint in seen}
    assert len(ips) == len(seen)
    assert not ips & gateways
    assert not {str(end.ip) for end in uplink_ends(RUN)} & ips
    assert str(host_address(RUN)) not in ips
    with pytest.raises(EngineError, match="no subnet is left for network one-more"):
        pool.create("one-more")


def test_pool_uses_an_address_again_last_of_all() -> None:
    """A returned address comes back when every other one has been used, the oldest first."""
    pool = Pool(RUN)
    pool.create("first")
    pool.create("small")
    early = [pool.endpoint("small") for _ in range(2)]
    for endpoint in early:
        assert pool.release(endpoint)
    others = [pool.endpoint("small") for _ in range(251)]
    assert not {one.ip for one in early} & {one.ip for one in others}
    assert [pool.endpoint("small").ip for _ in early] == [one.ip for one in early]
    with pytest.raises(EngineError, match="network small has no address left"):
        pool.endpoint("small")


def test_pool_release_counts_once() -> None:
    """A second release changes nothing: nobody else gets the address twice."""
    pool = Pool(RUN)
    pool.create("net")
    endpoint = pool.endpoint("net")
    assert pool.release(endpoint)
    assert not pool.release(endpoint)
    pool.remove("net")
    assert not pool.release(endpoint)


def test_pool_gives_a_removed_networks_subnet_again() -> None:
    """The subnet of a removed network is free, that of one in use is not."""
    pool = Pool(RUN)
    first, second = pool.create("a").subnet, pool.create("b").subnet
    assert not first.overlaps(second)
    endpoint = pool.endpoint("a")
    with pytest.raises(EngineError, match="network a is in use"):
        pool.remove("a")
    pool.release(endpoint)
    pool.remove("a")
    assert pool.create("c").subnet == first


def test_pool_knows_its_networks() -> None:
    """A name that is not there is the caller's mistake, and so is one that is there twice."""
    pool = Pool(RUN)
    pool.create("a")
    with pytest.raises(SpecInvalid, match="there is no network b"):
        pool.endpoint("b")
    with pytest.raises(SpecInvalid, match="network a is there already"):
        pool.create("a")


def test_endpoint_has_names_the_kernel_takes() -> None:
    """Interface names have at most 15 bytes, MACs follow the address, indexes are distinct."""
    pool = Pool(RUN)
    segment = pool.create("a-network-with-quite-a-long-name")
    endpoints = [pool.endpoint(segment.name) for _ in range(20)]
    names = {segment.ifname, *(one.ifname for one in endpoints)}
    assert len(names) == 21
    assert max(map(len, names)) <= 15
    assert len({segment.index, *(one.index for one in endpoints)}) == 21
    assert endpoints[0].mac == "02:42:" + ":".join(
        f"{byte:02x}" for byte in IPv4Address(endpoints[0].ip).packed
    )
    assert endpoints[0].gateway == str(segment.gateway)
