"""Netlink messages, and how the kernel's refusals come back."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_containers.errors import EngineError
from pytest_containers.runtime.network import links, netlink, nftables

if TYPE_CHECKING:
    from tests.runtime.network.conftest import Stage


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=50))))
def test_attributes_are_read_as_they_were_written(parts: list[tuple[int, bytes]]) -> None:
    """Kind and value survive, whatever their length; each begins at a multiple of four."""
    wire = b"".join(netlink.attribute(kind, value) for kind, value in parts)
    assert len(wire) % 4 == 0
    assert list(netlink.attributes(wire)) == parts


@settings(max_examples=200)
@given(st.binary(max_size=100))
def test_attributes_end_at_what_is_none(noise: bytes) -> None:
    """Cut or broken bytes end the reading; nothing loops or raises."""
    assert len(list(netlink.attributes(noise))) <= len(noise) // 4


def test_nested_attributes_are_marked() -> None:
    """An attribute of attributes has the nested flag, without which the kernel is strict (NLA_F_NESTED)."""
    wire = netlink.nested(18, netlink.text(1, "veth"))
    assert struct.unpack_from("=H", wire, 2) == (0x8000 | 18,)
    assert list(netlink.attributes(wire)) == [(18, netlink.text(1, "veth"))]


def test_encode_asks_for_one_acknowledgement_at_the_end() -> None:
    """Requests are numbered from 1, padded, and only the last wants an answer."""
    requests = [netlink.Request(kind=16, body=b"x" * size, what="") for size in (1, 4)]
    wire = netlink.encode(requests)
    first = struct.unpack_from("=IHHII", wire)
    second = struct.unpack_from("=IHHII", wire, 20)
    assert first == (17, 16, 1, 1, 0)
    assert second == (20, 16, 5, 2, 0)


@pytest.mark.parametrize("operations", [1, 2, 30])
def test_a_firewall_transaction_asks_its_last_operation_for_an_answer(operations: int) -> None:
    """Kernels before 6.10 never acknowledge the end of a batch, so the operation before it must ask too."""
    table = nftables.Table("t")
    batch = nftables._batch(table.element("s", bytes([n]), present=True) for n in range(operations))
    wire = netlink.encode(batch)
    asking = []
    while wire:
        length, kind, flags = struct.unpack_from("=IHH", wire)
        asking.append((kind, bool(flags & netlink.ACK)))
        wire = wire[length + (-length % 4) :]
    begin, element, end = 16, (10 << 8) | 12, 17
    silent = [(element, False)] * (operations - 1)
    assert asking == [(begin, False), *silent, (element, True), (end, True)]


def test_channel_finds_a_link_by_name() -> None:
    """The loopback is the first link of any namespace."""
    with netlink.Channel() as channel:
        assert links.link_in(channel.ask(links.link_named("lo"))).index == links.LOOPBACK


def test_channel_names_the_errno_of_a_refusal() -> None:
    """What the kernel refuses comes back with what was tried and the errno's name; the channel lives on."""
    with netlink.Channel() as channel:
        with pytest.raises(EngineError, match="refused to find the link no-such-link") as caught:
            channel.ask(links.link_named("no-such-link"))
        assert "ENODEV" in caught.value.seen
        assert netlink.errno_of(caught.value) == errno.ENODEV
        assert links.link_in(channel.ask(links.link_named("lo"))).index == links.LOOPBACK


def test_errno_of_is_zero_for_other_errors() -> None:
    """An error that no errno stands behind has none."""
    assert netlink.errno_of(EngineError("because")) == 0


def test_channel_raises_when_it_is_closed() -> None:
    """Using a closed channel is an error of this house, not a bare OSError."""
    channel = netlink.Channel()
    channel.close()
    with pytest.raises(EngineError, match="could not be sent"):
        channel.run(links.loopback_up())


def test_channel_refuses_a_family_that_is_not_there() -> None:
    """A kernel without a netlink family is told apart by its number."""
    with pytest.raises(EngineError, match="no netlink socket of family 999"):
        netlink.Channel(999)


@pytest.mark.kernel
def test_channel_tells_the_kernels_own_words(stage: Stage) -> None:
    """A refusal is a named error; what came before it in the batch was done (netlink(7))."""
    with pytest.raises(EngineError, match="give lo the address") as caught:
        stage.host.agent.ask("own", address=f"{stage.outside}/32")
    assert caught.value.seen.startswith("EEXIST: ")
