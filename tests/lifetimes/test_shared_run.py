"""Several processes share a run: one supervisor for all, to each its own, and one end."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.lifetimes.conftest import Player, Stage

pytestmark = pytest.mark.kernel

_PROCESSES: Final = 4
_ROUNDS: Final = 10


def _start_at_once(players: list[Player], line: str) -> list[list[str]]:
    """Give all players one command at the same time; return the words of their answers."""
    for player in players:
        player.tell(line)
    return [player.line().split() for player in players]


@pytest.mark.parametrize("turn", range(_ROUNDS))
def test_run_has_one_supervisor_when_four_processes_start_it_at_once(stage: Stage, turn: int) -> None:
    """Whoever comes first starts the run, the others find it, and a container of the run is one for all."""
    owner = stage.play()
    players = [owner, *(stage.play(owner) for _ in range(_PROCESSES - 1))]
    players = players[turn % _PROCESSES :] + players[: turn % _PROCESSES]
    answers = _start_at_once(players, "start shared run")
    assert {len(answer) for answer in answers} == {4}, answers
    assert len({tuple(answer) for answer in answers}) == 1, answers
    assert len(stage.supervisors()) == 1
    assert sum(stage.asleep(player) for player in players) == 1
    owner.end()
    stage.gone(time.monotonic(), "the owner has ended")


def test_worker_that_ends_takes_only_its_own(stage: Stage) -> None:
    """What the end of a worker takes along is what it made for itself."""
    owner = stage.play()
    worker, other = stage.play(owner), stage.play(owner)
    first = worker.ask("start shared run")
    for player, name in ((worker, "workers"), (other, "others"), (owner, "owners")):
        assert player.ask(f"start {name}").startswith(name)
    worker.end()
    stage.ended(worker, time.monotonic(), "the worker has ended", but=1)
    assert other.ask("start shared run") == first
    assert (stage.asleep(owner), stage.asleep(other)) == (1, 1)
    for player, name in ((other, "others"), (owner, "owners"), (other, "shared")):
        assert player.ask(f"exec {name} true") == "0"


def test_worker_that_started_the_run_is_not_waited_for(stage: Stage) -> None:
    """The run outlives the worker that started it, and leaves it no child to wait for."""
    owner = stage.play()
    worker = stage.play(owner)
    assert worker.ask("start workers").startswith("workers")
    assert stage.children(worker.pid) == ()
    worker.end()
    assert owner.ask("start owners").startswith("owners")
    assert len(stage.supervisors()) == 1


def test_owner_that_closes_ends_the_run_for_all(stage: Stage) -> None:
    """The owner's close is the end, also a second time; who comes later is told so."""
    owner = stage.play()
    worker = stage.play(owner)
    assert owner.ask("start owners").startswith("owners")
    assert worker.ask("start workers").startswith("workers")
    assert [owner.ask("close"), owner.ask("close")] == ["closed", "closed"]
    stage.gone(time.monotonic(), "the owner has closed")
    assert worker.ask("exec workers true").startswith("error EngineError: the run's supervisor is gone")
    assert [worker.ask("close"), worker.ask("close")] == ["closed", "closed"]
    assert owner.ask("start late").startswith("error EngineError: no supervisor answers")
    assert stage.children(owner.pid) == ()


def test_owner_that_closes_ends_a_run_it_never_used(stage: Stage) -> None:
    """The owner's close ends also what workers alone have started and used."""
    owner = stage.play()
    worker = stage.play(owner)
    assert worker.ask("start shared run").startswith("shared")
    assert owner.ask("close") == "closed"
    stage.gone(time.monotonic(), "the owner has closed")


def test_fork_of_the_owner_does_not_end_the_run(stage: Stage) -> None:
    """A forked child that closes its engine and exits leaves the run alone."""
    owner = stage.play()
    assert owner.ask("start owners").startswith("owners")
    stage.bystanders.add(int(owner.ask("fork")))
    assert owner.ask("unfork") == "0"
    assert owner.ask("exec owners true") == "0"
    assert owner.ask("start second").startswith("second")


@pytest.mark.parametrize("started_by", ["owner", "worker"])
def test_fork_of_the_owner_does_not_prolong_the_run(stage: Stage, started_by: str) -> None:
    """A forked child that lives on holds nothing of a run whose owner is dead."""
    owner = stage.play()
    starter = owner if started_by == "owner" else stage.play(owner)
    assert starter.ask("start c").startswith("c")
    child = int(owner.ask("fork"))
    stage.bystanders.add(child)
    owner.kill()
    stage.gone(time.monotonic(), "owner killed, its child lives")
    os.kill(child, 0)


def test_fork_of_a_worker_does_not_keep_its_containers(stage: Stage) -> None:
    """A worker's containers end with it though a child it forked lives on."""
    owner = stage.play()
    worker = stage.play(owner)
    assert owner.ask("start owners").startswith("owners")
    assert worker.ask("start workers").startswith("workers")
    stage.bystanders.add(int(worker.ask("fork")))
    worker.kill()
    stage.ended(worker, time.monotonic(), "worker killed, its child lives")
    assert stage.asleep(owner) == 1
