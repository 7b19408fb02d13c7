"""What comes at the same time: removals during starts and execs, ends during both; nothing stays of any."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_containers.runtime.loop import Loop, Recipe, Wait
from tests.plugins.clock import scaled

if TYPE_CHECKING:
    from tests.lifetimes.conftest import Anatomy, Stage

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("rival", ["start", "exec", "state"])
def test_removal_leaves_nothing_of_what_goes_on_meanwhile(stage: Stage, find: Anatomy, rival: str) -> None:
    """A container removed by one thread while another starts, asks or execs into it is gone for good."""
    player = stage.play()
    assert player.ask("start stays").startswith("stays")
    assert player.ask(f"race {rival} 40") == "raced"
    supervisor = find(player, "supervisor")
    assert supervisor is not None
    assert len(stage.children(supervisor)) == 2, "the gateway and one container"
    assert stage.asleep(player) == 1
    assert player.ask("exec stays true") == "0"


def test_worker_killed_during_its_execs_leaves_none_of_them(stage: Stage, find: Anatomy) -> None:
    """What a dead worker was executing in a container of the run ends, and nobody is left unreaped."""
    owner = stage.play()
    assert owner.ask("start shared run").startswith("shared")
    supervisor = find(owner, "supervisor")
    assert supervisor is not None
    seed = os.urandom(4).hex()
    chance = random.Random(seed)
    for _ in range(10):
        worker = stage.play(owner)
        assert worker.ask("start shared run").startswith("shared")
        worker.tell("busy shared")
        assert worker.line() == "busy"
        threading.Event().wait(chance.uniform(0.01, 0.05))
        worker.kill()
        stage.ended(worker, time.monotonic(), f"worker killed, seed {seed}", but=0)
    deadline = time.monotonic() + scaled(1)
    while len(stage.children(supervisor)) > 2 and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert len(stage.children(supervisor)) == 2, f"the gateway and one container, seed {seed}"


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Return a loop that leaves no descriptor."""
    made = Loop()
    yield made
    made._selector.close()


def test_loop_closes_a_descriptor_when_its_last_waiter_has_woken(loop: Loop) -> None:
    """A descriptor closed while others wait for it wakes them first, and then its number is free again."""
    readable, writable = os.pipe()
    woken: list[bool] = []

    def recipe() -> Recipe[None]:
        woken.append((yield Wait(readable)))

    for _ in range(2):
        loop.begin(recipe(), lambda _: None if len(woken) < 2 else loop.end(), lambda _: None)
    os.write(writable, b"x")
    loop.close(readable)
    os.fstat(readable)
    loop.spin()
    assert woken == [True, True]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(readable)
    os.close(writable)


def test_loop_closes_at_once_what_nobody_waits_for(loop: Loop) -> None:
    """A descriptor that nobody watches, or nobody any more, is closed then and there."""
    readable, writable = os.pipe()
    loop.watch(readable, loop.end)
    loop.close(readable)
    loop.forget(readable, loop.end)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(readable)
    loop.close(writable)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writable)
