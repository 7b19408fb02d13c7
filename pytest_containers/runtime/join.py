"""More processes inside a running container, and work on its files (floor 1).

A process joins the namespaces of the container's first one through its pidfd, in one setns(2)
call (Linux 5.8). A process id namespace counts only for children, so there are two forks; the
second is made with CLONE_PARENT, so that the supervisor is the parent of what runs (clone(2)).
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Final, NoReturn

from pytest_containers.errors import ContainersError, EngineError, NotRunning, StartError, to_wire
from pytest_containers.runtime import openfiles, process, roots, stopped, syscalls
from pytest_containers.runtime.bundle import Process
from pytest_containers.runtime.loop import Recipe, Wait
from pytest_containers.runtime.sandbox import Sandbox, discard_child, raise_if_failed, wait_for

__all__ = ["execute", "join", "within"]

_ALL: Final = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWCGROUP
)
_CLONED: Final = b"cloned"


def execute(
    sandbox: Sandbox, wanted: Process, streams: tuple[int, int, int], timeout_s: float | None
) -> Recipe[int]:
    """Run one more process inside; return its exit code as Docker counts.

    Raises NotRunning, what the exec itself raises, and TimeoutError with the process killed.
    """
    if sandbox.child is None or sandbox.state.status != "running":
        raise _not_running(sandbox)
    if sandbox.paused:
        raise NotRunning(f"container {sandbox.spec.name} is paused", mend="unpause() it first")
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with contextlib.ExitStack() as scope, contextlib.ExitStack() as undo:
        ours, sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        scope.enter_context(ours)
        told = scope.enter_context(mmap.mmap(-1, mmap.PAGESIZE))
        with sync:
            first = sandbox.placement.clone(0)
            if first.pid == 0:
                _enter(sandbox, wanted, streams, sync.fileno(), told)
        undo.callback(_give_up, first, told)
        # What is in the group of a pause already stands still with it; for others a pause waits.
        outside = not sandbox.freezer
        sandbox.beginning += outside
        try:
            yield from _readable(ours.fileno(), deadline)
            child = _second(ours, told)
        finally:
            sandbox.beginning -= outside
        undo.pop_all()
        undo.callback(discard_child, first)
        undo.callback(discard_child, child)
        yield from _readable(ours.fileno(), deadline)
        raise_if_failed(ours)
        while (status := wait_for(child.pidfd)) is None:
            yield from _readable(child.pidfd, deadline)
        undo.pop_all()
        discard_child(first)
        os.close(child.pidfd)
    return status.code


def _not_running(sandbox: Sandbox, seen: str = "") -> NotRunning:
    return NotRunning(
        f"container {sandbox.spec.name} does not run",
        seen=seen,
        mend="exec while it runs, or restart() it first",
    )


def _readable(descriptor: int, deadline: float | None) -> Recipe[None]:
    if not (yield Wait(descriptor, deadline)):
        raise TimeoutError


def _give_up(first: syscalls.Child, told: mmap.mmap) -> None:
    """End an exec of which we may not know the second child: once the first is dead, it is told or not."""
    discard_child(first)
    if pid := _told(told):
        discard_child(syscalls.Child(pid, os.pidfd_open(pid)))


def _told(told: mmap.mmap) -> int:
    """Return the pid of the second child, 0 before there is one.

    The kernel writes it in the call that makes the child, so that it is known however the first one ends: a
    child that nobody reaps would keep the first process of the container's process id namespace from ending,
    which waits for all that were in it (kernel/pid_namespace.c, zap_pid_ns_processes).
    """
    return int.from_bytes(told[:4], sys.byteorder)


def _second(ours: socket.socket, told: mmap.mmap) -> syscalls.Child:
    """Return the second child; raise what went wrong before it."""
    pid = _told(told)
    if not pid:
        raise_if_failed(ours)
        raise EngineError("an exec ended before it began", mend="see whether the container is out of memory")
    if ours.recv(len(_CLONED), socket.MSG_PEEK) == _CLONED:
        ours.recv(len(_CLONED))
    # It cannot have been reaped by anybody else: we are its parent (CLONE_PARENT).
    return syscalls.Child(pid, os.pidfd_open(pid))


def _enter(
    sandbox: Sandbox, wanted: Process, streams: tuple[int, int, int], sync: int, told: mmap.mmap
) -> NoReturn:
    try:
        syscalls.hide_from_tracers()
        roots.forbid_imports()
        sandbox.placement.take()
        # All execs of a run would share the supervisor's (keyrings(7)).
        syscalls.join_session_keyring()
        join(sandbox)
        process.take_descriptors(*streams, sync)
        openfiles.restore(sandbox.run.open_files)
        # Nobody in the container sees this process: the second alone is in its process id namespace.
        prepared = process.prepare(wanted, last_capability=sandbox.run.last_capability)
        # The second must not have that memory: who traces it (SYS_PTRACE) could name any process to us.
        told.madvise(mmap.MADV_DONTFORK)
        second = syscalls.clone(syscalls.CLONE_PARENT, told=told)
        if second.pid:
            os.write(process.SYNC, _CLONED)
            os._exit(0)
        process.execute(prepared)
    except ContainersError as error:
        _fail(sync, error)
    except OSError as error:
        # What a process id namespace answers when its first process is dead (pid_namespaces(7), setns(2)).
        if error.errno in (errno.ENOMEM, errno.ESRCH):
            _fail(sync, _not_running(sandbox, str(error)))
        _fail(sync, StartError("the exec failed", seen=str(error)))
    except BaseException as error:  # noqa: BLE001 - the parent tells the world; we must not run on
        _fail(sync, StartError("the exec failed", seen=f"{type(error).__name__}: {error}"))


def _fail(sync: int, error: ContainersError) -> NoReturn:
    # Before take_descriptors the socket has its old number, afterwards the agreed one.
    with contextlib.suppress(OSError):
        os.dup2(sync, process.SYNC)
    process.fail(error)


def join(sandbox: Sandbox) -> None:
    """Make the container's root and namespaces this process's own; of one that does not run, its files.

    Its mounts are seen as well, those of `stopped` where it does not run. Raises EngineError where the root
    is another one then.
    """
    if sandbox.child is None:
        stopped.enter(sandbox.bundle, sandbox.snapshot)
    else:
        syscalls.setns(sandbox.child.pidfd, _ALL)
    os.chdir("/")
    roots.confirm(sandbox.snapshot.identity, f"container {sandbox.spec.name}")


def within(sandbox: Sandbox, action: Callable[[], None], *, enter: Callable[[], None] | None) -> Recipe[None]:
    """Run *enter* and *action* in a child; errors come back typed.

    *enter* takes the child to another root, `join` to the container's. All that *action* imports
    must have been imported before.
    """
    sandbox.reap()
    with contextlib.ExitStack() as scope, contextlib.ExitStack() as undo:
        ours, sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        scope.enter_context(ours)
        with sync:
            child = syscalls.clone(0)
            if child.pid == 0:
                _act(sandbox, action, sync.fileno(), enter)
        undo.callback(discard_child, child)
        # A removal ends it, whatever it waits for: a file system may answer never (sandbox.remove).
        sandbox.workers.add(child)
        scope.callback(sandbox.workers.discard, child)
        yield Wait(ours.fileno())
        raise_if_failed(ours)
        while (status := wait_for(child.pidfd)) is None:
            yield Wait(child.pidfd)
        undo.pop_all()
        os.close(child.pidfd)
    if status.code:
        raise EngineError(
            f"work on the files of container {sandbox.spec.name} was cut off",
            seen=f"its process ended with code {status.code}",
            mend="do not remove the container meanwhile; else see whether the machine is out of memory",
        )


def _act(
    sandbox: Sandbox, action: Callable[[], None], sync: int, enter: Callable[[], None] | None
) -> NoReturn:
    code = 125
    try:
        roots.forbid_imports()
        if enter is not None:
            enter()
        action()
        code = 0
    except ContainersError as error:
        os.write(sync, json.dumps(to_wire(error)).encode())
    except BaseException as error:  # noqa: BLE001 - the parent tells the world; we must not run on
        trouble = EngineError(
            f"work on the files of container {sandbox.spec.name} failed",
            seen=f"{type(error).__name__}: {error}",
        )
        os.write(sync, json.dumps(to_wire(trouble)).encode())
    os._exit(code)
