"""Attacks by system calls that no namespace keeps apart, or that open more of the kernel.

Each call is made so that the kernel itself would answer something else than a filter does: with arguments
that are refused before anything happens. So nothing of the machine is changed where a filter is missing.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.runtime.seccomp.numbers import syscall_numbers
from pytest_containers.spec import ContainerSpec, ExecSpec

if TYPE_CHECKING:
    from tests.runtime.conftest import Boxes

pytestmark = pytest.mark.kernel

_IDLE: Final = ("sleep", "1000")
_SPEC: Final = ContainerSpec(name="box", command=_IDLE)
_PATIENCE_S: Final = 20.0
_EPERM: Final = 1
_ENOSYS: Final = 38
# CLONE_NEWUSER; with CLONE_THREAD and without CLONE_SIGHAND it is EINVAL (clone(2)).
_NEWUSER: Final = 0x1000_0000
_THREAD: Final = 0x0001_0000
# Arguments of each call, which the kernel refuses as EINVAL, EFAULT, EBADF and the like.
_CALLS: Final = {
    "unshare": (_NEWUSER | 1,),
    "clone": (_NEWUSER | _THREAD, 0, 0, 0, 0),
    "clone3": (0, 0),
    "setns": (-1, 0),
    "keyctl": (9999, 0, 0, 0, 0),
    "add_key": (0, 0, 0, 0, 0),
    "request_key": (0, 0, 0, 0),
    "io_uring_setup": (0, 0),
    "userfaultfd": (0x7FFF_FFFF,),
    "perf_event_open": (0, 0, 0, 0, 0xFFFF),
    "mount": (0, 0, 0, 0, 0),
    "move_mount": (-1, 0, -1, 0, 0xFFFF),
    "fsopen": (0, 0xFFFF),
    "mbind": (0, 0, 99, 0, 0, 0xFFFF),
    "process_madvise": (-1, 0, 0, 0, 0xFFFF),
    "kcmp": (-1, -1, 0, 0, 0),
}
# Calls that need a capability besides in the kernel: opened by it, they fail as the kernel says.
_OPENED: Final = {
    "SYS_ADMIN": ("unshare", "clone", "clone3", "setns", "perf_event_open", "mount", "move_mount", "fsopen"),
    "SYS_NICE": ("mbind",),
    "SYS_PTRACE": ("process_madvise", "kcmp"),
}
# What runs inside: makes each call of the table and writes the number of its error, or 0.
_CALL: Final = """
import ctypes, json, sys
call = ctypes.CDLL(None, use_errno=True).syscall
def error(number, arguments):
    ctypes.set_errno(0)
    return ctypes.get_errno() if call(number, *map(ctypes.c_long, arguments)) == -1 else 0
print(json.dumps({name: error(*one) for name, one in json.loads(sys.argv[1]).items()}))
"""


def _errors(boxes: Boxes, spec: ContainerSpec, calls: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the error of each call, made by an exec in a container and by its first process alike."""
    numbers = syscall_numbers(platform.machine())
    table = json.dumps({name: (numbers[name.split()[0]], given) for name, given in calls.items()})
    argv = ("python3", "-c", _CALL, table)
    first: dict[str, int] = json.loads(boxes.said(replace(spec, command=argv)))
    box = boxes.start(spec)
    result = box.exec(ExecSpec(argv=argv, timeout_s=_PATIENCE_S))
    box.remove()
    assert result.exit_code == 0, result
    assert json.loads(result.stdout) == first
    return first


def test_calls_that_open_the_kernel_are_refused(boxes: Boxes) -> None:
    """Namespaces of users, keys, rings, faults, mounts: all are EPERM, and clone3 is not there."""
    expected = {name: _ENOSYS if name == "clone3" else _EPERM for name in _CALLS}
    assert _errors(boxes, _SPEC, _CALLS) == expected
    assert _errors(boxes, replace(_SPEC, user="1000"), _CALLS) == expected
    assert _errors(boxes, replace(_SPEC, no_new_privs=True, user="1000"), _CALLS) == expected


def test_calls_reach_the_kernel_without_a_filter(boxes: Boxes) -> None:
    """The same calls get another answer where nothing judges them: so the refusals are the filter's."""
    open_ = replace(_SPEC, seccomp="unconfined", cap_add=("SYS_ADMIN",))
    for spec in (open_, replace(_SPEC, privileged=True)):
        answers = _errors(boxes, spec, _CALLS)
        refused = {name for name, error in answers.items() if error in (_EPERM, _ENOSYS)}
        assert not refused, answers


