"""Run folders: where a run keeps what must have a name, and how dead ones are found (floor 1).

A run folder is locked (flock(2)) on itself, by janitor and supervisor, for as long as one of them
lives; the kernel frees the lock with them. Any folder whose lock is free is garbage.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pytest_containers._files import lock_descriptor
from pytest_containers.errors import ContainersError, HostError, from_wire, to_wire
from pytest_containers.runtime import cgroups, userns

__all__ = [
    "SOCKET",
    "base",
    "end",
    "fresh",
    "hold",
    "is_free",
    "make",
    "refusal",
    "refuse",
    "sweep",
    "withdraw",
]

SOCKET: Final = "supervisor.sock"
_REFUSAL: Final = "refusal.json"
_NAME_BYTES: Final = 4


def base() -> Path:
    """Return the folder of this user's runs; short, for a socket's path has 107 bytes (unix(7)).

    The user is that of the files which are made there, also in a user namespace where he is root: root's
    own folder is not his to make or to look into.
    """
    return Path(f"/var/tmp/pytest-containers-{userns.outside()}")  # noqa: S108 - owner and mode are checked


def fresh() -> Path:
    """Return the path of a run folder that nobody has; nothing is made."""
    return base() / os.urandom(_NAME_BYTES).hex()


def _checked(folder: Path) -> None:
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or stat.S_IMODE(seen.st_mode) & 0o077:
        raise HostError(
            f"{folder} is not ours alone",
            seen=f"owner {seen.st_uid}, mode {stat.filemode(seen.st_mode)}",
            mend="remove it: somebody else has put it there",
        )


@contextmanager
def hold() -> Iterator[Path]:
    """Hold the lock of the folder of all runs, made where missing; yield it.

    Whoever leaves it empty removes it, so the one we locked may not be the one that is there now:
    then again. Raises HostError where somebody else owns the place, or it cannot be made.
    """
    descriptor = -1
    while descriptor < 0:
        folder = base()
        _make_base(folder)
        with suppress(FileNotFoundError):
            descriptor = _locked(folder)
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()
        os.close(descriptor)


def _make_base(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    except OSError as error:
        raise HostError(
            f"no folder for runs at {folder}",
            seen=str(error),
            mend=f"make {folder.parent} a folder that everybody may write to, with room in it",
        ) from error


def _locked(folder: Path) -> int:
    """Return a descriptor that holds the lock of *folder*, -1 where that is no longer its name."""
    _checked(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        lock_descriptor(descriptor, f"the folder of runs {folder}")
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return os.dup(descriptor)
    finally:
        os.close(descriptor)
    return -1


def make(folder: Path) -> int:
    """Make a run folder; return the descriptor that holds its lock. The caller holds `hold`."""
    folder.mkdir(mode=0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # `is_free` of another process may hold it for a moment
    return descriptor


def sweep(folder: Path) -> list[str]:
    """Remove what no run needs from *folder*, and return the paths. Needs `hold`.

    A run needs its folder while its lock is taken, or while its owner may ask why it did not begin.
    """
    return [str(path) for path in sorted(folder.iterdir()) if _swept(path)]


def _swept(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # its janitor, who holds no lock of the whole, was faster
        return False
    except OSError:  # not a folder (ENOTDIR), so nobody's run
        path.unlink(missing_ok=True)
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        if _is_awaited(path):
            return False
        cgroups.remove_listed(str(path))
        shutil.rmtree(path, ignore_errors=True)
        return True
    finally:
        os.close(descriptor)


def is_free(folder: Path) -> bool:
    """Return whether no process of a run holds the run folder *folder*, or it is not there."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def end(folder: Path) -> None:
    """Remove the run folder *folder*, the run's control groups, and the place of all runs after the last."""
    cgroups.remove_listed(str(folder))
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(HostError), hold():
        return


def refuse(folder: Path, error: ContainersError, *, owner: int = 0) -> None:
    """Leave *error* in the run folder, for those who will want to know why there is no run.

    No sweep of another run's takes it away while *owner* lives, the process whose end is the run's.
    """
    # Written before the socket closes, so that whoever finds nobody there finds this.
    left = {**to_wire(error), "owner": str(owner)}
    (folder / _REFUSAL).write_text(json.dumps(left), encoding="utf-8")


def withdraw(folder: Path) -> None:
    """Take back what `refuse` left: nobody will ask for it any more."""
    (folder / _REFUSAL).unlink(missing_ok=True)


def _is_awaited(folder: Path) -> bool:
    try:
        owner = str(json.loads((folder / _REFUSAL).read_text(encoding="utf-8"))["owner"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return owner.isdecimal() and Path("/proc", owner).exists()


def refusal(folder: Path) -> ContainersError | None:
    """Return what `refuse` left in the run folder."""
    try:
        return from_wire(json.loads((folder / _REFUSAL).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
