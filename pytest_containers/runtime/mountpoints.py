"""What binds and tmpfs are mounted on: made where an image has nothing, and remembered (floor 1).

A container's own layer must not tell of its mounts: a folder that was made for one, and is still
empty, is no change of the image. So what is made is written into a list beside the layer, which
whoever reads the layer leaves out (BuildKit does alike, executor/stubs.go). A descriptor of that
list is opened while the place beside the layer can still be named.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from pytest_containers.runtime.snapshot import Snapshot

__all__ = ["made", "make", "open_list"]


def open_list(snapshot: Snapshot) -> int:
    """Return a descriptor of the snapshot's list, to be passed to `make`."""
    return os.open(_list(snapshot), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def make(target: str, points: int, *, folder: bool) -> None:
    """Make a folder, or an empty file, at *target* where nothing is; note all that was made in *points*."""
    path = os.path.realpath(target)
    if os.path.exists(path):
        return
    missing = list(_missing(path))
    for one in reversed(missing):
        if folder or one != path:
            os.mkdir(one, 0o755)
        else:
            os.close(os.open(one, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        os.write(points, os.fsencode(one.lstrip("/")) + b"\0")


def _missing(path: str) -> Iterator[str]:
    """Yield *path* and the folders above it that are not there."""
    while not os.path.lexists(path):
        yield path
        path = os.path.dirname(path)


def made(snapshot: Snapshot) -> frozenset[str]:
    """Return the paths, relative to the root, that were made for mounts since the snapshot is there."""
    try:
        with open(_list(snapshot), "rb") as file:
            return frozenset(os.fsdecode(path) for path in file.read().split(b"\0") if path)
    except FileNotFoundError:
        return frozenset()


def _list(snapshot: Snapshot) -> str:
    return os.path.join(snapshot.folder, "points")
