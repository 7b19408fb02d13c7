"""Control groups: where this process is, and how much memory is left for containers there (floor 1).

Linux has two versions of control groups, and a machine may have both mounted (cgroups(7)). Version 1
has a hierarchy for each controller; version 2 has one hierarchy for all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

__all__ = [
    "Hierarchy",
    "Memory",
    "Placement",
    "hierarchies",
    "raised_oom_score",
]

# Half of the scale, whose unit is a thousandth of the memory in question (proc_pid_oom_score_adj(5)).
_OOM_SCORE_RAISED: Final = 500
_OOM_SCORE_MOST: Final = 1000
# A page counter's "no limit" is the largest number of pages, in bytes (include/linux/page_counter.h).
_UNLIMITED_BYTES: Final = 1 << 62
# What a tmpfs takes where nobody says a size is half of the machine's memory (tmpfs(5), "size").
_SHARE_OF_FREE: Final = 2
_LEAST_CEILING_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """One mounted hierarchy: *own* is the folder of this process's group, *top* the mount point.

    *controllers* are those that a group below may be given, by their names.
    """

    version: Literal[1, 2]
    controllers: frozenset[str]
    top: str
    own: str

    def levels(self) -> Iterator[str]:
        """Yield the folders from this process's group up to the mount point."""
        folder = self.own
        while True:
            yield folder
            if folder == self.top or len(folder) <= len(self.top):
                return
            folder = os.path.dirname(folder)


def hierarchies(process: str = "/proc/self") -> tuple[Hierarchy, ...]:
    """Return the hierarchies in which *process*, its folder in /proc, can see its own group.

    Read from `mountinfo` and `cgroup` (proc_pid_mountinfo(5), proc_pid_cgroup(5)). A hierarchy that
    is not mounted, or mounted from elsewhere than above our group, is left out.
    """
    try:
        ours = dict(_memberships(f"{process}/cgroup"))
        mounts = _lines(f"{process}/mountinfo")
    except OSError:
        return ()
    found: dict[str, Hierarchy] = {}
    for line in mounts:
        before, _, after = line.partition(" - ")
        kind, _, options = (*after.split(), "", "", "")[:3]
        if kind not in ("cgroup", "cgroup2"):
            continue
        root, top = (_unescaped(field) for field in before.split()[3:5])
        names = frozenset(options.split(",")) if kind == "cgroup" else frozenset(("",))
        for path in (path for name, path in ours.items() if name in names):
            if (own := _below(top, root, path)) is None or not os.path.isdir(own):
                continue
            controllers = names & ours.keys() if kind == "cgroup" else _words(f"{own}/cgroup.controllers")
            version: Literal[1, 2] = 1 if kind == "cgroup" else 2
            # A later mount on the same folder hides an earlier one.
            found[top] = Hierarchy(version=version, controllers=controllers, top=top, own=own)
            break
    return tuple(found.values())


def _memberships(path: str) -> Iterator[tuple[str, str]]:
    """Yield each controller, or "" for version 2, with the path of the process's group."""
    for line in _lines(path):
        _, names, group = line.split(":", 2)
        for name in names.split(","):
            yield name, group


def _below(top: str, root: str, path: str) -> str | None:
    """Return the folder of the group *path* where the group *root* is mounted at *top*."""
    inside = os.path.relpath(path, root)
    # A path that climbs is that of a group outside of our control group namespace (cgroup_namespaces(7)).
    if inside.startswith("..") or path.startswith("/.."):
        return None
    return os.path.normpath(os.path.join(top, inside))


def _unescaped(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().splitlines()


def _words(path: str) -> frozenset[str]:
    try:
        return frozenset(" ".join(_lines(path)).split())
    except OSError:
        return frozenset()


def _number(path: str) -> int | None:
    """Return the number that a file holds; None for ``max``, and where there is no such file."""
    try:
        text = _lines(path)[0]
    except (OSError, IndexError):
        return None
    return int(text) if text.lstrip("-").isdecimal() else None


def _counters(path: str) -> dict[str, int]:
    """Return a file of `name number` lines."""
    try:
        pairs = (line.rsplit(maxsplit=1) for line in _lines(path))
        return {pair[0].rstrip(":"): int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
    except OSError:
        return {}


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def raised_oom_score() -> int:
    """Return the oom_score_adj for processes of containers: 500 above this process's own, at most 1000."""
    own = _number("/proc/self/oom_score_adj") or 0
    return min(_OOM_SCORE_MOST, own + _OOM_SCORE_RAISED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What a process of a container does to itself first, while it can still name the host's files."""

    oom_score_adj: int

    def take(self) -> None:
        """Go there. Raising oom_score_adj needs no capability (proc_pid_oom_score_adj(5))."""
        _write("/proc/self/oom_score_adj", str(self.oom_score_adj))


class Memory:
    """The memory that is left for containers: the machine's, or that of our memory group where it is less."""

    def __init__(self, mounted: Iterable[Hierarchy]) -> None:
        # Which groups above us have a limit is read once: it is the same for every container of a run.
        self._bounded = tuple(
            (hierarchy.version, folder)
            for hierarchy in mounted
            if "memory" in hierarchy.controllers or hierarchy.version == 2
            for folder in hierarchy.levels()
            if _memory_limit(hierarchy.version, folder) is not None
        )

    def free_bytes(self) -> int:
        """Return how many bytes can be allocated before something is killed (an estimate).

        On a machine that is MemAvailable (proc_meminfo(5)); in a memory group its limit minus its usage,
        plus the page cache that was not used lately, which the kernel takes back first (cgroup-v2.rst,
        "memory.stat").
        """
        free = _counters_kib("/proc/meminfo").get("MemAvailable", 0)
        for version, folder in self._bounded:
            limit = _memory_limit(version, folder)
            used = _number(f"{folder}/{'memory.usage_in_bytes' if version == 1 else 'memory.current'}")
            if limit is not None and used is not None:
                cache = _counters(f"{folder}/memory.stat")
                idle = cache.get("total_inactive_file" if version == 1 else "inactive_file", 0)
                free = min(free, limit - used + idle)
        return max(0, free)

    def ceiling_bytes(self) -> int:
        """Return how much one container may write into memory: half of what is free now.

        Pages of a tmpfs belong to no process, so no kill of a container frees them: past the
        memory that is left the kernel would go on to kill everybody in our group.
        """
        return max(_LEAST_CEILING_BYTES, self.free_bytes() // _SHARE_OF_FREE)


def _memory_limit(version: int, folder: str) -> int | None:
    limit = _number(f"{folder}/{'memory.limit_in_bytes' if version == 1 else 'memory.max'}")
    return None if limit is None or limit >= _UNLIMITED_BYTES else limit


def _counters_kib(path: str) -> dict[str, int]:
    """Return /proc/meminfo's lines, `name: number kB`, in bytes."""
    columns = (line.split() for line in _lines(path))
    return {column[0].rstrip(":"): int(column[1]) << 10 for column in columns if len(column) == 3}
