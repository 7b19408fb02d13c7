"""A build's context: the folder that COPY and ADD copy from, without what its ignore file names.

https://docs.docker.com/build/concepts/context/. Nothing outside the folder is read, whatever
links it holds.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.disk import DiskTree
from pytest_containers.images.build.ignore import Ignore, ignore_names
from pytest_containers.images.build.instruction import Add, Copy
from pytest_containers.images.build.nodes import InlineTree, Item
from pytest_containers.images.build.picking import Picker
from pytest_containers.images.build.remote import read_remote
from pytest_containers.images.build.selection import Selection
from pytest_containers.images.build.source import located

__all__ = ["Context"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The folder *root*; *ignore* was read from its file *ignored_by*."""

    root: Path
    ignore: Ignore
    ignored_by: str

    @classmethod
    def open(cls, folder: Path, dockerfile: str = "Dockerfile") -> Self:
        """Return the context in *folder*; the ignore file beside *dockerfile* goes first.

        Raises SpecInvalid where *folder* is none, or for a malformed pattern.
        """
        root = folder.absolute()
        if not root.is_dir():
            seen = "it is a file" if root.exists() else "it is not there"
            raise SpecInvalid(
                f"the build context {folder} is not a folder", seen=seen, mend="name the folder to copy from"
            )
        for name in ignore_names(dockerfile):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
                content = (root / name).read_bytes()
                return cls(root=root, ignore=Ignore.parse(content, name), ignored_by=name)
        return cls(root=root, ignore=Ignore(), ignored_by=".dockerignore")

    def select(self, transfer: Copy | Add) -> Selection:
        """Return what the expanded *transfer* copies from here, and its inline files.

        URLs and git sources of ADD are left to the caller. Raises SpecInvalid, with file and line.
        """
        with located(transfer.location), contextlib.closing(DiskTree(self.root)) as tree:
            picker = Picker(
                tree=tree, place="the build context", ignore=self.ignore, ignored_by=self.ignored_by
            )
            parents = isinstance(transfer, Copy) and transfer.parents
            items: list[Item] = []
            for source in transfer.sources:
                if isinstance(transfer, Copy) or read_remote(source) is None:
                    items += picker.pick(source, exclude=transfer.exclude, parents=parents)
            inline = InlineTree({doc.name: doc.content for doc in transfer.contents})
            for name in inline.names(""):
                items += Picker(tree=inline, place="the Dockerfile").pick(name, exclude=(), parents=False)
            return Selection.of(
                items,
                location=transfer.location,
                unpack=isinstance(transfer, Add) and transfer.unpack is not False,
                single=len(transfer.sources) + len(transfer.contents) == 1,
            )
