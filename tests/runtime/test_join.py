"""Laws of more processes in a running container: exec, as docker exec does it."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import NotRunning
from pytest_containers.spec import ContainerSpec, ExecSpec
from tests.plugins.clock import scaled

if TYPE_CHECKING:
    from pytest_containers.engines.native_container import NativeHandle
    from tests.runtime.conftest import Boxes, Shell

pytestmark = pytest.mark.kernel

_IDLE: Final = ("sleep", "1000")
_SPEC: Final = ContainerSpec(name="box", command=_IDLE)
_PATIENCE_S: Final = scaled(20.0)


def _exec(line: str, *, timeout_s: float | None = _PATIENCE_S, stdin: bytes = b"") -> ExecSpec:
    return ExecSpec(argv=("/bin/sh", "-c", line), timeout_s=timeout_s, stdin=stdin)


def test_exec_tells_code_and_both_streams(idle: NativeHandle) -> None:
    """The exit code is the program's own, and its two streams come apart."""
    result = idle.exec(_exec("echo out; echo err >&2; exit 7"))
    assert (result.exit_code, result.stdout, result.stderr) == (7, "out\n", "err\n")
    assert result.argv == ("/bin/sh", "-c", "echo out; echo err >&2; exit 7")


@pytest.mark.parametrize(("signal", "code"), [("TERM", 143), ("KILL", 137), ("SEGV", 139)])
def test_exec_ended_by_a_signal_has_a_code_above_128(idle: NativeHandle, signal: str, code: int) -> None:
    """An end by signal n is 128 + n, as in Docker and the shell."""
    assert idle.exec(_exec(f"kill -{signal} $$")).exit_code == code


def test_exec_is_the_user_in_the_folder_with_the_environment(boxes: Boxes) -> None:
    """What an exec names holds for it; what it does not is the container's."""
    spec = replace(_SPEC, env={"A": "container", "B": "container"}, workdir="/usr", user="1000")
    box = boxes.start(spec)
    line = "id -u; pwd; echo $A $B $C"
    assert box.exec(_exec(line)).stdout.split() == ["1000", "/usr", "container", "container"]
    more = replace(_exec(line), user="4711:4712", workdir="/srv", env={"B": "exec", "C": "exec"})
    assert box.exec(more).stdout.split() == ["4711", "/srv", "container", "exec", "exec"]
    assert box.exec(replace(_exec(line), user="root")).stdout.split()[0] == "0"


def test_exec_reads_its_standard_input(idle: NativeHandle) -> None:
    """Bytes given are read to their end, however many; none given is an end at once."""
    assert idle.exec(_exec("cat; echo end", stdin=b"in\0put\n")).stdout_bytes == b"in\0put\nend\n"
    assert idle.exec(_exec("wc -c", stdin=bytes(3_000_000))).stdout.strip() == "3000000"
    assert idle.exec(_exec("cat")).stdout == ""


def test_exec_brings_all_the_output(idle: NativeHandle) -> None:
    """Output of any size on both streams at once is whole, and any bytes are taken as they are."""
    line = "head -c 3000000 /dev/zero & head -c 2000000 /dev/zero >&2; wait"
    result = idle.exec(_exec(line))
    assert (len(result.stdout_bytes), len(result.stderr_bytes)) == (3_000_000, 2_000_000)
    assert idle.exec(_exec("printf '\\377\\000'")).stdout_bytes == b"\xff\x00"


def test_exec_is_in_all_of_the_containers_namespaces(idle: NativeHandle, sh: Shell) -> None:
    """Network, files, processes, name and the rest are those of the first process."""
    line = "for n in mnt uts ipc pid net cgroup user; do readlink /proc/{}/ns/$n; done"
    assert sh(idle, line.format("self")) == sh(idle, line.format("1"))
    assert sh(idle, "cat /proc/self/root/etc/hostname") == f"{idle.id[:12]}\n"


def test_exec_sees_the_mounts_of_the_container(boxes: Boxes, tmp_path: Path) -> None:
    """A bind, a tmpfs and what the first process has written are there."""
    (tmp_path / "mine").write_text("bound")
    spec = ContainerSpec(
        name="box",
        command=("sh", "-c", "echo written > /scratch/file; touch /ready; sleep 1000"),
        tmpfs={"/scratch": 0},
        env={"BOUND": str(tmp_path)},
    )
    box = boxes.start(spec)
    assert box.exec(_exec("until [ -e /ready ]; do :; done; cat /scratch/file")).stdout == "written\n"


def test_exec_may_hold_up_no_other(idle: NativeHandle) -> None:
    """While one exec waits, others begin and end."""
    started = threading.Event()

    def slow() -> int:
        started.set()
        return idle.exec(_exec("until [ -e /dev/shm/go ]; do sleep 0.01; done; rm /dev/shm/go")).exit_code

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(slow)
        started.wait(_PATIENCE_S)
        assert idle.exec(_exec("echo fast")).stdout == "fast\n"
        assert not waiting.done()
        idle.exec(_exec("touch /dev/shm/go"))
        assert waiting.result(_PATIENCE_S) == 0


def test_execs_are_many_at_once(idle: NativeHandle) -> None:
    """Execs from many threads each get their own output."""
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda n: idle.exec(_exec(f"echo {n}; exit {n % 7}")), range(60)))
    assert [(r.stdout, r.exit_code) for r in results] == [(f"{n}\n", n % 7) for n in range(60)]


