"""System calls that Python has no name for: the one door to ctypes (floor 1).

Each function is one call, named as in section 2 of the manual, and raises OSError with the errno.
The C library is loaded as a `ctypes.PyDLL`: the interpreter lock is kept during a call, so that
a child made by `clone` finds it in the state its parent left it in.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import struct
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = [
    "CLONE_NEWCGROUP",
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "CLONE_PARENT",
    "MNT_DETACH",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "Child",
    "attach_tree",
    "cap_drop_bounding",
    "capset",
    "clone",
    "close_range",
    "fsopen_overlay",
    "has_seccomp_filters",
    "hide_from_tracers",
    "join_session_keyring",
    "load_seccomp_filter",
    "mount",
    "no_new_privileges",
    "open_plain",
    "open_tree",
    "openat2_in_root",
    "overlay_takes_layers",
    "parent_death_signal",
    "pivot_root",
    "reset_library_signals",
    "restrict_tree",
    "setns",
    "umount",
    "unshare",
]

CLONE_NEWNS: Final = 0x0002_0000
CLONE_PARENT: Final = 0x0000_8000
CLONE_NEWCGROUP: Final = 0x0200_0000
CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWPID: Final = 0x2000_0000
CLONE_NEWNET: Final = 0x4000_0000
_CLONE_PARENT_SETTID: Final = 0x0010_0000
_CLONE_PIDFD: Final = 0x0000_1000
_CLONE_INTO_CGROUP: Final = 0x2_0000_0000
_CLONE_ARGS_FIRST_BYTES: Final = 64

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x4_0000
MNT_DETACH: Final = 0x2

# Numbers from 424 on are the same on every architecture (include/uapi/asm-generic/unistd.h).
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_FSOPEN: Final = 430
_SYS_FSCONFIG: Final = 431
_SYS_FSMOUNT: Final = 432
_SYS_CLONE3: Final = 435
_SYS_CLOSE_RANGE: Final = 436
_SYS_OPENAT2: Final = 437
_SYS_MOUNT_SETATTR: Final = 442

# keyctl(2) is older than the common numbers.
_SYS_RT_SIGACTION: Final = MappingProxyType({"x86_64": 13, "aarch64": 134, "riscv64": 134})
_SYS_KEYCTL: Final = MappingProxyType({"x86_64": 250, "aarch64": 219, "riscv64": 219})
_KEYCTL_JOIN_SESSION_KEYRING: Final = 1
_SYS_CLONE: Final = MappingProxyType({"x86_64": 56, "aarch64": 220, "riscv64": 220})
_SYS_SECCOMP: Final = MappingProxyType({"x86_64": 317, "aarch64": 277, "riscv64": 277})
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_GET_ACTION_AVAIL: Final = 2
_SECCOMP_RET_ERRNO: Final = 0x0005_0000

_SIGCHLD: Final = 17
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x2008_0522
_RESOLVE_IN_ROOT: Final = 0x10
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x04
_MOVE_MOUNT_T_SYMLINKS: Final = 0x10
_MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_AT_EMPTY_PATH: Final = 0x1000
_OPENAT2_TRIES: Final = 1000
_OPEN_TREE_CLONE: Final = 1

_libc: Final = ctypes.PyDLL(None, use_errno=True)


class _CloneArgs(ctypes.Structure):
    """struct clone_args: 64 bytes in its first version, 88 with a control group (clone(2))."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls"),
            *("set_tid", "set_tid_size", "cgroup"),
        )
    ]


class _FilterProgram(ctypes.Structure):
    """struct sock_fprog: the number of instructions and where they are (seccomp(2))."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


class _OpenHow(ctypes.Structure):
    """struct open_how (openat2(2))."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


class Child(NamedTuple):
    """What `clone` returns: in the parent the child's pid and pidfd, in the child 0 and -1."""

    pid: int
    pidfd: int


def _checked(result: int, name: str, subject: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", subject)
    return result


def _syscall(name: str, number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    # A bare int would pass as a 32-bit C int; the upper half of a register is then undefined.
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *words), name)


