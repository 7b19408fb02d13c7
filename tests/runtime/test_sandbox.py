"""Laws of a container's life: created, running, exited, started again, removed."""

from __future__ import annotations

import io
import json
import signal
import socket
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import CommandNotFound, EngineError, to_wire
from pytest_containers.runtime import sandbox
from pytest_containers.spec import ContainerSpec, ExecSpec, ExitStatus, Stream
from tests.plugins.clock import scaled

if TYPE_CHECKING:
    from pytest_containers.engines.native_container import NativeHandle
    from tests.runtime.conftest import Boxes, Shell

pytestmark = pytest.mark.kernel

_SPEC: Final = ContainerSpec(name="box", command=("sleep", "1000"))
_PATIENCE_S: Final = scaled(20.0)


def _shell(line: str) -> ContainerSpec:
    return replace(_SPEC, command=("/bin/sh", "-c", line))


def _content(box: NativeHandle, stream: Stream) -> bytes:
    return b"".join(chunk.content for chunk in box.logs()[0] if chunk.stream == stream)


def _until_said(box: NativeHandle, word: bytes) -> None:
    """Wait until *word* is in the log."""
    deadline = time.monotonic() + _PATIENCE_S
    while word not in _content(box, "stdout"):
        assert time.monotonic() < deadline, f"{word!r} was not said"
        threading.Event().wait(0.005)


def test_container_goes_through_its_states(boxes: Boxes) -> None:
    """Created, running, exited: with the exit status, and times that are told when they are known."""
    before = time.time()
    box = boxes.create(_shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done"))
    state = box.state()
    assert (state.status, state.exit, state.started_at, state.finished_at) == ("created", None, 0.0, 0.0)
    box.start()
    _until_said(box, b"ready")
    state = box.state()
    assert (state.status, state.exit, state.finished_at) == ("running", None, 0.0)
    box.signal(signal.SIGTERM)
    ended = box.wait(_PATIENCE_S)
    assert (ended.status, ended.exit, ended.started_at) == ("exited", ExitStatus(code=3), state.started_at)
    assert before <= ended.started_at <= ended.finished_at <= time.time()


@pytest.mark.parametrize("code", [0, 1, 3, 126, 127, 255])
def test_container_exit_code_is_the_programs(boxes: Boxes, code: int) -> None:
    """What the first process returns is told as it is."""
    box = boxes.start(_shell(f"exit {code}"))
    assert box.wait(_PATIENCE_S).exit == ExitStatus(code=code)


def test_container_ended_by_a_signal_says_which(boxes: Boxes) -> None:
    """An end by a signal is told as 128 + n, with the signal."""
    box = boxes.start(_SPEC)
    box.signal(signal.SIGKILL)
    assert box.wait(_PATIENCE_S).exit == ExitStatus(code=137, signal=9)


def test_container_first_process_gets_signals(boxes: Boxes) -> None:
    """A signal reaches the first process, which may handle it; process 1 has no default for it."""
    box = boxes.start(_shell("trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.01; done"))
    _until_said(box, b"ready")
    box.signal(signal.SIGTERM)
    assert box.wait(_PATIENCE_S).exit == ExitStatus(code=5)
    assert _content(box, "stdout") == b"ready\ngot\n"


def test_container_signal_after_the_end_is_nothing(boxes: Boxes) -> None:
    """To signal what has ended, or has not begun, changes nothing."""
    box = boxes.create(_shell("exit 4"))
    box.signal(signal.SIGTERM)
    box.start()
    box.wait(_PATIENCE_S)
    box.signal(signal.SIGKILL)
    assert box.state().exit == ExitStatus(code=4)


def test_container_signal_that_is_none_is_refused(idle: NativeHandle) -> None:
    """A number that no signal has is an error, and the container runs on."""
    with pytest.raises(EngineError):
        idle.signal(1000)
    assert idle.state().status == "running"


def test_container_wait_ends_with_its_time(idle: NativeHandle) -> None:
    """A wait that is over before the container is brings the state as it is."""
    assert idle.wait(0.01).status == "running"
    assert idle.wait(0).status == "running"
    assert idle.wait(-1).status == "running"


def test_container_wait_before_the_start_brings_the_state(boxes: Boxes) -> None:
    """Of a container that was never started there is nothing to wait for."""
    assert boxes.create(_SPEC).wait(_PATIENCE_S).status == "created"


def test_container_is_waited_for_by_many(boxes: Boxes) -> None:
    """Every waiting thread sees the end, whoever comes first."""
    box = boxes.start(_SPEC)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(box.wait, _PATIENCE_S) for _ in range(8)]
        box.signal(signal.SIGKILL)
        assert {state.result(_PATIENCE_S).status for state in waiting} == {"exited"}


