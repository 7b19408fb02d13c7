"""The folder a layer is unpacked into, seen through the layers below it.

A layer is written in the form overlayfs mounts (docs.kernel.org, filesystems/overlayfs.html,
"whiteouts and opaque directories"): only what the layer itself holds. Each layer is applied by
itself, as docker's overlay2 and podman do: where a name of the layer passes through a symbolic link
or a file that only a lower layer has, a folder takes that one's place; links of the layer itself
are followed. Every step is one name relative to an open folder, no link followed by
the kernel, so that no sequence of entries can lead outside (openat(2), O_NOFOLLOW).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_containers.errors import LayerCorrupt
from pytest_containers.images.attributes import copy_xattrs, is_opaque, mark_opaque, set_owner

__all__ = ["PATH_LIMIT", "Below", "Folder", "MergedTree", "is_whiteout"]

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_LIMIT: Final = 64
# path_resolution(7): the kernel follows 40 links and takes 4095 bytes; no container could use more.
_LINK_LIMIT: Final = 40
PATH_LIMIT: Final = 4095
# Our own: recursive walks of the tree (removal, diff) stay far from Python's recursion limit.
_DEPTH_LIMIT: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A real folder of the layer: *path* from the layer's root without any link in it (root: empty)."""

    descriptor: int
    path: bytes

    def join(self, name: bytes) -> bytes:
        """Return the path of *name* in this folder."""
        return self.path + b"/" + name if self.path else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Below:
    """What the lower layers, merged, have at a place.

    *status* is None where they have nothing. *layer* is the root descriptor of the layer that
    shows; *merged* are all whose folders merge there, topmost first, empty for a file.
    """

    status: os.stat_result | None = None
    layer: int = -1
    merged: tuple[int, ...] = ()


@dataclass(slots=True)
class _Attributes:
    mode: int
    mtime_ns: int | None
    # No entry speaks of the folder; one of something in it does.
    implied: bool = True


