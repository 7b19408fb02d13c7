"""The merged view of unpacked layers, as a tree to copy from and to place files in.

What overlayfs would show of them (docs.kernel.org, filesystems/overlayfs.html), read without a
mount: a device 0/0 hides a name, an opaque folder all that lies below it. Every step is one name
relative to an open folder and follows no link (openat(2), O_NOFOLLOW); what another file system
is mounted on is empty, as it is in an overlay.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from pytest_containers.errors import LayerCorrupt, SpecInvalid
from pytest_containers.images.attributes import is_opaque
from pytest_containers.images.build.nodes import FILE_FLAGS, FOLDER_FLAGS, KINDS, Node, carried
from pytest_containers.images.tree import is_whiteout

__all__ = ["LowerTree"]

_Folders = tuple[int, ...]


class LowerTree:
    """The layers in *folders*, oldest first; a `nodes.Tree`. Files have their owners."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._roots = tuple(folders)
        self._names: list[str] = []
        # The folders of the last path, each with the descriptors that merge there, topmost first.
        self._open: list[_Folders] = []
        self._devices: dict[int, int] = {}

    def node(self, path: str) -> Node | None:
        """Return what the layers show at *path*."""
        if not path:
            return self._root()
        folder, _, name = path.rpartition("/")
        for descriptor in self._folder(folder):
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue
            return None if is_whiteout(status) else _described(descriptor, name, status)
        return None

    def names(self, path: str) -> list[str]:
        """Return the names in the folder *path*, in the order of their bytes."""
        found: dict[str, bool] = {}
        for descriptor in self._folder(path):
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    if entry.name not in found:
                        hidden = not entry.is_symlink() and _is_device(entry)
                        found[entry.name] = not (hidden and is_whiteout(entry.stat(follow_symlinks=False)))
        return sorted((name for name, shown in found.items() if shown), key=os.fsencode)

    def open(self, path: str) -> BinaryIO:
        """Return the content of the regular file at *path*."""
        folder, _, name = path.rpartition("/")
        for descriptor in self._folder(folder):
            try:
                file = os.open(name, FILE_FLAGS, dir_fd=descriptor)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _unreadable(path, error) from error
            if stat.S_ISREG(os.fstat(file).st_mode):
                return os.fdopen(file, "rb", buffering=0)
            os.close(file)
            break
        raise LayerCorrupt(f"the layers have no file {path}", seen="something changed them")

    def close(self) -> None:
        """Close every open folder; the tree may be used again."""
        self._leave(0)

    def _root(self) -> Node:
        for descriptor in self._folder(""):
            node = _described(descriptor, ".", os.fstat(descriptor))
            if node is not None:
                return node
        return Node(kind="folder", mode=0o755, owner=(0, 0))

    def _folder(self, path: str) -> _Folders:
        """Return the descriptors that merge at *path*, topmost first, none where no folder is there."""
        if not self._open:
            opened = [os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for root in self._roots]
            self._devices = {descriptor: os.fstat(descriptor).st_dev for descriptor in opened}
            self._open.append(tuple(reversed(opened)))
        wanted = path.split("/") if path else []
        common = 0
        while common < min(len(wanted), len(self._names)) and wanted[common] == self._names[common]:
            common += 1
        self._leave(common + 1)
        for name in wanted[common:]:
            self._open.append(tuple(self._below(self._open[-1], name)))
            self._names.append(name)
        return self._open[-1]

    def _below(self, folders: _Folders, name: str) -> Iterable[int]:
        found: list[int] = []
        for folder in folders:
            try:
                descriptor = os.open(name, FOLDER_FLAGS, dir_fd=folder)
            except FileNotFoundError:
                continue
            except NotADirectoryError:  # a link or a whiteout as well
                break
            except OSError as error:
                raise _unreadable(name, error) from error
            found.append(descriptor)
            self._devices[descriptor] = self._devices[folder]
            if os.fstat(descriptor).st_dev != self._devices[folder]:
                os.close(found.pop())
                break
            if is_opaque(descriptor):
                break
        return found

    def _leave(self, kept: int) -> None:
        while len(self._open) > kept:
            for descriptor in self._open.pop():
                os.close(descriptor)
                self._devices.pop(descriptor, None)
        del self._names[max(kept - 1, 0) :]


def _unreadable(path: str, error: OSError) -> SpecInvalid:
    return SpecInvalid(
        f"/{path} in the layers cannot be read",
        seen=error.strerror or str(error),
        mend="copy what this user may read, or build as root",
    )


def _is_device(entry: os.DirEntry[str]) -> bool:
    return not entry.is_file(follow_symlinks=False) and not entry.is_dir(follow_symlinks=False)


def _described(folder: int, name: str, status: os.stat_result) -> Node | None:
    kind = KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    return Node(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        size=status.st_size if kind == "file" else 0,
        mtime_ns=status.st_mtime_ns,
        link=os.readlink(name, dir_fd=folder) if kind == "link" else "",
        owner=(status.st_uid, status.st_gid),
        device=status.st_rdev if kind in {"char", "block"} else 0,
        inode=(status.st_dev, status.st_ino) if kind == "file" and status.st_nlink > 1 else None,
        xattrs=carried(folder, name) if kind in {"file", "folder"} else {},
    )
