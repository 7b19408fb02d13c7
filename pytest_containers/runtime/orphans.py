"""Reap the supervisor's children that nobody else waits for (floor 1).

The supervisor is the first process of the run's pid namespace, so orphans of that namespace become its
children (pid_namespaces(7)). Another kind is the process of an exec whose maker was killed before it
could name it. As long as a dead child of ours is not reaped, the container whose namespace it entered
cannot end either: its first process waits for it (kernel/pid_namespace.c, zap_pid_ns_processes).
"""

from __future__ import annotations

import os
import time
from typing import Final

from pytest_containers.runtime.loop import Recipe, Wait

__all__ = ["reap_for_ever", "reap_unknown"]

_PERIOD_S: Final = 1.0


def reap_for_ever() -> Recipe[None]:
    """Look once a period for dead children that nobody knows, and reap them; never ends."""
    seen: frozenset[int] = frozenset()
    while True:
        yield Wait(-1, time.monotonic() + _PERIOD_S)
        seen = reap_unknown(seen)


def reap_unknown(seen: frozenset[int]) -> frozenset[int]:
    """Reap the dead children that nobody knows; return those that were seen dead now.

    A child is reaped when it was in *seen* as well: in between, whoever has just learnt of it had the
    time to open its pidfd.
    """
    dead = frozenset(filter(_is_dead, _children()))
    suspects = dead & seen
    unknown = suspects - _known() if suspects else suspects
    for pid in unknown:
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            continue
    return dead - unknown


def _children() -> list[int]:
    """Return the children of this process, which has one thread (proc_pid_task_children(5))."""
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return []


def _is_dead(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _known() -> set[int]:
    """Return the processes of which we hold a pidfd, by what its fdinfo says (pidfd_open(2))."""
    found: set[int] = set()
    for name in os.listdir("/proc/self/fdinfo"):
        try:
            with open(f"/proc/self/fdinfo/{name}") as file:
                found.update(int(line.split()[1]) for line in file if line.startswith("Pid:"))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found
