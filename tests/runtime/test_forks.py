"""Laws of forks of the test process: each has its own connection, and ends nothing of its parent's."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import pytest

from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.errors import ContainersError, EngineError
from pytest_containers.spec import ContainerSpec, ExecSpec

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_containers.engines.native_container import NativeHandle
    from tests.runtime.conftest import Boxes

pytestmark = pytest.mark.kernel

Outcome = TypeVar("Outcome")
_SPEC: Final = ContainerSpec(name="box", command=("sleep", "1000"))
_PATIENCE_S: Final = 20


def _in_fork(fork: Callable[[], int], action: Callable[[], Outcome]) -> Outcome:
    """Return what *action* returns in a fork of this process; an error of it is raised here."""
    told, tell = os.pipe2(os.O_CLOEXEC)
    child = fork()
    if child == 0:
        signal.alarm(_PATIENCE_S)
        found: tuple[bool, object]
        try:
            found = True, action()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the test
            kind = type(error).__name__
            found = False, EngineError(f"{kind}: {error}")
        with os.fdopen(tell, "wb") as out:
            out.write(pickle.dumps((found[0], found[1] if found[0] else str(found[1]))))
        os._exit(0)
    os.close(tell)
    with os.fdopen(told, "rb") as source:
        content = source.read()
    os.waitpid(child, 0)
    assert content, "the fork ended before it could tell"
    well, outcome = pickle.loads(content)
    assert well, outcome
    result: Outcome = outcome
    return result


def _said(box: NativeHandle, *argv: str) -> str:
    return box.exec(ExecSpec(argv=argv, timeout_s=_PATIENCE_S)).stdout


def test_fork_uses_the_containers_of_its_parent(boxes: Boxes, fork: Callable[[], int]) -> None:
    """State, exec, files, logs and signals of a container work in a fork, which asks by itself."""
    box = boxes.start(ContainerSpec(name="box", command=("sh", "-c", "echo up; exec sleep 1000")))
    _said(box, "true")

    def use() -> tuple[str, str, bytes, str]:
        said = _said(box, "echo", "hello")
        _said(box, "sh", "-c", "echo fork >/file")
        return box.state().status, said, boxes.read(box, "/file"), box.wait(0.01).status

    assert _in_fork(fork, use) == ("running", "hello\n", b"fork\n", "running")
    assert _said(box, "cat", "/file") == "fork\n"
    _in_fork(fork, lambda: box.signal(signal.SIGKILL))
    assert box.wait(_PATIENCE_S).status == "exited"


def test_fork_of_a_fork_uses_them_too(boxes: Boxes, fork: Callable[[], int]) -> None:
    """Each generation has a connection of its own."""
    box = boxes.start(_SPEC)

    def generation(left: int) -> str:
        said = _said(box, "echo", str(left))
        return said + (_in_fork(fork, lambda: generation(left - 1)) if left else "")

    assert generation(3) == "3\n2\n1\n0\n"


def test_container_made_in_a_fork_ends_with_it(boxes: Boxes, fork: Callable[[], int]) -> None:
    """What a fork starts is its own: it ends with the fork, and its parent's containers do not."""
    box = boxes.start(_SPEC)

    def make() -> int:
        made = boxes.start(_SPEC)
        assert made.state().status == "running"
        assert _said(made, "echo", "hello") == "hello\n"
        return int(_said(made, "sh", "-c", "exec readlink /proc/1/ns/pid").strip()[5:-1])

    namespace = _in_fork(fork, make)
    assert _until(lambda: namespace not in _namespaces())
    assert box.state().status == "running"


def _namespaces() -> set[int]:
    found: set[int] = set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            found.add(os.stat(f"/proc/{name}/ns/pid").st_ino)
        except OSError:
            continue
    return found


def _until(holds: Callable[[], bool]) -> bool:
    for _ in range(_PATIENCE_S * 100):
        if holds():
            return True
        threading.Event().wait(0.01)
    return False


def test_fork_that_tidies_up_removes_nothing_of_its_parents(
    boxes: Boxes, engine: NativeEngine, fork: Callable[[], int]
) -> None:
    """A fork that runs its parent's teardown, and closes the engine, takes no container along."""
    box = boxes.start(_SPEC)
    network = engine.network("of-the-parent")

    def tidy_up() -> None:
        box.remove()
        network.remove()
        engine.close()

    _in_fork(fork, tidy_up)
    assert box.state().status == "running"
    assert _said(box, "echo", "hello") == "hello\n"
    network.remove()