def test_container_starts_again_on_its_files(boxes: Boxes, sh: Shell) -> None:
    """What was written stays, tmpfs and shared memory begin anew, the address is the same."""
    spec = replace(
        _shell("echo x >> /kept; echo x >> /scratch/lost; echo x >> /dev/shm/lost; exec sleep 1000"),
        tmpfs={"/scratch": 0},
    )
    box = boxes.start(spec)
    ip = sh(box, "until [ -s /dev/shm/lost ]; do :; done; hostname -I; hostname")
    box.signal(signal.SIGKILL)
    first = box.wait(_PATIENCE_S)
    box.start()
    again = box.state()
    assert (again.status, again.exit, again.finished_at) == ("running", None, 0.0)
    assert again.started_at >= first.finished_at
    line = "until [ -s /dev/shm/lost ]; do :; done; cat /kept /scratch/lost /dev/shm/lost | wc -l"
    assert sh(box, line) == "4\n"
    assert sh(box, "hostname -I; hostname") == ip


def test_container_running_is_not_started_again(boxes: Boxes) -> None:
    """To start what runs changes nothing."""
    box = boxes.start(_SPEC)
    before = box.state()
    box.start()
    assert box.state() == before


def test_container_that_did_not_start_may_start_later(boxes: Boxes) -> None:
    """A failed start leaves it created; when its files are mended it runs."""
    box = boxes.create(replace(_SPEC, command=("/tool",)))
    for _ in range(3):
        with pytest.raises(CommandNotFound):
            box.start()
        assert box.state().status == "created"
        assert box.logs() == ((), 0)
    _write(box, "tool", b"#!/bin/sh\necho mended\n")
    box.start()
    assert box.wait(_PATIENCE_S).exit == ExitStatus(code=0)
    assert _content(box, "stdout") == b"mended\n"


def _write(box: NativeHandle, name: str, content: bytes) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as out:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o755
        out.addfile(entry, io.BytesIO(content))
    tar.seek(0)
    box.tree.write("/", tar)


