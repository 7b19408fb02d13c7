"""Pause and unpause all processes of a container (floor 1).

They are frozen by a control group of version 2 where there is one: it sends no signal, and a frozen
process still dies by SIGKILL (cgroup-v2.rst, "cgroup.freeze"). The freezer of version 1 is not used,
for what it has frozen does not even end with its namespace. Where no group of version 2 can be made
each process gets SIGSTOP, which its parent can see (wait(2), WUNTRACED).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pytest_containers.errors import EngineError, NotRunning
from pytest_containers.runtime import cgroups, procfs
from pytest_containers.runtime.loop import Recipe, Wait
from pytest_containers.runtime.sandbox import Sandbox

__all__ = ["pause", "unpause"]

_PATIENCE_S: Final = 2.0
_LOOK_AGAIN_S: Final = 0.002


def pause(sandbox: Sandbox) -> Recipe[None]:
    """Stop every process of the container; return when they stand still. Raises NotRunning, EngineError."""
    if sandbox.child is None or sandbox.state.status != "running":
        raise NotRunning(
            f"container {sandbox.spec.name} does not run", mend="pause it while it runs, or start it first"
        )
    if sandbox.paused:
        return
    folder = sandbox.freezer or sandbox.run.groups.freezer(sandbox.id[:12], sandbox.group)
    sandbox.paused = True
    if folder:
        # Processes that begin later, by an exec or after a restart, begin there.
        sandbox.freezer = folder
        sandbox.placement = replace(sandbox.placement, begin=folder)
        cgroups.freeze(folder, frozen=True)
    stopped: set[int] = set()
    yield from _until(sandbox, lambda: _all_stopped(sandbox, folder, stopped))


def _all_stopped(sandbox: Sandbox, folder: str, stopped: set[int]) -> bool:
    """Stop the processes that came since the last look; return whether there are none that still run."""
    if sandbox.child is None:
        return True
    # A process that forks is stopped by one of the next looks, and then its children by the one after.
    within = cgroups.members(folder) if folder else set()
    new = set(procfs.processes(sandbox.child.pid)) - stopped - within
    for pid in new:
        with contextlib.suppress(ProcessLookupError):
            if folder:
                cgroups.move(folder, pid)
            else:
                os.kill(pid, signal.SIGSTOP)
    stopped |= new
    return not new and not sandbox.beginning and (not folder or cgroups.is_frozen(folder))


def _until(sandbox: Sandbox, holds: Callable[[], bool]) -> Recipe[None]:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            unpause(sandbox)
            raise EngineError(
                f"container {sandbox.spec.name} cannot be paused",
                seen=f"some processes still run after {_PATIENCE_S:g} s",
                mend="a process that waits for a disk or a network file system stops when that answers",
            )
        if sandbox.child is not None:
            yield Wait(sandbox.child.pidfd, time.monotonic() + _LOOK_AGAIN_S)


def unpause(sandbox: Sandbox) -> None:
    """Let the processes go on; nothing happens where they do."""
    if not sandbox.paused:
        return
    sandbox.paused = False
    if sandbox.freezer:
        cgroups.freeze(sandbox.freezer, frozen=False)
    elif sandbox.child is not None:
        for pid in procfs.processes(sandbox.child.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
