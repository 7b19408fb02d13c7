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

from pytest_containers._tar import TarWriter
from pytest_containers.runtime import transfer

__all__ = ["changes", "write_layer"]

_OPAQUE: Final = "trusted.overlay.opaque"
_WHITEOUT: Final = ".wh."
_OPAQUE_MARK: Final = ".wh..wh..opq"
# A path relative to the layer, and what lstat(2) says of it.
_Seen = tuple[str, os.stat_result]


def _is_whiteout(seen: os.stat_result) -> bool:
    return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


def _names(upper: str, below: str) -> Iterator[_Seen]:
    for name, seen in transfer.names(os.path.join(upper, below)):
        yield os.path.join(below, name), seen


def _walk(upper: str, below: str = "") -> Iterator[_Seen]:
    """Yield each path under *upper*, relative and sorted, a folder before what is in it."""
    for relative, seen in _names(upper, below):
        yield relative, seen
        if stat.S_ISDIR(seen.st_mode):
            yield from _walk(upper, relative)


def _kept(
    upper: str, below: str, lowers: tuple[str, ...], points: frozenset[str], waiting: list[_Seen]
) -> Iterator[_Seen]:
    """Yield what is to be in the layer under *below* of *upper*.

    A folder that is there for mounts or was changed in its time alone waits in *waiting* for
    something in it: without, it is no change (containerd, continuity/fs/diff.go, sameDirent).
    """
    for relative, seen in _names(upper, below):
        if stat.S_ISDIR(seen.st_mode) and (relative in points or _is_unchanged(upper, relative, lowers)):
            waiting.append((relative, seen))
            yield from _kept(upper, relative, lowers, points, waiting)
            if waiting:
                waiting.pop()
        elif relative not in points or seen.st_size or not stat.S_ISREG(seen.st_mode):
            yield from waiting
            waiting.clear()
            yield relative, seen
            if stat.S_ISDIR(seen.st_mode):
                yield from _kept(upper, relative, lowers, points, waiting)


def _is_unchanged(upper: str, relative: str, lowers: tuple[str, ...]) -> bool:
    """Tell whether a folder is that of the layers but for its time."""
    path = os.path.join(upper, relative)
    lower = _below(lowers, relative)
    if lower is None or _is_opaque(path) or not os.path.isdir(lower) or os.path.islink(lower):
        return False
    return _described(path) == _described(lower)


def _described(folder: str) -> tuple[object, ...]:
    seen = os.lstat(folder)
    names = (key for key in os.listxattr(folder) if not key.startswith(transfer.OVERLAY_XATTRS))
    attributes = tuple((key, os.getxattr(folder, key)) for key in sorted(names))
    return seen.st_mode, seen.st_uid, seen.st_gid, attributes


def _below(lowers: tuple[str, ...], relative: str) -> str | None:
    """Return where the layers, oldest first, have what they show at *relative*."""
    parts = relative.split("/")
    for layer in reversed(lowers):
        for depth in range(1, len(parts) + 1):
            path = os.path.join(layer, *parts[:depth])
            try:
                seen = os.lstat(path)
            except OSError:
                break
            if _is_whiteout(seen):
                return None
            if depth == len(parts):
                return path
            if not stat.S_ISDIR(seen.st_mode) or _is_opaque(path):
                # Hidden from the layers further down, unless this one has the path itself.
                own = os.path.join(layer, relative)
                return own if os.path.lexists(own) else None
    return None


def changes(upper: str, lowers: tuple[str, ...]) -> list[tuple[Literal["A", "C", "D"], str]]:
    """Return ``(kind, absolute path)`` of all that differs, sorted by path."""
    found: list[tuple[Literal["A", "C", "D"], str]] = []
    for relative, seen in _walk(upper):
        if _is_whiteout(seen):
            found.append(("D", f"/{relative}"))
        else:
            found.append(("A" if _below(lowers, relative) is None else "C", f"/{relative}"))
    return sorted(found, key=lambda one: one[1])


def write_layer(
    upper: str, out: BinaryIO, *, lowers: tuple[str, ...] = (), points: frozenset[str] = frozenset()
) -> None:
    """Write the upper folder as an uncompressed layer tar (image-spec, layer.md) to *out*.

    Owners, modes, times to the nanosecond, extended attributes and hard links are kept; sockets
    are left out, as tar(5) has no form for them. Left out is also what is still empty of *points*,
    which were made for mounts, and a folder that differs from that of *lowers* in its time alone.
    """
    links: dict[tuple[int, int], str] = {}
    with TarWriter(out) as tar:
        for relative, seen in _kept(upper, "", lowers, points, []):
            path = os.path.join(upper, relative)
            if _is_whiteout(seen):
                folder, name = os.path.split(relative)
                tar.add(tarfile.TarInfo(os.path.join(folder, _WHITEOUT + name)))
                continue
            transfer.add(tar, path, relative, seen, links)
            if stat.S_ISDIR(seen.st_mode) and _is_opaque(path):
                tar.add(tarfile.TarInfo(os.path.join(relative, _OPAQUE_MARK)))
