"""The first process of a container with init=True: it reaps, forwards signals and tells the exit code."""

from __future__ import annotations

import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import CommandNotExecutable, CommandNotFound
from pytest_containers.runtime import reaper

if TYPE_CHECKING:
    from pytest_containers import ContainerFactory

# An orphan that ends at once: its parent has ended before it, so pid 1 has to wait for it.
ORPHANS: Final = "for n in 1 2 3 4 5; do (true &); done"
# Says which signals it got.
LISTENS: Final = """
import signal, sys, time
def got(number, frame):
    print("got", number, flush=True)
for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGRTMIN + 3, signal.SIGWINCH):
    signal.signal(number, got)
print("ready", flush=True)
while True:
    signal.pause()
"""
HOG: Final = "x = b'x' * (100 << 20)"


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_program_is_a_static_executable(machine: str, number: int) -> None:
    """The ELF file is for the machine, begins in its one segment, and needs no loader."""
    program = reaper.program(machine)
    assert program[:7] == b"\x7fELF\x02\x01\x01"
    kind, machine_number, _, entry, segments = struct.unpack_from("<HHIQQ", program, 16)
    assert (kind, machine_number, segments) == (2, number, 64)
    load, flags, offset, address, _, size, in_memory, _ = struct.unpack_from("<IIQQQQQQ", program, 64)
    assert (load, flags, offset) == (1, 5, 0)
    assert size == in_memory == len(program) < 4096
    assert address < entry < address + size
    (second,) = struct.unpack_from("<I", program, 64 + 56)
    assert second == 0x6474E551  # the stack, and neither PT_INTERP nor PT_DYNAMIC


@pytest.mark.kernel
def test_orphans_are_reaped(container: ContainerFactory) -> None:
    """With init=True no orphan stays as a zombie; without, it does where the command does not wait."""
    plain = container("host", command="sleep 600")
    plain.exec(["sh", "-c", ORPHANS])
    _until(lambda: len(plain.top()) == 6)
    box = container("host", command="sleep 600", init=True)
    for _ in range(20):
        box.exec(["sh", "-c", ORPHANS], check=True)
    _until(lambda: [one.command for one in box.top()] == ["init 2", "sleep 600"])


@pytest.mark.kernel
def test_stop_ends_a_command_that_handles_nothing(container: ContainerFactory) -> None:
    """SIGTERM ends the command as it does on any machine, and the exit code says so."""
    box = container("host", command="sleep 600", init=True, stop_timeout=20)
    begun = time.monotonic()
    box.stop()
    assert box.exit_code == 143
    assert time.monotonic() - begun < 10
    box.start()
    box.kill()
    assert box.exit_code == 137


@pytest.mark.kernel
def test_signals_reach_the_command(container: ContainerFactory) -> None:
    """Every signal but SIGCHLD is the command's, real-time signals too."""
    command = [sys.executable, "-S", "-c", LISTENS]
    box = container("host", command=command, init=True, ready=lambda box: "ready" in box.logs())
    for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGRTMIN + 3, signal.SIGWINCH):
        box.signal(number)
        _until(lambda number=number: f"got {int(number)}\n" in box.logs())  # type: ignore[misc]
    assert box.state == "running"


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -SEGV $$", 139)],
)
def test_exit_code_is_the_commands(container: ContainerFactory, script: str, code: int) -> None:
    """The container ends with the command, with its code or with 128 and its signal."""
    box = container("host", command=["sh", "-c", f"sleep 600 & {script}"], init=True, ready=lambda _: True)
    assert box.wait(timeout=20) == code


@pytest.mark.kernel
def test_command_that_cannot_be_executed_is_told(container: ContainerFactory) -> None:
    """A command that is not there fails the start as it does without init."""
    with pytest.raises(CommandNotFound, match="no-such"):
        container("host", command="no-such", init=True)
    with pytest.raises(CommandNotExecutable):
        container("host", command="/etc/passwd", init=True)


@pytest.mark.kernel
def test_command_has_its_user_its_limits_and_its_descriptors(container: ContainerFactory) -> None:
    """What the command is started with is the same as without init."""
    show = [
        "sh",
        "-c",
        "id -u; ulimit -n; pwd; ls /proc/self/fd; grep -E '^(Cap|SigBlk|SigIgn|Seccomp:)' /proc/self/status",
    ]
    shown = []
    for init in (False, True):
        box = container(
            "host",
            command=show,
            init=init,
            user="nobody",
            workdir="/srv",
            ulimits={"nofile": 99},
            ready=lambda _: True,
        )
        assert box.wait(timeout=20) == 0
        shown.append(box.logs())
    assert shown[0] == shown[1]


@pytest.mark.kernel
def test_first_process_is_small_and_cannot_be_changed(container: ContainerFactory) -> None:
    """The program takes less than 100 KiB and root inside cannot write to its file."""
    box = container("host", command="sleep 600", init=True)
    status = box.exec(["cat", "/proc/1/status"], check=True).stdout
    (resident,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    assert int(resident.split()[1]) < 100
    assert box.exec(["sh", "-c", "echo x >> /proc/1/exe"]).exit_code != 0
    box.exec(["chmod", "000", "/proc/1/exe"])
    assert container("host", command="true", init=True, ready=lambda _: True).wait(timeout=20) == 0


@pytest.mark.kernel
def test_want_of_memory_is_told_with_init_too(container: ContainerFactory) -> None:
    """A command that was killed for want of memory is reported so."""
    command = [sys.executable, "-S", "-c", HOG]
    box = container("host", command=command, init=True, limits={"memory": "48m"}, ready=lambda _: True)
    assert box.wait(timeout=20) == 137
    assert "out of memory" in box.report(1)
