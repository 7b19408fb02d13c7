"""A container's interface."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import EngineError
from pytest_containers.runtime.network import veth

if TYPE_CHECKING:
    from tests.runtime.network.conftest import Stage

pytestmark = pytest.mark.kernel


def test_attach_makes_two_ends_with_indexes_of_their_own(stage: Stage) -> None:
    """With one index for both ends the kernel would take its time to put the link to use."""
    place = stage.container()
    ours = stage.switch.index(str(place.endpoint["ifname"]))
    theirs = place.agent.index(veth.INTERFACE)
    assert (ours, theirs) == (place.endpoint["index"], veth.PEER_INDEX)
    assert ours != theirs


def test_attach_says_no_such_process_when_the_container_is_gone(stage: Stage) -> None:
    """The reason names the errno, so that a dead child is told from a broken kernel."""
    endpoint = json.dumps(json.loads(stage.switch.ask("endpoint", network="default"))["endpoint"])
    with pytest.raises(EngineError, match="ESRCH"):
        stage.switch.ask("attach", endpoint=endpoint, pid=str(2**22))


def test_configure_names_the_step_that_failed(stage: Stage) -> None:
    """A container whose interface is not there says so, and which step it was."""
    place = stage.container()
    _, control = stage.host.agent.hatch("container")
    with stage.agent(control) as bare, pytest.raises(EngineError, match="eth0") as caught:
        bare.ask("configure", messages=place.messages)
    assert caught.value.seen.startswith("ENODEV: ")


def test_configure_leaves_no_descriptor_open(stage: Stage) -> None:
    """A container's first process inherits nothing of it."""
    _, control = stage.host.agent.hatch("container")
    with stage.agent(control) as bare:
        before = bare.descriptors()
        with pytest.raises(EngineError):
            bare.ask("configure", messages=stage.container().messages)
        assert bare.descriptors() == before
    place = stage.container()
    assert place.agent.descriptors() == before
