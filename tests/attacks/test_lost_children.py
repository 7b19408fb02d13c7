"""Attacks on the supervisor by processes that end at the worst moment: no child of it is ever forgotten."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.runtime import client
from pytest_containers.spec import ContainerSpec, ExecSpec
from tests.runtime.conftest import Boxes

pytestmark = pytest.mark.kernel

_PATIENCE_S: Final = 20.0
# The first of the two children of an exec is killed, as by the kernel that is short of memory, in the moment
# when it has made the second and has told nobody.
_KILLED: Final = """
import os, signal, sys
sys.path += sys.argv[7:]
from pytest_containers.runtime import syscalls
usual = syscalls.clone
def clone(flags, *arguments, **options):
    child = usual(flags, *arguments, **options)
    if flags & syscalls.CLONE_PARENT and child.pid:
        os.kill(os.getpid(), signal.SIGKILL)
    return child
syscalls.clone = clone
"""


# The second child tells of memory that it shares with the supervisor (proc_pid_maps(5)).
_SHARED: Final = """
import sys
sys.path += sys.argv[7:]
from pytest_containers.runtime import process
usual = process.execute
def execute(prepared):
    with open("/proc/self/maps") as file:
        shared = [line for line in file if line.split()[1][1:4:2] == "ws"]
    if shared:
        raise RuntimeError(f"shared: {shared}")
    usual(prepared)
process.execute = execute
"""


@pytest.fixture
def own(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Boxes]:
    """Return what makes containers of a run whose supervisor begins with other code."""
    monkeypatch.setattr(client, "_START", request.param + "".join(client._START))
    engine = NativeEngine(store=tmp_path / "store", run_folder=fresh_run_folder(), owner_pid=os.getpid())
    with contextlib.closing(engine):
        made = Boxes(engine)
        try:
            yield made
        finally:
            made.remove()


def _children(pid: int) -> list[tuple[int, str]]:
    """Return pid and state of each child of the process *pid* (proc_pid_stat(5))."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid:
                found.append((int(folder.name), state))
    return found


@pytest.mark.parametrize("own", [_KILLED], indirect=True, ids=["killed"])
def test_exec_whose_first_child_is_killed_is_one(own: Boxes) -> None:
    """The exec tells its result, and no child of the supervisor is left, nor does one hold up the removal."""
    box = own.start(ContainerSpec(name="box", command=("sleep", "1000")))
    janitor = own.engine._janitor
    assert janitor is not None
    (supervisor, _), *_ = _children(janitor.pid)
    before = {pid for pid, _ in _children(supervisor)}
    for code in (0, 7):
        argv = ("/bin/sh", "-c", f"echo said; exit {code}")
        result = box.exec(ExecSpec(argv=argv, timeout_s=_PATIENCE_S))
        assert (result.exit_code, result.stdout) == (code, "said\n")
    assert box.exec(ExecSpec(argv=("no-such",), timeout_s=_PATIENCE_S)).exit_code == 127
    with pytest.raises(TimeoutError):
        box.exec(ExecSpec(argv=("sleep", "985"), timeout_s=0.2))
    deadline = time.monotonic() + _PATIENCE_S
    while {pid for pid, _ in _children(supervisor)} != before:
        assert time.monotonic() < deadline, _children(supervisor)
    begun = time.monotonic()
    box.remove()
    assert time.monotonic() - begun < _PATIENCE_S


@pytest.mark.parametrize("own", [_SHARED], indirect=True, ids=["shared"])
def test_exec_shares_no_memory_with_the_supervisor(own: Boxes) -> None:
    """What the container can see, and with SYS_PTRACE change, before its exec is in no memory of ours."""
    box = own.start(ContainerSpec(name="box", command=("sleep", "1000")))
    result = box.exec(ExecSpec(argv=("echo", "said"), timeout_s=_PATIENCE_S))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "said\n", "")
