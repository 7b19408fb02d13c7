"""What to do where the machine refuses a step of a run (floor 1).

EPERM and EACCES have many reasons, and each its own way out: a plain user, a user namespace, a capability
that is not there, a filter of system calls, a security module. Which it is, the process's own state tells.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_containers.runtime import capabilities, userns

__all__ = ["NEEDED", "OLDEST_KERNEL", "Standing", "hint", "is_refusal"]

# The oldest kernel on which the tests of the runtime pass (docs/kernels.md).
OLDEST_KERNEL: Final = "5.10"
# Mounts, pid and other namespaces; interfaces; joining a container's root; its device nodes.
NEEDED: Final = ("SYS_ADMIN", "NET_ADMIN", "SYS_CHROOT", "MKNOD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the kernel goes by: user id, own user namespace, capabilities, and a security module's label."""

    uid: int
    initial: bool
    held: int
    label: str

    @classmethod
    def ours(cls) -> Standing:
        """Return that of this process."""
        try:
            # proc_pid_attr(5): EINVAL where no security module labels processes.
            label = (
                Path("/proc/self/attr/current").read_text(encoding="utf-8", errors="replace").rstrip("\0\n")
            )
        except OSError:
            label = ""
        return cls(uid=os.geteuid(), initial=userns.is_initial(), held=capabilities.held(), label=label)

    @property
    def missing(self) -> tuple[str, ...]:
        """The capabilities that a run needs and this process has not."""
        return tuple(name for name in NEEDED if not self.held >> capabilities.NAMES.index(name) & 1)


def is_refusal(number: int | None) -> bool:
    """Return whether an errno says that we may not, and not that something is wrong."""
    return number in (errno.EPERM, errno.EACCES)


def hint(number: int | None, standing: Standing) -> str:
    """Return what to do when a step of a run ended with the errno *number*."""
    if standing.uid != 0:
        return 'run pytest as root: sudo -E env "PATH=$PATH" pytest'
    if not standing.initial:
        return "run pytest as root outside of its user namespace (`unshare -r`, a rootless container)"
    if standing.missing:
        missing = ", ".join(f"CAP_{name}" for name in standing.missing)
        added = " ".join(f"--cap-add={name}" for name in NEEDED)
        return f"allow {missing} to pytest; in a container of docker or podman: --privileged, or {added}"
    if number == errno.EACCES:
        # Root with every capability gets EACCES from mount(2) by a security module alone
        # (security/apparmor/mount.c, security/selinux/hooks.c); docker-default denies every mount.
        return (
            f"a security module refuses it to {standing.label or 'us'!r} (/proc/self/attr/current);"
            " in a container: --security-opt apparmor=unconfined, or label=disable for SELinux"
        )
    return (
        "a filter of system calls (seccomp) or a security module refuses it; in a container:"
        " --security-opt seccomp=unconfined, or --privileged"
    )
