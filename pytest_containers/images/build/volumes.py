"""The folders behind cache mounts: they outlive every build, in the store, until a prune.

::

    build/mounts/<name>        the content; <name>-1, ... where private mounts are used at once
    build/mounts/<name>.lock   locked by whoever uses it, shared or alone (flock(2)); as old as its last use

Sharing is BuildKit's (https://docs.docker.com/reference/dockerfile/#run---mounttypecache): ``shared``
is for any number of commands, ``locked`` waits for its turn, ``private`` takes another folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_containers._files import Waiting, locked, remove_tree, try_lock
from pytest_containers.images.build.mount import Sharing

__all__ = ["Volume", "Volumes"]

_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One folder behind a cache mount: the time of its last use, its bytes, whether a command has it."""

    path: Path
    used: float
    size_bytes: int
    in_use: bool


class Volumes:
    """The cache mounts of one store, in *folder*. Safe between threads and processes.

    *cancel* ends waits for others.
    """

    def __init__(self, folder: Path, cancel: threading.Event | None = None) -> None:
        self._folder = folder
        self._cancel = cancel or threading.Event()

    @contextlib.contextmanager
    def hold(self, name: str, sharing: Sharing, fill: Callable[[Path], None]) -> Iterator[Path]:
        """Yield the folder of the mount *name*, which nobody prunes meanwhile.

        Where it is new, *fill* makes it at the path that it is given. A locked one is waited for as
        long as another command uses it. Raises CancelledError where the wait was ended.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as scope:
            path = self._claim(name, sharing, scope)
            # Each has a lock of its own: one that is filled from a large image holds nobody else up.
            with locked(_lock(self._making(path)), waiting=Waiting(cancel=self._cancel)):
                if not path.exists():
                    self._make(path, fill)
            yield path

    def all(self) -> Iterator[Volume]:
        """Yield every folder."""
        for path in sorted(self._folder.glob("*")):
            if path.name.startswith(".") or not path.is_dir():
                continue
            with contextlib.ExitStack() as scope, contextlib.suppress(FileNotFoundError):
                lock = os.open(_lock(path), os.O_RDWR | os.O_CLOEXEC)
                scope.callback(os.close, lock)
                size_bytes = sum(_sizes(path))
                in_use = not _try(lock, fcntl.LOCK_EX)
                yield Volume(path=path, used=os.fstat(lock).st_mtime, size_bytes=size_bytes, in_use=in_use)

    def remove(self, path: Path, into: Path) -> bool:
        """Move a folder to *into*; tell whether it was so, for one in use stays."""
        with contextlib.ExitStack() as scope, contextlib.suppress(FileNotFoundError):
            lock = os.open(_lock(path), os.O_RDWR | os.O_CLOEXEC)
            scope.callback(os.close, lock)
            if _try(lock, fcntl.LOCK_EX):
                path.rename(into)
                _lock(path).unlink()
                _lock(self._making(path)).unlink(missing_ok=True)
                return True
        return False

    def clear(self) -> None:
        """Delete what a process left that was killed while it made a folder."""
        for made in self._folder.glob(".making-*"):
            if made.suffix == ".lock":
                continue
            if (held := try_lock(_lock(made))) is not None:
                remove_tree(made)
                os.close(held)

    def _claim(self, name: str, sharing: Sharing, scope: contextlib.ExitStack) -> Path:
        if sharing != "private":
            path = self._folder / name
            how = fcntl.LOCK_EX if sharing == "locked" else fcntl.LOCK_SH
            # A lock ends with its holder (flock(2)), so this ends as well.
            while not _claimed(path, how, scope):
                if self._cancel.wait(_POLL_S):
                    raise CancelledError
            return path
        for number in itertools.count():
            path = self._folder / (f"{name}-{number}" if number else name)
            if _claimed(path, fcntl.LOCK_EX, scope):
                return path
        raise AssertionError  # the numbers do not end

    def _making(self, path: Path) -> Path:
        """Return where a folder is made before it has its name."""
        return self._folder / f".making-{path.name}"

    def _make(self, path: Path, fill: Callable[[Path], None]) -> None:
        made = self._making(path)
        remove_tree(made)  # of one who was killed here
        made.mkdir(mode=0o700)
        fill(made / "volume")
        (made / "volume").rename(path)
        made.rmdir()


def _lock(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _claimed(path: Path, how: int, scope: contextlib.ExitStack) -> bool:
    """Take the lock of a folder for as long as *scope*, and count it as used; tell whether it was free."""
    with contextlib.ExitStack() as undo:
        descriptor = os.open(_lock(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, descriptor)
        # A prune may have removed the file in the moment before it was locked.
        if not _try(descriptor, how) or not os.fstat(descriptor).st_nlink:
            return False
        os.utime(descriptor)
        scope.push(undo.pop_all())
    return True


def _sizes(folder: Path) -> Iterator[int]:
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield os.lstat(os.path.join(where, name)).st_size


def _try(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
