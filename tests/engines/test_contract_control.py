"""The contract of engines/base.py: pausing a container, and what it uses."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import NotRunning
from pytest_containers.spec import ContainerSpec, ExecSpec
from tests.engines.programs import HANDLES_TERM

if TYPE_CHECKING:
    from pytest_containers.engines.base import Handle
    from tests.engines.conftest import Bench

SLEEP = ("sleep", "60")


@pytest.fixture
def running(bench: Bench) -> Handle:
    """Return a container that sleeps."""
    return bench.start(ContainerSpec(name="one", command=SLEEP))


def test_pause_is_part_of_the_state(running: Handle) -> None:
    """A paused container runs and is paused; doing either twice changes nothing."""
    for _ in range(2):
        running.pause()
        assert (running.state().status, running.state().paused) == ("running", True)
    for _ in range(2):
        running.unpause()
        assert (running.state().status, running.state().paused) == ("running", False)


def test_exec_in_a_paused_container_is_refused(running: Handle) -> None:
    """While it is paused an exec is refused with the reason, and after that it works."""
    running.pause()
    with pytest.raises(NotRunning, match="paused"):
        running.exec(ExecSpec(argv=("echo", "now")))
    running.unpause()
    assert running.exec(ExecSpec(argv=("echo", "now"))).stdout == "now\n"


def test_kill_ends_a_paused_container(running: Handle) -> None:
    """SIGKILL ends what is paused, and it is not paused any more."""
    running.pause()
    running.signal(signal.SIGKILL)
    state = running.wait(timeout_s=20)
    assert state.exit is not None
    assert (state.status, state.exit.code, state.paused) == ("exited", 137, False)
    running.start()
    assert running.exec(ExecSpec(argv=("echo", "again"))).stdout == "again\n"


def test_removal_ends_a_paused_container(bench: Bench, running: Handle) -> None:
    """A paused container is removed as any other, and its name is free."""
    running.pause()
    running.remove()
    bench.start(ContainerSpec(name="one", command=SLEEP))


def test_signal_waits_for_the_end_of_the_pause(bench: Bench) -> None:
    """A signal that the first process handles reaches it after the pause."""
    handle = bench.start(ContainerSpec(name="one", command=HANDLES_TERM))
    bench.until(handle, lambda: bool(handle.logs()[0]))
    handle.pause()
    handle.signal(signal.SIGTERM)
    assert handle.wait(timeout_s=0.1).status == "running"
    handle.unpause()
    end = handle.wait(timeout_s=20).exit
    assert end is not None
    assert end.code == 7


def test_stats_are_of_a_running_container(running: Handle) -> None:
    """A container that runs uses memory and has at least one process."""
    stats = running.stats()
    assert stats.memory_bytes > 0
    assert stats.memory_limit_bytes is None
    assert stats.cpu_s >= 0
    assert stats.pids >= 1
    assert min(stats.received_bytes, stats.sent_bytes) >= 0


def test_top_names_the_processes(running: Handle) -> None:
    """The first process has the id 1, its user and its command line."""
    (entry,) = running.top()
    assert (entry.pid, entry.user, entry.command) == (1, "0", "sleep 60")


def test_what_does_not_run_is_neither_paused_nor_measured(bench: Bench) -> None:
    """Before the start and after the end there is nothing to pause or to measure."""
    handle = bench.create(ContainerSpec(name="one", command=("true",)))
    for action in (handle.pause, handle.stats, handle.top):
        with pytest.raises(NotRunning):
            action()
    handle.start()
    handle.wait(timeout_s=20)
    for action in (handle.pause, handle.stats, handle.top):
        with pytest.raises(NotRunning):
            action()
    handle.unpause()
    assert not handle.state().paused
