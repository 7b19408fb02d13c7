"""Signals by name, and how an end is told."""

from __future__ import annotations

import signal

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.exits import describe_state, signal_name, signal_number
from pytest_containers.spec import ContainerState, ExitStatus


@pytest.mark.parametrize("text", [15, "15", "TERM", "SIGTERM", "sigterm", " SIGTERM "])
def test_signal_number_reads_every_spelling(text: int | str) -> None:
    """Names with and without SIG, and numbers, are the same signal."""
    assert signal_number(text) == signal.SIGTERM


def test_signal_number_reads_an_offset() -> None:
    """SIGRTMIN+3, the stop signal of systemd images, is three above SIGRTMIN."""
    assert signal_number("SIGRTMIN+3") == signal.SIGRTMIN + 3
    assert signal_number("RTMAX-1") == signal.SIGRTMAX - 1


@pytest.mark.parametrize("number", range(1, 65))
def test_signal_number_takes_every_number_and_its_own_name(number: int) -> None:
    """Every signal of the kernel can be named by its number, and by the name that is shown for it."""
    assert signal_number(number) == signal_number(str(number)) == number
    name = signal_name(number)
    assert name.startswith("signal ") or signal_number(name) == number


@pytest.mark.parametrize(
    "text",
    ["", "SIGNOTHING", "999", "-9", "TERM KILL", 0, 65, "65", "TERM+3", "RTMIN-1", "RTMIN+31", True, 9.5],
)
def test_signal_number_refuses_what_is_none(text: int | str) -> None:
    """What is no signal is named in the error."""
    with pytest.raises(SpecInvalid, match=r"is not a signal"):
        signal_number(text)


def test_signal_name_tells_numbers_without_a_name() -> None:
    """A real-time signal is told as `kill -l` does, and what the C library keeps by its number."""
    assert signal_name(9) == "SIGKILL"
    assert signal_name(37) == "SIGRTMIN+3"
    assert signal_name(32) == "signal 32"


def test_describe_state_tells_all_that_is_known() -> None:
    """Code, signal, memory and duration are told, in this order, where there are any."""
    end = ExitStatus(code=137, signal=9, oom_killed=True)
    state = ContainerState(status="exited", exit=end, started_at=100.0, finished_at=100.25)
    assert describe_state(state) == "exited: code 137, SIGKILL, out of memory, after 0.25 s"
    assert describe_state(ContainerState(status="running", started_at=1.0)) == "running"
    assert describe_state(ContainerState(status="exited", exit=ExitStatus(code=0))) == "exited: code 0"
