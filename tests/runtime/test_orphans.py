"""Laws of the children that nobody waits for: they are reaped, and no other child is."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.runtime import orphans, syscalls

if TYPE_CHECKING:
    from pytest_containers.engines.native import NativeEngine
    from pytest_containers.engines.native_container import NativeHandle
    from tests.runtime.conftest import Apart

pytestmark = pytest.mark.kernel

_PATIENCE_S: Final = 20.0


def _dead_child() -> int:
    """Return a child that has ended and was not waited for."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_child_that_nobody_knows_is_reaped_at_the_second_look(apart: Apart) -> None:
    """A dead child without a pidfd gets one period's grace, and is gone after the next."""

    def look() -> tuple[bool, bool, int]:
        pid = _dead_child()
        seen = orphans.reap_unknown(frozenset())
        after_one = pid in orphans._children()
        left = orphans.reap_unknown(seen)
        return after_one, pid in orphans._children(), len(left)

    assert apart(look) == (True, False, 0)


def test_child_with_a_pidfd_is_left_to_who_holds_it(apart: Apart) -> None:
    """A dead child that somebody watches, and a living one, are not touched."""

    def look() -> tuple[int, int]:
        watched = syscalls.clone(0)
        if watched.pid == 0:
            os._exit(7)
        living = os.fork()
        if living == 0:
            signal.pause()
        os.waitid(os.P_PIDFD, watched.pidfd, os.WEXITED | os.WNOWAIT)
        seen: frozenset[int] = frozenset()
        for _ in range(3):
            seen = orphans.reap_unknown(seen)
        status = os.waitid(os.P_PIDFD, watched.pidfd, os.WEXITED)
        os.kill(living, 9)
        assert status is not None
        return status.si_status, os.waitpid(living, 0)[0] - living

    assert apart(look) == (7, 0)


def test_supervisor_reaps_orphans_of_its_namespace(engine: NativeEngine, idle: NativeHandle) -> None:
    """A process that becomes the supervisor's child by the death of its parent does not stay a zombie."""
    assert engine._janitor is not None
    janitor = engine._janitor.pid
    supervisor = int(Path(f"/proc/{janitor}/task/{janitor}/children").read_text())
    before = _children(supervisor)
    line = "sleep 0.01 & exit 0"
    subprocess.run(["nsenter", "-t", str(supervisor), "-p", "sh", "-c", line], check=True)
    deadline = time.monotonic() + _PATIENCE_S
    while _children(supervisor) != before:
        assert time.monotonic() < deadline, "it is still there"
        threading.Event().wait(0.02)
    assert idle.state().status == "running"


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
