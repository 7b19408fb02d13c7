"""What everyone is asked to do, one verb a figure."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

__all__ = ["BASE", "CHANGES", "JANITOR", "Address", "Contestant", "ImageContestant", "resident_bytes"]

Address = tuple[str, int]
# What everyone calls the image that its containers are started from.
BASE: Final = "localhost/benchmark:1"
# What stands in the command line of a run's janitor, supervisor and gateway alike: they are forks.
JANITOR: Final = "pytest_containers.runtime.janitor"
# What `ImageContestant.change` runs: one file that does not compress, and many small ones.
_SCRIPT: Final = """
/bin/dd if=/dev/urandom of=/root/large bs=1048576 count=8 2>/dev/null && /bin/mkdir -p /root/small &&
for number in $(/bin/seq 200); do echo $number > /root/small/$number; done
"""
CHANGES: Final = ("/bin/sh", "-c", _SCRIPT)


class Contestant(ABC):
    """An engine under measurement. Containers and images are named by the caller.

    Every verb returns when the thing is done, as a test would have to wait for it.
    """

    name: str
    version: str

    @abstractmethod
    def start(self, name: str) -> None:
        """Make a container with its own interface and address, whose process sleeps; it runs."""

    @abstractmethod
    def exec(self, name: str) -> None:
        """Run ``true`` in it."""

    @abstractmethod
    def remove(self, names: Sequence[str]) -> None:
        """Kill what runs and drop the files."""

    @abstractmethod
    def serve(self, name: str) -> None:
        """Start Redis on its usual port, without waiting for its answer."""

    @abstractmethod
    def addresses(self, names: Sequence[str]) -> list[Address]:
        """Return where a test reaches the Redis of each."""

    @abstractmethod
    def close(self) -> None:
        """End what this contestant made."""


class ImageContestant(Contestant):
    """One that has images of its own and processes to weigh."""

    @abstractmethod
    def memory_bytes(self) -> int:
        """Return what its own processes take, containers' processes left out (PSS, proc_pid_smaps(5))."""

    @abstractmethod
    def change(self, name: str) -> None:
        """Write files in a running container."""

    @abstractmethod
    def commit(self, name: str, image: str) -> None:
        """Make an image of it."""

    @abstractmethod
    def pull(self, reference: str) -> None:
        """Fetch an image that is not there, up to the point where it can be started."""

    @abstractmethod
    def tag(self, source: str, target: str) -> None:
        """Give an image one more name."""

    @abstractmethod
    def push(self, reference: str) -> None:
        """Send an image to the registry that its name says."""

    @abstractmethod
    def build(self, folder: Path, reference: str) -> None:
        """Make an image of the Dockerfile in *folder*, which is the context too; use the cache."""

    @abstractmethod
    def save(self, reference: str, archive: Path) -> None:
        """Write an image to the file *archive*, in the form that the engine itself prefers."""

    @abstractmethod
    def load(self, archive: Path) -> None:
        """Take in the images of a docker archive, up to the point where they can be started."""


def resident_bytes(is_own: Callable[[Sequence[str]], bool]) -> int:
    """Return the proportional set size of every process whose argv *is_own*."""
    total = 0
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            argv = Path("/proc", pid, "cmdline").read_bytes().decode(errors="replace").split("\0")
            if not is_own(argv):
                continue
            lines = Path("/proc", pid, "smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total
