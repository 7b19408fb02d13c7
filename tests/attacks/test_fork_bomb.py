"""A container that makes processes without end: with a limit it harms nobody but itself."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from pytest_containers import ContainerFactory

pytestmark = pytest.mark.kernel

_PIDS: Final = 60
# Every process makes two more, for ever; one that cannot goes on trying.
_BOMB: Final = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


def test_fork_bomb_is_held_and_others_go_on(container: ContainerFactory) -> None:
    """With a limit of processes a fork bomb stays below it, others run, and it ends at once when killed."""
    victim = container("host", command="sleep 600")
    limits: dict[str, float | str] = {"pids": _PIDS, "cpus": 0.2}
    bomb = container("host", command=[sys.executable, "-S", "-c", _BOMB], limits=limits, ready=lambda _: True)
    deadline = time.monotonic() + 20
    while bomb.stats().pids < _PIDS // 2:
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
    for _ in range(5):
        assert bomb.stats().pids <= _PIDS
        victim.exec(["true"], check=True, timeout=20)
    assert container("host", command="true", ready=lambda _: True).wait(timeout=20) == 0
    bomb.kill()
    assert bomb.exit_code == 137


def test_fork_bomb_is_paused_as_a_whole(container: ContainerFactory) -> None:
    """A container whose processes fork all the time can be paused, and nothing in it runs meanwhile."""
    limits: dict[str, float | str] = {"pids": _PIDS, "cpus": 0.2}
    bomb = container("host", command=[sys.executable, "-S", "-c", _BOMB], limits=limits, ready=lambda _: True)
    bomb.pause()
    before = bomb.top(), bomb.stats().cpu_s
    threading.Event().wait(0.2)
    assert (bomb.top(), bomb.stats().cpu_s) == before
    bomb.remove()
