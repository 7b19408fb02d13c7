"""Attacks on the standard input of an exec: nothing of it is a file of the host's."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.spec import ContainerSpec, ExecSpec

if TYPE_CHECKING:
    from pytest_containers.engines.native_container import NativeHandle
    from tests.runtime.conftest import Boxes

pytestmark = pytest.mark.kernel

_PATIENCE_S: Final = 30.0
_LOOK: Final = """
import os, stat
for number in (0, 1, 2):
    seen = os.fstat(number)
    print(number, stat.S_IFMT(seen.st_mode), seen.st_dev)
"""


def _exec(*argv: str, stdin: bytes = b"", user: str | None = None) -> ExecSpec:
    return ExecSpec(argv=argv, stdin=stdin, timeout_s=_PATIENCE_S, user=user)


@pytest.mark.parametrize("stdin", [b"", b"words", bytes(1 << 20)])
def test_streams_of_an_exec_are_on_no_file_system_of_the_host(idle: NativeHandle, stdin: bytes) -> None:
    """All three are pipes, so there is nothing to fill and no mount to look into (open_by_handle_at(2))."""
    result = idle.exec(_exec(sys.executable, "-I", "-S", "-c", _LOOK, stdin=stdin))
    rows = [line.split() for line in result.stdout.splitlines()]
    pipe = os.pipe()
    try:
        device = os.fstat(pipe[0]).st_dev
    finally:
        for end in pipe:
            os.close(end)
    assert rows == [[str(number), str(stat.S_IFIFO), str(device)] for number in (0, 1, 2)]
    assert device != os.stat(tempfile.gettempdir()).st_dev


def test_exec_cannot_write_into_its_standard_input(idle: NativeHandle) -> None:
    """What was the host's disk to fill takes not even a byte by its descriptor."""
    result = idle.exec(_exec("/bin/sh", "-c", "echo attack >&0", stdin=b"words"))
    assert result.exit_code != 0


def test_input_larger_than_a_pipe_is_read_whole_while_output_comes(idle: NativeHandle) -> None:
    """A filter that writes as it reads gets all of its input, and its output comes whole."""
    content = os.urandom(3_000_000)
    assert idle.exec(_exec("cat", stdin=content)).stdout_bytes == content


def test_input_that_nobody_reads_holds_nobody(boxes: Boxes) -> None:
    """A process that ends, or closes its input, before it has read all of it ends the exec."""
    box = boxes.start(ContainerSpec(name="box", command=("sleep", "1000")))
    before = len(os.listdir("/proc/self/fd"))
    content = bytes(3_000_000)
    assert box.exec(_exec("true", stdin=content)).exit_code == 0
    assert box.exec(_exec("/bin/sh", "-c", "exec 0<&-; sleep 0.2; echo on", stdin=content)).stdout == "on\n"
    assert box.exec(_exec("head", "-c", "3", stdin=content)).stdout_bytes == bytes(3)
    assert box.exec(_exec("no-such", stdin=content)).exit_code == 127
    assert len(os.listdir("/proc/self/fd")) == before


def test_input_may_be_opened_by_name(idle: NativeHandle) -> None:
    """A user who is not root reads /dev/stdin, as in Docker."""
    assert idle.exec(_exec("cat", "/dev/stdin", stdin=b"words", user="1000")).stdout == "words"


def test_input_ends_for_what_an_exec_leaves_behind(boxes: Boxes) -> None:
    """A process left in the background that reads on sees the end of its input, and no host waits for it."""
    box = boxes.start(ContainerSpec(name="box", command=("sleep", "1000")))
    line = "(wc -c < /proc/self/fd/3 > /left) 3<&0 & :"
    assert box.exec(_exec("/bin/sh", "-c", line, stdin=bytes(3_000_000))).exit_code == 0
    deadline = time.monotonic() + _PATIENCE_S
    while not box.exec(_exec("cat", "/left")).stdout:
        assert time.monotonic() < deadline