def clone(flags: int, cgroup: int = -1, told: mmap.mmap | None = None) -> Child:
    """Fork into new namespaces in one call (clone3(2)); the pidfd is close-on-exec.

    *cgroup* is a descriptor of a folder of control groups version 2, in which the child begins
    (CLONE_INTO_CGROUP, Linux 5.7). Like os.fork, the interpreter's own state is mended in the child.
    Call it in a process with one thread only: CLONE_NEWUSER refuses others and locks of other threads
    stay taken for ever. With CLONE_PARENT and no *cgroup* it is the older clone(2), which a filter
    of system calls lets pass where it refuses clone3: the caller has one already. It then writes the
    child's pid into the first four bytes of the shared memory *told* before the child begins
    (CLONE_PARENT_SETTID), and the caller gets no pidfd.
    """
    pidfd = ctypes.c_int(-1)
    arguments = _CloneArgs(
        flags=flags | _CLONE_PIDFD,
        pidfd=ctypes.addressof(pidfd),
        exit_signal=_SIGCHLD,
    )
    size = _CLONE_ARGS_FIRST_BYTES
    if flags & CLONE_PARENT:
        arguments.exit_signal = 0  # it is the caller's own, and to name one is EINVAL (clone(2))
    if cgroup >= 0:
        arguments.flags |= _CLONE_INTO_CGROUP
        arguments.cgroup = cgroup
        size = ctypes.sizeof(arguments)
    older = _SYS_CLONE.get(os.uname().machine) if flags & CLONE_PARENT and cgroup < 0 else None
    if told is not None:
        arguments.flags |= _CLONE_PARENT_SETTID
        arguments.parent_tid = ctypes.addressof(ctypes.c_int.from_buffer(told))
    ctypes.pythonapi.PyOS_BeforeFork()
    if older is not None:
        # There is one place for the pidfd and for the pid that is told to the parent (clone(2), CLONE_PIDFD).
        place, kind = arguments.pidfd, _CLONE_PIDFD
        if told is not None:
            place, kind = arguments.parent_tid, _CLONE_PARENT_SETTID
        words = (flags | kind | _SIGCHLD, 0, place, 0, 0)
        pid = _libc.syscall(ctypes.c_long(older), *(ctypes.c_ulong(word) for word in words))
    else:
        pid = _libc.syscall(ctypes.c_long(_SYS_CLONE3), ctypes.byref(arguments), ctypes.c_size_t(size))
    number = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return Child(0, -1)
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, f"clone3: {os.strerror(number)}")
    return Child(pid, pidfd.value)


def unshare(flags: int) -> None:
    """Leave the named namespaces for fresh ones (unshare(2))."""
    _checked(_libc.unshare(flags), "unshare")


def setns(descriptor: int, flags: int) -> None:
    """Join the namespaces *flags* of the process or namespace behind *descriptor* (setns(2))."""
    _checked(_libc.setns(descriptor, flags), "setns")


def mount(source: str, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """Attach a file system (mount(2)); *data* is at most one page."""
    _checked(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            kind.encode() if kind is not None else None,
            ctypes.c_ulong(flags),
            os.fsencode(data) if data is not None else None,
        ),
        f"mount {kind or 'bind'}",
        target,
    )


def umount(target: str, flags: int = 0) -> None:
    """Take a mount off (umount2(2)); MNT_DETACH takes it out of sight at once."""
    _checked(_libc.umount2(os.fsencode(target), flags), "umount2", target)


def pivot_root(new: str, old: str) -> None:
    """Make *new* the root and put the former root at *old* (pivot_root(2))."""
    _checked(_libc.pivot_root(os.fsencode(new), os.fsencode(old)), "pivot_root", new)


