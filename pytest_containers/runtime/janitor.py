"""The run's outermost process: starts the supervisor, waits, cleans what the kernel does not (floor 1).

It lives outside of the run's pid namespace and inside of nothing. It ends the run when the owner,
the pytest process, has ended in whatever way: it holds a pidfd of it, which cannot be reused and
which no thread's end upsets (pidfd_open(2), PR_SET_PDEATHSIG(2const) "CAVEATS").
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from pytest_containers.errors import HostError, from_wire
from pytest_containers.runtime import folders, refusals, supervisor, syscalls

__all__ = ["main"]

_WORDS_BYTES: Final = 1 << 16  # what a pipe holds, so that nobody need read while it is written (pipe(7))
_REFUSED: Final = (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EINVAL, errno.ENOSYS)


def main(folder: str, owner: int, listener: int, lock: int, lingers: str) -> None:
    """Run a supervisor for the run folder *folder* until it or the owner ends; then remove the folder.

    *owner* is a pidfd, *listener* the socket where clients knock, *lock* holds the run folder's
    lock as long as we or the supervisor live (flock(2)). A supervisor that could not begin leaves
    the reason in the run folder; its kernel objects are gone before anybody is told.
    """
    if lingers == "lingers" and os.fork():
        os._exit(0)  # the worker that started us may end before the run: init(1) waits for us instead
    with suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as name:
        name.write("containers")  # else it is the number of a descriptor (proc_pid_comm(5))
    knocking = socket.socket(fileno=listener)
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    me = os.pidfd_open(os.getpid())
    try:
        child = syscalls.clone(syscalls.CLONE_NEWPID)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        folders.refuse(Path(folder), _no_namespace(error), owner=_pid(owner))
        return
    if child.pid == 0:
        # The lock stays open here too: the folder is in use until the last of the two is gone.
        os.close(owner)
        os.close(ours)
        supervisor.main(folder, knocking, janitor=me, words=theirs, lingers=lingers == "lingers")
    os.close(theirs)
    _wait(owner, child)
    if words := os.read(ours, _WORDS_BYTES):
        folders.refuse(Path(folder), from_wire(json.loads(words)), owner=_pid(owner))
    else:
        folders.end(Path(folder))
    os.close(lock)


def _no_namespace(error: OSError) -> HostError:
    return HostError(
        "no pid namespace for the run",
        seen=f"clone3: {os.strerror(error.errno or 0)}, as user {os.geteuid()}",
        mend=refusals.hint(error.errno, refusals.Standing.ours()),
    )


def _pid(pidfd: int) -> int:
    """Return whose pidfd it is; -1 where that process has ended (pidfd_open(2))."""
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


def _wait(owner: int, child: syscalls.Child) -> None:
    """Wait for the supervisor's end, and bring it about when the owner's comes first."""
    poll = select.poll()
    poll.register(owner, select.POLLIN)
    poll.register(child.pidfd, select.POLLIN)
    ended = {descriptor for descriptor, _ in poll.poll()}
    if child.pidfd not in ended:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    # Returns when all of the pid namespace is gone, not only its first process (pid_namespaces(7)).
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
