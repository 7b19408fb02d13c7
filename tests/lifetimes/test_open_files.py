"""The limit of open files: many containers fit below it, and where it is reached it is named."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.runtime import openfiles

if TYPE_CHECKING:
    from tests.lifetimes.conftest import Player, Stage

pytestmark = pytest.mark.kernel

_NO_ROOM: Final = "error HostError: the run's supervisor has no file descriptors left"


def _limited(stage: Stage, soft: int, hard: int) -> Player:
    return stage.play(prefix=("prlimit", f"--nofile={soft}:{hard}"))


def _start_until_refused(player: Player, most: int) -> tuple[int, str]:
    """Start containers; return how many there are when one is refused, and with what."""
    for number in range(most):
        answer = player.ask(f"start c{number}")
        if answer.startswith("error"):
            return number, answer
    return most, ""


def test_run_holds_more_containers_than_the_soft_limit_has_descriptors_for(stage: Stage) -> None:
    """The supervisor uses what the hard limit allows; the soft one is a login's default."""
    player = _limited(stage, 256, 4096)
    count, refused = _start_until_refused(player, 64)
    assert (count, refused) == (64, "")
    assert player.ask("exec c63 true") == "0"
    player.end()


def test_container_has_the_limits_of_pytest(stage: Stage) -> None:
    """What the supervisor raises for itself is not what runs in a container gets."""
    player = _limited(stage, 300, 4000)
    assert player.ask("start c").startswith("c ")
    (pid,) = [pid for pid in stage.processes() if stage.is_asleep(pid)]
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (300, 4000)
    line = "[$(ulimit${IFS}-Sn)$(ulimit${IFS}-Hn)=3004000]"
    assert player.ask(f"exec c sh -c test${{IFS}}{line[1:-1].replace('=', '${IFS}=${IFS}')}") == "0"
    player.end()


@pytest.mark.parametrize("limit", [64, 256])
def test_limit_that_is_reached_is_named_and_ends_nothing(stage: Stage, limit: int) -> None:
    """At the hard limit a start is refused with the limit in its words; what runs goes on."""
    player = _limited(stage, limit, limit)
    count, refused = _start_until_refused(player, limit)
    assert count > 0, refused
    assert refused.startswith("error HostError: the "), refused
    assert f"limit of open files is {limit} (soft), {limit} (hard)" in refused
    for _ in range(3):
        assert player.ask("start more").startswith("error HostError: the ")
    for number in range(min(count, 4)):
        assert player.ask(f"remove c{number}") == f"c{number}"
    answer = player.ask("start again")
    assert answer.startswith("again "), answer
    assert player.ask("exec again true") == "0"
    assert stage.asleep(player) == count - min(count, 4) + 1
    player.end()


def test_limit_of_another_worker_does_not_end_its_neighbours(stage: Stage) -> None:
    """A worker that comes when no descriptor is free waits in the queue, and is served when one is."""
    owner = _limited(stage, 256, 256)
    count, refused = _start_until_refused(owner, 256)
    assert refused.startswith(_NO_ROOM), refused
    worker = stage.play(owner)
    worker.tell("start w")
    for number in range(count):
        assert owner.ask(f"remove c{number}") == f"c{number}"
    assert worker.line().startswith("w ")
    worker.end()
    owner.end()


def test_room_is_told_by_the_lowest_free_descriptor() -> None:
    """Room ends before the limit does, so that what has begun can be carried out."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert openfiles.has_room()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (openfiles._ROOM, limits[1]))
        assert not openfiles.has_room()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
