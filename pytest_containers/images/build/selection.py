"""What a COPY or ADD has selected: its content's digest, and the tar that puts it in place.

The digest covers what reaches the image and not when a file was written, so a fresh checkout of
the same sources finds the steps of an older build in the cache.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final, Self, cast

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import wildcard
from pytest_containers.images.build.instruction import Copy
from pytest_containers.images.build.mode import Mode
from pytest_containers.images.build.nodes import PIECE_BYTES, Item, Kind, Node
from pytest_containers.images.build.picking import Picker, clean
from pytest_containers.images.build.source import Location, located
from pytest_containers.images.build.tarball import TarTree, entries, is_archive, reading

__all__ = ["Selection", "origin_path", "select_tar"]

_TYPES: Final[Mapping[Kind, bytes]] = {
    "file": tarfile.REGTYPE,
    "folder": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
}
_NANO: Final = 10**9
_WHITEOUT: Final = ".wh."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """An item, the hash of its content (empty where it has none), and whether ADD unpacks it."""

    item: Item
    content: str
    unpacked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Files to be copied.

    *digest* is of their names, kinds, modes, sizes, links, extended attributes and bytes, of their
    owners where they bring their own, of no times. *one_file* tells that it is a single file that
    may get another name. Owner and mode that `write` is told are not in the digest.
    """

    digest: str
    one_file: bool
    empty: bool
    location: Location
    _chosen: tuple[_Chosen, ...]

    @classmethod
    def of(cls, items: Iterable[Item], *, location: Location, unpack: bool, single: bool) -> Self:
        """Read the content of *items*; *single* tells that they are of a single source.

        With *unpack* the archives among the named ones are to be unpacked. Raises SpecInvalid.
        """
        hasher = hashlib.sha256()
        chosen: list[_Chosen] = []
        for item in items:
            one = _choose(item, unpack=unpack)
            hasher.update(_described(one))
            chosen.append(one)
        only = chosen[0] if single and len(chosen) == 1 else None
        return cls(
            digest=f"sha256:{hasher.hexdigest()}",
            one_file=only is not None and only.item.named and not only.unpacked,
            empty=not chosen,
            location=location,
            _chosen=tuple(chosen),
        )

    def write(
        self,
        out: BinaryIO,
        *,
        name: str | None,
        owner: tuple[int, int],
        mode: Mode | None,
        mtime_s: int | None = None,
        owner_given: bool = False,
    ) -> None:
        """Write the files to *out* as an uncompressed tar; the one file as *name* where that is given.

        What brings owners of its own (an archive's entries, another stage's files) keeps them
        unless *owner_given*; the rest gets *owner*. *mode* does not change entries of archives,
        nor links. No file is younger than *mtime_s*. Raises SpecInvalid for a file that is not
        what it was when it was selected.
        """
        with located(self.location):
            if name is not None and not self.one_file:
                raise SpecInvalid(f"what is copied to {name} is not one file", mend=f"write {name}/")
            with _writing(out) as tar:
                writer = _Writer(tar, owner=owner, owner_given=owner_given, mode=mode, mtime_s=mtime_s)
                try:
                    for one in self._chosen:
                        writer.add(one, name or one.item.name)
                finally:
                    for tree in {id(one.item.tree): one.item.tree for one in self._chosen}.values():
                        tree.close()


def origin_path(copy: Copy) -> str:
    """Return the absolute path of a COPY's one source whose tar `select_tar` takes.

    It is the source itself, or the folder in front of its first wildcard.
    """
    return "/" + clean(wildcard.split(f"/{copy.sources[0]}")[0])


def select_tar(tar: BinaryIO, transfer: Copy) -> Selection:
    """Select the one source of ``COPY --from`` in the tar of its `origin_path`.

    Names in the tar begin with that path's last part, as `docker cp` writes them. *tar* must be
    one that can be sought in, and stay open. Raises SpecInvalid and LayerCorrupt.
    """
    with located(transfer.location):
        tree = TarTree(tar, origin_path(transfer)[1:])
        picker = Picker(tree=tree, place=transfer.origin or "the tar")
        items = picker.pick(transfer.sources[0], exclude=transfer.exclude, parents=transfer.parents)
        return Selection.of(items, location=transfer.location, unpack=False, single=True)


