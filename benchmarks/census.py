"""What the machine has of us: taken before and after, so that a run can say what it left."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.contestants.base import JANITOR, resident_bytes

__all__ = ["CGROUP", "cgroups", "look", "remove_cgroups", "settle"]

# Where dockerd puts its containers for us, and where podman puts conmon: it lets nobody choose.
CGROUP: Final = "pytest-containers-benchmark"
_PODMANS: Final = "libpod_parent"
_PATIENCE_S: Final = 5.0
_UPLINK: Final = re.compile(r"\bptc[0-9a-f]+$")


def look(work: Path) -> frozenset[str]:
    """Return interfaces, mounts, routes, packet filter rules, cgroups, sysctls, processes of *work*."""
    return frozenset((*_network(), *_mounts(), *cgroups(), *_processes(work)))


def settle(before: frozenset[str], work: Path) -> tuple[str, ...]:
    """Return what is there and was not, after giving the kernel its moment to take it away.

    Asked when our own engines have ended.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while (left := look(work) - before) and time.monotonic() < deadline:
        remove_cgroups(before)
        time.sleep(0.1)
    if _others():
        left = frozenset(one for one in left if not _UPLINK.search(one))
    return tuple(sorted(left))


def _others() -> bool:
    """Whether somebody else's test run is on, whose uplinks to the machine are not ours to judge."""
    return bool(resident_bytes(lambda argv: any(JANITOR in word for word in argv)))


def remove_cgroups(before: frozenset[str]) -> None:
    """Remove the cgroups that the peers leave empty; the kernel refuses for any other (cgroups(7))."""
    for entry in cgroups() - before:
        top = Path(entry.removeprefix("cgroup "))
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def cgroups() -> frozenset[str]:
    """Return the cgroups that the peers make outside of their containers'."""
    base = Path("/sys/fs/cgroup")
    # Version 1 has one hierarchy a controller, some of them under two names.
    found = (path for name in (CGROUP, _PODMANS) for path in (*base.glob(name), *base.glob(f"*/{name}")))
    return frozenset(f"cgroup {path}" for path in found)


def _network() -> Iterator[str]:
    yield from (f"interface {name}" for _, name in socket.if_nameindex())
    routes = (line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:])
    yield from (f"route {column[1]}/{column[7]} by {column[0]}" for column in routes)
    yield f"net.ipv4.ip_forward = {Path('/proc/sys/net/ipv4/ip_forward').read_text().strip()}"
    for argv in (("nft", "list", "ruleset"), ("iptables-save",)):
        if shutil.which(argv[0]):
            rules = subprocess.run(argv, check=False, capture_output=True, text=True).stdout.splitlines()
            yield from (f"{argv[0]}: {line.strip()}" for line in rules if not line.startswith(("#", ":")))


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        yield f"mount {line.split()[4]} ({line.rpartition(' - ')[2]})"


def _processes(work: Path) -> Iterator[str]:
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path("/proc", pid, "cmdline").read_bytes()
            if os.fsencode(work) in words and int(pid) != os.getpid():
                yield f"process {pid} ({words.split(bytes(1))[0].decode(errors='replace')})"
