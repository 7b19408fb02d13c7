"""The files of a container that does not run: its layers with its volumes and binds on them (floor 1).

While a container runs, whoever works on its files joins its mount namespace and sees its mounts. Before the
start and after the end there is none, so the mounts that have content of their own are laid once more,
for that piece of work alone: volumes, binds, and the files that every container has of its own in /etc. A
tmpfs, /dev, /proc and /sys have nothing in them then, and that is told.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Literal

from pytest_containers.errors import PathMissing, SpecInvalid
from pytest_containers.runtime import init, mountpoints, syscalls
from pytest_containers.runtime.bundle import Bundle
from pytest_containers.runtime.snapshot import Snapshot

__all__ = ["enter", "refuse"]

_EMPTY: Final = ("/dev", "/proc", "/sys")
_PROC: Final = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC


def enter(bundle: Bundle, snapshot: Snapshot) -> None:
    """Make the files of a container that does not run this process's root, in a mount namespace of its own.

    Mounts of a run are private, so that none of these shows elsewhere (mount_namespaces(7)). Raises
    StartError where the source of a bind is not there.
    """
    if bundle.build_step or snapshot.bare:  # a step's mounts are not meant by what is copied before it
        os.chroot(snapshot.root)
        return
    init.look_at_places(snapshot.root)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    trees = init.detach(bundle)
    points = mountpoints.open_list(snapshot)
    init.lay_etc(snapshot.root, snapshot)
    if bundle.binds:
        # Before Linux 5.12 a mount is found by its number in /proc to be made read-only. The processes that
        # it shows are ours, so it goes again.
        syscalls.mount("proc", f"{snapshot.root}/proc", "proc", _PROC)
        for name in ("dev", "sys"):  # so that the place of a bind there is not made in the container's layer
            syscalls.mount("tmpfs", f"{snapshot.root}/{name}", "tmpfs", _PROC, "mode=0755,size=64k")
    os.chroot(snapshot.root)
    os.chdir("/")
    init.lay(replace(bundle, tmpfs={}), trees, points)
    if bundle.binds:
        syscalls.umount("/proc", syscalls.MNT_DETACH)


def refuse(bundle: Bundle, path: str, action: Literal["read", "write"]) -> None:
    """Refuse a path that lies on what is empty while the container does not run; our root is its own.

    Raises PathMissing for a read and SpecInvalid for a write.
    """
    real = os.path.realpath(path)
    kept = _nearest(real, (bind.target for bind in bundle.binds))
    empty = _nearest(real, (*bundle.tmpfs, *_EMPTY))
    if len(kept) >= len(empty):
        return
    if action == "read":
        raise PathMissing(
            f"no {path} in the container",
            seen=f"{empty} has a content only while the container runs",
            mend="read it before the container ends, or let the container write into a volume",
        )
    raise SpecInvalid(
        f"{path} in the container cannot be written now",
        seen=f"{empty} is mounted empty at the start",
        mend="write after start(), or pass files= to have it written before the first process runs",
    )


def _nearest(path: str, targets: Iterable[str]) -> str:
    """Return the deepest of *targets* that *path* is, or lies in; an empty string for none."""
    above = (one for one in map(os.path.realpath, targets) if path == one or path.startswith(f"{one}/"))
    return max(above, key=len, default="")
