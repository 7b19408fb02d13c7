"""Tar archives that ADD unpacks.

What counts as an archive is decided by content, not by name, as in
https://docs.docker.com/reference/dockerfile/#adding-local-tar-archives.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, Final, Self

from pytest_containers.errors import ImageError, LayerCorrupt, SpecInvalid
from pytest_containers.images.build.nodes import Kind, Node, is_carried
from pytest_containers.images.decompress import decompress

__all__ = ["entries", "is_archive", "reading"]

_BLOCK: Final = 512
_CHECKSUM: Final = slice(148, 156)
_XATTR: Final = "SCHILY.xattr."
_KINDS: Final[Mapping[bytes, Kind]] = {
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "hard",
    tarfile.FIFOTYPE: "fifo",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
}


class _StrictEntry(tarfile.TarInfo):
    """Headers that are damaged or cut are errors; the standard library takes them for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not bytes(buf).strip(b"\0"):
                raise  # the end, with its mark or without
            raise tarfile.ReadError(f"a header is damaged: {error}") from error


def is_archive(content: BinaryIO) -> bool:
    """Tell whether *content* is a tar archive, compressed or not, with at least one entry.

    Raises SpecInvalid for data in zstd where this Python cannot read it.
    """
    try:
        block = decompress(content).read(_BLOCK)
    except LayerCorrupt:
        return False
    except ImageError as error:
        raise SpecInvalid(
            "ADD cannot see whether the file is an archive",
            seen="it is in zstd, which this Python cannot read",
            mend="pip install zstandard, or write ADD --unpack=false or COPY",
        ) from error
    if len(block) < _BLOCK:
        return False
    digits = block[_CHECKSUM].partition(b"\0")[0].strip()
    blank = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    try:
        # The sum of the header's bytes, in octal (pax(1), "ustar Interchange Format").
        return bool(digits) and int(digits, 8) == sum(blank)
    except ValueError:
        return False


def entries(content: BinaryIO, name: str) -> Iterator[tuple[str, Node, BinaryIO | None]]:
    """Yield path, node and content of each entry of the archive *content*, called *name* in errors.

    Each content is to be read before the next entry, all within `reading`. Raises SpecInvalid for
    an entry that would be outside the target.
    """
    with tarfile.open(
        fileobj=decompress(content),
        mode="r|",
        tarinfo=_StrictEntry,
        encoding="utf-8",
        errors="surrogateescape",
    ) as tar:
        for entry in tar:
            found = _extracted(tar, entry, name)
            if found is not None:
                yield found
            # What was read is kept for random access, which nobody asks for.
            tar.members.clear()  # type: ignore[attr-defined]  # the stubs do not name it


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Have a damaged archive, wherever the damage shows, be a SpecInvalid that names the archive."""
    try:
        yield
    except (tarfile.TarError, LayerCorrupt) as error:
        raise SpecInvalid(
            f"the archive {name} cannot be read", seen=str(error), mend="make it again"
        ) from error


def _extracted(
    tar: tarfile.TarFile, entry: tarfile.TarInfo, archive: str
) -> tuple[str, Node, BinaryIO | None] | None:
    if not (entry.isreg() or entry.type in _KINDS):
        return None
    path = _inside(entry.name, archive)
    if not path:
        return None
    node = _node(entry, link=_inside(entry.linkname, archive) if entry.islnk() else entry.linkname)
    content = tar.extractfile(entry) if node.kind == "file" else None
    return path, node, content  # type: ignore[return-value]  # an IO of bytes it is


def _inside(name: str, archive: str) -> str:
    path = posixpath.normpath(name.lstrip("/") or ".")
    if path == ".." or path.startswith("../"):
        raise SpecInvalid(
            f"the archive {archive} has an entry outside itself",
            seen=name,
            mend="make it again from within its folder",
        )
    return "" if path == "." else path


def _node(entry: tarfile.TarInfo, *, link: str = "") -> Node:
    fraction = entry.pax_headers.get("mtime", "").partition(".")[2][:9].ljust(9, "0")
    mtime_ns = int(entry.mtime) * 10**9 + (int(fraction) if fraction.isdecimal() else 0)
    return Node(
        kind=_KINDS.get(entry.type, "file"),
        mode=entry.mode & 0o7777,
        size=entry.size if entry.isreg() else 0,
        mtime_ns=mtime_ns,
        link=link or (entry.linkname if entry.issym() else ""),
        owner=(entry.uid, entry.gid),
        device=os.makedev(entry.devmajor, entry.devminor) if entry.isdev() and not entry.isfifo() else 0,
        xattrs={
            name: value.encode("utf-8", "surrogateescape")
            for key, value in sorted(entry.pax_headers.items())
            if key.startswith(_XATTR) and is_carried(name := key.removeprefix(_XATTR))
        },
    )
