"""Signals by name, and how an end is told to a person (floor 3)."""

from __future__ import annotations

import re
import signal

from pytest_containers.errors import SpecInvalid
from pytest_containers.spec import ContainerState

__all__ = ["describe_state", "signal_name", "signal_number"]

# StopSignal takes both forms (image-spec, config.md), and systemd images ship SIGRTMIN+3 (systemd(1)).
_NAMED = re.compile(r"(?:SIG)?(?P<base>[A-Z]+[0-9]*)(?:(?P<offset>[+-][0-9]+))?", re.IGNORECASE)


def signal_number(signal_or_name: int | str) -> int:
    """Return the number of ``15``, ``"15"``, ``"TERM"``, ``"SIGTERM"`` or ``"SIGRTMIN+3"``.

    Raises SpecInvalid for what is no signal of this kernel.
    """
    text = str(signal_or_name).strip()
    match = _NAMED.fullmatch(text)
    try:
        if match is None:
            return int(signal.Signals(int(text)))
        return int(signal.Signals[f"SIG{match['base'].upper()}"]) + int(match["offset"] or 0)
    except (KeyError, ValueError) as error:
        raise SpecInvalid(
            f"{signal_or_name!r} is not a signal", mend='write a name as "SIGTERM" or a number as 15'
        ) from error


def signal_name(number: int) -> str:
    """Return ``SIGKILL`` for 9, and ``signal 40`` for a number without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def describe_state(state: ContainerState) -> str:
    """Return ``running``, or ``exited: code 137, SIGKILL, out of memory, after 0.31 s``."""
    if state.exit is None:
        return state.status
    parts = [f"code {state.exit.code}"]
    if state.exit.signal:
        parts.append(signal_name(state.exit.signal))
    if state.exit.oom_killed:
        parts.append("out of memory")
    if state.started_at and state.finished_at:
        parts.append(f"after {max(0.0, state.finished_at - state.started_at):.2f} s")
    return f"{state.status}: {', '.join(parts)}"
