"""Control groups: they end with the run, however it ends, or are swept by the next one."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_containers.runtime import folders

if TYPE_CHECKING:
    from tests.lifetimes.conftest import Anatomy, Stage

pytestmark = pytest.mark.kernel


def _groups(stage: Stage) -> list[str]:
    return [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if stage.folder.name in folder]


@pytest.mark.parametrize("victim", ["player", "supervisor", "gateway"])
def test_kill_leaves_no_control_group(stage: Stage, find: Anatomy, victim: str) -> None:
    """After a kill -9 of a part of a run the control groups of its containers are gone within a second."""
    player = stage.play()
    assert len(player.ask("limited one")) == 64
    assert _groups(stage)
    pid = find(player, victim)
    assert pid is not None
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    stage.gone(killed, f"{victim} killed")


def test_control_groups_that_nobody_could_remove_are_swept(stage: Stage, find: Anatomy) -> None:
    """Where the janitor is killed with all others the groups stay, empty, until the next run sweeps them."""
    player = stage.play()
    player.ask("limited one")
    janitor = find(player, "janitor")
    assert janitor is not None
    os.kill(janitor, signal.SIGKILL)
    player.kill()
    deadline = time.monotonic() + 10
    while stage.processes():
        assert time.monotonic() < deadline, stage.processes()
        threading.Event().wait(0.02)
    assert _groups(stage)
    with folders.hold() as base:
        folders.sweep(base)
    assert not _groups(stage)


def test_end_of_a_run_removes_its_control_groups(stage: Stage) -> None:
    """A run that ends in the ordinary way leaves no control group, and neither does a removed container."""
    player = stage.play()
    player.ask("limited one")
    player.ask("limited two")
    player.ask("remove one")
    assert _groups(stage)
    player.ask("remove two")
    assert not _groups(stage)
    player.ask("limited three")
    assert _groups(stage)
    player.end()
    assert not _groups(stage)


@pytest.mark.parametrize("victim", ["player", "supervisor", "gateway"])
def test_kill_of_a_run_ends_paused_containers(stage: Stage, find: Anatomy, victim: str) -> None:
    """What is paused ends with its run as fast as any other container."""
    player = stage.play()
    player.ask("start one")
    assert player.ask("pause one") == "one"
    assert _groups(stage)
    pid = find(player, victim)
    assert pid is not None
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    stage.gone(killed, f"{victim} killed")
