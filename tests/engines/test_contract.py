"""The contract of engines/base.py: a container's life, its processes and what they say."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainersError,
    EngineError,
    InterpreterMissing,
    NotRunning,
)
from pytest_containers.spec import ContainerSpec, ExecSpec, LogChunk
from tests.engines.programs import HANDLES_TERM

if TYPE_CHECKING:
    from pytest_containers.engines.base import Handle
    from tests.engines.conftest import Bench

SLEEP = ("sleep", "60")


def _said(chunks: tuple[LogChunk, ...], stream: str) -> bytes:
    return b"".join(chunk.content for chunk in chunks if chunk.stream == stream)


def _run(handle: Handle, *argv: str) -> str:
    result = handle.exec(ExecSpec(argv=argv))
    assert result.exit_code == 0, result
    return result.stdout


def test_container_is_created_before_it_runs(bench: Bench) -> None:
    """Creation makes an id and an address, and runs nothing."""
    handle = bench.create(ContainerSpec(name="one", command=SLEEP))
    assert re.fullmatch("[0-9a-f]{64}", handle.id)
    assert re.fullmatch(r"[0-9]+(\.[0-9]+){3}", handle.ip)
    state = handle.state()
    assert (state.status, state.exit, state.started_at) == ("created", None, 0.0)
    assert handle.logs()[0] == ()


def test_containers_of_one_image_differ(bench: Bench) -> None:
    """Each container has its own id and address."""
    handles = [bench.start(ContainerSpec(name=f"many-{n}", command=SLEEP)) for n in range(3)]
    assert len({handle.id for handle in handles}) == len({handle.ip for handle in handles}) == 3


def test_start_runs_the_process(bench: Bench) -> None:
    """After start the state is running, with the time of the start."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    state = handle.state()
    assert (state.status, state.exit) == ("running", None)
    assert state.started_at > 1_600_000_000


def test_start_leaves_a_running_container_alone(bench: Bench) -> None:
    """Starting twice runs one process."""
    handle = bench.start(ContainerSpec(name="one", command=("sh", "-c", "echo begun; sleep 60")))
    bench.until(handle, lambda: bool(handle.logs()[0]))
    handle.start()
    assert handle.state().status == "running"
    assert _said(handle.logs()[0], "stdout") == b"begun\n"


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("exit 255", 255)])
def test_exit_code_is_the_first_process_s(bench: Bench, script: str, code: int) -> None:
    """The end of the first process is the end of the container, with its code."""
    handle = bench.start(ContainerSpec(name="one", command=("sh", "-c", script)))
    state = handle.wait()
    assert state.status == "exited"
    assert state.exit is not None
    assert (state.exit.code, state.exit.signal, state.exit.oom_killed) == (code, 0, False)
    assert state.started_at <= state.finished_at


def test_wait_returns_at_its_timeout(bench: Bench) -> None:
    """A wait with a timeout returns the state as it is then."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    assert handle.wait(timeout_s=0.01).status == "running"


def test_kill_gives_128_and_the_signal(bench: Bench) -> None:
    """An end by SIGKILL is exit code 137 and signal 9."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    handle.signal(signal.SIGKILL)
    end = handle.wait(timeout_s=20).exit
    assert end is not None
    assert (end.code, end.signal) == (137, 9)


def test_signal_reaches_the_handler(bench: Bench) -> None:
    """The first process gets the signals that it handles."""
    handle = bench.start(ContainerSpec(name="one", command=HANDLES_TERM))
    bench.until(handle, lambda: b"ready" in _said(handle.logs()[0], "stdout"))
    handle.signal(signal.SIGTERM)
    end = handle.wait(timeout_s=20).exit
    assert end is not None
    assert (end.code, end.signal) == (7, 0)


def test_signal_that_is_not_handled_passes_the_first_process_by(bench: Bench) -> None:
    """The first process of a PID namespace ignores what it does not handle (pid_namespaces(7))."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    handle.signal(signal.SIGTERM)
    assert handle.wait(timeout_s=0.1).status == "running"


def test_signal_after_the_end_does_nothing(bench: Bench) -> None:
    """Signalling an exited container is no error and changes nothing."""
    handle = bench.start(ContainerSpec(name="one", command=("true",)))
    before = handle.wait()
    handle.signal(signal.SIGKILL)
    assert handle.state() == before


def test_restart_keeps_the_files(bench: Bench) -> None:
    """A container that is started again finds the files it left, and has no exit any more."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    _run(handle, "sh", "-c", "echo kept > /srv/file")
    address = handle.ip
    handle.signal(signal.SIGKILL)
    handle.wait()
    handle.start()
    state = handle.state()
    assert (state.status, state.exit, handle.ip) == ("running", None, address)
    assert _run(handle, "cat", "/srv/file") == "kept\n"