class _Hashing(io.RawIOBase):
    """A stream that hashes what is read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hasher = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._hasher.update(data)
        return data

    def finish(self, size: int) -> str:
        """Read to the end; return the hash, nothing where *size* bytes are not what was there."""
        total = self._stream.tell()
        while data := self.read(PIECE_BYTES):
            total += len(data)
        return self._hasher.hexdigest() if total == size else ""


@contextmanager
def _content(item: Item) -> Iterator[_Hashing]:
    with item.tree.open(item.path) as stream:
        yield _Hashing(stream)


@contextmanager
def _writing(out: BinaryIO) -> Iterator[tarfile.TarFile]:
    with tarfile.open(
        fileobj=out,
        mode="w|",
        format=tarfile.PAX_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
        bufsize=PIECE_BYTES,
    ) as tar:
        tar.copybufsize = PIECE_BYTES  # type: ignore[attr-defined]  # the stubs do not name it
        yield tar


def _choose(item: Item, *, unpack: bool) -> _Chosen:
    if item.node.kind != "file":
        return _Chosen(item=item, content="", unpacked=False)
    with _content(item) as content:
        digest = content.finish(item.node.size)
    if not digest:
        raise _changed(item)
    unpacked = False
    if unpack and item.named:
        with item.tree.open(item.path) as stream:
            unpacked = is_archive(stream)
    return _Chosen(item=item, content=digest, unpacked=unpacked)


def _described(one: _Chosen) -> bytes:
    """Return everything the digest covers of one item, each part with its length."""
    node = one.item.node
    # An archive's own name and mode do not reach the image.
    shape = ("archive",) if one.unpacked else (one.item.name, node.kind, f"{node.mode:o}", node.link)
    texts = (*shape, str(node.size), str(node.device), str(node.owner or ""), one.content)
    parts = [os.fsencode(text) for text in texts]
    for key, value in () if one.unpacked else sorted(node.xattrs.items()):
        parts += [os.fsencode(key), value]
    return b"".join(b"%d:%b," % (len(part), part) for part in (b"%d" % len(parts), *parts))


def _changed(item: Item) -> SpecInvalid:
    return SpecInvalid(
        f"{item.path} changed while it was copied",
        seen="its bytes are not those that were selected",
        mend="build when nothing writes there, or leave it out in the .dockerignore",
    )


class _Writer:
    """Writes items as tar entries, owners, modes and times as the instruction has them."""

    def __init__(
        self,
        tar: tarfile.TarFile,
        *,
        owner: tuple[int, int],
        owner_given: bool,
        mode: Mode | None,
        mtime_s: int | None,
    ) -> None:
        self._tar = tar
        self._owner = owner
        self._owner_given = owner_given
        self._mode = mode
        self._latest_ns = None if mtime_s is None else mtime_s * _NANO
        self._now_ns = time.time_ns()

    def add(self, one: _Chosen, name: str) -> None:
        """Write one item as *name*, or the entries of an archive."""
        node = one.item.node
        if node.kind != "file":
            self._put(name, node, None, self._mode)
            return
        with _content(one.item) as content:
            plain = cast("BinaryIO", content)
            if not one.unpacked:
                try:
                    self._put(name, node, plain, self._mode)
                except OSError as error:
                    raise self._unwritten(one.item, content, error) from error
            else:
                self._unpack(plain, name)
            if content.finish(node.size) != one.content:
                raise _changed(one.item)

    def _unpack(self, archive: BinaryIO, name: str) -> None:
        with reading(name):
            for path, entry, data in entries(archive, name):
                if path.rpartition("/")[2].startswith(_WHITEOUT):
                    raise SpecInvalid(
                        f"the archive {name} has an entry that no image can hold",
                        seen=f"{path}: in a layer it means a removed file (image-spec, layer.md, Whiteouts)",
                    )
                self._put(path, entry, data, None)

    def _unwritten(self, item: Item, content: _Hashing, error: OSError) -> Exception:
        """Tell a file that has become shorter from a target that cannot be written."""
        return error if error.errno is not None or content.finish(item.node.size) else _changed(item)

    def _put(self, name: str, node: Node, content: BinaryIO | None, mode: Mode | None) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.size = _TYPES[node.kind], node.link, node.size
        keeps = node.owner is not None and not self._owner_given
        entry.uid, entry.gid = node.owner if keeps and node.owner else self._owner
        entry.mode = node.mode
        if mode is not None and node.kind != "link":
            entry.mode = mode.apply(node.mode, folder=node.kind == "folder")
        entry.devmajor, entry.devminor = os.major(node.device), os.minor(node.device)
        mtime_ns = self._now_ns if node.mtime_ns is None else node.mtime_ns
        if self._latest_ns is not None:
            mtime_ns = min(mtime_ns, self._latest_ns)
        entry.mtime, fraction = divmod(mtime_ns, _NANO)
        extended = {
            f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape")
            for key, value in node.xattrs.items()
        }
        if fraction:
            extended["mtime"] = f"{entry.mtime}.{fraction:09d}"
        entry.pax_headers = extended
        self._tar.addfile(entry, content)
        # Kept by the standard library for names that nobody asks for.
        self._tar.members.clear()  # type: ignore[attr-defined]  # the stubs do not name it
