"""What a container changed, as a list and as an image layer (floor 1).

Both read the upper folder of the overlay: a file that is there was added or changed, a character
device 0/0 hides one of the image, and a folder marked opaque hides all that the image had below
(overlayfs.rst, "whiteouts and opaque directories").

A container that runs may put a link in the place of a file or a folder at any moment. So both are called
with the upper folder as this process's root (`roots.confine`), where a link ends inside, and know the layers
below by descriptors (`opened`).
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO, Final, Literal

from pytest_containers._tar import TarWriter
from pytest_containers.runtime import transfer

__all__ = ["changes", "opened", "write_layer"]

_OPAQUE: Final = "trusted.overlay.opaque"
_WHITEOUT: Final = ".wh."
_OPAQUE_MARK: Final = ".wh..wh..opq"
# A path relative to the layer, and what lstat(2) says of it.
_Seen = tuple[str, os.stat_result]


def _is_whiteout(seen: os.stat_result) -> bool:
    return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0


def _open_folder(path: str, layer: int | None = None) -> int:
    """Open a folder of the layer at descriptor *layer*, or of our root. Raises OSError for a link."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layer)


def _is_opaque(path: str, layer: int | None = None) -> bool:
    with suppress(OSError):
        folder = _open_folder(path, layer)
        try:
            return os.getxattr(folder, _OPAQUE) == b"y"
        finally:
            os.close(folder)
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
    upper: str, below: str, lowers: tuple[int, ...], points: frozenset[str], waiting: list[_Seen]
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


def _is_unchanged(upper: str, relative: str, lowers: tuple[int, ...]) -> bool:
    """Tell whether a folder is that of the layers but for its time."""
    path = os.path.join(upper, relative)
    layer = _below(lowers, relative)
    if layer is None or _is_opaque(path):
        return False
    try:
        return _described(_open_folder(path)) == _described(_open_folder(relative, layer))
    except OSError:  # no folder in the layers, or none any more in the container
        return False


def _described(folder: int) -> tuple[object, ...]:
    """Return all of a folder but its time, and close it."""
    try:
        seen = os.fstat(folder)
        names = (key for key in os.listxattr(folder) if not key.startswith(transfer.OVERLAY_XATTRS))
        attributes = tuple((key, os.getxattr(folder, key)) for key in sorted(names))
    finally:
        os.close(folder)
    return seen.st_mode, seen.st_uid, seen.st_gid, attributes


def _below(lowers: tuple[int, ...], relative: str) -> int | None:
    """Return the layer whose file is shown at *relative*, of *lowers*, oldest first."""
    parts = relative.split("/")
    for layer in reversed(lowers):
        hides = False
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            try:
                seen = os.stat(path, dir_fd=layer, follow_symlinks=False)
            except OSError:
                break
            if _is_whiteout(seen):
                return None
            if depth == len(parts):
                return layer
            if not stat.S_ISDIR(seen.st_mode):
                return None  # nothing is below a file or a link, also where older layers have a folder
            hides = hides or _is_opaque(path, layer)
        if hides:
            return None
    return None


@contextmanager
def opened(layers: tuple[str, ...]) -> Iterator[tuple[int, ...]]:
    """Open the folders of *layers* and yield their descriptors, which stay good in another root."""
    with ExitStack() as scope:
        found: list[int] = []
        for layer in layers:
            found.append(os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            scope.callback(os.close, found[-1])
        yield tuple(found)


def changes(upper: str, lowers: tuple[int, ...]) -> list[tuple[Literal["A", "C", "D"], str]]:
    """Return ``(kind, absolute path)`` of all that differs from the layers at *lowers*, sorted by path."""
    found: list[tuple[Literal["A", "C", "D"], str]] = []
    for relative, seen in _walk(upper):
        if _is_whiteout(seen):
            found.append(("D", f"/{relative}"))
        else:
            found.append(("A" if _below(lowers, relative) is None else "C", f"/{relative}"))
    return sorted(found, key=lambda one: one[1])


def write_layer(
    upper: str, out: BinaryIO, *, lowers: tuple[int, ...] = (), points: frozenset[str] = frozenset()
) -> None:
    """Write the upper folder as an uncompressed layer tar (image-spec, layer.md) to *out*.

    Owners, modes, times to the nanosecond, extended attributes and hard links are kept; sockets
    are left out, as tar(5) has no form for them. Left out is also what is still empty of *points*,
    which were made for mounts, and a folder that differs from that of *lowers* in its time alone.
    A folder is marked as opaque where *lowers* show something for it to hide: until Linux 5.14 the
    kernel marks all that are new (fs/overlayfs/dir.c, ovl_create_upper).
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
            if stat.S_ISDIR(seen.st_mode) and _is_opaque(path) and _below(lowers, relative) is not None:
                tar.add(tarfile.TarInfo(os.path.join(relative, _OPAQUE_MARK)))