def test_restart_goes_on_with_the_log(bench: Bench) -> None:
    """The output of a second life follows that of the first."""
    handle = bench.start(ContainerSpec(name="one", command=("echo", "life")))
    handle.wait()
    chunks, position = handle.logs()
    handle.start()
    handle.wait()
    assert _said(chunks, "stdout") == _said(handle.logs(position)[0], "stdout") == b"life\n"


def test_command_that_is_not_found_is_told(bench: Bench) -> None:
    """A start without its command raises with the command's name and leaves nothing running."""
    handle = bench.create(ContainerSpec(name="one", command=("no-such-command", "--flag")))
    with pytest.raises(CommandNotFound, match="no-such-command") as caught:
        handle.start()
    assert caught.value.exit_code == 127
    assert handle.state().status == "created"


def test_command_that_may_not_be_executed_is_told(bench: Bench) -> None:
    """A start of a file without the right to execute raises with exit code 126."""
    handle = bench.create(ContainerSpec(name="one", command=("/srv/plain",), files={"/srv/plain": b"text\n"}))
    with pytest.raises(CommandNotExecutable, match="/srv/plain") as caught:
        handle.start()
    assert caught.value.exit_code == 126
    assert handle.state().status == "created"


def test_interpreter_that_is_missing_is_told_apart(bench: Bench) -> None:
    """A script whose interpreter is missing is not a command that is missing."""
    script = "#!/no/such/interpreter"
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    _run(handle, "sh", "-c", f"echo '{script}' > /srv/script")
    result = handle.exec(ExecSpec(argv=("/srv/script",)))
    assert result.exit_code == 126  # not executable yet
    other = bench.create(ContainerSpec(name="two", command=("/srv/script",)))
    bench.put(other, "/srv/script", script.encode() + b"\n", mode=0o755)
    with pytest.raises(InterpreterMissing, match="/no/such/interpreter"):
        other.start()
    assert other.state().status == "created"


def test_container_that_failed_to_start_can_be_started_again(bench: Bench) -> None:
    """A start that failed leaves the container as it was created."""
    handle = bench.create(ContainerSpec(name="one", command=("/srv/tool",)))
    with pytest.raises(CommandNotFound):
        handle.start()
    bench.put(handle, "/srv/tool", b"#!/bin/sh\nexit 4\n", mode=0o755)
    handle.start()
    end = handle.wait().exit
    assert end is not None
    assert end.code == 4


def test_unknown_user_is_told(bench: Bench) -> None:
    """A user that the container's own passwd does not know is named."""
    handle = bench.create(ContainerSpec(name="one", command=SLEEP, user="nobody-knows"))
    with pytest.raises(ContainersError, match="nobody-knows"):
        handle.start()
    assert handle.state().status == "created"


def test_streams_are_logged_apart(bench: Bench) -> None:
    """Standard output and error are two streams, complete when the process has ended."""
    handle = bench.start(ContainerSpec(name="one", command=("sh", "-c", "echo out; echo err >&2")))
    handle.wait()
    chunks, _ = handle.logs()
    assert (_said(chunks, "stdout"), _said(chunks, "stderr")) == (b"out\n", b"err\n")
    times = [chunk.time for chunk in chunks]
    assert times == sorted(times)
    assert times[0] > 1_600_000_000


def test_log_is_complete_however_long(bench: Bench) -> None:
    """More output than a pipe holds is there when the process has ended (pipe(7), 64 KiB)."""
    handle = bench.start(ContainerSpec(name="one", command=("head", "-c", "300000", "/dev/zero")))
    handle.wait()
    assert len(_said(handle.logs()[0], "stdout")) == 300_000


def test_log_position_gives_what_is_new(bench: Bench) -> None:
    """Asking from a position returns what was written after it, each byte once."""
    handle = bench.start(ContainerSpec(name="one", command=HANDLES_TERM))
    bench.until(handle, lambda: bool(handle.logs()[0]))
    first, position = handle.logs()
    again, same = handle.logs(position)
    assert again == ()
    assert same == position
    handle.signal(signal.SIGKILL)
    handle.wait()
    rest, end = handle.logs(position)
    assert end >= position
    assert _said((*first, *rest), "stdout") == _said(handle.logs()[0], "stdout")


def test_remove_may_be_done_twice(bench: Bench) -> None:
    """Removing ends a running container, frees its name, and may be repeated."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    handle.remove()
    handle.remove()
    assert bench.start(ContainerSpec(name="one", command=SLEEP)).id != handle.id


def test_removed_container_is_told(bench: Bench) -> None:
    """Whatever is asked of a container after its removal is an error of the engine."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    handle.remove()
    for ask in (handle.state, handle.start, handle.tree.changes):
        with pytest.raises(EngineError):
            ask()


def test_exec_needs_a_running_container(bench: Bench) -> None:
    """Exec raises NotRunning before the start and after the end."""
    handle = bench.create(ContainerSpec(name="one", command=("true",)))
    with pytest.raises(NotRunning):
        handle.exec(ExecSpec(argv=("true",)))
    handle.start()
    handle.wait()
    with pytest.raises(NotRunning):
        handle.exec(ExecSpec(argv=("true",)))
