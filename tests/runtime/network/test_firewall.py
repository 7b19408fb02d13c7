"""The rules of the switch as the kernel takes them; what they do is in test_switch.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import EngineError

if TYPE_CHECKING:
    from tests.runtime.network.conftest import Stage

pytestmark = pytest.mark.kernel


def test_firewall_is_one_transaction(stage: Stage) -> None:
    """Rules that are there already refuse a second set whole, with the first thing that stood in the way."""
    place = stage.container()
    place.agent.ask("rules", subnet="10.64.0.0/18")
    with pytest.raises(EngineError, match="make the table pytest_containers") as caught:
        place.agent.ask("rules", subnet="10.64.0.0/18")
    assert caught.value.seen.startswith("EEXIST: ")


def test_firewall_keeps_a_namespace_to_itself(stage: Stage) -> None:
    """Where the rules lie, nobody but the uplink and lo is let in, and the refusal is heard at once."""
    place, other = stage.container(), stage.container()
    place.listen("0.0.0.0", 80)
    assert other.connect(place.ip, 80).getpeername() == (place.ip, 80)
    place.agent.ask("rules", subnet="10.64.0.0/18")
    with pytest.raises(OSError, match="No route to host"):
        other.connect(place.ip, 80)
    assert place.connect("127.0.0.1", 80).getpeername() == ("127.0.0.1", 80)


def test_firewall_lets_a_container_ping_its_gateway_and_nobody_beyond(stage: Stage) -> None:
    """The address of the network's bridge answers an echo request; what is behind the switch does not."""
    place = stage.container()
    _, (line,) = place.agent.call("socket", kind="icmp")
    with line:
        line.settimeout(10)
        line.sendto(b"\x08\0\0\0\0\0\0\1hello", (place.resolver, 0))
        reply, sender = line.recvfrom(100)
        assert (reply[0], reply[-5:], sender[0]) == (0, b"hello", place.resolver)
        line.connect((stage.outside, 0))
        line.send(b"\x08\0\0\0\0\0\0\1hello")
        with pytest.raises(OSError, match="No route to host"):
            line.recv(100)
