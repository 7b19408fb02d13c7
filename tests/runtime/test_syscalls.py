"""Laws of the calls that Python has no name for: each does what its manual page says."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.runtime import syscalls

if TYPE_CHECKING:
    from tests.runtime.conftest import Apart

pytestmark = pytest.mark.kernel


def _end(child: syscalls.Child) -> int:
    """Return the exit code of a child of `clone`."""
    ended = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    os.close(child.pidfd)
    assert ended is not None
    return ended.si_status


def _status(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:"))


def _peer_sees(pid: int) -> str:
    """Return whether a process without capabilities may open another one's program (ptrace(2))."""
    peer = syscalls.clone(0)
    if peer.pid == 0:
        syscalls.capset(0, 0, 0)
        os._exit(0 if os.access(f"/proc/{pid}/exe", os.R_OK) else 1)
    return "closed" if _end(peer) else "open"


def test_clone_returns_twice(apart: Apart) -> None:
    """The parent gets pid and pidfd, close-on-exec; the child gets zero and may tell its end."""

    def twice() -> tuple[bool, bool, int]:
        child = syscalls.clone(0)
        if child.pid == 0:
            os._exit(7 if child.pidfd == -1 else 8)
        return child.pid > 0, os.get_inheritable(child.pidfd), _end(child)

    assert apart(twice) == (True, False, 7)


def test_clone_child_is_whole_python(apart: Apart) -> None:
    """The child's interpreter works: it makes threads, which end, and forks again."""

    def works() -> int:
        child = syscalls.clone(0)
        if child.pid == 0:
            done = threading.Event()
            threading.Thread(target=done.set).start()
            again = syscalls.clone(0)
            if again.pid == 0:
                os._exit(3)
            os._exit(0 if done.wait(10) and _end(again) == 3 else 1)
        return _end(child)

    assert apart(works) == 0


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        (syscalls.CLONE_NEWNS, "mnt"),
        (syscalls.CLONE_NEWUTS, "uts"),
        (syscalls.CLONE_NEWIPC, "ipc"),
        (syscalls.CLONE_NEWNET, "net"),
        (syscalls.CLONE_NEWCGROUP, "cgroup"),
        (syscalls.CLONE_NEWUSER, "user"),
    ],
)
def test_clone_makes_the_namespaces_that_are_named(apart: Apart, flag: int, name: str) -> None:
    """A child with a flag is in a namespace of that kind of its own, and in our others."""

    def look() -> dict[str, str]:
        return {
            kind: os.readlink(f"/proc/self/ns/{kind}")
            for kind in ("mnt", "uts", "ipc", "net", "cgroup", "user")
        }

    def within() -> list[str]:
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        before = look()
        child = syscalls.clone(flag)
        if child.pid == 0:
            os.write(theirs, json.dumps(look()).encode())
            os._exit(0)
        os.close(theirs)
        after: dict[str, str] = json.loads(os.read(ours, 1 << 16))
        assert _end(child) == 0
        return [kind for kind in before if before[kind] != after[kind]]

    assert apart(within) == [name]


def test_clone_makes_a_process_namespace(apart: Apart) -> None:
    """With CLONE_NEWPID the child is process 1 of its namespace."""
    assert apart(os.getpid, flags=syscalls.CLONE_NEWPID) == 1


def test_clone_with_our_parent_as_parent(apart: Apart) -> None:
    """With CLONE_PARENT the caller's parent is the child's, and the child's end is its to see."""

    def brothers() -> bool:
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        first = syscalls.clone(0)
        if first.pid == 0:
            second = syscalls.clone(syscalls.CLONE_PARENT)
            if second.pid == 0:
                os._exit(5)
            os.write(theirs, str(second.pid).encode())
            os._exit(0)
        assert _end(first) == 0
        pid = int(os.read(ours, 20))
        return _end(syscalls.Child(pid, os.pidfd_open(pid))) == 5

    assert apart(brothers)


def test_clone_refused_says_why() -> None:
    """What the kernel refuses is an OSError with its errno, in the parent."""
    with pytest.raises(OSError, match="clone3") as caught:
        syscalls.clone(0x1_0000_0000 << 8)
    assert caught.value.errno == errno.EINVAL


def test_unshare_leaves_a_namespace(apart: Apart) -> None:
    """After unshare a change of the host name stays inside."""
    before = os.uname().nodename

    def rename() -> str:
        import socket

        syscalls.unshare(syscalls.CLONE_NEWUTS)
        socket.sethostname("elsewhere")
        return os.uname().nodename

    assert apart(rename) == "elsewhere"
    assert os.uname().nodename == before


