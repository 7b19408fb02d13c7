"""Which tests run on a kernel, in parts; all of them make their images of the machine's own files."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["PARTS", "SERIES"]

# 5.10 is Debian 11's, 6.1 Debian 12's, 6.12 Debian 13's; the others come from backports. The last is
# the newest series of 7, whichever it is.
SERIES: Final = ("5.10", "6.1", "6.12", "6.16", "6.18", "7")

PARTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        # Where kernels differed: overlayfs, mounts and their restrictions, netlink.
        "small": (
            "tests/runtime/test_binds.py",
            "tests/runtime/test_difference.py",
            "tests/runtime/test_snapshot.py",
            "tests/runtime/test_syscalls_mount.py",
            "tests/runtime/network/test_firewall.py",
            "tests/runtime/network/test_netlink.py",
        ),
        # Control groups are those of systemd here: version 2 alone, and a group that has processes.
        "limits": (
            "tests/runtime/test_cgroups.py",
            "tests/lifetimes/test_groups.py",
            "tests/attacks/test_memory.py",
            "tests/attacks/test_fork_bomb.py",
            "tests/test_limits.py",
            "tests/test_control.py",
            "tests/test_reaper.py",
            "tests/test_resources.py",
        ),
        "runtime": ("tests/runtime", "--ignore=tests/runtime/network"),
        "network": ("tests/runtime/network",),
        "engines": ("tests/engines/test_contract_exec.py", "tests/engines/test_contract_files.py"),
        "attacks": ("tests/attacks",),
        "lifetimes": ("tests/lifetimes",),
    }
)
