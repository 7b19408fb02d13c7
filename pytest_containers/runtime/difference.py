"""What a container changed, as a list and as an image layer (floor 1).

Both read the upper folder of the overlay: a file that is there was added or changed, a character
device 0/0 hides one of the image, and a folder marked opaque hides all that the image had below
(overlayfs.rst, "whiteouts and opaque directories").
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, Final, Literal

from pytest_containers.runtime import transfer

__all__ = ["changes", "write_layer"]

_OPAQUE: Final = "trusted.overlay.opaque"
_WHITEOUT: Final = ".wh."
_OPAQUE_MARK: Final = ".wh..wh..opq"


def _is_whiteout(seen: os.stat_result) -> bool:
    return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


def _walk(upper: str, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield each path under *upper*, relative and sorted, a folder before what is in it."""
    for name, seen in transfer.names(os.path.join(upper, below)):
        relative = os.path.join(below, name)
        yield relative, seen
        if stat.S_ISDIR(seen.st_mode):
            yield from _walk(upper, relative)


def _below(lowers: tuple[str, ...], relative: str) -> bool:
    """Return whether the layers, oldest first, show *relative*."""
    parts = relative.split("/")
    for layer in reversed(lowers):
        for depth in range(1, len(parts) + 1):
            path = os.path.join(layer, *parts[:depth])
            try:
                seen = os.lstat(path)
            except OSError:
                break
            if _is_whiteout(seen):
                return False
            if depth == len(parts):
                return True
            if not stat.S_ISDIR(seen.st_mode) or _is_opaque(path):
                # Hidden from the layers further down, unless this one has the path itself.
                return os.path.lexists(os.path.join(layer, relative))
    return False


def changes(upper: str, lowers: tuple[str, ...]) -> list[tuple[Literal["A", "C", "D"], str]]:
    """Return ``(kind, absolute path)`` of all that differs, sorted by path."""
    found: list[tuple[Literal["A", "C", "D"], str]] = []
    for relative, seen in _walk(upper):
        if _is_whiteout(seen):
            found.append(("D", f"/{relative}"))
        else:
            found.append(("C" if _below(lowers, relative) else "A", f"/{relative}"))
    return sorted(found, key=lambda one: one[1])


def write_layer(upper: str, out: BinaryIO) -> None:
    """Write the upper folder as an uncompressed layer tar (image-spec, layer.md) to *out*.

    Owners, modes, times to the nanosecond, extended attributes and hard links are kept; sockets
    are left out, as tar(5) has no form for them.
    """
    links: dict[tuple[int, int], str] = {}
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 16) as tar:
        for relative, seen in _walk(upper):
            path = os.path.join(upper, relative)
            if _is_whiteout(seen):
                folder, name = os.path.split(relative)
                tar.addfile(tarfile.TarInfo(os.path.join(folder, _WHITEOUT + name)))
                continue
            transfer.add(tar, path, relative, seen, links)
            if stat.S_ISDIR(seen.st_mode) and _is_opaque(path):
                tar.addfile(tarfile.TarInfo(os.path.join(relative, _OPAQUE_MARK)))
