"""Leases: what living processes use of a store, so that nobody removes it under them.

::

    leases/<random>      one file a lease, locked by whoever holds it; a line for each digest it covers
    locks/gate.lock      held shared to cover something, alone to decide what is removed

A lease lives as long as a descriptor of its file is open anywhere: in the process that took it, or
in one that inherited or was sent the descriptor (flock(2)). The kernel ends it with the last of
them, so a killed process leaves a file that anybody may remove and nothing that stays covered.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from pytest_containers._files import try_lock
from pytest_containers.images.blobs import room

__all__ = ["Lease", "Leases"]

_FOLDER: Final = "leases"


class Lease:
    """A hold on blobs and chains by name; a context manager. Safe between threads."""

    def __init__(self, leases: Leases, path: Path, descriptor: int) -> None:
        self._leases = leases
        self._path = path
        self._descriptor = descriptor
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor that holds the lease; whoever gets a copy of it holds it as well."""
        return self._descriptor

    def cover(self, *names: str) -> None:
        """Hold blobs and chains of these digests, too; what is there now stays while the lease lives."""
        with self._lock:
            new = [name for name in dict.fromkeys(names) if name not in self._names]
            if not new or self._descriptor < 0:
                return
            with self._leases.gate(), room(self._path):
                os.write(self._descriptor, "".join(f"{name}\n" for name in new).encode("ascii"))
            self._names.update(new)

    def close(self) -> None:
        """Let go; what copies of the descriptor hold stays held. Doing so twice is allowed."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._leases.forget(self)
            os.close(descriptor)
            _remove_dead(self._path)


class Leases:
    """The leases of one store."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._gathering: frozenset[Lease] = frozenset()

    def open(self, *names: str, gather: bool = False) -> Lease:
        """Return a lease on *names*; with *gather* on whatever is passed to `cover` until it is closed."""
        with room(self._root):
            folder = self._root / _FOLDER
            folder.mkdir(mode=0o700, exist_ok=True)
            for path in folder.glob("*"):
                _remove_dead(path)
            lease = Lease(self, *_claim(folder))
        try:
            lease.cover(*names)
        except BaseException:
            lease.close()
            raise
        if gather:
            with self._lock:
                self._gathering |= {lease}
        return lease

    def cover(self, *names: str) -> None:
        """Add *names* to every lease of this process that gathers; nothing happens where none does."""
        for lease in self._gathering:
            lease.cover(*names)

    def forget(self, lease: Lease) -> None:
        """Gather for *lease* no more."""
        with self._lock:
            self._gathering -= {lease}

    def covered(self) -> frozenset[str]:
        """Return every name that a living process holds; the caller holds the gate alone.

        The files of the dead are removed.
        """
        names: set[str] = set()
        for path in (self._root / _FOLDER).glob("*"):
            if not _remove_dead(path):
                with contextlib.suppress(FileNotFoundError):
                    names.update(path.read_text("ascii").split())
        return frozenset(names)

    @contextlib.contextmanager
    def gate(self, *, alone: bool = False) -> Iterator[None]:
        """Hold the gate: shared to cover, *alone* to remove what nobody covers.

        Covering and looking whether a thing is there come in this order, so a thing is either
        covered before it is judged, or gone before it is looked for.
        """
        folder = self._root / "locks"
        with room(self._root):
            folder.mkdir(exist_ok=True)
            descriptor = os.open(folder / "gate.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)


def _claim(folder: Path) -> tuple[Path, int]:
    while True:
        path = folder / uuid.uuid4().hex
        descriptor = try_lock(path)
        if descriptor is None:
            continue
        # Somebody may have taken it for a dead one's in the moment before it was locked.
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)


def _remove_dead(path: Path) -> bool:
    """Remove a lease's file that nobody holds; tell whether it was so."""
    descriptor = try_lock(path)
    if descriptor is None:
        return False
    path.unlink(missing_ok=True)
    os.close(descriptor)
    return True
