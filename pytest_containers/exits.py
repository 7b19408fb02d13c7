"""Signals by name, and how an end is told to a person (floor 3)."""

from __future__ import annotations

import re
import signal

from pytest_containers.errors import SpecInvalid
from pytest_containers.spec import ContainerState

__all__ = ["describe_state", "signal_name", "signal_number"]

# StopSignal takes both forms (image-spec, config.md), and systemd images ship SIGRTMIN+3 (systemd(1)).
_REAL_TIME = re.compile(r"(?P<base>SIGRTM(?:IN|AX))(?P<offset>[+-][0-9]{1,2})")


def signal_number(signal_or_name: int | str) -> int:
    """Return the number of ``15``, ``"15"``, ``"TERM"``, ``"SIGTERM"`` or ``"SIGRTMIN+3"``.

    Raises SpecInvalid for what is no signal of this kernel (signal(7)).
    """
    number = 0 if isinstance(signal_or_name, bool) else _parsed(str(signal_or_name).strip().upper())
    if not 0 < number <= signal.SIGRTMAX:
        raise SpecInvalid(
            f"{signal_or_name!r} is not a signal",
            mend='write a name as "SIGTERM" or "SIGRTMIN+3", or a number as 15',
        )
    return number


def _parsed(text: str) -> int:
    """Return the number that *text* means, 0 for none."""
    if text.isdecimal() and text.isascii():
        return int(text)
    name = text if text.startswith("SIG") else f"SIG{text}"
    match = _REAL_TIME.fullmatch(name)
    if match is None:
        return signal.Signals[name] if name in signal.Signals.__members__ else 0
    number = signal.Signals[match["base"]] + int(match["offset"])
    return number if number >= signal.SIGRTMIN else 0


def signal_name(number: int) -> str:
    """Return ``SIGKILL`` for 9, ``SIGRTMIN+3`` for 37, and ``signal 32`` for a number without a name."""
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def describe_state(state: ContainerState) -> str:
    """Return the state in words, as ``exited: code 137, SIGKILL, out of memory, after 0.31 s``."""
    if state.exit is None:
        return f"{state.status}, paused" if state.paused else state.status
    parts = [f"code {state.exit.code}"]
    if state.exit.signal:
        parts.append(signal_name(state.exit.signal))
    if state.exit.oom_killed:
        parts.append("out of memory")
    if state.started_at and state.finished_at:
        parts.append(f"after {max(0.0, state.finished_at - state.started_at):.2f} s")
    return f"{state.status}: {', '.join(parts)}"
