"""Which files a source of COPY or ADD names: paths, wildcards, ``--exclude`` and ``--parents``.

Rules: https://docs.docker.com/reference/dockerfile/#copy, and where that is silent what BuildKit
does (https://github.com/tonistiigi/fsutil, copy/copy.go).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import wildcard
from pytest_containers.images.build.follow import follow
from pytest_containers.images.build.ignore import Ignore, Pattern
from pytest_containers.images.build.nodes import Item, Node, Tree
from pytest_containers.images.build.values import nearest

__all__ = ["Picker", "clean"]

# As many as the kernel follows in one path (path_resolution(7)).
_LINKS: Final = 40
# Deeper than any tree of sources; each level holds a descriptor.
_DEPTH: Final = 200
_WHITEOUT: Final = ".wh."


def clean(path: str) -> str:
    """Return *path* relative to the root it is confined to: ``..`` ends there, ``/`` begins there.

    Raises SpecInvalid for what no path can be.
    """
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError as error:
        raise SpecInvalid(f"the source {path!r} cannot be a path", seen="it is not UTF-8") from error
    if b"\0" in encoded:
        raise SpecInvalid(f"the source {path!r} cannot be a path", seen="it holds a NUL byte")
    return wildcard.clean(f"/{path}")[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picker:
    """Finds the files of *tree*, called *place* in errors, that *ignore*, read from *ignored_by*, leaves.

    *rooted* tells that the tree is a root file system, out of which no link can lead.
    """

    tree: Tree
    place: str
    ignore: Ignore = field(default_factory=Ignore)
    ignored_by: str = ".dockerignore"
    rooted: bool = False

    def pick(self, source: str, *, exclude: Iterable[str], parents: bool) -> list[Item]:
        """Return what *source* names, in the order of the names.

        A folder is its contents. A link that *source* or its wildcard names is what it leads to,
        deeper ones stay links. With *parents* names keep their folders, from ``/./`` on where
        *source* has it. Excluded is what matches below the source, or as its name.
        Raises SpecInvalid where nothing is there; a wildcard may match nothing.
        """
        excluded = Ignore.of(exclude)
        if parents:
            return list(self._with_parents(source, excluded))
        path = clean(source)
        folder, pattern = wildcard.split(f"/{path}")
        if not pattern:
            return list(self._named(path, excluded, required=True))
        base = self._follow(folder[1:])
        if base is None or not self._is_folder(base):
            return []
        depth = pattern.count("/") + 1
        matches = sorted(self._matches(base, "", pattern, depth))
        return [
            item
            for path in matches
            if not excluded.ignores(_last(path))
            for item in self._named(path, excluded, required=not self.ignore.ignores(path))
        ]

    def _named(self, path: str, exclude: Ignore, *, required: bool) -> Iterator[Item]:
        """Yield what the path of a source, or a match of its wildcard, stands for."""
        real = self._follow(path)
        node = None if real is None else self.tree.node(real)
        if real is None or node is None:
            if required:
                raise self._missing(path)
            return
        hidden = bool(path) and (self.ignore.ignores(path) or self.ignore.ignores(real or "."))
        if node.kind == "folder":
            walk = _Walk(picker=self, exclude=exclude)
            found = list(walk.below(real, "", matched=True))
            if hidden and not found and required:
                raise self._missing(path)
            yield from found
        elif not hidden:
            if not exclude.ignores(_last(path)):
                yield self.item(_last(path), real, node, named=True)
        elif required:
            raise self._missing(path)

    def _with_parents(self, source: str, exclude: Ignore) -> Iterator[Item]:
        before, pivot, after = source.partition("/./")
        if not pivot:
            before, after = "", source
        base = self._follow(clean(before))
        if base is None or not self._is_folder(base):
            raise self._missing(clean(before))
        pattern = clean(after)
        if not pattern:
            yield from _Walk(picker=self, exclude=exclude).below(base, "", matched=True)
            return
        static, wild = wildcard.split(pattern)
        walk = _Walk(picker=self, exclude=exclude, include=Pattern.parse(pattern) if wild else None)
        found = list(walk.under(base, static, whole=not wild))
        if not found and not wild and not walk.excluded:
            raise self._missing(_join(base, static))
        yield from found

    def _matches(self, folder: str, name: str, pattern: str, depth: int) -> Iterator[str]:
        """Yield the paths below *folder* that match; what is in a match is not looked at."""
        for last in self.tree.names(folder):
            path, relative = _join(folder, last), _join(name, last)
            if self._is_hidden(path):
                continue
            if wildcard.match(pattern, relative):
                yield path
            elif depth > 1 and self._is_folder(path):
                yield from self._matches(path, relative, pattern, depth - 1)

    def _follow(self, path: str) -> str | None:
        """Return where *path* leads through links, None where nothing is there.

        An absolute link begins at the root, as in a container. Raises SpecInvalid for a link that
        leads out of it.
        """
        if self.rooted:
            real = follow(self.tree.node, path)
            return None if self.tree.node(real) is None else real
        done: list[str] = []
        ahead = path.split("/")[::-1]
        link = target = ""
        hops = 0
        while ahead:
            part = ahead.pop()
            if part == ".." and not done:
                raise self._outside(link, target)
            if part == "..":
                done.pop()
            elif part not in {"", "."}:
                here = "/".join([*done, part])
                node = self.tree.node(here)
                if node is None:
                    if target.startswith("/"):
                        raise self._outside(link, target)
                    return None
                if node.kind != "link":
                    done.append(part)
                    continue
                link, target, hops = here, node.link, hops + 1
                if hops > _LINKS:
                    raise SpecInvalid(f"the symbolic link {link} in {self.place} leads in a circle")
                if target.startswith("/"):
                    done.clear()
                ahead += target.split("/")[::-1]
        return "/".join(done)

    def item(self, name: str, path: str, node: Node, *, named: bool = False) -> Item:
        """Return the item; raise SpecInvalid where no layer can hold it."""
        if _last(name).startswith(_WHITEOUT):
            raise SpecInvalid(
                f"{path} in {self.place} cannot be in an image",
                seen="a name with .wh. in front means a removed file (image-spec, layer.md, Whiteouts)",
                mend="rename it or leave it out",
            )
        return Item(name=name, path=path, node=node, tree=self.tree, named=named)

    def _is_folder(self, path: str) -> bool:
        node = self.tree.node(path)
        return node is not None and node.kind == "folder"

    def _is_hidden(self, path: str) -> bool:
        return self.ignore.prunes(path) or (self.ignore.ignores(path) and not self._is_folder(path))

    def _outside(self, link: str, target: str) -> SpecInvalid:
        return SpecInvalid(
            f"the symbolic link {link} leads out of {self.place}",
            seen=f"{link} -> {target}",
            mend="copy what it means to a file of its own",
        )

    def _missing(self, path: str) -> SpecInvalid:
        if path and self.tree.node(path) is not None and self.ignore.ignores(path):
            return SpecInvalid(
                f"no {path} in {self.place}",
                seen=f"{self.ignored_by} leaves it out",
                mend=f"add the line !{path} at the end of {self.ignored_by}",
            )
        folder, _, last = path.rpartition("/")
        while folder and not self._is_folder(folder):
            folder, _, last = folder.rpartition("/")
        node = self.tree.node(path)
        if node is not None and node.kind == "link":
            return SpecInvalid(
                f"no {path} in {self.place}", seen=f"a link to {node.link}, which is not there"
            )
        known = [name for name in self.tree.names(folder) if not self._is_hidden(_join(folder, name))]
        found = nearest(last, known).replace(
            "did you mean ", f"did you mean {folder}/" if folder else "did you mean "
        )
        return SpecInvalid(f"no {path or '/'} in {self.place}", mend=found)


@dataclass(slots=True, kw_only=True)
class _Walk:
    """Goes through one source's folder.

    A folder that is not itself selected is written only where something in it is: it waits in
    *pending* until then. *excluded* tells that ``--exclude`` has left something out.
    """

    picker: Picker
    exclude: Ignore
    include: Pattern | None = None
    pending: list[Item] = field(default_factory=list)
    excluded: bool = False

    def below(self, folder: str, name: str, *, matched: bool) -> Iterator[Item]:
        """Yield what is selected in *folder*, which is *name* below the source."""
        if name.count("/") >= _DEPTH:
            raise SpecInvalid(f"{folder[:200]} in {self.picker.place} is more than {_DEPTH} folders deep")
        for last in self.picker.tree.names(folder):
            yield from self._one(_join(folder, last), _join(name, last), matched=matched)

    def under(self, base: str, name: str, *, whole: bool) -> Iterator[Item]:
        """Yield the folders on the way from *base* to *name*, then it and what is in it.

        Where not *whole* only what *include* matches.
        """
        parts = name.split("/") if name else []
        for at in range(1, len(parts) + (not whole)):
            relative = "/".join(parts[:at])
            node = self.picker.tree.node(_join(base, relative))
            if node is None or node.kind != "folder":
                return
            self.pending.append(self.picker.item(relative, _join(base, relative), node))
        if whole:
            yield from self._one(_join(base, name), name, matched=True)
        else:
            yield from self.below(_join(base, name), name, matched=False)

    def _one(self, path: str, name: str, *, matched: bool) -> Iterator[Item]:
        matched = matched or (self.include is not None and self.include.matches(name))
        excluded = self.exclude.ignores(name)
        self.excluded |= excluded
        kept = matched and not excluded and not self.picker.ignore.ignores(path)
        if not kept and (self.picker.ignore.prunes(path) or self.exclude.prunes(name)):
            return
        node = self.picker.tree.node(path)
        if node is None:
            return
        if kept:
            yield from self.pending
            self.pending.clear()
            yield self.picker.item(name, path, node)
        if node.kind == "folder" and (matched or self._may_match(name)):
            waiting = [] if kept else [self.picker.item(name, path, node)]
            self.pending += waiting
            yield from self.below(path, name, matched=matched)
            if waiting and self.pending:
                self.pending.pop()

    def _may_match(self, name: str) -> bool:
        return self.include is not None and self.include.may_match_below(name)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name


def _last(path: str) -> str:
    return path.rpartition("/")[2]
