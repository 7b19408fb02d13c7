"""Locks and atomic writes: the one door to filelock (floor 0).

A file that others may read at any moment is written beside its place and renamed into it, so
that a reader sees the old or the new content and never half of one (rename(2)).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pytest_containers.errors import EngineError

__all__ = ["locked", "remove_tree", "try_lock", "write_atomic"]


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Put *content* at *path*, whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float = 600.0) -> Iterator[None]:
    """Hold the lock file *path* (flock); it is freed by the kernel when the holder dies.

    Raises EngineError after *timeout_s*, naming the file.
    """
    import filelock

    lock = filelock.FileLock(path, timeout=timeout_s, thread_local=False)
    try:
        with lock:
            yield
    except filelock.Timeout as error:
        raise EngineError(
            f"{path} stayed locked for {timeout_s:g} s",
            seen="another process holds it",
            mend="end that process; the lock goes with it",
        ) from error


def try_lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock on *path*, or None where somebody else does.

    The lock lives as long as the descriptor and whoever inherits it (flock(2)).
    """
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return None
        raise
    return descriptor


def remove_tree(path: Path) -> None:
    """Remove a folder and all below it; nothing happens where it is gone already."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
