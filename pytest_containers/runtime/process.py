"""How a child becomes the process the user asked for (floor 1).

The last steps of every start and every exec, inside the container's root: working folder, signals,
account, capabilities, filter of system calls, exec. The order is the kernel's: the bounding set falls
while SETPCAP is still held, the filter is loaded while SYS_ADMIN is (seccomp(2)), groups come before the
user, capabilities after it (capabilities(7)).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import stat
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn

from pytest_containers.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainersError,
    InterpreterMissing,
    StartError,
    to_wire,
)
from pytest_containers.runtime import accounts, capabilities, reaper, syscalls
from pytest_containers.runtime.bundle import DEFAULT_PATH, Process
from pytest_containers.runtime.seccomp.filters import Filter
from pytest_containers.spec import Ulimit

__all__ = ["SYNC", "Prepared", "become", "execute", "fail", "prepare", "take_descriptors"]

# Where the child keeps the socket its parent listens on; closed by the exec, which is the news.
SYNC: Final = 3
_EXTRA: Final = 4
_PT_INTERP: Final = 3
_HEAD_BYTES: Final = 4096
# The names without RLIMIT_, by the kernel's numbers (include/uapi/asm-generic/resource.h).
_RESOURCES: Final[Mapping[str, int]] = MappingProxyType(
    {
        name: number
        for number, name in enumerate(
            "cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice"
            " rtprio rttime".split()
        )
    }
)


def take_descriptors(stdin: int, stdout: int, stderr: int, sync: int, extra: int = -1) -> None:
    """Put the five descriptors at 0 to 4 and close all others, those of other containers too.

    The numbers given may lie in each other's way, so all are moved up first (dup2(2)).
    """
    wanted = (stdin, stdout, stderr, sync, extra)
    high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, _EXTRA + 1) if one >= 0 else -1 for one in wanted]
    for number, descriptor in enumerate(high):
        if descriptor >= 0:
            os.dup2(descriptor, number, inheritable=number < SYNC)
    syscalls.close_range(_EXTRA + (extra >= 0))


def fail(error: ContainersError) -> NoReturn:
    """Tell the parent why there will be no exec, and end."""
    try:
        os.write(SYNC, json.dumps(to_wire(error)).encode())
    finally:
        os._exit(error.exit_code)


class Prepared(NamedTuple):
    """What `prepare` leaves to `execute`.

    *filter* where it is still to be loaded; *init* is a descriptor of the program for pid 1, or -1.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    filter: Filter | None
    init: int


def become(process: Process, *, last_capability: int) -> NoReturn:
    """Turn this process into *process*; raises StartError or its kin where that fails.

    *last_capability* is the highest one the kernel knows: /proc may be out of sight by now.
    """
    execute(prepare(process, last_capability=last_capability))


def prepare(process: Process, *, last_capability: int) -> Prepared:
    """Give this process the user, the capabilities and the filter of *process*, and the rest of it.

    A process that an exec makes does this before it clones the one that runs in the container: what others
    there see, and may trace with SYS_PTRACE, never had more (ptrace(2), "access mode checking").
    """
    account = accounts.lookup(process.user)
    env = dict(pair.split("=", 1) for pair in process.env)
    env.setdefault("HOME", account.home)
    init = reaper.prepare() if process.init else -1
    _enter_workdir(process.workdir)
    os.umask(0o022)
    _set_limits(process.ulimits)
    _reset_signals()
    _own_streams(account)
    capabilities.apply_bounding(process.capabilities, last_capability)
    if process.filter is not None and not process.no_new_privs:
        syscalls.load_seccomp_filter(*process.filter)
    os.setgroups(account.groups)
    os.setgid(account.gid)
    os.setuid(account.uid)
    capabilities.apply_sets(process.capabilities, root=account.uid == 0)
    # Another user makes the kernel forget that we are hidden (fs.suid_dumpable, proc_sys_fs(5)).
    syscalls.hide_from_tracers()
    if not process.no_new_privs:
        return Prepared(process.argv, env, None, init)
    syscalls.no_new_privileges()
    return Prepared(process.argv, env, process.filter, init)


def execute(prepared: Prepared) -> NoReturn:
    """Begin a session and execute what was prepared."""
    os.setsid()
    if prepared.filter is not None:
        syscalls.load_seccomp_filter(*prepared.filter)
    if prepared.init >= 0:
        reaper.become_reaper(prepared.init, prepared.env)
    _exec(prepared.argv, prepared.env)


def _enter_workdir(path: str) -> None:
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
        os.chdir(path)
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        raise StartError(
            f"no working folder {path} in the container",
            seen="it is a file, or lies below one" if is_file else str(error),
            mend="pass workdir= a folder, or a path that can be made one",
        ) from error


