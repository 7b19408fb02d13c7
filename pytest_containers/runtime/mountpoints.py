"""What binds and tmpfs are mounted on: made where an image has nothing, and remembered (floor 1).

A container's own layer must not tell of its mounts: a folder that was made for one, and is still
empty, is no change of the image. So what is made is written into a list beside the layer, which
whoever reads the layer leaves out (BuildKit does alike, executor/stubs.go). A descriptor of that
list is opened while the place beside the layer can still be named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final

from pytest_containers.runtime.snapshot import Snapshot

__all__ = ["made", "make", "mount_id", "open_list", "tree"]

_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


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


def mount_id(descriptor: int) -> int:
    """Return the number of the mount that *descriptor* was opened on (proc_pid_fdinfo(5), mnt_id)."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))


def tree(top: int) -> list[tuple[int, str]]:
    """Return number and path of the mount *top* and of all below it (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", "rb") as table:
        rows = [line.split()[:5] for line in table]
    found, numbers = [], {top}
    while rows:
        more = [row for row in rows if int(row[0]) == top or int(row[1]) in numbers]
        if not more:
            break
        rows = [row for row in rows if row not in more]
        for number, _, _, _, path in more:
            plain = _ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), path)
            found.append((int(number), os.fsdecode(plain)))
            numbers.add(int(number))
    return found