def fsopen_overlay(options: tuple[tuple[str, str], ...], target: str) -> None:
    """Mount overlayfs with one fsconfig(2) call an option, which no page limits (fsopen(2)).

    The key ``lowerdir+`` adds one layer, uppermost first, since Linux 6.8 (overlayfs.rst).
    The mount refuses device nodes (MOUNT_ATTR_NODEV, fsmount(2)).
    """
    context = _syscall("fsopen overlay", _SYS_FSOPEN, b"overlay", _FSOPEN_CLOEXEC)
    try:
        for key, text in options:
            _fsconfig(context, key, text)
        _syscall("fsconfig create overlay", _SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        mounted = _syscall("fsmount overlay", _SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, MS_NODEV)
    finally:
        os.close(context)
    attach_tree(mounted, target)


def overlay_takes_layers(layer: str) -> bool:
    """Return whether `fsopen_overlay` has the key ``lowerdir+``, asked with an empty folder *layer*.

    Until Linux 6.4 overlayfs takes any word and refuses it at the mount, with a line in the kernel's
    log (fs/fs_context.c, legacy_parse_param): so a word that no kernel knows is tried as well.
    """
    words = (("lowerdir+", layer), ("unknown", "1"))
    taken = []
    for key, text in words:
        try:
            context = _syscall("fsopen overlay", _SYS_FSOPEN, b"overlay", _FSOPEN_CLOEXEC)
        except OSError:  # a filter of system calls may refuse what is newer than itself
            return False
        try:
            _fsconfig(context, key, text)
        except OSError:
            continue
        finally:
            os.close(context)
        taken.append(key)
    return taken == ["lowerdir+"]


def _fsconfig(context: int, key: str, text: str) -> None:
    what, value = f"fsconfig {key}={text}", os.fsencode(text)
    _syscall(what, _SYS_FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), value, 0)


