"""How many files this process may still open, and what to say when it may open no more (floor 1).

The number of a new descriptor is the lowest that is free (open(2)), so it tells at the cost of
one call how near the limit RLIMIT_NOFILE is.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pytest_containers.errors import HostError

__all__ = ["explained", "has_room", "raise_soft_limit", "require_room", "restore", "running_out"]

# What one request may need at the same time: pipes, socket pairs, pidfds, mount descriptors.
_ROOM: Final = 24


def raise_soft_limit() -> tuple[int, int]:
    """Raise the soft limit of open files to the hard one; return both as they were (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def restore(limits: tuple[int, int]) -> None:
    """Set the limits that `raise_soft_limit` returned: those of pytest, which containers have as well."""
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def has_room() -> bool:
    """Return whether one more request can be carried out with the descriptors that are left."""
    try:
        lowest = os.dup(0)
    except OSError:
        return False
    os.close(lowest)
    return lowest + _ROOM < resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def require_room(who: str) -> None:
    """Raise HostError, with *who* in it, where too few descriptors are left for one more request."""
    if not has_room():
        raise _no_room(who)


def _no_room(who: str) -> HostError:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return HostError(
        f"{who} has no file descriptors left",
        seen=f"the limit of open files is {soft} (soft), {hard} (hard); each container needs some of them",
        mend="raise the limit before pytest starts (ulimit -n), or keep fewer containers at the same time",
    )


def running_out(error: BaseException, who: str) -> HostError | None:
    """Return the error that explains *error* where that is EMFILE or ENFILE, else None."""
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.EMFILE:
        return _no_room(who)
    if error.errno == errno.ENFILE:
        return HostError(
            "the machine has no file descriptors left",
            seen=str(error),
            mend="raise fs.file-max (sysctl), or end what holds so many open files",
        )
    return None


@contextmanager
def explained(who: str) -> Iterator[None]:
    """Raise HostError, with the limit in it, in the place of EMFILE and ENFILE (errno(3))."""
    try:
        yield
    except OSError as error:
        if (told := running_out(error, who)) is not None:
            raise told from error
        raise