class MergedTree:
    """Places names of a layer into the folder *into*, above *parents* (oldest first).

    Close it in any case; `finish` sets what folders get last.
    """

    def __init__(self, into: Path, parents: Iterable[Path]) -> None:
        self._roots: list[int] = []
        self._open: OrderedDict[bytes, Folder] = OrderedDict()
        # Every folder of this layer by its real path, with the lower layers that merge there.
        self._merged: dict[bytes, tuple[int, ...]] = {}
        self._attributes: dict[bytes, _Attributes] = {}
        # What a path with links in it came to, and the links on the way.
        self._meaning: dict[bytes, bytes] = {}
        self._followed: set[bytes] = set()
        self._opaque_root: tuple[int, ...] = ()
        self.root = Folder(descriptor=os.open(into, _FOLDER), path=b"")
        try:
            for parent in parents:
                self._roots.append(os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            self._merged[b""] = tuple(reversed(self._roots))
            self._copy_attributes(self.root, self._merged[b""][:1], b".")
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close every descriptor; the tree is of no use after it."""
        for descriptor in (*self._roots, *(folder.descriptor for folder in self._open.values())):
            os.close(descriptor)
        os.close(self.root.descriptor)

    def trim(self) -> None:
        """Close the folders not used for longest; every `Folder` in the caller's hands ends here."""
        while len(self._open) > _OPEN_LIMIT:
            _, oldest = self._open.popitem(last=False)
            os.close(oldest.descriptor)

    def folder(self, path: bytes) -> Folder:
        """Return the folder that *path* means in this layer, made where it is not there.

        Links of this layer are resolved inside the tree: ``..`` at the root stays there, an absolute
        target starts there (as chroot(2) would have it). Folders of lower layers are copied up; what
        else lower layers have in the way is hidden by a new folder. Raises LayerCorrupt where *path*
        passes through a file of this layer, too many links or is too long.
        """
        found = self._walk(path, make=True)
        if found is None:
            raise _unusable(path, "it is not there")
        return found

    def known_folder(self, path: bytes) -> Folder | None:
        """Return the same where this layer has it or a lower one has the folder, else None."""
        return self._walk(path, make=False)

    def covering_folder(self, path: bytes) -> Folder | None:
        """Return what `known_folder` does, and make it where lower layers have a link or file in the way."""
        return self._walk(path, make=False, cover=True)

    def _walk(self, path: bytes, *, make: bool, cover: bool = False) -> Folder | None:
        real = self._meaning.get(path, path)
        if real in self._merged:
            return self._reach(real)
        todo = deque(path.split(b"/"))
        here = b""
        links = 0
        while todo:
            name = todo.popleft()
            if name in (b"", b"."):
                continue
            if name == b"..":
                here = here.rpartition(b"/")[0]
                continue
            step = here + b"/" + name if here else name
            if step not in self._open:
                target = self._enter(self._reach(here), name, make=make, cover=cover)
                if target is None:
                    return None
                if target:
                    links += 1
                    if links > _LINK_LIMIT:
                        raise _unusable(path, "it passes through more than 40 symbolic links")
                    todo.extendleft(reversed(target.split(b"/")))
                    here = b"" if target.startswith(b"/") else here
                    continue
            here = step
        if here != path:
            self._meaning[path] = here
        return self._reach(here)

    def below(self, folder: Folder, name: bytes) -> Below:
        """Return what the lower layers have as *name* in *folder*."""
        found: list[int] = []
        status: os.stat_result | None = None
        candidates = self._merged[folder.path]
        path = folder.join(name)
        for layer in candidates:
            try:
                here = os.stat(path, dir_fd=layer, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if is_whiteout(here) or (found and not stat.S_ISDIR(here.st_mode)):
                break
            if not stat.S_ISDIR(here.st_mode):
                return Below(status=here, layer=layer)
            status = status or here
            found.append(layer)
            if layer != candidates[-1] and _is_opaque(path, layer):
                break
        return Below(status=status, layer=found[0] if found else -1, merged=tuple(found))

    def above(self, folder: Folder, name: bytes) -> os.stat_result | None:
        """Return what this layer itself has as *name* in *folder*, None where it has nothing."""
        try:
            return os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def is_folder(self, folder: Folder, name: bytes) -> bool:
        """Tell whether this layer itself has a folder called *name* in *folder*."""
        return folder.join(name) in self._merged

    def make_folder(self, folder: Folder, name: bytes) -> None:
        """Make the folder *name* in *folder*, unless this layer has it; what else it has there goes.

        A folder in place of something this layer has hidden shows nothing of the lower layers.
        """
        path = folder.join(name)
        if path in self._merged:
            return
        above = self.above(folder, name)
        merged = self.below(folder, name).merged
        if above is not None:
            os.unlink(name, dir_fd=folder.descriptor)
        os.mkdir(name, 0o700, dir_fd=folder.descriptor)
        self._merged[path] = merged
        self._attributes[path] = _Attributes(mode=0o755, mtime_ns=None)
        self.forget_links(path)
        if above is not None:
            self.make_opaque(self._reach(path))

    def clear(self, folder: Folder, name: bytes) -> None:
        """Remove what this layer has as *name* in *folder*, with all below it: something else comes."""
        path = folder.join(name)
        self.forget_links(path)
        if path not in self._merged:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder.descriptor)
            return
        for inner in sorted(self._inside(path), key=len, reverse=True):
            held = self._reach(inner)
            for child in os.listdir(held.descriptor):
                os.unlink(child, dir_fd=held.descriptor)
            self._forget(inner)
            parent, _, last = inner.rpartition(b"/")
            os.rmdir(last, dir_fd=self._reach(parent).descriptor)
        self._meaning.clear()

    def forget_links(self, path: bytes) -> None:
        """Drop what is remembered of ways through *path*: something else stands there now."""
        if path in self._followed:
            self._followed.clear()
            self._meaning.clear()

    def make_opaque(self, folder: Folder) -> None:
        """Hide everything that lower layers have in *folder*."""
        merged = self._merged[folder.path]
        if not merged:
            return
        if folder.path:
            mark_opaque(folder.descriptor)
        else:
            # The kernel merges the roots of all layers and asks none for opaqueness.
            self._opaque_root = merged
        for inner in self._inside(folder.path):
            self._merged[inner] = ()
        self._meaning.clear()
        self._followed.clear()

    def hide(self, folder: Folder, name: bytes) -> None:
        """Hide what lower layers have as *name* in *folder*; what this layer has there stays."""
        path = folder.join(name)
        if path in self._merged and self._holds_nothing(path):
            self.clear(folder, name)
        if path in self._merged:
            self.make_opaque(self._reach(path))
        elif self.above(folder, name) is None and self.below(folder, name).status is not None:
            os.mknod(name, stat.S_IFCHR | 0o000, os.makedev(0, 0), dir_fd=folder.descriptor)
            self.forget_links(path)

    def set_attributes(self, path: bytes, *, mode: int, mtime_ns: int | None) -> None:
        """Remember what the folder *path* gets in the end: until then it must be writable."""
        self._attributes[path] = _Attributes(mode=mode, mtime_ns=mtime_ns, implied=False)

    def finish(self) -> None:
        """Set modes and times of folders, innermost first: making what is in them changed both."""
        if self._opaque_root:
            self._hide_root()
        for path, attributes in sorted(self._attributes.items(), reverse=True, key=lambda item: item[0]):
            descriptor = self._reach(path).descriptor
            self.trim()
            os.fchmod(descriptor, attributes.mode)
            if attributes.mtime_ns is not None:
                os.utime(descriptor, ns=(attributes.mtime_ns, attributes.mtime_ns))

    def _hide_root(self) -> None:
        self._merged[b""] = self._opaque_root
        for layer in self._opaque_root:
            listed = os.open(b".", _FOLDER, dir_fd=layer)
            try:
                for name in os.listdir(listed):
                    raw = os.fsencode(name)
                    if raw in self._merged:
                        mark_opaque(self._reach(raw).descriptor)
                    else:
                        self.hide(self.root, raw)
            finally:
                os.close(listed)

    def _holds_nothing(self, path: bytes) -> bool:
        """Tell whether a folder is here only for the whiteouts in it."""
        for inner in self._inside(path):
            held = self._reach(inner)
            for name in os.listdir(held.descriptor):
                raw = os.fsencode(name)
                status = os.stat(raw, dir_fd=held.descriptor, follow_symlinks=False)
                if held.join(raw) not in self._merged and not is_whiteout(status):
                    return False
            if not self._attributes[inner].implied:
                return False
        return True

    def _enter(self, parent: Folder, name: bytes, *, make: bool, cover: bool) -> bytes | None:
        """Open *name* in *parent*; return the target of a link, else nothing (None: it is not there)."""
        path = parent.join(name)
        if len(path) > PATH_LIMIT or path.count(b"/") >= _DEPTH_LIMIT:
            raise _unusable(path, f"it is {len(path)} bytes and {path.count(b'/') + 1} folders deep")
        if path in self._merged:
            self._keep(path, os.open(name, _FOLDER, dir_fd=parent.descriptor))
            return b""
        above = self.above(parent, name)
        if above is not None and stat.S_ISLNK(above.st_mode):
            self._followed.add(path)
            return os.fsencode(os.readlink(name, dir_fd=parent.descriptor))
        below = self.below(parent, name) if above is None else Below()
        make = make or (cover and below.status is not None)
        if not make and not below.merged:
            return None
        if above is not None and not is_whiteout(above):
            raise _unusable(path, "it is a file and not a folder")
        self.make_folder(parent, name)
        # make_folder may have opened it, to make it opaque.
        if path not in self._open:
            self._keep(path, os.open(name, _FOLDER, dir_fd=parent.descriptor))
        self._copy_attributes(self._open[path], below.merged[:1], path)
        return b""

    def _copy_attributes(self, folder: Folder, layers: tuple[int, ...], path: bytes) -> None:
        """Give a folder that no entry describes what the topmost layer below says of it.

        The same is what the kernel's copy-up of a folder keeps: owner, mode, times, attributes.
        """
        if not layers:
            self._attributes[folder.path] = _Attributes(mode=0o755, mtime_ns=None)
            return
        status = os.stat(path, dir_fd=layers[0], follow_symlinks=False)
        set_owner(folder.descriptor, status.st_uid, status.st_gid)
        with contextlib.suppress(PermissionError):
            source = os.open(path, _FOLDER, dir_fd=layers[0])
            try:
                copy_xattrs(source, folder.descriptor)
            finally:
                os.close(source)
        mode = stat.S_IMODE(status.st_mode)
        self._attributes[folder.path] = _Attributes(mode=mode, mtime_ns=status.st_mtime_ns)

    def _reach(self, path: bytes) -> Folder:
        """Return an open folder of this layer by its real path."""
        above, rest = path, b""
        while above and above not in self._open:
            above, _, name = above.rpartition(b"/")
            rest = name + b"/" + rest if rest else name
        folder = self._open[above] if above else self.root
        if above:
            self._open.move_to_end(above)
        for name in rest.split(b"/") if rest else ():
            folder = self._keep(folder.join(name), os.open(name, _FOLDER, dir_fd=folder.descriptor))
        return folder

    def _keep(self, path: bytes, descriptor: int) -> Folder:
        folder = self._open[path] = Folder(descriptor=descriptor, path=path)
        return folder

    def _inside(self, path: bytes) -> list[bytes]:
        below = path + b"/"
        return [inner for inner in self._merged if not path or inner == path or inner.startswith(below)]

    def _forget(self, path: bytes) -> None:
        del self._merged[path]
        self._attributes.pop(path, None)
        folder = self._open.pop(path, None)
        if folder is not None:
            os.close(folder.descriptor)


def is_whiteout(status: os.stat_result) -> bool:
    """Tell whether a file is overlayfs's mark for a removed name: character device 0/0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(path: bytes, layer: int) -> bool:
    try:
        folder = os.open(path, _FOLDER, dir_fd=layer)
    except PermissionError:
        return False
    try:
        return is_opaque(folder)
    finally:
        os.close(folder)


def _unusable(path: bytes, seen: str) -> LayerCorrupt:
    shown = os.fsdecode(path[:200]) + ("..." if len(path) > 200 else "")
    return LayerCorrupt(f"the layer names a path that cannot be made: {shown!r}", seen=seen)