def test_start_tells_the_childs_reason_when_our_message_was_not_read() -> None:
    """A child that ends before it has read what we sent leaves its reason, and not only a reset."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            theirs.send(json.dumps(to_wire(CommandNotFound("no command", mend="install it"))).encode())
            ours.send(b"never read")
        with pytest.raises(CommandNotFound, match="no command"):
            sandbox.raise_if_failed(ours)


def test_log_is_whole_when_the_container_has_ended(boxes: Boxes) -> None:
    """Five megabytes written in the last moment are all there as soon as the end is known."""
    box = boxes.start(_shell("head -c 5000000 /dev/zero; head -c 3 /dev/zero >&2"))
    assert box.wait(_PATIENCE_S).exit == ExitStatus(code=0)
    assert (len(_content(box, "stdout")), len(_content(box, "stderr"))) == (5_000_000, 3)


def test_log_is_whole_when_the_container_is_killed(boxes: Boxes) -> None:
    """What was in the pipe at the kill is in the log."""
    box = boxes.start(_shell("head -c 60000 /dev/zero; echo ready > /dev/shm/x; exec sleep 1000"))
    box.exec(ExecSpec(argv=("sh", "-c", "until [ -s /dev/shm/x ]; do :; done")))
    box.signal(signal.SIGKILL)
    box.wait(_PATIENCE_S)
    assert len(_content(box, "stdout")) == 60_000


def test_log_is_read_while_it_grows(boxes: Boxes) -> None:
    """Output is there soon after it is written, and a position brings what is new."""
    box = boxes.start(_shell("trap 'echo two; exit' TERM; echo one; while :; do sleep 0.01; done"))
    _until_said(box, b"one")
    _, position = box.logs()
    assert box.logs(position) == ((), position)
    box.signal(signal.SIGTERM)
    box.wait(_PATIENCE_S)
    assert [chunk.content for chunk in box.logs(position)[0]] == [b"two\n"]


def test_log_goes_on_after_a_restart(boxes: Boxes) -> None:
    """The log is the container's, not the process's: a second run's output follows the first's."""
    box = boxes.start(_shell("echo run"))
    box.wait(_PATIENCE_S)
    box.start()
    box.wait(_PATIENCE_S)
    assert _content(box, "stdout") == b"run\nrun\n"


def test_log_goes_with_the_container(boxes: Boxes) -> None:
    """After the removal there is nothing to read, and no error either."""
    box = boxes.start(_shell("echo last words"))
    box.wait(_PATIENCE_S)
    _, position = box.logs()
    box.remove()
    assert box.logs(position) == ((), position)
    assert box.logs() == ((), 0)


def test_log_of_one_holds_up_no_other(boxes: Boxes) -> None:
    """While one container floods its output, another is made, run and removed."""
    flood = boxes.start(replace(_shell("exec cat /dev/zero"), name="flood"))
    for number in range(5):
        other = boxes.start(replace(_shell("echo done"), name=f"other{number}"))
        assert other.wait(_PATIENCE_S).exit == ExitStatus(code=0)
        assert _content(other, "stdout") == b"done\n"
    assert flood.state().status == "running"


def test_removal_ends_everything(boxes: Boxes, sh: Shell) -> None:
    """Processes, files and address go; doing it twice is allowed, and what comes after is an error."""
    box = boxes.start(_shell("sleep 1000 & sleep 1000 & exec sleep 1000"))
    sh(box, "touch /file")
    box.remove()
    box.remove()
    for action in (box.state, box.start, box.listening, box.tree.changes):
        with pytest.raises(EngineError, match=f"no container {box.id[:12]}"):
            action()


def test_removal_during_the_start_leaves_nothing(boxes: Boxes) -> None:
    """Whoever comes first, after both there is no process and no container."""
    for number in range(10):
        box = boxes.create(replace(_SPEC, name=f"box{number}"))
        with ThreadPoolExecutor(2) as pool:
            started = pool.submit(box.start)
            pool.submit(box.remove).result(_PATIENCE_S)
            if (error := started.exception(_PATIENCE_S)) is not None:
                assert isinstance(error, EngineError)
        with pytest.raises(EngineError, match="it was removed"):
            box.state()


def test_containers_are_many(boxes: Boxes) -> None:
    """Twenty of one image, made by many threads, each have an address, a name and files of their own."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: boxes.start(replace(_SPEC, name=f"box{n}")), range(20)))
        assert len({box.ip for box in made}) == len({box.id for box in made}) == 20
        names = pool.map(lambda box: box.exec(ExecSpec(argv=("hostname",))).stdout.strip(), made)
        assert list(names) == [box.id[:12] for box in made]


def test_ports_are_those_that_the_container_binds(boxes: Boxes) -> None:
    """Listeners of the container, and of no other, are seen; none before the start or after the end."""
    script = (
        "import socket\n"
        "made = [socket.create_server(('', 5432)), socket.create_server(('127.0.0.1', 5433))]\n"
        "udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(('', 5353))\n"
        "print('ready', flush=True); made[0].accept()\n"
    )
    box = boxes.create(replace(_SPEC, command=(sys.executable, "-c", script)))
    other = boxes.start(replace(_SPEC, name="other"))
    assert box.listening() == frozenset()
    box.start()
    _until_said(box, b"ready")
    assert sorted(str(port) for port in box.listening()) == ["5353/udp", "5432/tcp"]
    assert other.listening() == frozenset()
    with socket.create_connection((box.ip, 5432), timeout=_PATIENCE_S):
        assert box.wait(_PATIENCE_S).exit == ExitStatus(code=0)
    assert box.listening() == frozenset()
