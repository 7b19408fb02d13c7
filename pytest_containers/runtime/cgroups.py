"""Control groups: where this process is, what memory is left there, and groups for containers (floor 1).

Linux has two versions of control groups, and a machine may have both mounted (cgroups(7)). Version 1
has a hierarchy for each controller; version 2 has one hierarchy for all.

All groups of a run lie in one group of the run's, `pytest-containers-NAME`, in each hierarchy that is
used. Groups that were there before are read and never changed. The run's groups are listed in its
folder, so that whoever removes the folder removes them as well (`remove_listed`).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from pytest_containers.errors import HostError
from pytest_containers.runtime import syscalls
from pytest_containers.spec import Limits

__all__ = [
    "Group",
    "Groups",
    "Hierarchy",
    "Memory",
    "Placement",
    "freeze",
    "hierarchies",
    "is_frozen",
    "members",
    "move",
    "raised_oom_score",
    "remove_listed",
]

_PREFIX: Final = "pytest-containers-"
_LIST: Final = "groups"
# The period of the processor quota in microseconds, as the kernel begins with (sched-bwc.rst).
_PERIOD_US: Final = 100_000
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
    """Where a process of a container goes first, while it can still name the host's files.

    *groups* are folders of version 1, *begin* is one of version 2, in which the process begins.
    """

    oom_score_adj: int
    groups: tuple[str, ...] = ()
    begin: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether the process stays in the groups that the run is in."""
        return not self.groups and not self.begin

    def clone(self, flags: int) -> syscalls.Child:
        """Clone a process that begins in the group of version 2; the others are taken by the child.

        A process that is moved there later would wait for all forks of the machine (kernel/cgroup/cgroup.c,
        cgroup_attach_lock), some milliseconds.
        """
        if not self.begin:
            return syscalls.clone(flags)
        folder = os.open(self.begin, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return syscalls.clone(flags, folder)
        finally:
            os.close(folder)

    def take(self) -> None:
        """Go there. Raising oom_score_adj needs no capability (proc_pid_oom_score_adj(5))."""
        _write("/proc/self/oom_score_adj", str(self.oom_score_adj))
        for folder in self.groups:
            # A thread that moves itself, by `tasks` and not `cgroup.procs`, needs no such wait.
            _write(f"{folder}/tasks", "0")


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
        own = (
            _oom_counts(hierarchy.version, hierarchy.own)
            for hierarchy in mounted
            if "memory" in hierarchy.controllers
        )
        # The root of a hierarchy of version 2 has no such file; the machine's own count is in vmstat.
        self._kills = next((file for file in own if os.path.exists(file)), "/proc/vmstat")
        self._kills_before = self._oom_kills()

    def _oom_kills(self) -> int:
        return _counters(self._kills).get("oom_kill", 0)

    def take_oom_kill(self) -> bool:
        """Return whether the kernel has killed a process of our memory group that was not taken yet."""
        taken = self._oom_kills() > self._kills_before
        self._kills_before += taken
        return taken

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


class Group:
    """The control groups of one container, one folder in each hierarchy that a limit needs.

    *folders* has the version of each folder's hierarchy.
    """

    def __init__(self, folders: Mapping[str, Literal[1, 2]]) -> None:
        self._folders = folders

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of the groups."""
        return tuple(self._folders)

    def placement(self, plain: Placement) -> Placement:
        """Return *plain* with the groups that a process of the container has to go to."""
        first = tuple(folder for folder, version in self._folders.items() if version == 1)
        second = (folder for folder, version in self._folders.items() if version == 2)
        return replace(plain, groups=first, begin=next(second, ""))

    def oom_kills(self) -> int:
        """Return how many processes of the group the kernel has killed for want of memory."""
        files = (_oom_counts(version, folder) for folder, version in self._folders.items())
        return sum(_counters(file).get("oom_kill", 0) for file in files)

    @property
    def has_memory(self) -> bool:
        """Whether the kernel counts the memory of this container apart."""
        return any(os.path.exists(_oom_counts(version, one)) for one, version in self._folders.items())

    def usage(self) -> tuple[int | None, float | None, int | None]:
        """Return bytes of memory, seconds of processor time, number of tasks; None for what is not counted.

        Memory is told without the page cache that was not used lately.
        """
        memory = cpu_s = pids = None
        for folder, version in self._folders.items():
            used = _number(f"{folder}/{'memory.usage_in_bytes' if version == 1 else 'memory.current'}")
            if used is not None:
                cache = _counters(f"{folder}/memory.stat")
                memory = max(
                    0, used - cache.get("total_inactive_file" if version == 1 else "inactive_file", 0)
                )
            if version == 2:
                cpu_s = _counters(f"{folder}/cpu.stat").get("usage_usec", 0) / 1e6
            pids = _number(f"{folder}/pids.current") if pids is None else pids
        return memory, cpu_s, pids


class Groups:
    """The groups of a run: one of the run's in each hierarchy that is used, and in it one a container.

    Nothing is made before a container asks for limits.
    """

    def __init__(self, run_folder: str, mounted: tuple[Hierarchy, ...]) -> None:
        self._list = os.path.join(run_folder, _LIST)
        self._name = _PREFIX + os.path.basename(run_folder)
        self._mounted = mounted
        self._listed: set[str] = set()
        self._enabled: dict[str, frozenset[str]] = {}

    def make(self, container: str, limits: Limits) -> Group | None:
        """Make the groups that *limits* need, named *container*; None where they need none.

        Raises HostError where this machine has no group that can hold the limits.
        """
        settings = _settings(limits)
        if not settings:
            return None
        made: dict[str, Literal[1, 2]] = {}
        with contextlib.ExitStack() as undo:
            for hierarchy, parent, names in self._places(frozenset(settings)):
                folder = os.path.join(self._run_group(hierarchy, parent, names), container)
                undo.callback(self.remove, (folder,))
                try:
                    os.mkdir(folder)
                    for name in sorted(names):
                        for file, text in settings[name][hierarchy.version - 1]:
                            _set(f"{folder}/{file}", text)
                except OSError as error:
                    raise self._refused(frozenset(names), f"{folder}: {error}") from error
                made[folder] = hierarchy.version
            undo.pop_all()
        return Group(made)

    def freezer(self, container: str, group: Group | None) -> str:
        """Return a group of version 2 for *container*: that of *group*, a new one, or an empty string.

        It needs no controller, so it lies right below the group that we are in.
        """
        if group is not None and (known := group.placement(Placement(oom_score_adj=0)).begin):
            return known
        for hierarchy in self._mounted:
            if hierarchy.version == 2:
                with contextlib.suppress(HostError, OSError), contextlib.ExitStack() as undo:
                    folder = os.path.join(self._run_group(hierarchy, hierarchy.own, frozenset()), container)
                    undo.callback(self.remove, (folder,))
                    os.mkdir(folder)
                    undo.pop_all()
                    return folder
        return ""

    def remove(self, folders: Iterable[str]) -> None:
        """Remove a container's groups, and the run's with the last one; the processes must have ended.

        What cannot be removed now is removed at the run's end.
        """
        for folder in folders:
            _remove(folder)
            above = os.path.dirname(folder)
            with contextlib.suppress(OSError):  # others are in it (rmdir(2), EBUSY)
                os.rmdir(above)
                self._enabled.pop(above, None)

    def _places(self, names: frozenset[str]) -> Iterator[tuple[Hierarchy, str, frozenset[str]]]:
        """Yield for each hierarchy that is needed the folder to make groups in, and what it limits.

        A controller is in one hierarchy: of version 1 where it is mounted there, else of version 2.
        There a group with processes cannot give controllers to groups below it, so the run's group
        lies in the nearest group above ours that does (cgroup-v2.rst, "No Internal Process Constraint").
        """
        left = set(names)
        for hierarchy in self._mounted:
            found = frozenset(left & hierarchy.controllers)
            if not found:
                continue
            if hierarchy.version == 1:
                yield hierarchy, hierarchy.own, found
            else:
                given = {one: _words(f"{one}/cgroup.subtree_control") for one in hierarchy.levels()}
                parent = next((one for one, names in given.items() if found <= names), None)
                if parent is None:
                    seen = "; ".join(
                        f"{one} gives {' '.join(sorted(names)) or 'none'}" for one, names in given.items()
                    )
                    raise self._refused(found, f"controllers that groups may give: {seen}")
                yield hierarchy, parent, found
            left -= found
        if left:
            seen = "; ".join(
                f"version {one.version} at {one.top}: {' '.join(sorted(one.controllers)) or 'no controllers'}"
                for one in self._mounted
            )
            raise self._refused(frozenset(left), seen or "no control groups are mounted")

    def _run_group(self, hierarchy: Hierarchy, parent: str, names: frozenset[str]) -> str:
        """Return the run's group in *parent*, made where missing, that gives *names* to groups below."""
        folder = os.path.join(parent, self._name)
        try:
            if folder not in self._listed:
                # Listed first, so that whoever clears up knows of it at any moment.
                with open(self._list, "a", encoding="utf-8", errors="surrogateescape") as file:
                    file.write(f"{folder}\n")
                self._listed.add(folder)
            if folder not in self._enabled:
                os.mkdir(folder)
                self._enabled[folder] = frozenset()
            if hierarchy.version == 2 and (new := names - self._enabled[folder]):
                _write(f"{folder}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(new)))
                self._enabled[folder] |= new
        except OSError as error:
            raise self._refused(names, str(error)) from error
        return folder

    def _refused(self, names: frozenset[str], seen: str) -> HostError:
        keywords = " and ".join(sorted(_KEYWORDS[name] for name in names))
        return HostError(
            f"no control group here can hold a limit of {keywords}",
            seen=seen,
            mend="leave it out of limits=, or run pytest where it may make control groups: as root of the"
            " machine, or in a container that has writable ones (docker run --privileged --cgroupns=host)",
        )


# What a test calls the limit that each controller holds.
_KEYWORDS: Final[Mapping[str, str]] = MappingProxyType({"memory": "memory", "cpu": "cpus", "pids": "pids"})
_Settings = tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]


def _settings(limits: Limits) -> dict[str, _Settings]:
    """Return by controller the files to write and their content, in version 1 and in version 2.

    What is in memory may not go to swap instead, or the limit would be of nothing that a test can see.
    """
    settings: dict[str, _Settings] = {}
    if limits.memory_bytes is not None:
        most = str(limits.memory_bytes)
        settings["memory"] = (
            (("memory.limit_in_bytes", most), ("memory.memsw.limit_in_bytes", most)),
            (("memory.max", most), ("memory.swap.max", "0")),
        )
    if limits.cpus is not None:
        quota = str(round(limits.cpus * _PERIOD_US))
        settings["cpu"] = (
            (("cpu.cfs_period_us", str(_PERIOD_US)), ("cpu.cfs_quota_us", quota)),
            (("cpu.max", f"{quota} {_PERIOD_US}"),),
        )
    if limits.pids is not None:
        settings["pids"] = ((("pids.max", str(limits.pids)),),) * 2
    return settings


def _set(path: str, text: str) -> None:
    """Write a setting, but for two that need not be there or cannot have an effect.

    The limits of swap are not on every kernel (cgroup-v1/memory.rst), and version 1 refuses a quota above
    that of a group further up (kernel/sched/core.c, tg_cfs_schedulable_down), which holds anyway.
    """
    name = os.path.basename(path)
    try:
        _write(path, text)
    except OSError as error:
        is_swap = error.errno == errno.ENOENT and name in ("memory.memsw.limit_in_bytes", "memory.swap.max")
        is_above = error.errno == errno.EINVAL and name == "cpu.cfs_quota_us"
        if not is_swap and not is_above:
            raise


def _oom_counts(version: Literal[1, 2], folder: str) -> str:
    """Return the file that counts out-of-memory kills, those of groups below left out where that can be."""
    return f"{folder}/{'memory.oom_control' if version == 1 else 'memory.events.local'}"


def freeze(folder: str, *, frozen: bool) -> None:
    """Freeze the processes of a group of version 2, or let them go on (cgroup-v2.rst, "cgroup.freeze")."""
    _write(f"{folder}/cgroup.freeze", "1" if frozen else "0")


def is_frozen(folder: str) -> bool:
    """Return whether all processes of a group of version 2 stand still."""
    return _counters(f"{folder}/cgroup.events").get("frozen") == 1


def members(folder: str) -> set[int]:
    """Return the processes of a group."""
    return set(map(int, _lines(f"{folder}/cgroup.procs")))


def move(folder: str, pid: int) -> None:
    """Move a process to a group. Raises ProcessLookupError where it has ended."""
    _write(f"{folder}/cgroup.procs", str(pid))


def _remove(folder: str) -> None:
    """Remove a group and those below it; one with processes in it stays (rmdir(2), EBUSY)."""
    for place, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(place)


def remove_listed(run_folder: str) -> None:
    """Remove all groups of the run whose folder this is; the run must have ended."""
    try:
        listed = _lines(os.path.join(run_folder, _LIST))
    except OSError:
        return
    for folder in listed:
        # The folder is ours alone, and yet nothing is removed that does not bear a run's name.
        if os.path.basename(folder) == _PREFIX + os.path.basename(run_folder):
            _remove(folder)
