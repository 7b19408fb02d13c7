"""A test marked ``kernel`` fails when it leaves something behind, and so does the whole run.

Looked for are processes, descriptors, mounts, interfaces, routes, cgroup folders and changed
forwarding.
"""

from __future__ import annotations

import glob
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.plugins.clock import scaled

if TYPE_CHECKING:
    from pytest_containers import ContainerFactory

# What one process leaves, and what everybody on the machine shares: of the latter a worker of
# pytest-xdist cannot say whose it is, so there it is looked at once, when the last worker has ended.
_PATIENCE_S: Final = scaled(1.0)
_LOOK_AGAIN_S: Final = 0.02
# What any run has on the machine while it lasts: its uplink, with a route, and its folder.
_ANY_RUNS: Final = re.compile(r"\bptc[0-9a-f]+$|/pytest-containers-")
_RUN_FOLDERS: Final = "/var/tmp/pytest-containers-*/*"
_GROUPS: Final = "pytest-containers-"


def _parents() -> dict[int, tuple[int, str]]:
    """Return parent and name of every process (proc_pid_stat(5))."""
    found: dict[int, tuple[int, str]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            comm, _, rest = Path("/proc", name, "stat").read_text().partition("(")[2].rpartition(") ")
        except OSError:
            continue
        found[int(name)] = (int(rest.split()[1]), comm)
    return found


def _family(parents: Mapping[int, tuple[int, str]]) -> frozenset[int]:
    """Return this process and its descendants."""
    family = {os.getpid()}
    while born := {pid for pid, (parent, _) in parents.items() if parent in family} - family:
        family |= born
    return frozenset(family)


def _children(*, contained: bool) -> Iterator[str]:
    """Yield our descendants; those in another process id namespace only where *contained*."""
    parents, here = _parents(), os.readlink("/proc/self/ns/pid")
    for pid in _family(parents) - {os.getpid()}:
        try:
            if contained or os.readlink(f"/proc/{pid}/ns/pid") == here:
                yield f"process {pid} ({parents[pid][1]})"
        except OSError:  # it has ended, but for being waited for
            yield f"process {pid} ({parents[pid][1]})"


def _descriptors() -> Iterator[str]:
    for name in set(os.listdir("/proc/self/fd")) - {"0", "1", "2"}:  # pytest moves these about
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of this very listing
            continue
        yield f"descriptor {name} -> {target}"


def _own_traces(*, contained: bool) -> frozenset[str]:
    return frozenset((*_children(contained=contained), *_descriptors()))


def _groups() -> Iterator[str]:
    """Yield the control groups of all runs, wherever they lie."""
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        yield from (os.path.join(folder, name) for name in names if name.startswith(_GROUPS))


def _shared_traces() -> frozenset[str]:
    """Return what the machine would still have after the end of every process of ours."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    routes = (line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:])
    forward = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()
    return frozenset(
        (
            *(f"mount {line.split()[4]} ({line.rpartition(' - ')[2]})" for line in mounts),
            *(f"interface {name}" for _, name in socket.if_nameindex()),
            *(f"route {column[1]}/{column[7]} by {column[0]}" for column in routes),
            *(f"folder {path}" for path in glob.glob(_RUN_FOLDERS)),
            *(f"control group {path}" for path in _groups()),
            f"net.ipv4.ip_forward = {forward}",
        )
    )


def _look_in_test() -> frozenset[str]:
    # The workers of pytest-xdist share one supervisor, which is the child of one of them.
    if "PYTEST_XDIST_WORKER" in os.environ:
        return _own_traces(contained=False)
    return _own_traces(contained=True) | _shared_traces()


def _look_at_end() -> frozenset[str]:
    return _own_traces(contained=True) | _shared_traces()


def _is_pytest(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word.rpartition(b"/")[2] in (b"pytest", b"py.test") for word in words[:4])


def _left(before: frozenset[str], look: Callable[[], frozenset[str]]) -> list[str]:
    """Return what is there and was not, after giving the kernel its moment to take it away.

    While another pytest runs on the machine, an uplink or a run folder may be of its making.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while (left := look() - before) and time.monotonic() < deadline:
        threading.Event().wait(_LOOK_AGAIN_S)
    parents = _parents()
    above = {os.getpid(), os.getppid()}
    others = (pid for pid in parents.keys() - _family(parents) - above if _is_pytest(pid))
    if left and next(others, None) is not None:
        left = frozenset(one for one in left if not _ANY_RUNS.search(one))
    return sorted(left)


@pytest.fixture(scope="session")
def started_run(container: ContainerFactory) -> None:
    """Start what a run starts once: supervisor, uplink, and this process's connection."""
    container("host", command=["true"]).remove()


@pytest.fixture(autouse=True)
def as_it_was(request: pytest.FixtureRequest) -> None:
    """Remember for a kernel test what is there when all that outlives it has been started."""
    if request.node.get_closest_marker("kernel") is not None:
        if any(
            "_pytest_containers_run" in getattr(item, "fixturenames", ()) for item in request.session.items
        ):
            request.getfixturevalue("started_run")
        request.node.stash[_BEFORE_TEST] = _look_in_test()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the kernel tests where only root could pass them."""
    for item in items if os.geteuid() != 0 else ():
        if item.get_closest_marker("kernel") is not None:
            item.add_marker(pytest.mark.skipif(True, reason="kernel objects need root here"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a kernel test that leaves a process, mount, interface, route, folder or descriptor."""
    report = yield
    before = item.stash.get(_BEFORE_TEST, None)
    if (
        call.when == "teardown"
        and before is not None
        and report.passed
        and (left := _left(before, _look_in_test))
    ):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} left behind:\n  " + "\n  ".join(left)
    return report


_BEFORE_TEST: Final = pytest.StashKey[frozenset[str]]()
_BEFORE_RUN: Final = pytest.StashKey[frozenset[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Remember how the machine was before the run; a worker of a run is a part of it."""
    if not hasattr(config, "workerinput"):
        config.stash[_BEFORE_RUN] = _look_at_end()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Fail the run, after its engine has ended, for anything the machine still has of it."""
    before = config.stash.get(_BEFORE_RUN, None)
    if before is not None and (left := _left(before, _look_at_end)):
        raise pytest.UsageError("the run has left behind: " + ", ".join(left))
