"""What /proc tells of a container's processes: which there are, and what they use (floor 1).

Read by the supervisor in its own /proc, which shows the processes of all containers of the run
(pid_namespaces(7)); a container cannot tell it anything else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["Process", "Usage", "entries", "network_bytes", "processes", "usage"]

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process by its id as we see it; *inside* is the one in its container; *uid* is the effective one."""

    pid: int
    inside: int
    uid: int
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Sums over processes; *cpu_s* counts children that were waited for, *tasks* threads."""

    memory_bytes: int
    cpu_s: float
    tasks: int


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _stat(pid: int) -> tuple[str, ...]:
    """Return the fields from the third on: the second may hold anything (proc_pid_stat(5))."""
    return tuple(_read(f"/proc/{pid}/stat").rpartition(") ")[2].split())


def processes(first: int) -> tuple[int, ...]:
    """Return the ids of the processes of the container whose first process is *first*.

    They are in its process id namespace, or descend from one that is. Some may have ended since. Where
    we may not look at the namespace of another user's process, for want of CAP_SYS_PTRACE, those of execs
    are missing (ptrace(2), "access mode checking"). Raises OSError where the first has ended.
    """
    try:
        namespace = os.readlink(f"/proc/{first}/ns/pid")
    except PermissionError:
        namespace = ""
    parents: dict[int, int] = {}
    members = {first}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is not ours to look at (ptrace(2))
            parents[pid] = int(_stat(pid)[1])
            if os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                members.add(pid)
    while born := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= born
    return tuple(sorted(members & parents.keys()))


def _status(pid: int) -> Mapping[str, str]:
    lines = (line.partition(":") for line in _read(f"/proc/{pid}/status").splitlines())
    return {name: text.strip() for name, _, text in lines}


def entries(first: int) -> tuple[Process, ...]:
    """Return the processes of a container, by their ids inside."""
    found: list[Process] = []
    for pid in processes(first):
        with contextlib.suppress(OSError):
            status = _status(pid)
            words = _read(f"/proc/{pid}/cmdline").rstrip("\0").replace("\0", " ")
            # The ids from ours inwards; a namespace within the container's adds another (proc_pid_status(5)).
            ids = status["NSpid"].split()
            found.append(
                Process(
                    pid=pid,
                    inside=int(ids[1]) if len(ids) > 1 else pid,
                    uid=int(status["Uid"].split()[1]),
                    command=words or f"[{status['Name']}]",
                )
            )
    return tuple(sorted(found, key=lambda one: one.inside))


def usage(pids: tuple[int, ...]) -> Usage:
    """Return what processes use; a page that several share counts once (proc_pid_smaps_rollup(5))."""
    memory, ticks, tasks = 0, 0, 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = _stat(pid)
            # utime, stime, cutime, cstime and num_threads are fields 14 to 17 and 20.
            ticks += sum(map(int, fields[11:15]))
            tasks += int(fields[17])
            memory += _memory_bytes(pid, int(fields[21]))
    return Usage(memory_bytes=memory, cpu_s=ticks / _TICKS_PER_S, tasks=tasks)


def _memory_bytes(pid: int, resident_pages: int) -> int:
    try:
        lines = _read(f"/proc/{pid}/smaps_rollup").splitlines()
    except OSError:  # a zombie, or a kernel without
        return resident_pages * _PAGE_BYTES
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def network_bytes(pid: int) -> tuple[int, int]:
    """Return the bytes received and sent in the network of a process, lo left out (proc_pid_net(5))."""
    received = sent = 0
    for line in _read(f"/proc/{pid}/net/dev").splitlines()[2:]:
        name, _, counts = line.partition(":")
        if name.strip() != "lo":
            columns = counts.split()
            received, sent = received + int(columns[0]), sent + int(columns[8])
    return received, sent