def test_exec_past_its_time_is_killed(idle: NativeHandle, sh: Shell) -> None:
    """TimeoutError says what ran how long, and the process is gone."""
    with pytest.raises(TimeoutError, match=r"did not end within 0\.1 s"):
        idle.exec(ExecSpec(argv=("sleep", "987"), timeout_s=0.1))
    assert sh(idle, "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 98[7]' || true") == "0\n"
    assert idle.state().status == "running"


def test_exec_without_a_limit_waits(idle: NativeHandle) -> None:
    """No time is set where none was asked for."""
    assert idle.exec(_exec("sleep 0.2; echo done", timeout_s=None)).stdout == "done\n"


def test_exec_returns_when_its_process_ends(boxes: Boxes, sh: Shell) -> None:
    """A process left in the background keeps the streams open and lives on, and nobody waits for it."""
    box = boxes.start(_SPEC)
    result = box.exec(_exec("sleep 986 & echo $!"))
    assert result.exit_code == 0
    sh(box, f"kill {int(result.stdout)}")


def test_exec_returns_when_the_background_floods(boxes: Boxes) -> None:
    """A process left in the background that writes without end holds nobody either."""
    box = boxes.start(_SPEC)
    result = box.exec(_exec("yes & echo started; sleep 0.1"))
    assert result.exit_code == 0
    assert b"started\n" in result.stdout_bytes


@pytest.mark.parametrize(
    ("argv", "code"), [(("/etc/passwd",), 126), (("no-such",), 127), (("",), 127), ((), 127)]
)
def test_exec_that_cannot_run_is_a_result(idle: NativeHandle, argv: tuple[str, ...], code: int) -> None:
    """As in Docker it has exit code 126 or 127 and the reason on its standard error."""
    result = idle.exec(ExecSpec(argv=argv))
    assert (result.exit_code, result.stdout) == (code, "")
    assert "in the container" in result.stderr


def test_exec_as_nobody_we_know_is_a_result(idle: NativeHandle) -> None:
    """A user that the image does not name is Docker's 125."""
    result = idle.exec(replace(_exec("true"), user="no-such-user"))
    assert result.exit_code == 125
    assert "no user 'no-such-user' in the image" in result.stderr


def test_execs_that_fail_leave_nothing(boxes: Boxes) -> None:
    """After many execs that never ran no process of theirs waits to be collected."""
    box = boxes.start(_SPEC)
    before = _children()
    for _ in range(40):
        assert box.exec(ExecSpec(argv=("no-such",))).exit_code == 127
    assert _children() == before


def _children() -> int:
    """Return how many processes descend from this one (proc_pid_stat(5))."""
    parents: dict[int, int] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(") ")[2].split()[1])
        except OSError:
            continue
    family = {os.getpid()}
    while born := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= born
    return len(family)


@pytest.mark.parametrize("started", [False, True])
def test_exec_needs_a_running_container(boxes: Boxes, *, started: bool) -> None:
    """Before the start and after the end there is nothing to join."""
    box = boxes.create(replace(_SPEC, command=("true",)))
    if started:
        box.start()
        assert box.wait(_PATIENCE_S).status == "exited"
    with pytest.raises(NotRunning, match="container box does not run"):
        box.exec(_exec("true"))


def test_exec_ends_with_its_container(boxes: Boxes) -> None:
    """When the first process ends, what was running beside it is killed by the kernel."""
    box = boxes.start(_SPEC)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(box.exec, _exec("echo ready; sleep 1000"))
        assert box.exec(_exec("until grep -q sleep.1000 /proc/[0-9]*/cmdline; do :; done")).exit_code == 0
        box.signal(9)
        assert result.result(_PATIENCE_S).exit_code == 137


def test_exec_does_not_keep_a_container_alive(boxes: Boxes) -> None:
    """Removal waits for no exec."""
    box = boxes.start(_SPEC)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(box.exec, _exec("touch /ready; sleep 1000"))
        box.exec(_exec("until [ -e /ready ]; do :; done"))
        box.remove()
        assert result.result(_PATIENCE_S).exit_code == 137


_SPY: Final = """
import os
seen, highest = set(), os.getpid()
print("ready", flush=True)
while not os.path.exists("/stop"):
    for pid in range(highest - 2, highest + 4):
        if pid != os.getpid():
            try:
                seen.add(os.readlink(f"/proc/{pid}/exe"))
                highest = max(highest, pid)
            except OSError as error:
                seen.add(type(error).__name__)
                if not isinstance(error, FileNotFoundError):
                    highest = max(highest, pid)
print(*sorted(seen), sep="\\n")
"""


def test_exec_cannot_be_looked_into_before_it_is_one(boxes: Boxes) -> None:
    """A process of the container never gets hold of our interpreter through /proc (CVE-2019-5736)."""
    box = boxes.start(replace(_SPEC, command=(sys.executable, "-c", _SPY)))
    while not box.logs()[0]:
        assert box.state().status == "running"
    for _ in range(60):
        box.exec(ExecSpec(argv=("/bin/true",)))
    box.exec(ExecSpec(argv=("touch", "/stop")))
    box.wait(_PATIENCE_S)
    seen = b"".join(chunk.content for chunk in box.logs()[0]).decode().split()
    assert "PermissionError" in seen, "the spy saw none of them in time"
    assert not {"/", os.path.realpath(sys.executable)} & set(seen)  # as a mount of its own it is "/"
