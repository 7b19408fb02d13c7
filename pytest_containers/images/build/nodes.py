"""What can be copied: the nodes of a tree of files, on disk, in a tar or in the Dockerfile itself.

The three are one protocol, so that what COPY selects does not depend on where it is from.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Literal, Protocol

__all__ = [
    "FILE_FLAGS",
    "FOLDER_FLAGS",
    "KINDS",
    "PIECE_BYTES",
    "InlineTree",
    "Item",
    "Kind",
    "Node",
    "Tree",
    "carried",
    "is_carried",
]

Kind = Literal["file", "folder", "link", "hard", "fifo", "char", "block"]

PIECE_BYTES: Final = 1 << 20
FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO that has taken the place of a file must not block (fifo(7)).
FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# What the type bits of a mode mean (inode(7)); a socket cannot be copied.
KINDS: Final[Mapping[int, Kind]] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}
_INLINE_MODE: Final = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What stands at a path.

    *owner* is None where the file's own does not count, *mtime_ns* where it has none: it is as
    old as its copy. *device* is a device number as makedev(3) makes it. *inode* is the same for
    all names of a file that has several. *stamp* stands for the content of a file on disk, its
    change time last (`hashes.Hashes`).
    """

    kind: Kind
    mode: int
    size: int = 0
    mtime_ns: int | None = None
    link: str = ""
    owner: tuple[int, int] | None = None
    device: int = 0
    inode: tuple[int, int] | None = None
    stamp: tuple[int, ...] = ()
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


class Tree(Protocol):
    """Files by their paths: relative to the tree's root, clean, with slashes; the root is empty.

    No symbolic link is followed, not in a folder of the path either: `picking.Picker` does that.
    """

    def node(self, path: str) -> Node | None:
        """Return what is at *path*, None where there is nothing that can be copied."""

    def names(self, path: str) -> list[str]:
        """Return the names in the folder *path*, in the order of their bytes."""

    def open(self, path: str) -> BinaryIO:
        """Return the content of the regular file at *path*."""

    def close(self) -> None:
        """Give up what is open; the tree may be used again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to be copied: what stands at *path* of *tree*, to be called *name* in the target.

    *named* tells that a source or its wildcard named this very thing; then ADD unpacks it where
    it may be unpacked (*unpack*) and is an archive.
    """

    name: str
    path: str
    node: Node
    tree: Tree
    named: bool = False
    unpack: bool = True


class InlineTree:
    """The files that stand in a Dockerfile as heredocs, all in the root."""

    def __init__(self, contents: Mapping[str, str]) -> None:
        self._contents = {name: text.encode("utf-8", "surrogateescape") for name, text in contents.items()}

    def node(self, path: str) -> Node | None:
        """Return the file named *path*, or the root itself."""
        if not path:
            return Node(kind="folder", mode=0o755)
        content = self._contents.get(path)
        return None if content is None else Node(kind="file", mode=_INLINE_MODE, size=len(content))

    def names(self, path: str) -> list[str]:
        """Return the names of all files for the root."""
        return [] if path else sorted(self._contents)

    def open(self, path: str) -> BinaryIO:
        """Return the content of the file named *path*."""
        return io.BytesIO(self._contents[path])

    def close(self) -> None:
        """Do nothing: nothing is open."""


def is_carried(attribute: str) -> bool:
    """Tell whether an extended attribute goes with a file: the user's own ones and capabilities.

    The others are the machine's (xattr(7), "Extended attribute namespaces"), and what overlayfs
    reads would steer it.
    """
    if attribute.startswith("user."):
        return not attribute.startswith("user.overlay.")
    return attribute == "security.capability"


def carried(folder: int, name: str) -> dict[str, bytes]:
    """Return the attributes that go with *name* in an open folder.

    listxattr(2) knows no folder descriptors, /proc does.
    """
    path = f"/proc/self/fd/{folder}/{name}"
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {
            key: os.getxattr(path, key, follow_symlinks=False) for key in sorted(names) if is_carried(key)
        }
    except OSError:
        return {}
