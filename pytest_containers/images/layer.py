"""Unpack one layer: tar entries to a folder that overlayfs takes as a lower layer.

A layer is a list of changes (image-spec, layer.md): files that are there, and whiteouts for what
lower layers have and this one has not. Entries are applied in their order; whiteouts speak of
lower layers only, wherever in the stream they stand.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final

from pytest_containers.errors import ImageError, LayerCorrupt, LayerEscape, LayerTooLarge
from pytest_containers.images.attributes import (
    OVERLAY_PREFIXES,
    clear_xattrs,
    copy_xattrs,
    set_owner,
    set_xattrs,
)
from pytest_containers.images.blobs import room
from pytest_containers.images.decompress import PIECE_BYTES, decompress
from pytest_containers.images.tarstream import Entry, TarStream
from pytest_containers.images.tree import PATH_LIMIT, Folder, MergedTree, is_whiteout

__all__ = ["LIMIT_BYTES", "apply", "decompress", "unpack"]

# What a layer may unpack to where nobody says otherwise: three times the largest ones in use.
LIMIT_BYTES: Final = 64 << 30

_WHITEOUT: Final = b".wh."
_AUFS: Final = b".wh..wh."
_OPAQUE: Final = b".wh..wh..opq"
_REGULAR, _LINK, _SYMLINK, _CHARACTER, _BLOCK, _FOLDER, _FIFO = (b"%d" % kind for kind in range(7))
_NODES: Final[Mapping[bytes, int]] = {_CHARACTER: stat.S_IFCHR, _BLOCK: stat.S_IFBLK, _FIFO: stat.S_IFIFO}
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What a file system answers to a name or number it cannot hold.
_IMPOSSIBLE: Final = frozenset(
    {errno.ENAMETOOLONG, errno.EINVAL, errno.EFBIG, errno.EMLINK, errno.EILSEQ, errno.EOVERFLOW}
)
_COPY_BYTES: Final = 1 << 20
# The number after it means "leave the owner as it is" (chown(2)), which would be us.
_LAST_ID: Final = (1 << 32) - 2


def unpack(
    tar: BinaryIO, into: Path, *, parents: tuple[Path, ...] = (), limit_bytes: int = LIMIT_BYTES
) -> int:
    """Apply one uncompressed layer to the empty folder *into*; return the bytes of file content.

    *parents* are the unpacked layers below, oldest first; they are only read. The stream is read
    to its end, so that a digest taken of it covers all of it. Owners are set where this process
    may; device nodes it may not make are left out, a container gets its own ``/dev``.
    Raises LayerEscape for an entry that would leave *into* or pass for overlayfs's own marks,
    LayerCorrupt, LayerTooLarge past *limit_bytes* of stream, StoreFull. What was written until
    then stays; the caller has the folder to throw away.
    """
    with room(into):
        return apply(
            iter(lambda: tar.read(PIECE_BYTES), b""), into, parents=parents, limit_bytes=limit_bytes
        )[0]


def apply(
    chunks: Iterator[bytes], into: Path, *, parents: Iterable[Path], limit_bytes: int = LIMIT_BYTES
) -> tuple[int, bool]:
    """Do what `unpack` does for an iterator of bytes, and tell whether the tar's end mark was there.

    A full disk shows as OSError.
    """
    tar = TarStream(chunks, limit_bytes=limit_bytes)
    tree = MergedTree(into, parents)
    try:
        layer = _Layer(tar, tree, limit_bytes)
        for entry in tar:
            layer.place(entry)
            tree.trim()
        tar.drain()
        tree.finish()
    finally:
        tree.close()
    return layer.written, tar.ended


class _Layer:
    """The entries of one tar on their way into one tree."""

    def __init__(self, tar: TarStream, tree: MergedTree, limit_bytes: int) -> None:
        self._tar = tar
        self._tree = tree
        self._limit = limit_bytes
        self.written = 0

    def place(self, entry: Entry) -> None:
        """Apply *entry*; an error names it."""
        try:
            self._place(entry)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            kind = LayerCorrupt if error.errno in _IMPOSSIBLE else ImageError
            raise kind(f"the layer's entry {_shown(entry)} cannot be unpacked", seen=str(error)) from error

    def _place(self, entry: Entry) -> None:
        if max(entry.uid, entry.gid) > _LAST_ID:
            raise LayerCorrupt(
                f"the layer's entry {_shown(entry)} has an owner that cannot be",
                seen=f"{entry.uid}:{entry.gid}",
            )
        path, name = _split(entry, entry.name)
        if not name:
            self._place_root(entry)
        elif name.startswith(_WHITEOUT):
            self._place_whiteout(entry, path, name)
        else:
            _check_attributes(entry)
            self._place_file(entry, self._tree.folder(path), name)

    def _place_file(self, entry: Entry, folder: Folder, name: bytes) -> None:
        kind = entry.kind
        if kind == _REGULAR:
            self._place_regular(entry, folder, name)
        elif kind == _FOLDER:
            self._tree.make_folder(folder, name)
            set_owner(name, entry.uid, entry.gid, folder=folder.descriptor)
            # The entry describes the folder whole: what an earlier one, or a lower layer, said goes.
            clear_xattrs(_through(folder, name))
            set_xattrs(_through(folder, name), entry.xattrs)
            self._tree.set_attributes(folder.join(name), mode=entry.mode, mtime_ns=entry.mtime_ns)
        elif kind == _SYMLINK:
            if not entry.link:
                raise LayerCorrupt(f"the layer's symbolic link {_shown(entry)} has no target")
            self._tree.clear(folder, name)
            os.symlink(entry.link, name, dir_fd=folder.descriptor)
            self._describe(entry, folder, name)
        elif kind == _LINK:
            self._place_link(entry, folder, name)
        elif kind in _NODES:
            self._place_node(entry, folder, name)
        else:
            raise LayerCorrupt(
                f"the layer's entry {_shown(entry)} is of an unknown type", seen=f"type flag {kind!r}"
            )

    def _place_regular(self, entry: Entry, folder: Folder, name: bytes) -> None:
        self.written += entry.size if entry.segments is None else sum(part.size for part in entry.segments)
        try:
            file = os.open(name, _CREATE, 0o600, dir_fd=folder.descriptor)
            self._tree.forget_links(folder.join(name))
        except FileExistsError:
            self._tree.clear(folder, name)
            file = os.open(name, _CREATE, 0o600, dir_fd=folder.descriptor)
        try:
            if entry.size:
                self._tar.copy(file, entry)
            # chown(2) takes set-user-ID and capabilities away: owner, attributes, then mode.
            set_owner(file, entry.uid, entry.gid)
            if entry.xattrs:
                set_xattrs(file, entry.xattrs)
            os.fchmod(file, entry.mode)
            os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(file)

    def _place_node(self, entry: Entry, folder: Folder, name: bytes) -> None:
        if entry.kind == _CHARACTER and entry.device == 0:
            raise LayerEscape(
                f"the layer's entry {_shown(entry)} is overlayfs's mark for a removed file",
                seen="a character device 0/0",
                mend="do not use this image; an honest tool writes a .wh. file instead",
            )
        self._tree.clear(folder, name)
        try:
            os.mknod(name, _NODES[entry.kind] | 0o600, entry.device, dir_fd=folder.descriptor)
        except PermissionError:
            return
        self._describe(entry, folder, name)
        os.chmod(name, entry.mode, dir_fd=folder.descriptor)

    def _place_link(self, entry: Entry, folder: Folder, name: bytes) -> None:
        """Give a file of this layer, or of a lower one, a second name."""
        path, last = _split(entry, entry.link)
        target = self._tree.known_folder(path) if last else None
        if target is None:
            raise _no_target(entry)
        here, there = folder.join(name), target.join(last)
        # What stands at the new name goes, and must not take the target along.
        inside = target.path == here or target.path.startswith(here + b"/")
        if inside or self._tree.is_folder(target, last):
            raise _no_target(entry)
        status = self._tree.above(target, last)
        if status is None:
            self._copy_up(entry, target, last)
        elif is_whiteout(status):
            raise _no_target(entry)
        if here == there:
            return
        self._tree.clear(folder, name)
        os.link(
            last,
            name,
            src_dir_fd=target.descriptor,
            dst_dir_fd=folder.descriptor,
            follow_symlinks=False,
        )

    def _copy_up(self, entry: Entry, folder: Folder, name: bytes) -> None:
        """Bring a lower layer's file into this one: a link joins names of one file system object."""
        below = self._tree.below(folder, name)
        if below.status is None or below.merged:
            raise _no_target(entry)
        status = below.status
        path = folder.join(name)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(path, dir_fd=below.layer), name, dir_fd=folder.descriptor)
            set_owner(name, status.st_uid, status.st_gid, folder=folder.descriptor)
            return
        if not stat.S_ISREG(status.st_mode):
            raise _no_target(entry)
        self.written += status.st_size
        if self.written > self._limit:
            raise LayerTooLarge("the layer unpacks past its limit", seen=f"more than {self._limit} bytes")
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=below.layer)
        with os.fdopen(source, "rb", 0) as reader:
            file = os.open(name, _CREATE, 0o600, dir_fd=folder.descriptor)
            with os.fdopen(file, "wb", 0) as writer:
                shutil.copyfileobj(reader, writer, _COPY_BYTES)
                set_owner(file, status.st_uid, status.st_gid)
                copy_xattrs(source, file)
                os.fchmod(file, stat.S_IMODE(status.st_mode))
                os.utime(file, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def _place_whiteout(self, entry: Entry, path: bytes, name: bytes) -> None:
        hidden = name[len(_WHITEOUT) :]
        if name != _OPAQUE and name.startswith(_AUFS):
            return
        if hidden in (b".", b".."):
            raise LayerEscape(
                f"the layer's whiteout {_shown(entry)} would remove a folder from inside it",
                mend="do not use this image; an honest tool does not write such a layer",
            )
        if not hidden:
            raise LayerCorrupt(f"the layer's whiteout {_shown(entry)} names nothing")
        folder = self._tree.covering_folder(path)
        # Whiteouts inside a folder that is itself hidden occur in images made with aufs.
        if folder is None:
            return
        if name == _OPAQUE:
            self._tree.make_opaque(folder)
        else:
            self._tree.hide(folder, hidden)

    def _place_root(self, entry: Entry) -> None:
        if entry.kind != _FOLDER:
            raise LayerEscape(f"the layer's entry {_shown(entry)} would replace the root folder")
        _check_attributes(entry)
        root = self._tree.root
        set_owner(root.descriptor, entry.uid, entry.gid)
        clear_xattrs(root.descriptor)
        set_xattrs(root.descriptor, entry.xattrs)
        self._tree.set_attributes(root.path, mode=entry.mode, mtime_ns=entry.mtime_ns)

    def _describe(self, entry: Entry, folder: Folder, name: bytes) -> None:
        """Set owner, attributes and times of what is no regular file and no folder."""
        set_owner(name, entry.uid, entry.gid, folder=folder.descriptor)
        set_xattrs(_through(folder, name), entry.xattrs)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(name, ns=times, dir_fd=folder.descriptor, follow_symlinks=False)


def _split(entry: Entry, name: bytes) -> tuple[bytes, bytes]:
    """Return folder and last part of a name, both empty for the root.

    A leading slash means the root of the tree, as it does to docker and containerd: tools that
    write absolute names are in wide use. Raises LayerEscape for a ``..`` anywhere.
    """
    if name.startswith(b"./"):
        name = name[2:]
    # Most names are plain; the ones that are not pay for being taken apart.
    if b"/." in name or b"//" in name or name[:1] in (b".", b"/", b"") or _WHITEOUT in name:
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise LayerEscape(
                f"the layer's entry {_shown(entry)} leads out of the layer",
                seen="a part .. in its name or its target",
                mend="do not use this image; an honest tool does not write such a layer",
            )
        for at, part in enumerate(parts[:-1]):
            if part.startswith(_AUFS) and part != _OPAQUE:
                # A folder of aufs's own: whatever is in it goes with it.
                parts = parts[: at + 1]
                break
            if part.startswith(_WHITEOUT):
                raise LayerCorrupt(f"the layer's entry {_shown(entry)} lies inside a whiteout")
        name = b"/".join(parts)
    if len(name) > PATH_LIMIT:
        raise LayerCorrupt(
            f"the layer's entry {_shown(entry)} has a name too long to open", seen=f"{len(name)} bytes"
        )
    folder, _, last = name.rpartition(b"/")
    return folder, last


def _check_attributes(entry: Entry) -> None:
    if any(key.startswith(OVERLAY_PREFIXES) for key in entry.xattrs):
        raise LayerEscape(
            f"the layer's entry {_shown(entry)} carries attributes that steer overlayfs",
            seen=", ".join(os.fsdecode(key) for key in entry.xattrs),
            mend="do not use this image; an honest tool does not write such a layer",
        )


def _through(folder: Folder, name: bytes) -> bytes:
    """Return a path to *name* for the calls that take no folder descriptor (setxattr(2))."""
    return b"/proc/self/fd/%d/%s" % (folder.descriptor, name)


def _no_target(entry: Entry) -> LayerCorrupt:
    return LayerCorrupt(
        f"the layer's hard link {_shown(entry)} has no file to link to", seen=os.fsdecode(entry.link[:200])
    )


def _shown(entry: Entry) -> str:
    return repr(os.fsdecode(entry.name[:200]))
