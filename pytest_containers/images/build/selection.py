"""What a COPY or ADD has selected, and its content's digest.

The digest covers what reaches the image and not when a file was written, so a fresh checkout of
the same sources finds the steps of an older build in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, Final, Self, cast

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.hashes import Hashes
from pytest_containers.images.build.nodes import PIECE_BYTES, Item
from pytest_containers.images.build.source import Location
from pytest_containers.images.build.tarball import is_archive

__all__ = ["Chosen", "Selection"]

# Small files are read once: what was hashed is kept until it is written, up to so much of them all.
_SMALL_BYTES: Final = 64 << 10
_KEPT_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """An item, the hash of its content (empty where it has none), and whether ADD unpacks it."""

    item: Item
    content: str
    unpacked: bool
    _data: bytes | None = field(default=None, repr=False)

    def pieces(self) -> Iterator[bytes]:
        """Yield the content; raise SpecInvalid at its end where it is not what was selected."""
        if self._data is not None:
            yield self._data
            return
        with self.reading() as content:
            while data := content.read(PIECE_BYTES):
                yield data

    @contextlib.contextmanager
    def reading(self) -> Iterator[BinaryIO]:
        """Open the content; its end, read or not, raises SpecInvalid where it is not what was selected."""
        if self._data is not None:
            yield io.BytesIO(self._data)
            return
        with self.item.tree.open(self.item.path) as stream:
            hashing = _Hashing(stream, self.item.node.size)
            yield cast("BinaryIO", hashing)
            if hashing.finish() != self.content:
                raise _changed(self.item)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Files to be copied.

    *digest* is of their names, kinds, modes, sizes, links, extended attributes and bytes, of their
    owners where they bring their own, of no times. *one_file* tells that it is a single file that
    may get another name, *nothing* that wildcards alone were there and met nothing.
    """

    digest: str
    one_file: bool
    nothing: bool
    location: Location
    chosen: tuple[Chosen, ...] = field(repr=False)

    @classmethod
    def of(
        cls,
        items: Iterable[Item],
        *,
        location: Location,
        unpack: bool,
        single: bool,
        nothing: bool = False,
        hashes: Hashes | None = None,
    ) -> Self:
        """Read the content of *items*; *single* tells that they are of a single source.

        With *unpack* the archives among the named ones are to be unpacked. What *hashes* know is
        not read. Raises SpecInvalid.
        """
        hasher = hashlib.sha256()
        chosen: list[Chosen] = []
        names: dict[object, str] = {}
        kept = 0
        for item in items:
            one = _choose(item, hashes, unpack=unpack, keep=kept < _KEPT_BYTES)
            kept += item.node.size if item.node.size <= _SMALL_BYTES else 0
            # The names of one file stay names of one file.
            first = names.setdefault((id(item.tree), item.node.inode), item.name) if item.node.inode else ""
            hasher.update(_described(one, first))
            chosen.append(one)
        if nothing:
            hasher.update(b"nothing")  # and not an empty folder, which makes its target
        only = chosen[0] if single and len(chosen) == 1 else None
        return cls(
            digest=f"sha256:{hasher.hexdigest()}",
            one_file=only is not None and only.item.named and not only.unpacked,
            nothing=nothing,
            location=location,
            chosen=tuple(chosen),
        )

    def close(self) -> None:
        """Close what its trees have open; they may be read again."""
        for tree in {id(one.item.tree): one.item.tree for one in self.chosen}.values():
            tree.close()


class _Hashing(io.RawIOBase):
    """The first *size* bytes of a stream, hashed while they are read."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._left = size
        self._hasher = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(data)
        self._hasher.update(data)
        return data

    def finish(self) -> str:
        """Read to the end; return the hash, nothing where there are more or fewer bytes."""
        while self.read(PIECE_BYTES):
            continue
        return "" if self._left or self._stream.read(1) else self._hasher.hexdigest()


def _choose(item: Item, hashes: Hashes | None, *, unpack: bool, keep: bool) -> Chosen:
    if item.node.kind != "file":
        return Chosen(item=item, content="", unpacked=False)
    data: bytes | None = None
    if item.node.size <= _SMALL_BYTES and keep:
        with item.tree.open(item.path) as stream:
            data = stream.read(item.node.size + 1)
        digest = hashlib.sha256(data).hexdigest() if len(data) == item.node.size else ""
    elif hashes is not None and item.node.stamp and item.node.size > _SMALL_BYTES:
        digest = hashes.of(item.node.stamp, item.node.stamp[-1], partial(_hash, item))
    else:
        digest = _hash(item)
    if not digest:
        raise _changed(item)
    unpacked = False
    if unpack and item.named and item.unpack:
        with item.tree.open(item.path) as stream:
            unpacked = is_archive(stream)
    return Chosen(item=item, content=digest, unpacked=unpacked, _data=data)


def _hash(item: Item) -> str:
    """Return the hash of the content, empty where it has not its size any more."""
    with item.tree.open(item.path) as stream:
        return _Hashing(stream, item.node.size).finish()


def _described(one: Chosen, first: str) -> bytes:
    """Return everything the digest covers of one item, each part with its length."""
    node = one.item.node
    # An archive's own name and mode do not reach the image.
    shape = ("archive",) if one.unpacked else (one.item.name, node.kind, f"{node.mode:o}", node.link or first)
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
