"""Where COPY and ADD put what they selected, and whose it is: the layer, without a container.

The rules are those of https://docs.docker.com/reference/dockerfile/#destination, and where that is
silent what BuildKit does (https://github.com/tonistiigi/fsutil, copy/copy.go): links in the target
are followed, those below it are not; a folder is laid over a folder, and never over anything else.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.follow import follow
from pytest_containers.images.build.instruction import Transfer
from pytest_containers.images.build.layertar import LayerTar
from pytest_containers.images.build.mode import Mode
from pytest_containers.images.build.nodes import Kind, Node, Tree
from pytest_containers.images.build.selection import Chosen, Selection
from pytest_containers.images.build.source import located
from pytest_containers.images.build.tarball import entries, reading
from pytest_containers.images.tarstream import Entry

__all__ = ["Placement", "Stamp", "place"]

_TYPES: Final[Mapping[Kind, bytes]] = {
    "file": b"0",
    "hard": b"1",
    "link": b"2",
    "char": b"3",
    "block": b"4",
    "folder": b"5",
    "fifo": b"6",
}
_WHITEOUT: Final = ".wh."
_FOLDER_MODE: Final = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What an instruction says of all its files: *owner* and *mode*, None where it does not."""

    owner: tuple[int, int] | None = None
    mode: Mode | None = None


class Placement:
    """A layer on its way to *tar*, above the files of *below*."""

    def __init__(self, tar: LayerTar, below: Tree) -> None:
        self._tar = tar
        self._below = below
        self._own: dict[str, Node] = {}
        self._first: dict[object, str] = {}
        self._now_ns = time.time_ns()

    def look(self, path: str) -> Node | None:
        """Return what is at *path* by now, no link followed."""
        return self._own.get(path) or self._below.node(path)

    def resolve(self, path: str) -> str:
        """Return where *path* leads through all its links, whether something is there or not."""
        return follow(self.look, path)

    def is_folder(self, path: str) -> bool:
        """Tell whether a folder is at the resolved *path*."""
        node = self.look(path)
        return node is not None and node.kind == "folder"

    def folder(self, path: str, owner: tuple[int, int] = (0, 0)) -> None:
        """Have the resolved *path* be a folder; what is missing is made, and *owner*'s.

        Folders of lower layers come along as they are: a layer names all folders on its ways.
        """
        parts = path.split("/") if path else []
        for at in range(1, len(parts) + 1):
            here = "/".join(parts[:at])
            if here in self._own and self._own[here].kind == "folder":
                continue
            node = self.look(here)
            if node is None:
                node = Node(kind="folder", mode=_FOLDER_MODE, owner=owner)
            elif node.kind != "folder":
                raise SpecInvalid(
                    f"/{path} cannot be a folder", seen=f"/{here} is a {_called(node)}", mend="name another"
                )
            elif at == len(parts):
                node = replace(node, mtime_ns=None)  # something comes into it
            self._put(here, node, ())

    def put(self, path: str, one: Chosen, stamp: Stamp) -> None:
        """Put an item at *path*, whose folder is there; raise SpecInvalid where something is in the way."""
        node = one.item.node
        there = self.look(path)
        if there is not None and (node.kind == "folder") != (there.kind == "folder"):
            raise SpecInvalid(
                f"a {_called(node)} cannot replace a {_called(there)}",
                seen=f"/{path} is a {_called(there)}",
                mend="remove it in a RUN before, or name another target",
            )
        owner = stamp.owner or node.owner or (0, 0)
        mode = node.mode
        if stamp.mode is not None and node.kind != "link":
            mode = stamp.mode.apply(node.mode, folder=node.kind == "folder")
        placed = replace(node, owner=owner, mode=mode)
        same = (id(one.item.tree), node.inode)
        if node.inode is not None and same in self._first:
            self._put(path, replace(placed, kind="hard", link=self._first[same], size=0), ())
            return
        self._put(path, placed, one.pieces() if node.kind == "file" else ())
        if node.inode is not None:
            self._first[same] = path

    def unpack(self, folder: str, one: Chosen) -> None:
        """Put the entries of an archive below *folder*; they keep their owners, and replace what is there."""
        name = one.item.name
        with reading(name), one.reading() as archive:
            for path, node, content in entries(archive, name):
                if any(part.startswith(_WHITEOUT) for part in path.split("/")):
                    raise SpecInvalid(
                        f"the archive {name} has an entry that no image can hold",
                        seen=f"{path}: in a layer it means a removed file (image-spec, layer.md, Whiteouts)",
                    )
                inner, _, last = path.rpartition("/")
                inside = self._inside(folder, inner)
                self.folder(inside)
                if node.kind == "hard":
                    linked, _, target = node.link.rpartition("/")
                    node = replace(node, link=_join(self._inside(folder, linked), target))
                data = iter(lambda content=content: content.read(1 << 20), b"") if content else ()  # type: ignore[misc]
                self._put(_join(inside, last), node, data)

    def _inside(self, folder: str, path: str) -> str:
        """Return where *path* leads below *folder*: an archive's links stay in it, as in a chroot."""
        if not path:
            return folder
        prefix = f"{folder}/" if folder else ""
        return _join(folder, follow(lambda inner: self.look(prefix + inner), path))

    def _put(self, path: str, node: Node, content: object) -> None:
        uid, gid = node.owner or (0, 0)
        entry = Entry(
            name=os.fsencode(path),
            kind=_TYPES[node.kind],
            mode=node.mode,
            uid=uid,
            gid=gid,
            size=node.size if node.kind == "file" else 0,
            mtime_ns=self._now_ns if node.mtime_ns is None else node.mtime_ns,
            link=os.fsencode(node.link),
            device=node.device,
            xattrs={os.fsencode(key): value for key, value in node.xattrs.items()},
        )
        self._tar.add(entry, content)  # type: ignore[arg-type]
        self._own[path] = node


def place(
    placement: Placement,
    transfer: Transfer,
    selection: Selection,
    workdir: str,
    owner: tuple[int, int] | None,
) -> None:
    """Put *selection* where *transfer* says, relative to *workdir*; *owner* is None where it names none."""
    if not selection.nothing:
        with located(selection.location), contextlib.closing(selection):
            _place(placement, transfer, selection, workdir, owner)


def _place(
    placement: Placement,
    transfer: Transfer,
    selection: Selection,
    workdir: str,
    owner: tuple[int, int] | None,
) -> None:
    target = placement.resolve(posixpath.join("/", workdir, transfer.target).replace("//", "/"))
    into = transfer.target.endswith("/") or transfer.target in {".", ""} or not selection.one_file
    if not into and len(transfer.sources) + len(transfer.contents) > 1 and not placement.is_folder(target):
        raise SpecInvalid("several sources need a folder", mend=f"write {transfer.target}/")
    into = into or placement.is_folder(target)
    stamp = Stamp(owner=owner, mode=Mode.parse(transfer.mode) if transfer.mode else None)
    folder = target if into else target.rpartition("/")[0]
    placement.folder(folder, owner or (0, 0))
    for one in selection.chosen:
        if one.unpacked:
            placement.unpack(folder, one)
        else:
            placement.put(_join(folder, one.item.name) if into else target, one, stamp)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name


def _called(node: Node) -> str:
    names: Mapping[Kind, str] = {"link": "symbolic link", "hard": "file", "char": "device", "block": "device"}
    return names.get(node.kind, node.kind)
