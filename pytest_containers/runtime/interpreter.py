"""Start Python from a view of its file that nothing can change (floor 1).

What runs in a container begins as a fork of the supervisor, so /proc/self/exe of its first moments, of a
program that is `/proc/self/exe` itself, and of a script or loader that names it, is the file of the machine's
interpreter. root in the container is root: it could change mode, attributes or content of that file
(CVE-2019-5736). So the janitor, whose forks all others are, is executed from a detached mount of the file
that is read-only and nosuid, or from a sealed copy in memory.
"""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress
from typing import Final, NamedTuple

from pytest_containers.errors import HostError
from pytest_containers.runtime import syscalls

__all__ = ["Invocation", "invocation", "open_view"]

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_ON: Final = "import os, sys; os.execve(int(sys.argv[1]), sys.argv[2:], os.environ)"


class Invocation(NamedTuple):
    """What to execute, and as what: the two of subprocess.Popen(args, executable=...)."""

    arguments: list[str]
    executable: str


def open_view() -> int:
    """Return a descriptor of the interpreter's file, to be executed and never changed; the caller closes it.

    Raises HostError where the machine has neither of the two ways.
    """
    with suppress(OSError):  # no CAP_SYS_ADMIN, or before Linux 5.12 (mount_setattr(2))
        return _detached()
    try:
        return _sealed_copy()
    except OSError as error:
        raise HostError(
            f"no read-only view of the interpreter {sys.executable}",
            seen=str(error),
            mend="allow mount_setattr(2) or memfd_create(2) with exec (sysctl vm.memfd_noexec=0)",
        ) from error


def _detached() -> int:
    """Return a mount of the file alone that is attached nowhere; it ends with its last user."""
    view = syscalls.open_tree(sys.executable)
    try:
        syscalls.restrict_tree(view, syscalls.MS_RDONLY | syscalls.MS_NOSUID)
    except OSError:
        os.close(view)
        raise
    return view


def _sealed_copy() -> int:
    """Return a copy in memory that seals keep as it is (memfd_create(2), F_ADD_SEALS(2const))."""
    copy = os.memfd_create("python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(sys.executable, "rb") as file:
            while os.sendfile(copy, file.fileno(), None, 1 << 30):
                pass
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(copy)
        raise
    return copy


def invocation(view: int, *options: str) -> Invocation:
    """Return how to start the interpreter at *view*, which the child must inherit, with *options*.

    It takes itself for `sys.executable`, and so finds its library.
    """
    arguments = [sys.executable, *options]
    if os.path.exists(f"/proc/self/fd/{view}"):
        return Invocation(arguments, f"/proc/self/fd/{view}")
    # A chroot without /proc: execveat(2) needs none, and Popen does not offer it.
    return Invocation([sys.executable, "-I", "-S", "-c", _ON, str(view), *arguments], sys.executable)
