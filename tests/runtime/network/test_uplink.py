"""The way between the host and the switch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_containers.runtime.network import sysctl

if TYPE_CHECKING:
    from tests.runtime.network.conftest import Stage


@pytest.mark.kernel
def test_host_knows_what_it_routes(stage: Stage) -> None:
    """Own addresses, and the routes to other runs, are among what is taken."""
    taken = stage.host.agent.ask("taken")
    assert f"{stage.outside}/32" in taken
    assert f'"{stage.switch.ask("subnet")}"' in taken


@pytest.mark.kernel
def test_uplink_carries_on_where_the_host_filters_by_reverse_path(stage: Stage) -> None:
    """A host with the strict rp_filter reaches its containers: answers come the way it would send."""
    (link,) = (name for name in stage.host.agent.seen()["links"] if name.startswith("ptc"))
    for name in ("all", link):
        stage.host.agent.ask("write", path=f"/proc/sys/net/ipv4/conf/{name}/rp_filter", text="1")
    place = stage.container()
    place.listen(place.ip, 80)
    assert stage.host.connect(place.ip, 80).getpeername() == (place.ip, 80)


def test_sysctl_write_says_when_there_is_no_such_setting() -> None:
    """A setting that this kernel does not have is no error, but is told."""
    assert not sysctl.write("ipv4.no_such_setting", "1")