def open_tree(path: str | int, *, recursive: bool = False) -> int:
    """Return a descriptor of a detached copy of the mount at *path*, or at a descriptor (open_tree(2))."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    if isinstance(path, int):
        return _syscall("open_tree", _SYS_OPEN_TREE, path, b"", flags | _AT_EMPTY_PATH)
    return _syscall(f"open_tree {path}", _SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)


def attach_tree(tree: int, target: str | int) -> None:
    """Attach what `open_tree` detached at *target* and close its descriptor (move_mount(2)).

    *target* is a path or a descriptor. Symbolic links in a path are followed, as in mount(2).
    """
    if isinstance(target, int):
        folder, path, how = target, b"", _MOVE_MOUNT_T_EMPTY_PATH
    else:
        folder, path, how = _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_T_SYMLINKS
    flags = _MOVE_MOUNT_F_EMPTY_PATH | how
    try:
        _syscall(f"move_mount {target}", _SYS_MOVE_MOUNT, tree, b"", folder, path, flags)
    finally:
        os.close(tree)


def restrict_tree(tree: int, flags: int) -> None:
    """Add *flags* to a detached tree and to all mounts in it (mount_setattr(2), Linux 5.12).

    They are MS_RDONLY, MS_NOSUID, MS_NODEV and MS_NOEXEC; those that are there already stay.
    """
    attributes = struct.pack("=4Q", flags, 0, 0, 0)  # struct mount_attr
    whole = _AT_EMPTY_PATH | _AT_RECURSIVE
    _syscall("mount_setattr", _SYS_MOUNT_SETATTR, tree, b"", whole, attributes, len(attributes))


def openat2_in_root(root: int, path: str, flags: int, mode: int = 0) -> int:
    """Open *path* as if the folder *root* were the root of all (openat2(2), RESOLVE_IN_ROOT).

    Symbolic links, absolute ones and ``..`` included, stay inside; /proc's magic links fail.
    """
    return _openat2(root, path, flags, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)


def open_plain(path: str, flags: int, *, folder: int = _AT_FDCWD) -> int:
    """Open *path*, relative to the descriptor *folder*, in which nothing may be a symbolic link.

    It is ELOOP then (openat2(2), RESOLVE_NO_SYMLINKS).
    """
    return _openat2(folder, path, flags, 0, _RESOLVE_NO_SYMLINKS)


def _openat2(root: int, path: str, flags: int, mode: int, resolve: int) -> int:
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve)
    for _ in range(_OPENAT2_TRIES):
        result = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_long(root),
            os.fsencode(path),
            ctypes.byref(how),
            ctypes.c_size_t(24),
        )
        # Any mount or rename on the machine at the moment of a ".." (openat2(2), ERRORS, EAGAIN).
        if result >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return _checked(result, "openat2", path)


def close_range(first: int) -> None:
    """Close every descriptor from *first* on (close_range(2))."""
    _syscall("close_range", _SYS_CLOSE_RANGE, first, 0xFFFF_FFFF, 0)


def _prctl(name: str, option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(one) for one in (*arguments, 0, 0, 0, 0)[:4]]
    _checked(_libc.prctl(option, *words), f"prctl {name}")


def parent_death_signal(number: int) -> None:
    """Ask for a signal when the thread that forked us ends (PR_SET_PDEATHSIG(2const))."""
    _prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, number)


def reset_library_signals() -> None:
    """Let signals 32 and 33, which the C library keeps for itself, do what they do by default.

    glibc's posix_spawn(3) begins a program with them ignored (sysdeps/unix/sysv/linux/spawni.c), and no
    function of the library changes that back (nptl(7)); what is ignored survives an exec (signal(7)).
    """
    number = _SYS_RT_SIGACTION.get(os.uname().machine)
    if number is not None:
        for reserved in (32, 33):
            # A kernel's sigaction of zeros is SIG_DFL without flags (rt_sigaction(2)).
            _syscall(f"rt_sigaction {reserved}", number, reserved, bytes(32), None, 8)


def join_session_keyring() -> None:
    """Leave the session keyring that was inherited for a new, empty one (keyctl_join_session_keyring(3)).

    Nothing happens on a kernel without keyrings, or where a filter forbids them.
    """
    number = _SYS_KEYCTL.get(os.uname().machine)
    if number is not None:
        with contextlib.suppress(OSError):
            _syscall("keyctl", number, _KEYCTL_JOIN_SESSION_KEYRING, None)


def hide_from_tracers() -> None:
    """Keep processes of a container out of this one's memory and files until its next exec.

    Who shares a container with it and has the same capabilities could otherwise open /proc/PID/exe,
    our interpreter, or trace it (PR_SET_DUMPABLE(2const), ptrace(2) "access mode checking";
    CVE-2016-9962).
    """
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, 0)


def no_new_privileges() -> None:
    """Let no exec grant what the caller does not have (PR_SET_NO_NEW_PRIVS(2const))."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def has_seccomp_filters() -> bool:
    """Return whether the kernel runs filters of system calls (seccomp(2), SECCOMP_GET_ACTION_AVAIL)."""
    number = _SYS_SECCOMP.get(os.uname().machine)
    if number is None:
        return False
    try:
        _syscall("seccomp", number, _SECCOMP_GET_ACTION_AVAIL, 0, struct.pack("=I", _SECCOMP_RET_ERRNO))
    except OSError:
        return False
    return True


def load_seccomp_filter(program: bytes, flags: int) -> None:
    """Let *program*, an array of struct sock_filter, judge every later call of this process (seccomp(2)).

    Needs SYS_ADMIN, or that `no_new_privileges` was called before.
    """
    whole = _FilterProgram(len(program) // 8, program)
    number = ctypes.c_long(_SYS_SECCOMP[os.uname().machine])
    result = _libc.syscall(
        number, ctypes.c_long(_SECCOMP_SET_MODE_FILTER), ctypes.c_long(flags), ctypes.byref(whole)
    )
    _checked(result, "seccomp")


def cap_drop_bounding(number: int) -> None:
    """Take capability *number* out of the bounding set (PR_CAPBSET_DROP(2const))."""
    _prctl("PR_CAPBSET_DROP", _PR_CAPBSET_DROP, number)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's capability sets, given as bit masks, and clear the ambient one (capset(2))."""
    _prctl("PR_CAP_AMBIENT", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    words: list[int] = []
    for shift in (0, 32):
        words += [(mask >> shift) & 0xFFFF_FFFF for mask in (effective, permitted, inheritable)]
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)(*words)), "capset")
