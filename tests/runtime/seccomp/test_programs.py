"""Laws of programs under the project's own profile: what is common runs as it does without a filter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.spec import ContainerSpec

if TYPE_CHECKING:
    from tests.runtime.conftest import Boxes

pytestmark = pytest.mark.kernel

_SPEC: Final = ContainerSpec(name="box")
# A C library begins threads and processes by clone3 and falls back to clone where that is not there.
_THREADS: Final = """
import concurrent.futures, multiprocessing, subprocess, threading
with concurrent.futures.ThreadPoolExecutor(20) as pool:
    total = sum(pool.map(lambda n: n, range(100)))
with multiprocessing.get_context("fork").Pool(3) as pool:
    total += sum(pool.map(abs, range(100)))
total += int(subprocess.run(["sh", "-c", "echo 1 | cat"], capture_output=True).stdout)
print(total)
"""
_WAITING: Final = """
import asyncio, mmap, os, select, signal, socket, tempfile
async def talk():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
asyncio.run(talk())
with tempfile.TemporaryFile() as file:
    file.truncate(1 << 20)
    mmap.mmap(file.fileno(), 0).flush()
    os.fsync(file.fileno())
for family, kind in ((socket.AF_UNIX, socket.SOCK_DGRAM), (socket.AF_INET6, socket.SOCK_STREAM), (16, 3)):
    socket.socket(family, kind).close()
os.close(os.memfd_create("x"))
os.close(os.eventfd(0)) if hasattr(os, "eventfd") else None
select.epoll().close()
signal.setitimer(signal.ITIMER_REAL, 100)
os.sched_setaffinity(0, os.sched_getaffinity(0))
os.setpriority(os.PRIO_PROCESS, 0, 1)
print("well")
"""
# A sandbox within: no new privileges, and a filter of the program's own that allows everything.
_FILTER_WITHIN: Final = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
program = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000), 8)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
whole = Program(1, ctypes.addressof(program))
assert libc.prctl(22, 2, ctypes.byref(whole), 0, 0) == 0, ctypes.get_errno()
print(open("/proc/self/status").read().split("Seccomp_filters:")[1].split()[0])
"""
# PTRACE_TRACEME, then the parent reads a register's worth of the child (ptrace(2)).
_TRACE: Final = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
child = os.fork()
if child == 0:
    assert libc.ptrace(0, 0, 0, 0) == 0
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(7)
_, status = os.waitpid(child, os.WUNTRACED)
assert os.WIFSTOPPED(status)
assert libc.ptrace(7, child, 0, 0) == 0
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("user", ["0", "1000"])
@pytest.mark.parametrize(
    ("program", "said"),
    [(_THREADS, "9901\n"), (_WAITING, "well\n"), (_FILTER_WITHIN, "2\n"), (_TRACE, "7\n")],
    ids=["threads and processes", "waiting", "a filter within", "a tracer"],
)
def test_program_runs_under_the_profile(boxes: Boxes, program: str, said: str, user: str) -> None:
    """Threads, processes, sockets, files, tracers and sandboxes work, as root and as another user."""
    assert boxes.said(replace(_SPEC, command=("python3", "-c", program), user=user)) == said


def test_profile_of_a_test_decides(boxes: Boxes) -> None:
    """A profile that was named refuses what it says, with its error, and ends whom it says."""
    profile = (
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": ['
        '{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},'
        '{"names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS"}]}'
    )
    line = "mkdir /srv/x 2>&1; hostname other; echo $?"
    said = boxes.said(replace(_SPEC, command=("sh", "-c", line), seccomp=profile))
    assert "No space left on device" in said
    assert said.splitlines()[-1] == str(128 + 31)  # SIGSYS
