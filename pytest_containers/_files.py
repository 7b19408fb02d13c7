"""Locks and atomic writes: the one door to filelock (floor 0).

A file that others may read at any moment is written beside its place and renamed into it, so
that a reader sees the old or the new content and never half of one (rename(2)).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pytest_containers.errors import EngineError

__all__ = [
    "Waiting",
    "describe_process",
    "holder",
    "lock_descriptor",
    "locked",
    "remove_free_locks",
    "remove_tree",
    "tell_waiting",
    "try_lock",
    "write_atomic",
]

_LOOK_AGAIN_S: Final = 0.02
# Nobody has to be told of what takes less.
_TELL_AFTER_S: Final = 1.0
_SHOWN: Final = 120


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How a wait for another process can be ended, and who hears which process it is for."""

    cancel: threading.Event | None = None
    tell: Callable[[str], None] | None = None


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float = 600.0, waiting: Waiting | None = None) -> Iterator[None]:
    """Hold the lock file *path* (flock); it is freed by the kernel when the holder dies.

    Waits as long as the process that holds it lives, ends at once where *waiting* is cancelled, and
    tells which process it waits for, in the log where *waiting* has nobody to tell. Raises EngineError
    with that process when cancelled, and after *timeout_s* where no living holder can be seen.
    """
    import filelock

    lock = filelock.FileLock(path, timeout=_LOOK_AGAIN_S, thread_local=False)
    wait = _Wait(f"the lock {path}", lambda: os.stat(path), timeout_s=timeout_s, waiting=waiting)
    while True:
        try:
            # One try, without the library's own pause: that one no event ends.
            with _kept(path.parent):
                lock.acquire(timeout=0)
            break
        except filelock.Timeout:
            wait.pause()
    try:
        yield
    finally:
        lock.release()


def remove_free_locks(folder: Path, *, keep: frozenset[str] = frozenset()) -> None:
    """Remove the lock files ``*.lock`` in *folder* that nobody holds, but for those named in *keep*."""
    with contextlib.suppress(FileNotFoundError), _kept(folder, alone=True):
        for path in folder.glob("*.lock"):
            if path.name not in keep and (descriptor := _try(path)) is not None:
                path.unlink(missing_ok=True)
                os.close(descriptor)


@contextlib.contextmanager
def _kept(folder: Path, *, alone: bool = False) -> Iterator[None]:
    """Keep lock files in *folder* from being removed between their opening and their flock(2).

    A lock on a file that has lost its name holds nobody off. Who removes them has the folder *alone*.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def lock_descriptor(descriptor: int, subject: str, *, cancel: threading.Event | None = None) -> None:
    """Take the exclusive flock(2) of the open file *descriptor*, waiting as `locked` does."""
    waiting = Waiting(cancel=cancel)
    wait = _Wait(subject, lambda: os.fstat(descriptor), timeout_s=None, waiting=waiting)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait.pause()
        else:
            return


class _Wait:
    """A wait for another process: what it is for, and for how long it is borne."""

    def __init__(
        self,
        subject: str,
        look: Callable[[], os.stat_result],
        *,
        timeout_s: float | None,
        waiting: Waiting | None,
    ) -> None:
        self._subject = subject
        self._look = look
        self._timeout_s = timeout_s
        waiting = waiting or Waiting()
        self._cancel = waiting.cancel or threading.Event()
        self._tell = waiting.tell or partial(tell_waiting, subject)
        self._begun = self._alive_at = time.monotonic()
        self._told = False

    def pause(self) -> None:
        """Return after a moment. Raises EngineError where there is nothing to wait for any more."""
        waited_s = time.monotonic() - self._begun
        if not self._told and waited_s > _TELL_AFTER_S:
            self._told = True
            self._tell(holder(self._seen()) or "another process")
        if self._timeout_s is not None and time.monotonic() - self._alive_at > self._timeout_s:
            if (found := holder(self._seen())) is None:
                raise EngineError(
                    f"{self._subject} stayed taken for {waited_s:.1f} s",
                    seen="another process holds it, and cannot be seen from here",
                    mend="end that process; the lock goes with it",
                )
            self._alive_at = time.monotonic()
            self._tell(found)
        if self._cancel.wait(_LOOK_AGAIN_S):
            raise EngineError(
                f"the wait for {self._subject} was cancelled",
                seen=f"{holder(self._seen()) or 'another process'} holds it",
                mend="try again when that process has ended",
            )

    def _seen(self) -> os.stat_result | None:
        try:
            return self._look()
        except OSError:
            return None


def holder(seen: os.stat_result | None) -> str | None:
    """Return the living process that holds the flock of a file, as ``process 12 (pytest -n 4)``.

    None where /proc/locks does not show it: it is in another pid namespace, or the file system shows
    other numbers there than stat(2) does (proc_locks(5)).
    """
    if seen is None:
        return None
    file = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}"
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if fields[1:2] == ["FLOCK"] and fields[5:6] == [file] and Path("/proc", fields[4]).exists():
            return describe_process(int(fields[4]))
    return None


def describe_process(pid: int) -> str:
    """Return ``process PID (its command line)``, the latter cut where it is long."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
    except OSError:
        words = b""
    shown = words.decode(errors="replace")
    return f"process {pid} ({shown[:_SHOWN]}{'...' if len(shown) > _SHOWN else ''})"


def tell_waiting(subject: str, found: str | None) -> None:
    """Log that this process waits for *subject*, and which process has it."""
    import logging

    logging.getLogger("pytest_containers").warning(
        "waiting for %s, which %s holds", subject, found or "another process"
    )


def try_lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock on *path*, or None where somebody else does.

    The lock lives as long as the descriptor and whoever inherits it (flock(2)).
    """
    with _kept(path.parent):
        return _try(path)


def _try(path: Path) -> int | None:
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
