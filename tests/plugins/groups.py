"""Control groups of a test's own, below the group that the test runs in."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_containers.runtime.cgroups import Hierarchy, hierarchies
from tests.plugins.clock import scaled

__all__ = ["bounded_group", "memory_hierarchy", "parent_for"]

_PATIENCE_S: Final = scaled(5.0)
_LOOK_AGAIN_S: Final = 0.02


def memory_hierarchy() -> Hierarchy:
    """Return the hierarchy that has the memory controller."""
    return next(one for one in hierarchies() if "memory" in one.controllers)


def parent_for(hierarchy: Hierarchy, controller: str) -> str:
    """Return the nearest folder below which groups have *controller* (cgroup-v2.rst)."""
    if hierarchy.version == 1:
        return hierarchy.own
    return next(
        folder
        for folder in hierarchy.levels()
        if controller in Path(folder, "cgroup.subtree_control").read_text().split()
    )


@contextlib.contextmanager
def bounded_group(limit_bytes: int) -> Iterator[Path]:
    """Make a memory group with a limit, without swap where that can be said; remove it when it is empty."""
    hierarchy = memory_hierarchy()
    group = Path(parent_for(hierarchy, "memory"), f"test-of-memory-{os.getpid()}-{time.monotonic_ns()}")
    group.mkdir()
    try:
        limits = {"memory.limit_in_bytes": limit_bytes, "memory.memsw.limit_in_bytes": limit_bytes}
        if hierarchy.version == 2:
            limits = {"memory.max": limit_bytes, "memory.swap.max": 0}
        for name, limit in limits.items():
            if (group / name).exists():
                (group / name).write_text(str(limit))
        yield group
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            group.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            threading.Event().wait(_LOOK_AGAIN_S)
        else:
            return
