"""A folder as a tree to copy from, one that nothing in it can lead out of.

Every folder is opened by its parent's descriptor and O_NOFOLLOW (openat(2)): a link that replaces
a folder while the tree is read ends in an error, never outside. The paths asked for come from
walks in order, so the open folders of the last path serve the next.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.nodes import FILE_FLAGS, FOLDER_FLAGS, KINDS, Node, carried

__all__ = ["DiskTree"]


class DiskTree:
    """The files below *root*. Owners do not count: what is copied belongs to whom COPY says.

    Sockets are passed over, for they cannot be copied. Raises SpecInvalid for what cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: list[str] = []
        self._open: list[int] = []

    def node(self, path: str) -> Node | None:
        """Return what is at *path*; raise SpecInvalid for a device, which no context has a use for."""
        folder, _, name = path.rpartition("/")
        try:
            descriptor = self._folder(folder)
            status = os.stat(name or ".", dir_fd=descriptor, follow_symlinks=False)
            return self._described(path, descriptor, name or ".", status)
        except (FileNotFoundError, NotADirectoryError):
            # A link in place of a folder is the latter: O_DIRECTORY speaks first (open(2)).
            return None
        except OSError as error:
            raise _unreadable(path, error) from error

    def names(self, path: str) -> list[str]:
        """Return the names in the folder *path*, in the order of their bytes."""
        try:
            return sorted(os.listdir(self._folder(path)), key=os.fsencode)
        except OSError as error:
            raise _unreadable(path, error) from error

    def open(self, path: str) -> BinaryIO:
        """Return the content of the regular file at *path*."""
        folder, _, name = path.rpartition("/")
        try:
            descriptor = os.open(name, FILE_FLAGS, dir_fd=self._folder(folder))
        except OSError as error:
            raise _unreadable(path, error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise SpecInvalid(
                f"{path} in the build context changed while it was read", seen="it is no file any more"
            )
        return os.fdopen(descriptor, "rb", buffering=0)

    def close(self) -> None:
        """Close every open folder."""
        self._leave(0)

    def _folder(self, path: str) -> int:
        """Return the descriptor of a folder, which stays this tree's."""
        if not self._open:
            self._open.append(os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        wanted = path.split("/") if path else []
        common = 0
        while common < min(len(wanted), len(self._names)) and wanted[common] == self._names[common]:
            common += 1
        self._leave(common + 1)
        for name in wanted[common:]:
            self._open.append(os.open(name, FOLDER_FLAGS, dir_fd=self._open[-1]))
            self._names.append(name)
        return self._open[-1]

    def _leave(self, kept: int) -> None:
        while len(self._open) > kept:
            os.close(self._open.pop())
        del self._names[max(kept - 1, 0) :]

    def _described(self, path: str, folder: int, name: str, status: os.stat_result) -> Node | None:
        if stat.S_ISSOCK(status.st_mode):
            return None
        kind = KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None or kind in {"char", "block"}:
            raise SpecInvalid(
                f"{path} in the build context is a device", mend="leave it out in the .dockerignore"
            )
        return Node(
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            size=status.st_size if kind == "file" else 0,
            mtime_ns=status.st_mtime_ns,
            link=os.readlink(name, dir_fd=folder) if kind == "link" else "",
            stamp=(
                status.st_dev,
                status.st_ino,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
            ),
            inode=(status.st_dev, status.st_ino) if kind == "file" and status.st_nlink > 1 else None,
            xattrs={} if kind == "link" else carried(folder, name),
        )


def _unreadable(path: str, error: OSError) -> SpecInvalid:
    return SpecInvalid(
        f"{path or 'the folder'} in the build context cannot be read",
        seen=error.strerror or str(error),
        mend="make it readable, or leave it out in the .dockerignore",
    )