@pytest.mark.parametrize("capability", _OPENED)
def test_capability_opens_its_calls_and_no_others(boxes: Boxes, capability: str) -> None:
    """A container that a capability was added to makes the calls that need it, and only these."""
    answers = _errors(boxes, replace(_SPEC, cap_add=(capability,)), _CALLS)
    opened = {name for name, error in answers.items() if error not in (_EPERM, _ENOSYS)}
    assert opened == set(_OPENED[capability]), answers


def test_socket_of_another_machine_is_refused_whatever_its_upper_half(boxes: Boxes) -> None:
    """AF_VSOCK and AF_ALG are EPERM, also where bits stand above the int that the kernel keeps."""
    calls = {
        f"socket {family} {upper}": (upper << 32 | family, 1, 0)
        for family in (38, 40)
        for upper in (0, 1, 0x7FFF)
    }
    assert set(_errors(boxes, _SPEC, calls).values()) == {_EPERM}
    plain = {"socket 1": (1, 1, 0), "socket 2": (2, 1, 0), "socket 16": (16, 3, 0)}
    assert set(_errors(boxes, _SPEC, plain).values()) == {0}


def test_calls_of_another_architecture_are_refused(boxes: Boxes) -> None:
    """A number of x32 is EPERM before the kernel looks whether it knows it."""
    argv = ("python3", "-c", _CALL, json.dumps({"x32": (0x4000_0000 | 39, ())}))
    assert json.loads(boxes.said(replace(_SPEC, command=argv))) == {"x32": _EPERM}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the machine code is that of i386")
def test_i386_call_is_refused(boxes: Boxes) -> None:
    """A 32-bit call by int 0x80 is judged by its architecture, and is EPERM."""
    # mov eax, 20 (getpid of i386); int 0x80; ret
    code = (
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "page.write(bytes.fromhex('b814000000cd80c3'))\n"
        "at = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(at)())\n"
    )
    assert boxes.said(replace(_SPEC, command=("python3", "-c", code))) == "-1\n"


# The key is in the session's own keyring and ends with it; 0xFFFFFFFD is KEY_SPEC_SESSION_KEYRING.
_KEYS: Final = """
import ctypes, sys
call = ctypes.CDLL(None, use_errno=True).syscall
session = ctypes.c_long(-3)
def added(name):
    return call(int(sys.argv[2]), b"user", name, b"secret", ctypes.c_long(6), session)
def found(name):
    return call(int(sys.argv[3]), ctypes.c_long(10), session, b"user", name, ctypes.c_long(0))
print((added if sys.argv[1] == "add" else found)(b"pytest-containers-attack") > 0)
"""


def test_key_of_a_session_stays_in_it(boxes: Boxes) -> None:
    """A key that an exec adds to its session is found by no exec of any container of the run."""
    numbers = syscall_numbers(platform.machine())
    argv = ("python3", "-c", _KEYS, "{}", str(numbers["add_key"]), str(numbers["keyctl"]))
    open_ = replace(_SPEC, seccomp="unconfined")
    one, other = boxes.start(open_), boxes.start(replace(open_, name="other"))
    answers = [
        box.exec(ExecSpec(argv=tuple(word.format(action) if word == "{}" else word for word in argv)))
        for box, action in ((one, "add"), (other, "find"), (one, "find"))
    ]
    assert [answer.stdout for answer in answers] == ["True\n", "False\n", "False\n"], answers


# Looks at everybody for a while and writes the sets of capabilities it has seen.
_WATCH: Final = """
import glob, time
seen, end = set(), time.monotonic() + 30
print("begun", flush=True)
while time.monotonic() < end:
    for path in glob.glob("/proc/[0-9]*/status"):
        try:
            with open(path) as file:
                lines = [line for line in file if line.startswith(("CapPrm", "CapEff", "CapBnd"))]
        except OSError:
            continue
        new = {line.split()[1] for line in lines} - seen
        if new:
            seen |= new
            print(*sorted(new), flush=True)
"""


@pytest.mark.parametrize("user", ["0", "1000"])
def test_exec_is_never_seen_with_more_than_it_gets(boxes: Boxes, user: str) -> None:
    """A watcher that may trace everybody sees no process of an exec with other capabilities than its own."""
    spec = replace(_SPEC, cap_add=("SYS_PTRACE",), command=("python3", "-c", _WATCH))
    box = boxes.start(spec)
    for _ in range(60):
        assert box.exec(ExecSpec(argv=("true",), user=user, timeout_s=_PATIENCE_S)).exit_code == 0
    said = b"".join(chunk.content for chunk in box.logs()[0]).decode().split()
    assert said[0] == "begun"
    # Docker's fourteen with SYS_PTRACE; nothing, for another user.
    assert set(said[1:]) <= {"00000000a80c25fb", "0000000000000000"}, said
