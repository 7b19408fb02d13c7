"""The law of lifetimes: whoever is killed, whenever, a second later nothing of the run is left."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.runtime import folders
from tests.plugins.clock import scaled

if TYPE_CHECKING:
    from tests.lifetimes.conftest import Anatomy, Player, Stage

pytestmark = pytest.mark.kernel

_CONTAINERS: Final = 10
_TURNS: Final = 10
_START_UP_S: Final = scaled(0.25)
_ONE_START_S: Final = scaled(0.02)


class Moment:
    """A random moment in the life of a run, told again by its seed.

    The turns are spread over that life: some while the supervisor starts, some while containers
    do, some when all of them run.
    """

    def __init__(self, turn: int, containers: int = _CONTAINERS) -> None:
        self.seed = os.urandom(4).hex()
        chance = random.Random(self.seed)
        self.count = 0 if turn < 3 else containers if turn > 7 else chance.randrange(1, containers)
        self.delay_s = chance.uniform(0, _START_UP_S if self.count == 0 else _ONE_START_S)

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.delay_s * 1000:.1f} ms after {self.count} containers"

    def arrive(self, player: Player) -> None:
        """Return when the moment has come for a player that starts containers."""
        while (line := player.line()) not in ("begun", "all", ""):
            assert line.startswith("started"), line
        for _ in range(self.count):
            assert player.line().startswith("started")
        threading.Event().wait(self.delay_s)


def _wait_for(find: Callable[[], int | None]) -> int:
    """Return a process as soon as it is there."""
    deadline = time.monotonic() + scaled(10)
    while (pid := find()) is None:
        assert time.monotonic() < deadline, "it never came"
        threading.Event().wait(0.001)
    return pid


def _swept(stage: Stage) -> bool:
    with folders.hold() as base:
        folders.sweep(base)
    return not stage.folder.exists()


@pytest.mark.parametrize("turn", range(_TURNS))
@pytest.mark.parametrize("victim", ["player", "supervisor", "gateway", "janitor"])
def test_kill_leaves_nothing(
    stage: Stage, find: Anatomy, victim: str, turn: int, request: pytest.FixtureRequest
) -> None:
    """After a kill -9 of any part of a run nothing of it is left within a second but files to sweep."""
    moment = Moment(turn)
    player = stage.play()
    player.tell(f"many {_CONTAINERS} c")
    moment.arrive(player)
    pid = _wait_for(lambda: find(player, victim))
    # A player that goes on would start a fresh run in the place of the dead one.
    os.kill(player.pid, signal.SIGSTOP)
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    gone_s = stage.gone(killed, f"{victim} killed, {moment}")
    request.node.user_properties.append(("gone_s", gone_s))
    player.dispose()
    assert _swept(stage), moment


@pytest.mark.parametrize("turn", range(_TURNS))
def test_kill_of_worker_takes_its_own_containers_and_no_others(
    stage: Stage, turn: int, request: pytest.FixtureRequest
) -> None:
    """A worker's containers end with it within a second, and those of the run's owner stay."""
    moment = Moment(turn)
    owner = stage.play()
    worker = stage.play(owner)
    if turn % 2:  # whoever comes first starts the run
        assert owner.ask("start owners").startswith("owners")
    worker.tell(f"many {_CONTAINERS} w")
    moment.arrive(worker)
    killed = time.monotonic()
    worker.kill()
    gone_s = stage.ended(worker, killed, f"worker killed, {moment}")
    request.node.user_properties.append(("gone_s", gone_s))
    if not turn % 2:
        assert owner.ask("start owners").startswith("owners")
    assert stage.asleep(owner) == 1, moment
    assert owner.ask("exec owners true") == "0", moment
    owner.end()
    stage.gone(time.monotonic(), f"owner ended after its worker, {moment}")
    assert not stage.folder.exists(), moment


@pytest.mark.parametrize("victim", ["player", "supervisor", "gateway", "janitor"])
def test_kill_at_birth_leaves_nothing_when_nobody_has_connected(
    stage: Stage, find: Anatomy, victim: str
) -> None:
    """A run that is still starting, with nobody waiting for it, ends as a whole with any part of it."""
    player = stage.play()
    player.tell("prepare")
    if victim == "player":
        _wait_for(lambda: find(player, "janitor"))
    os.kill(_wait_for(lambda: find(player, victim)), signal.SIGKILL)
    stage.gone(time.monotonic(), f"{victim} killed at its birth")


def test_supervisor_ends_when_its_janitor_was_killed_before_it_could_ask_for_a_signal(
    stage: Stage, find: Anatomy
) -> None:
    """The death of the janitor is noticed also when it comes before the supervisor's first call."""
    player = stage.play()
    player.tell("prepare_late")
    janitor = _wait_for(lambda: find(player, "janitor"))
    supervisor = _wait_for(lambda: find(player, "supervisor"))
    os.kill(janitor, signal.SIGKILL)
    stage.gone(time.monotonic(), f"janitor killed before supervisor {supervisor} asked for its signal")
