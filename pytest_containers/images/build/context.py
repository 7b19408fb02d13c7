"""A build's context: the folder that COPY and ADD copy from, without what its ignore file names.

https://docs.docker.com/build/concepts/context/. Nothing outside the folder is read, whatever
links it holds.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import wildcard
from pytest_containers.images.build.cache import step_key
from pytest_containers.images.build.disk import DiskTree
from pytest_containers.images.build.fingerprint import fingerprint
from pytest_containers.images.build.hashes import Hashes
from pytest_containers.images.build.ignore import Ignore, ignore_names
from pytest_containers.images.build.instruction import Add, Copy
from pytest_containers.images.build.nodes import InlineTree, Item
from pytest_containers.images.build.picking import Picker
from pytest_containers.images.build.remote import read_remote
from pytest_containers.images.build.selection import Selection
from pytest_containers.images.build.source import located

__all__ = ["Content", "Context", "select"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The digest of what a COPY or ADD copies; and *selection*, where it took reading to know it."""

    digest: str
    selection: Selection | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The folder *root*; *ignore* was read from its file *ignored_by*, whose digest is *ignored_as*."""

    root: Path
    ignore: Ignore
    ignored_by: str
    ignored_as: str = ""
    hashes: Hashes | None = None

    @classmethod
    def open(cls, folder: Path, dockerfile: str = "Dockerfile", *, hashes: Hashes | None = None) -> Self:
        """Return the context in *folder*; the ignore file beside *dockerfile* goes first.

        What *hashes* know of files is not read again.

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
                return cls(
                    root=root,
                    ignore=Ignore.parse(content, name),
                    ignored_by=name,
                    ignored_as=hashlib.sha256(content).hexdigest(),
                    hashes=hashes,
                )
        return cls(root=root, ignore=Ignore(), ignored_by=".dockerignore", hashes=hashes)

    def content(self, transfer: Copy | Add) -> Content:
        """Return what stands for the content of `select`, and that itself where files had to be read.

        What has not changed since it was last read is not read. Raises SpecInvalid, with file and
        line.
        """
        remote = isinstance(transfer, Add) and any(map(read_remote, transfer.sources))
        found = [fingerprint(self.root, source, self.ignore) for source in transfer.sources if not remote]
        known = [one for one in found if one is not None]
        if self.hashes is None or remote or len(known) < len(found):
            selection = self.select(transfer)
            return Content(digest=selection.digest, selection=selection)
        kind = [transfer.parents] if isinstance(transfer, Copy) else ["add", transfer.unpack is not False]
        inline = [[doc.name, doc.content] for doc in transfer.contents]
        files = [one.digest for one in known]
        key = step_key(self.ignored_as, "files", transfer.sources, transfer.exclude, kind, inline, files)
        newest_ns = max((one.newest_ns for one in known), default=0)
        read: list[Selection] = []

        def look() -> str:
            read.append(self.select(transfer))
            return read[0].digest

        digest = self.hashes.of((key,), newest_ns, look)
        return Content(digest=digest, selection=read[0] if read else None)

    def select(
        self, transfer: Copy | Add, fetched: Sequence[list[Item]] = (), *, expected: str = ""
    ) -> Selection:
        """Return what the expanded *transfer* copies from here, and its inline files.

        Its URLs and git sources are what *fetched* has of them, in their order; nothing is of those
        behind its end. Raises SpecInvalid, with file and line, also where the digest is not the
        *expected* one.
        """
        with located(transfer.location), contextlib.closing(DiskTree(self.root)) as tree:
            picker = Picker(
                tree=tree, place="the build context", ignore=self.ignore, ignored_by=self.ignored_by
            )
            selection = select(picker, transfer, fetched, hashes=self.hashes)
            if expected and selection.digest != expected:
                raise SpecInvalid(
                    f"files of {transfer.text} changed while they were copied",
                    seen="their bytes are not those that the step was begun with",
                    mend="build when nothing writes there, or leave them out in the .dockerignore",
                )
            return selection


def select(
    picker: Picker,
    transfer: Copy | Add,
    fetched: Sequence[list[Item]] = (),
    *,
    hashes: Hashes | None = None,
) -> Selection:
    """Return what *transfer* copies from the tree of *picker*; see `Context.select`."""
    parents = isinstance(transfer, Copy) and transfer.parents
    items: list[Item] = []
    wild = 0
    coming = iter(fetched)
    for source in transfer.sources:
        remote = read_remote(source) if isinstance(transfer, Add) else None
        if remote is None:
            found = picker.pick(source, exclude=transfer.exclude, parents=parents)
            wild += not found and bool(wildcard.split(f"/{source}")[1])
            items += found
        else:
            items += next(coming, [])
    inline = InlineTree({doc.name: doc.content for doc in transfer.contents})
    for name in inline.names(""):
        items += Picker(tree=inline, place="the Dockerfile").pick(name, exclude=(), parents=False)
    return Selection.of(
        items,
        location=transfer.location,
        unpack=isinstance(transfer, Add) and transfer.unpack is not False,
        single=len(transfer.sources) + len(transfer.contents) == 1,
        nothing=wild == len(transfer.sources) + len(transfer.contents),
        hashes=hashes,
    )
