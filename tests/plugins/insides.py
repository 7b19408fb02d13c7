"""Each test of a run fails when something of it is left inside of the run: for runs within a test.

Once the run has begun, its processes with their descriptors, and the mounts and interfaces of
those that live in namespaces of their own, are after each test what they were before it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.plugins.clock import scaled

if TYPE_CHECKING:
    from pytest_containers import ContainerFactory

_PATIENCE_S: Final = scaled(2.0)
_LOOK_AGAIN_S: Final = 0.02
_BEFORE: Final = pytest.StashKey[frozenset[str]]()


def _family(pid: int) -> Iterator[int]:
    """Yield a process and its descendants (proc_pid_task(5))."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from _family(int(child))


def _of(pid: int) -> Iterator[str]:
    proc, here = Path(f"/proc/{pid}"), Path("/proc/self")
    yield f"process {pid}: {(proc / 'cmdline').read_text().replace(chr(0), ' ')[-60:]}"
    for descriptor in os.listdir(proc / "fd"):
        # pytest moves the first three about; a listing's own descriptor is gone when it is read.
        if int(descriptor) > 2 and os.path.lexists(proc / "fd" / descriptor):
            yield f"descriptor {descriptor} of {pid}: {os.readlink(proc / 'fd' / descriptor)}"
    if os.readlink(proc / "ns/mnt") != os.readlink(here / "ns/mnt"):
        yield from (f"mount of {pid}: {line}" for line in (proc / "mountinfo").read_text().splitlines())
    if os.readlink(proc / "ns/net") != os.readlink(here / "ns/net"):
        lines = (proc / "net/dev").read_text().splitlines()[2:]
        yield from (f"interface of {pid}: {line.partition(':')[0].strip()}" for line in lines)


def _insides() -> frozenset[str]:
    found: set[str] = set()
    try:
        for pid in _family(os.getpid()):
            found.update(_of(pid))
    except OSError as error:  # a process has ended in between: whoever looks will look again
        found.add(f"{error}")
    return frozenset(found)


@pytest.fixture(autouse=True)
def as_it_was(request: pytest.FixtureRequest, container: ContainerFactory) -> None:
    """Begin the run, and remember what is there."""
    container("host", command=["true"]).remove()
    request.node.stash[_BEFORE] = _insides()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail the teardown of a test that leaves something."""
    report = yield
    before = item.stash.get(_BEFORE, None)
    if call.when == "teardown" and before is not None:
        deadline = time.monotonic() + _PATIENCE_S
        while (left := _insides() - before) and time.monotonic() < deadline:
            threading.Event().wait(_LOOK_AGAIN_S)
        if left:
            report.outcome = "failed"
            report.longrepr = "left inside of the run:\n  " + "\n  ".join(sorted(left))
    return report
