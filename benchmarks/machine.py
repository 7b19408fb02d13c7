"""The class of the machine, without its name."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path
from typing import Final

from benchmarks.report import Machine

__all__ = ["look"]

_FILES: Final = 2_000


def look(folder: Path) -> Machine:
    """Return what the machine is; *folder* is where the benchmarks keep their files."""
    return Machine(
        processors=len(os.sched_getaffinity(0)),
        processor=_field(Path("/proc/cpuinfo"), r"model name\s*: (.+)") or platform.machine(),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        # Without what a distribution or a cloud adds to it.
        kernel=(re.match(r"[0-9.]*[0-9]", platform.release()) or [platform.release()])[0],
        system=_field(Path("/etc/os-release"), r'PRETTY_NAME="?([^"\n]+)') or "an unnamed system",
        python=platform.python_version(),
        filesystem=_filesystem(folder),
        file_s=_file_s(folder / "files"),
        load=os.getloadavg()[0],
    )


def _field(path: Path, pattern: str) -> str:
    try:
        found = re.search(pattern, path.read_text(encoding="utf-8"))
    except OSError:
        return ""
    return found[1].strip() if found else ""


def _file_s(folder: Path) -> float:
    """Return how long a small file takes to make.

    Tens of microseconds; hundreds where many files were removed minutes ago, which ext4 will not use
    again so soon and looks at one by one (fs/ext4/ialloc.c, recently_deleted).
    """
    folder.mkdir()
    began = time.perf_counter()
    for number in range(_FILES):
        (folder / str(number)).write_bytes(b"small")
    return (time.perf_counter() - began) / _FILES


def _filesystem(folder: Path) -> str:
    """Return the type of the file system that *folder* is on (proc_pid_mountinfo(5))."""
    place = folder.resolve()
    best, kind = "", "an unknown file system"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mounted = line.split()[4]
        if place.is_relative_to(mounted) and len(mounted) >= len(best):
            best, kind = mounted, line.partition(" - ")[2].split()[0]
    return kind
