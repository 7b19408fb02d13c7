"""Settings below /proc/sys/net, which show and change the caller's own network namespace.

The files resolve to the namespace of the process that opens them, whichever /proc they are opened
in (fs/proc/proc_sysctl.c; namespaces(7)).
"""

from __future__ import annotations

import os

__all__ = ["has_ipv6", "write"]


def write(name: str, value: str) -> bool:
    """Set ``net.`` *name*, as sysctl(8) spells it; return whether it is there and may be written."""
    try:
        with open("/proc/sys/net/" + name.replace(".", "/"), "w", encoding="ascii") as file:
            file.write(value)
    except OSError:
        return False
    return True


def has_ipv6() -> bool:
    """Return whether this kernel runs IPv6 at all (``ipv6.disable=1`` takes it out)."""
    return os.path.exists("/proc/net/if_inet6")