def test_fork_with_other_threads_is_served(boxes: Boxes, fork: Callable[[], int]) -> None:
    """A fork that happens while other threads use the connection finds no lock taken."""
    box = boxes.start(_SPEC)
    ended = threading.Event()

    def busy() -> None:
        while not ended.is_set():
            box.state()

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert _in_fork(fork, lambda: box.state().status) == "running"
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_process_of_multiprocessing_uses_a_container(boxes: Boxes) -> None:
    """A worker that multiprocessing forks executes in the container of the test."""
    box = boxes.start(_SPEC)
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    process = context.Process(target=lambda: told.put(_said(box, "echo", "hello")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    assert told.get() == "hello\n"
    process.join(_PATIENCE_S)
    assert process.exitcode == 0
    told.close()
    assert box.state().status == "running"


def test_fork_whose_run_is_gone_is_told_of_the_fork(tmp_path: Path, fork: Callable[[], int]) -> None:
    """Where a fork cannot reach the run any more, the error speaks of the fork."""
    engine = NativeEngine(store=tmp_path, run_folder=fresh_run_folder(), owner_pid=os.getpid())
    box = engine.create(_SPEC, engine.images.pull("host"))
    box.start()
    asked, ask = os.pipe2(os.O_CLOEXEC)
    told, tell = os.pipe2(os.O_CLOEXEC)
    child = fork()
    if child == 0:
        os.close(ask)
        os.read(asked, 1)
        try:
            box.state()
        except ContainersError as error:
            os.write(tell, str(error).encode())
        os._exit(0)
    engine.close()
    os.close(ask)
    os.waitpid(child, 0)
    os.close(tell)
    assert b"this fork of the test process has no connection to the run" in os.read(told, 10_000)
    os.close(told)
    os.close(asked)


def test_run_that_only_forks_use_stays_for_the_next(tmp_path: Path, fork: Callable[[], int]) -> None:
    """With a fork for each test, the parent never connects, and every fork finds the run there."""
    engine = NativeEngine(store=tmp_path, run_folder=fresh_run_folder(), owner_pid=os.getpid())
    engine.prepare()

    def once() -> str:
        box = engine.create(_SPEC, engine.images.pull("host"))
        box.start()
        said = box.exec(ExecSpec(argv=("echo", "hello"))).stdout
        box.remove()
        return said

    for _ in range(4):
        assert _in_fork(fork, once) == "hello\n"
    assert once() == "hello\n"
    engine.close()


def test_run_that_a_fork_began_stays_for_the_next(tmp_path: Path, fork: Callable[[], int]) -> None:
    """A run that a fork was the first to want belongs to the parent, and ends with the parent's engine."""
    folder = fresh_run_folder()
    engine = NativeEngine(store=tmp_path, run_folder=folder, owner_pid=os.getpid())

    def once() -> str:
        box = engine.create(_SPEC, engine.images.pull("host"))
        box.start()
        return box.exec(ExecSpec(argv=("echo", "hello"))).stdout

    for _ in range(3):
        assert _in_fork(fork, once) == "hello\n"
    engine.close()
    assert _until(lambda: not folder.exists())


# What pytest-forked does: each test with its fixtures runs in a fork, which hands the reports back.
_FORKED: Final = """
import os, pickle, pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    hook = item.config.hook
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        reports = runtestprotocol(item, log=False)
        plain = [hook.pytest_report_to_serializable(config=item.config, report=one) for one in reports]
        os.write(tell, pickle.dumps(plain))
        os._exit(0)
    os.close(tell)
    with os.fdopen(told, "rb") as source:
        content = source.read()
    os.waitpid(child, 0)
    for plain in pickle.loads(content):
        report = hook.pytest_report_from_serializable(config=item.config, data=plain)
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""


def test_suite_with_a_fork_for_each_test_passes(pytester: pytest.Pytester) -> None:
    """Every test of a suite that forks for each one has its containers, those of wider scopes included."""
    pytester.makeconftest(_FORKED)
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def shared(container):
            return container("host", command=["sleep", "1000"], ready=lambda c: True)

        @pytest.mark.parametrize("number", range(3))
        def test_own(container, number):
            box = container("host", command=["sleep", "1000"], ready=lambda c: True)
            assert box.exec(["echo", "hello"]).stdout == "hello\\n"

        @pytest.mark.parametrize("number", range(3))
        def test_shared(shared, number):
            shared.write_text("/file", str(number))
            assert shared.read_text("/file") == str(number)

        @pytest.mark.parametrize("number", range(2))
        def test_run_wide(container, number):
            box = container("host", command=["sleep", "1000"], ready=lambda c: True, scope="run")
            assert box.exec(["cat", "/count"]).exit_code == (1 if number == 0 else 0)
            box.write_text("/count", "")
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=60)
    result.assert_outcomes(passed=8)
