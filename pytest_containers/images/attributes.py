"""Owners and extended attributes of what a layer puts on disk.

An attribute this file system or this user cannot have is left out, as in the other engines: a
layer must unpack on tmpfs and as a plain user too. Names under ``overlay.`` are not copied:
overlayfs reads them as orders (docs.kernel.org, filesystems/overlayfs.html, "Permission model").
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from typing import Final

from pytest_containers.errors import LayerCorrupt

__all__ = [
    "OVERLAY_PREFIXES",
    "clear_xattrs",
    "copy_xattrs",
    "is_opaque",
    "mark_opaque",
    "set_owner",
    "set_xattrs",
]

OVERLAY_PREFIXES: Final = (b"trusted.overlay.", b"user.overlay.")
_OPAQUE_NAMES: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
# The label of the machine that made the layer means nothing here.
_IGNORED: Final = frozenset({b"security.selinux"})
_REFUSED: Final = frozenset({errno.ENOTSUP, errno.EPERM, errno.EACCES})


def set_owner(target: int | bytes, uid: int, gid: int, *, folder: int | None = None) -> None:
    """Give a file to *uid* and *gid*, no link followed; a plain user keeps what it makes."""
    try:
        if isinstance(target, int):
            os.chown(target, uid, gid)
        else:
            os.chown(target, uid, gid, dir_fd=folder, follow_symlinks=False)
    except PermissionError:
        if os.geteuid() == 0:
            raise


def set_xattrs(target: int | bytes, xattrs: Mapping[bytes, bytes]) -> None:
    """Set extended attributes of a descriptor, or of a path whose last part is not followed."""
    for name, value in xattrs.items():
        if name in _IGNORED:
            continue
        try:
            if isinstance(target, int):
                os.setxattr(target, name, value)
            else:
                os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ERANGE, errno.EINVAL, errno.E2BIG):
                raise LayerCorrupt(
                    f"the layer has an extended attribute that cannot be: {name[:80]!r}", seen=str(error)
                ) from error
            if error.errno not in _REFUSED:
                raise


def clear_xattrs(target: int | bytes) -> None:
    """Remove the extended attributes of a descriptor or path; overlayfs's own and the label stay."""
    follow = isinstance(target, int)
    for name in map(os.fsencode, os.listxattr(target, follow_symlinks=follow)):
        if name not in _IGNORED and not name.startswith(OVERLAY_PREFIXES):
            with contextlib.suppress(PermissionError):
                os.removexattr(target, name, follow_symlinks=follow)


def copy_xattrs(source: int, target: int) -> None:
    """Copy the extended attributes of one descriptor to another, overlayfs's own left out."""
    names = [os.fsencode(name) for name in os.listxattr(source)]
    kept = [name for name in names if not name.startswith(OVERLAY_PREFIXES)]
    set_xattrs(target, {name: os.getxattr(source, name) for name in kept})


def mark_opaque(folder: int) -> None:
    """Make an open folder hide the ones it would merge with.

    Who may not write ``trusted.`` mounts with ``userxattr``, which reads ``user.`` instead.
    """
    try:
        os.setxattr(folder, _OPAQUE_NAMES[0], b"y")
    except PermissionError:
        os.setxattr(folder, _OPAQUE_NAMES[1], b"y")


def is_opaque(folder: int) -> bool:
    """Tell whether an open folder of a lower layer hides those below it."""
    for name in _OPAQUE_NAMES:
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"y":
                return True
    return False
