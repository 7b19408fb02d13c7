"""More processes inside a running container, and work on its files (floor 1).

A process joins the namespaces of the container's first one through its pidfd, in one setns(2)
call (Linux 5.8). A process id namespace counts only for children, so there are two forks; the
second is made with CLONE_PARENT, so that the supervisor is the parent of what runs (clone(2)).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
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
_PID: Final = b"pid "


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
        with sync:
            first = sandbox.placement.clone(0)
            if first.pid == 0:
                _enter(sandbox, wanted, streams, sync.fileno())
        undo.callback(_give_up, first, ours)
        yield from _readable(ours.fileno(), deadline)
        child = _second(ours)
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


def _give_up(first: syscalls.Child, ours: socket.socket) -> None:
    """End an exec of which we do not know the second child yet.

    A kill of the first might come between its clone and its word to us, and the second would be
    a child of ours that nobody knows: so this waits the moment until the word is there.
    """
    with contextlib.suppress(ContainersError):
        discard_child(_second(ours))
    discard_child(first)


def _second(ours: socket.socket) -> syscalls.Child:
    """Return the second child, whose pid the first one sends; raise what went wrong before it."""
    news = ours.recv(64, socket.MSG_PEEK)
    if not news.startswith(_PID):
        with contextlib.ExitStack() as scope:
            scope.callback(_reap_late, ours)
            raise_if_failed(ours)
        raise EngineError("an exec ended before it began", mend="see whether the container is out of memory")
    pid = int(ours.recv(64)[len(_PID) :])
    # It cannot have been reaped by anybody else: we are its parent (CLONE_PARENT).
    return syscalls.Child(pid, os.pidfd_open(pid))


def _reap_late(ours: socket.socket) -> None:
    """Collect a second child whose failure was there before the first one's word of it."""
    news = ours.recv(64)
    if news.startswith(_PID):
        os.waitid(os.P_PID, int(news[len(_PID) :]), os.WEXITED)


def _enter(sandbox: Sandbox, wanted: Process, streams: tuple[int, int, int], sync: int) -> NoReturn:
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
        second = syscalls.clone(syscalls.CLONE_PARENT)
        if second.pid:
            os.write(process.SYNC, _PID + str(second.pid).encode())
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
