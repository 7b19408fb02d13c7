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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pytest_containers._files import locked, remove_tree
from pytest_containers.errors import EngineError
from pytest_containers.images.build.mount import Sharing

__all__ = ["Volumes"]

_PATIENCE_S: Final = 3600.0
_POLL_S: Final = 0.05


class Volumes:
    """The cache mounts of one store, in *folder*. Safe between threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def hold(self, name: str, sharing: Sharing, fill: Callable[[Path], None]) -> Iterator[Path]:
        """Yield the folder of the mount *name*, which nobody prunes meanwhile.

        Where it is new, *fill* makes it at the path that it is given. Raises EngineError where
        another process uses a locked one for an hour.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as scope:
            path = self._claim(name, sharing, scope)
            with locked(self._folder / "making.lock"):
                if not path.exists():
                    self._make(path, fill)
            yield path

    def _claim(self, name: str, sharing: Sharing, scope: contextlib.ExitStack) -> Path:
        if sharing != "private":
            path = self._folder / name
            descriptor = self._open(path, scope)
            _wait(descriptor, path, fcntl.LOCK_EX if sharing == "locked" else fcntl.LOCK_SH)
            return path
        for number in itertools.count():
            path = self._folder / (f"{name}-{number}" if number else name)
            with contextlib.ExitStack() as undo:
                if _try(self._open(path, undo), fcntl.LOCK_EX):
                    scope.push(undo.pop_all())
                    return path
        raise AssertionError  # the numbers do not end

    def _open(self, path: Path, scope: contextlib.ExitStack) -> int:
        lock = path.with_name(f"{path.name}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        scope.callback(os.close, descriptor)
        os.utime(descriptor)
        return descriptor

    def _make(self, path: Path, fill: Callable[[Path], None]) -> None:
        made = self._folder / ".making"
        remove_tree(made)  # of one who was killed here
        made.mkdir(mode=0o700)
        fill(made / "volume")
        (made / "volume").rename(path)
        made.rmdir()


def _wait(descriptor: int, path: Path, how: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not _try(descriptor, how):
        if time.monotonic() > deadline:
            raise EngineError(
                f"the cache mount {path} stayed in use for {_PATIENCE_S:g} s",
                seen="another process holds its lock",
                mend="end that build, or leave sharing=locked out",
            )
        time.sleep(_POLL_S)


def _try(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
