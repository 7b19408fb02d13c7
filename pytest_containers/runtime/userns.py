"""Which user namespace this process is in, and who it is outside of it (floor 1).

In a user namespace of its own (``unshare -r``, a rootless container) anybody is user 0, so an effective user
id of 0 tells nothing of what the machine allows, nor of whose files ours are (user_namespaces(7)).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["is_initial", "outside"]

_ALL_IDS: Final = (0, 0, 0xFFFF_FFFF)


def _map() -> tuple[tuple[int, ...], ...]:
    """Return the rows of the map: first id inside, first id outside, count; none where /proc is missing."""
    try:
        text = Path("/proc/self/uid_map").read_text(encoding="ascii")
    except OSError:
        return ()
    return tuple(tuple(int(word) for word in line.split()) for line in text.splitlines())


def is_initial() -> bool:
    """Tell whether this is the machine's own user namespace, as far as its map of users tells."""
    return _map() in ((), (_ALL_IDS,))


def outside() -> int:
    """Return the effective user id as the namespace outside has it; as it is where no row maps it."""
    uid = os.geteuid()
    for inside, beyond, count in _map():
        if inside <= uid < inside + count:
            return beyond + uid - inside
    return uid
