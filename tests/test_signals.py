"""Signals as images and tests name them, sent to real processes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers import log
from pytest_containers.exits import signal_number

if TYPE_CHECKING:
    from pytest_containers import ContainerFactory

pytestmark = pytest.mark.kernel

REAL_TIME = ("SIGRTMIN+3", "RTMIN+3", "rtmin+3", 37, "37", "SIGRTMAX-27")
SCRIPT = "trap 'exit 4' SIGRTMIN+3; echo up; while :; do sleep 0.05; done"
COMMAND = ["bash", "-c", SCRIPT]


@pytest.mark.parametrize("name", REAL_TIME)
def test_stop_sends_a_real_time_signal(container: ContainerFactory, name: str | int) -> None:
    """`stop_signal=` takes every spelling of a real-time signal, and stop() sends it."""
    box = container("host", command=COMMAND, stop_signal=name, ready=log("up"))
    box.stop(timeout=10)
    assert box.exit_code == 4


@pytest.mark.parametrize("name", REAL_TIME)
def test_kill_sends_a_real_time_signal(container: ContainerFactory, name: str | int) -> None:
    """kill() takes the same spellings."""
    box = container("host", command=COMMAND, ready=log("up"))
    box.kill(name)
    assert box.wait(timeout=10) == 4


@pytest.mark.parametrize("name", ["SIGRTMIN+3", "37", "RTMIN+3"])
def test_stop_signal_of_an_image_is_sent(container: ContainerFactory, tmp_path: Path, name: str) -> None:
    """An image's STOPSIGNAL takes them too."""
    (tmp_path / "Dockerfile").write_text(f"FROM host\nSTOPSIGNAL {name}\n")
    box = container(tmp_path, command=COMMAND, ready=log("up"))
    box.stop(timeout=10)
    assert box.exit_code == 4


def test_every_name_of_the_kernel_is_a_signal(container: ContainerFactory) -> None:
    """Every name that `kill -l` knows is taken, and means the same number."""
    box = container("host", command=["sleep", "infinity"])
    known = box.exec(["bash", "-c", "for n in {1..64}; do kill -l $n; done"]).stdout.split()
    numbers = {name: signal_number(name) for name in known if not name.isdecimal()}
    assert len(numbers) >= 60
    assert all(numbers[one.name.removeprefix("SIG")] == one for one in signal.Signals)
