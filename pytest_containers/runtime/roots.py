"""Whose root ``/`` is: make it that of the mount namespace, and check it after each change of it (floor 1).

setns(2) of a mount namespace sets the caller's root to the root of that *namespace*. Below a chroot
that is not the root which a process sees, so that a container made there would have the outer root as its
namespace's root, and all that joins it would act on the outer files. So a run begins by making its own root
the namespace's, and whoever has changed its root looks whether it is the one that was meant.
"""

from __future__ import annotations

import encodings.ascii  # noqa: F401 - a codec is a module as well, loaded when it is first used (codecs)
import errno
import os
import sys
from typing import Final, NamedTuple

from pytest_containers.errors import EngineError
from pytest_containers.runtime import syscalls

__all__ = [
    "UNKNOWN",
    "Identity",
    "confine",
    "confirm",
    "forbid_imports",
    "identify",
    "leave_mount_namespace",
]


class Identity(NamedTuple):
    """What tells a root from all others: each overlay has a device number of its own (stat(2))."""

    device: int
    inode: int


UNKNOWN: Final = Identity(-1, -1)


def identify(path: str) -> Identity:
    """Return the identity of the folder at *path*. Raises OSError."""
    seen = os.stat(path)
    return Identity(seen.st_dev, seen.st_ino)


def confirm(expected: Identity, subject: str) -> None:
    """Raise EngineError unless ``/`` is the root *expected*; *subject* names whose it should be."""
    seen = identify("/")
    if seen != expected:
        raise EngineError(
            f"the root of {subject} is not where it was put, so nothing was done",
            seen=f"/ is device and inode {tuple(seen)}, expected {tuple(expected)}",
            mend="a privileged container must not replace or unmount its own root; else report it as a fault",
        )


def confine(folder: str) -> None:
    """Make *folder* this process's root, in which nothing can be changed, executed, or opened as a device.

    Links and ``..`` in it end inside, and a device node that is put in a file's place has no effect. For a
    child that ends after its work. Raises OSError.
    """
    view = syscalls.open_tree(folder)
    flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    try:
        syscalls.restrict_tree(view, flags)
        os.fchdir(view)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        # Before Linux 5.12 (mount_setattr(2)): a remount does it, of a mount that is attached.
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(folder, folder, None, syscalls.MS_BIND)
        syscalls.mount("none", folder, None, syscalls.MS_REMOUNT | syscalls.MS_BIND | flags)
        os.chdir(folder)
    finally:
        os.close(view)
    os.chroot(".")
    os.chdir("/")


def forbid_imports() -> None:
    """Let every later import of this process fail, but of what is loaded already.

    In another root Python's search path leads to files of the container, and a module that is loaded there
    would run with our rights. For a child that is about to change its root, or has done so.
    """
    for places in (sys.path, sys.meta_path, sys.path_hooks):
        places.clear()
    sys.path_importer_cache.clear()


def leave_mount_namespace() -> None:
    """Move to a private mount namespace whose root is what ``/`` is now; the rest of the mounts is dropped.

    Nothing that is mounted from here on shows in the namespace that was left (mount_namespaces(7)), and
    unbindable mounts can be bound. Needs no /proc. Raises OSError where the kernel refuses.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    me = os.pidfd_open(os.getpid())
    try:
        # Out of a chroot, to the namespace's root: only from there are all mounts in sight, and ``/`` of a
        # chroot need not be a mount point, which mount(2) wants for a change of propagation.
        syscalls.setns(me, syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        tree = syscalls.open_tree(root, recursive=True)
    finally:
        os.close(me)
        os.close(root)
    try:
        syscalls.attach_tree(os.dup(tree), "/")
        os.fchdir(tree)
    finally:
        os.close(tree)
    _pivot()
    os.chdir("/")


def _pivot() -> None:
    """Make the working folder, a mount on top of the namespace's root, the only root there is."""
    try:
        syscalls.pivot_root(".", ".")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # The namespace's root is the initial ramfs, which nothing replaces (pivot_root(2), EINVAL). It stays
        # below ours: setns(2) goes to the topmost mount (fs/namespace.c, mntns_install), and ``..`` does
        # not go below it (fs/namei.c, choose_mountpoint).
        os.chroot(".")
    else:
        syscalls.umount(".", syscalls.MNT_DETACH)