def test_setns_joins_all_at_once(apart: Apart) -> None:
    """A pidfd and two flags bring us into two namespaces of that process (setns(2), Linux 5.8)."""

    def join() -> list[bool]:
        import socket

        ours, theirs = socket.socketpair()
        child = syscalls.clone(syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWNET)
        if child.pid == 0:
            socket.sethostname("inside")
            ours.close()
            theirs.send(b"x")
            theirs.recv(1)
            os._exit(0)
        theirs.close()
        ours.recv(1)
        net = os.readlink("/proc/self/ns/net")
        syscalls.setns(child.pidfd, syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWNET)
        found = [os.uname().nodename == "inside", os.readlink("/proc/self/ns/net") != net]
        ours.close()
        _end(child)
        return found

    assert apart(join) == [True, True]


def test_close_range_closes_all_from_a_number_on(apart: Apart) -> None:
    """No descriptor at or above the number is open afterwards, those below are."""

    def close() -> tuple[list[bool], list[bool]]:
        wanted = [3, 100, 700]
        for number in wanted:
            os.dup2(0, number)
        kept = os.open("/dev/null", os.O_RDONLY)
        told = [number for number in range(3, 1000) if os.path.exists(f"/proc/self/fd/{number}")]
        assert kept in told
        child = syscalls.clone(0)
        if child.pid == 0:
            syscalls.close_range(4)
            found = [
                number for number in (0, 1, 2, 3, 4, 100, 700) if os.path.exists(f"/proc/self/fd/{number}")
            ]
            os._exit(0 if found == [0, 1, 2, 3] else 1)
        return [_end(child) == 0], [os.path.exists(f"/proc/self/fd/{number}") for number in wanted]

    assert apart(close) == ([True], [True, True, True])


def test_parent_death_signal_is_sent(apart: Apart) -> None:
    """A child that asked for it gets its signal when the process that forked it ends."""

    def orphan() -> bytes:
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        parent = syscalls.clone(0)
        if parent.pid == 0:
            ready, tell = os.pipe2(os.O_CLOEXEC)
            if syscalls.clone(0).pid == 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
                syscalls.parent_death_signal(signal.SIGUSR1)
                os.write(tell, b"x")
                signal.sigwait({signal.SIGUSR1})
                os.write(theirs, b"told")
                os._exit(0)
            os.read(ready, 1)
            os._exit(0)
        os.close(theirs)
        _end(parent)
        return os.read(ours, 10)

    assert apart(orphan, flags=syscalls.CLONE_NEWPID) == b"told"


def test_no_new_privileges_are_set(apart: Apart) -> None:
    """The bit that execve(2) obeys is set, for the caller alone."""

    def set_it() -> str:
        syscalls.no_new_privileges()
        return _status("NoNewPrivs")

    assert apart(set_it) == "1"
    assert _status("NoNewPrivs") == "0"


def test_process_hidden_from_tracers_is_closed_to_its_like(apart: Apart) -> None:
    """Another process of the same user and capabilities cannot look into one that hides, until its exec."""

    def look() -> list[str]:
        found = []
        for hides in (False, True):
            ready, tell = os.pipe2(os.O_CLOEXEC)
            ended, end = os.pipe2(os.O_CLOEXEC)
            child = syscalls.clone(0)
            if child.pid == 0:
                os.close(end)
                if hides:
                    syscalls.hide_from_tracers()
                syscalls.capset(0, 0, 0)
                os.write(tell, b"x")
                os.read(ended, 1)
                os._exit(0)
            os.read(ready, 1)
            found.append(_peer_sees(child.pid))
            os.close(end)
            _end(child)
        return found

    assert apart(look) == ["open", "closed"]


def test_capset_sets_three_masks(apart: Apart) -> None:
    """Effective, permitted and inheritable are what was asked, in both halves; the ambient set is empty."""
    mask = 1 << 0 | 1 << 21 | 1 << 34

    def change() -> list[int]:
        syscalls.capset(1 << 34, mask, 1 << 21)
        return [int(_status(name), 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")]

    assert apart(change) == [1 << 34, mask, 1 << 21, 0]


def test_capset_refuses_what_one_does_not_have(apart: Apart) -> None:
    """Nobody gives himself a capability that is not permitted."""

    def change() -> None:
        syscalls.capset(0, 0, 0)
        syscalls.capset(1 << 21, 1 << 21, 0)

    with pytest.raises(PermissionError, match="capset"):
        apart(change)


def test_bounding_set_loses_one(apart: Apart) -> None:
    """One number leaves the bounding set, the others stay."""
    before = int(_status("CapBnd"), 16)

    def drop() -> int:
        syscalls.cap_drop_bounding(27)
        return int(_status("CapBnd"), 16)

    assert apart(drop) == before & ~(1 << 27)


def test_signals_of_the_library_are_reset() -> None:
    """Signals 32 and 33, which posix_spawn(3) leaves ignored and signal(2) refuses, are ignored no more."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pytest_containers.runtime import syscalls\n"
        "syscalls.reset_library_signals()\n"
        "ignored = [line for line in open('/proc/self/status') if line.startswith('SigIgn')]\n"
        "sys.exit(int(ignored[0].split()[1], 16) >> 31 & 3)\n"
    )
    root = str(Path(__file__).parents[2])
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code, root], os.environ)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