def _set_limits(ulimits: tuple[Ulimit, ...]) -> None:
    """Set the limits of the process, while CAP_SYS_RESOURCE is there to raise them (setrlimit(2))."""
    for limit in ulimits:
        number = _RESOURCES[limit.name]
        try:
            resource.setrlimit(number, (limit.soft, limit.hard))
        except (OSError, ValueError, OverflowError) as error:
            raise StartError(
                f"the limit {limit.name} cannot be {limit.soft}:{limit.hard}",
                seen=f"{error}; it is {':'.join(map(str, resource.getrlimit(number)))} here",
                mend="choose a lower one in ulimits=; nofile may be as high as /proc/sys/fs/nr_open",
            ) from error


def _reset_signals() -> None:
    # Ignored and blocked signals survive an exec, and Python ignores SIGPIPE (signal(7)).
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            try:
                signal.signal(number, signal.SIG_DFL)
            except OSError:  # one that the C library keeps for itself
                continue
    syscalls.reset_library_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _own_streams(account: accounts.Account) -> None:
    """Let a process that is not root open /dev/stdin and /dev/stdout, which are our pipes."""
    for descriptor in (0, 1, 2):
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.fchown(descriptor, account.uid, account.gid)


def _candidates(name: str, path: str) -> tuple[str, ...]:
    if "/" in name:
        return (name,)
    return tuple(os.path.join(folder or ".", name) for folder in path.split(":"))


def _exec(argv: tuple[str, ...], env: dict[str, str]) -> NoReturn:
    """Execute the first candidate that can be, as execvpe(3) would, but tell failures apart."""
    refused: tuple[str, OSError] | None = None
    name = argv[0] if argv else ""
    for candidate in _candidates(name, env.get("PATH", DEFAULT_PATH)) if name else ():
        try:
            os.execve(candidate, argv, env)
        except OSError as error:
            if error.errno == errno.ENOENT and os.path.isfile(candidate):
                raise _no_interpreter(candidate) from error
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                refused = refused or (candidate, error)
    if refused is not None:
        at, reason = refused
        raise _not_executable(at, reason) from reason
    raise CommandNotFound(
        f"no command {name!r} in the container",
        seen="no such file" if "/" in name else f"not in PATH {env.get('PATH', DEFAULT_PATH)}",
        mend="install it in the image, or name the full path of what is there",
    )


def _not_executable(path: str, reason: OSError) -> CommandNotExecutable:
    seen, mend = reason.strerror or str(reason), "check that its file system lets programs run"
    if reason.errno == errno.E2BIG:
        mend = "shorten the command or the environment; a file takes any length (execve(2))"
    elif reason.errno == errno.ENOEXEC and _head(path).startswith(b"\x7fELF"):
        seen, mend = f"{seen}: a program for another processor", "use a build for this machine's architecture"
    elif reason.errno == errno.ENOEXEC:
        seen, mend = f"{seen}: no program, and no script with #!", "let its first line be #! and its shell"
    elif os.path.isdir(path):
        seen, mend = f"{seen}: it is a folder", "name the program in it"
    elif reason.errno == errno.EACCES:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            seen += f": {stat.filemode(status.st_mode)}, owner {status.st_uid}, asked by user {os.geteuid()}"
        mend = "chmod +x it in the image, or choose a user= that may execute it"
    return CommandNotExecutable(f"{path} in the container cannot be executed", seen=seen, mend=mend)


def _no_interpreter(path: str) -> InterpreterMissing:
    head = _head(path)
    if head.startswith(b"#!"):
        # Only blanks and tabs end the name: a line end of DOS is part of it (fs/binfmt_script.c).
        words = head[2:].split(b"\n", 1)[0].replace(b"\t", b" ").split(b" ")
        name = next((word for word in words if word), b"").decode(errors="replace")
        seen = f"its first line names {name!r}"
    elif head:
        seen = f"it was linked for the loader {_elf_interpreter(head)}"
    else:
        seen = "its interpreter cannot be read"
    return InterpreterMissing(
        f"{path} is there, but what runs it is not",
        seen=f"{seen}, which the container does not have" if head else seen,
        mend="install that in the image, or use a static or matching build",
    )


def _head(path: str) -> bytes:
    """Return the first page of a file; nothing where it may be executed and not read (mode 0111)."""
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""


def _elf_interpreter(head: bytes) -> str:
    """Return the PT_INTERP string of a 64-bit little-endian ELF file's first page (elf(5))."""
    if head[:6] != b"\x7fELF\x02\x01":
        return "of a foreign architecture"
    offset, size, count = *struct.unpack_from("<Q", head, 32), *struct.unpack_from("<HH", head, 54)
    for index in range(count):
        at = offset + index * size
        if at + 40 > len(head):
            break
        kind, start, length = struct.unpack_from("<I4xQ16xQ", head, at)
        if kind == _PT_INTERP:
            return head[start : start + length].rstrip(b"\0").decode(errors="replace")
    return "of an unknown place"
