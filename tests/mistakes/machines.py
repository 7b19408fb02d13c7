"""Machines and options with which no run can begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.mistakes.case import Case, case, starts

# The interpreter may lie where a plain user cannot read; nothing else is granted.
PLAIN_USER: Final = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search", "--bounding-set"),
    "-all,+dac_read_search",
)
# A store of 4 MiB that no other process sees, and what it holds when the command has ended.
_KEPT: Final = """
mkdir store && mount -t tmpfs -o size=4m tmpfs store && "$@"
code=$?
echo "kept $(du -sk store | cut -f1) KiB"
exit $code
"""
SMALL_STORE: Final = ("unshare", "--mount", "sh", "-c", _KEPT, "sh")

HOST: Final = starts('"host", command="true"')

# Each on a machine of its own: pytest runs behind a command that takes privileges away.
MACHINES: Final[Mapping[Case, tuple[str, ...]]] = {
    case("pytest does not run as root", HOST, "HostError", "user 65534", "sudo"): PLAIN_USER,
    case("root may not make namespaces", HOST, "HostError", "not permitted", "CAP_SYS_ADMIN"): (
        *("setpriv", "--bounding-set", "-sys_admin"),
    ),
    case("root may not make device nodes", HOST, "HostError", "not permitted", "CAP_MKNOD"): (
        *("setpriv", "--bounding-set", "-mknod"),
    ),
    case("root may not configure networks", HOST, "HostError", "not permitted", "CAP_NET_ADMIN"): (
        *("setpriv", "--bounding-set", "-net_admin"),
    ),
    case(
        "`limits=` where no control groups are mounted",
        starts('"host", command="true", limits={"memory": "64m"}'),
        "HostError",
        "limit of memory",
        "no control groups",
    ): (*("unshare", "--mount", "sh", "-c"), 'mount -t tmpfs none /sys/fs/cgroup && "$@"', "sh"),
}

PLACES: Final[Mapping[Case, str]] = {
    case("the store's folder cannot be made", HOST, "HostError", "/proc/no-such", "--containers-store"): (
        "--containers-store=/proc/no-such"
    ),
    case(
        "an engine that is not there: `--containers-engine=docker`", HOST, "Unsupported", "'docker'", "auto"
    ): "--containers-engine=docker",
}

OPTIONS: Final[Mapping[str, str]] = {
    "a number that is none: `--containers-timeout=soon`": "--containers-timeout=soon",
    "a choice that is none: `--containers-pull=sometimes`": "--containers-pull=sometimes",
    "a mirror with a scheme: `--containers-mirror=https://cache.example`": (
        "--containers-mirror=https://cache.example"
    ),
    "a lock file that is not there: `--containers-lock=none.lock`": "--containers-lock=none.lock",
}
