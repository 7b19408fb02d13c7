"""Laws of a run that has died: who was in it is told, and the next container starts in a fresh one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from pytest_containers.engines import native
from pytest_containers.engines.base import Handle
from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.errors import EngineError
from pytest_containers.runtime import folders
from pytest_containers.spec import ContainerSpec, ExecSpec

pytestmark = pytest.mark.kernel

_SPEC: Final = ContainerSpec(name="box", command=("sleep", "1000"))
_PATIENCE_S: Final = 20.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[NativeEngine]:
    """Return an engine of this test's own."""
    made = NativeEngine(store=tmp_path, run_folder=fresh_run_folder(), owner_pid=os.getpid())
    with contextlib.closing(made):
        yield made


def _box(engine: NativeEngine) -> Handle:
    box = engine.create(_SPEC, engine.images.pull("host"))
    box.start()
    return box


def _janitor(engine: NativeEngine) -> int:
    assert engine._janitor is not None
    return engine._janitor.pid


def _supervisor(engine: NativeEngine) -> int:
    pid = _janitor(engine)
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def _until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.005)
    return True


@pytest.mark.parametrize("victim", ["supervisor", "janitor", "gateway"])
def test_run_that_died_is_replaced(engine: NativeEngine, victim: str) -> None:
    """Whatever ends a run, its containers are told to be lost, and the next one starts in a fresh run."""
    for _ in range(3):
        box = _box(engine)
        assert not box.lost
        find = {"supervisor": _supervisor, "janitor": _janitor, "gateway": _gateway}[victim]
        os.kill(find(engine), signal.SIGKILL)
        assert _until(lambda box=box: box.lost)  # type: ignore[misc]
        with pytest.raises(EngineError, match="supervisor is gone"):
            box.state()
        with pytest.raises(EngineError, match=r"The next container starts in a fresh run"):
            box.exec(ExecSpec(argv=("true",)))
        fresh = _box(engine)
        assert fresh.exec(ExecSpec(argv=("true",))).exit_code == 0
        fresh.remove()


def _gateway(engine: NativeEngine) -> int:
    supervisor = _supervisor(engine)
    here = os.readlink("/proc/self/ns/net")
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    (found,) = (int(pid) for pid in children if os.readlink(f"/proc/{pid}/ns/net") == here)
    return found


def test_run_that_dies_at_its_birth_is_replaced(engine: NativeEngine) -> None:
    """A supervisor that is killed before anybody has connected costs no test."""
    engine.prepare()
    _until(lambda: bool(Path(f"/proc/{_janitor(engine)}/task/{_janitor(engine)}/children").read_text()))
    os.kill(_supervisor(engine), signal.SIGKILL)
    box = _box(engine)
    assert box.state().status == "running"
    box.remove()


def test_run_whose_folder_a_dead_janitor_has_left_is_replaced(engine: NativeEngine) -> None:
    """The socket of a dead run is nobody's, and keeps no fresh one from starting."""
    folder = engine._folder
    with folders.hold():
        os.close(folders.make(folder))
        (folder / folders.SOCKET).touch()
    box = _box(engine)
    assert box.state().status == "running"
    box.remove()


def test_container_of_a_shared_scope_is_started_again_in_the_fresh_run(pytester: pytest.Pytester) -> None:
    """After the end of a run one test fails, and those after it get their shared container anew."""
    pytester.makepyfile(
        """
        import os, pathlib, signal

        def shared(container):
            return container("host", command=["sleep", "1000"], ready=lambda c: True, scope="session")

        def test_before(container):
            assert shared(container).exec(["true"]).exit_code == 0

        def test_that_loses_its_run(container):
            box = shared(container)
            parents = {}
            for pid in filter(str.isdecimal, os.listdir("/proc")):
                try:
                    stat = pathlib.Path("/proc", pid, "stat").read_text()
                except OSError:
                    continue
                parents.setdefault(int(stat.rpartition(") ")[2].split()[1]), []).append(int(pid))
            (janitor,) = parents[os.getpid()]
            (supervisor,) = parents[janitor]
            os.kill(supervisor, signal.SIGKILL)
            box.exec(["true"])

        def test_after(container):
            assert shared(container).exec(["true"]).exit_code == 0

        def test_after_that(container):
            assert shared(container).exec(["true"]).exit_code == 0
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=60)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*the run's supervisor is gone, and all its containers with it*"])


def test_close_does_not_fail_where_the_janitor_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A janitor that is still removing files at the end is left to it, and reaped when it has ended."""
    monkeypatch.setattr(native, "_END_S", 0.1)
    engine = NativeEngine(store=tmp_path, run_folder=fresh_run_folder(), owner_pid=os.getpid())
    _box(engine)
    janitor = engine._janitor
    assert isinstance(janitor, subprocess.Popen)
    os.kill(janitor.pid, signal.SIGSTOP)
    try:
        engine.close()
        assert janitor.returncode is None
    finally:
        os.kill(janitor.pid, signal.SIGCONT)
    assert _until(lambda: not Path(f"/proc/{janitor.pid}").exists())
    assert _until(lambda: not engine._folder.exists())


def test_wait_is_for_the_process_that_runs_now(engine: NativeEngine) -> None:
    """A container that another process has started again is waited for as it is, not as it was."""
    spec = ContainerSpec(name="shared", command=("sleep", "1000"), lifetime="run")
    other = NativeEngine(store=engine._folder / "store", run_folder=engine._folder, owner_pid=os.getppid())
    with contextlib.closing(other):
        mine = engine.create(spec, engine.images.pull("host"))
        mine.start()
        theirs = other.create(spec, other.images.pull("host"))
        assert theirs.id == mine.id
        theirs.start()
        theirs.signal(signal.SIGKILL)
        assert theirs.wait(_PATIENCE_S).status == "exited"
        theirs.start()
        began = time.monotonic()
        assert mine.wait(0.3).status == "running"
        assert time.monotonic() - began >= 0.3
        timer = threading.Timer(0.05, lambda: theirs.signal(signal.SIGKILL))
        timer.start()
        state = mine.wait(_PATIENCE_S)
        timer.join()
        assert state.status == "exited"


def test_wait_knows_a_process_that_another_handle_has_started(engine: NativeEngine) -> None:
    """A handle that has started nothing itself waits all the same, and not by asking without end."""
    spec = ContainerSpec(name="shared", command=("sleep", "1000"), lifetime="run")
    first = engine.create(spec, engine.images.pull("host"))
    second = engine.create(spec, engine.images.pull("host"))
    first.start()
    began = time.monotonic()
    assert second.wait(0.3).status == "running"
    assert time.monotonic() - began >= 0.3
    assert second.wait(-1).status == "running"
    first.signal(signal.SIGKILL)
    assert second.wait(1e15).status == "exited"
