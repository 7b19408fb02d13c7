"""What of a store nobody needs, and its removal beside processes that pull, unpack and run.

A thing is needed if a named image or an entry of the build cache consists of it, or a lease
covers it. To remove is to rename into ``trash/`` while nobody can begin to use the thing, and
to delete later: a process killed in between leaves either everything, or garbage that the next one
finds. Names go first, content after them, so no name ever lacks its content.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_containers._files import locked, remove_free_locks, remove_tree, try_lock
from pytest_containers.images.build.volumes import Volume, Volumes
from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.store import REF_NAME, Store

__all__ = ["Holder", "Pruned", "clear_trash", "collect", "holders", "leftovers", "mounted", "removing"]

_CACHE: Final = "build"
_TRASH: Final = "trash"
# Taken by flock(2) directly, so its name must stay.
_KEPT_LOCKS: Final = frozenset({"gate.lock"})
# An entry of a cache says what a build step made: digests, and some text around them.
_ENTRY_LIMIT_BYTES: Final = 1 << 20
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed, or would be: *names* of images, blobs, chains, and the room they took.

    *volumes* are the folders of cache mounts.
    """

    names: tuple[str, ...] = ()
    blobs: tuple[Digest, ...] = ()
    chains: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One thing that keeps content: an image by its names, or an entry of a cache by its file.

    *used* is the time of the last use, in seconds since the epoch. A cache mount holds nothing but
    itself, *volume*.
    """

    contents: frozenset[str]
    used: float
    digest: Digest | None = None
    entries: tuple[Descriptor, ...] = ()
    path: Path | None = None
    volume: Volume | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The references of an image."""
        return tuple(entry.annotations[REF_NAME] for entry in self.entries)


def holders(store: Store) -> tuple[Holder, ...]:
    """Return every image and every entry of the build cache.

    Each ``build/*.json`` is such an entry: it holds the content whose digests stand in it, and counts
    as used at its own time.
    """
    named: dict[Digest, list[Descriptor]] = {}
    for entry in store.entries():
        named.setdefault(entry.digest, []).append(entry)
    images = (
        Holder(
            contents=store.contents(digest),
            used=_used(store.blobs.path(digest)),
            digest=digest,
            entries=tuple(entries),
        )
        for digest, entries in named.items()
    )
    return (*images, *_cached(store.root / _CACHE))


def mounted(store: Store) -> tuple[Holder, ...]:
    """Return every cache mount."""
    return tuple(
        Holder(contents=frozenset(), used=volume.used, volume=volume) for volume in _volumes(store).all()
    )


def collect(store: Store, doomed: Iterable[Holder] = (), *, among: frozenset[str] | None = None) -> Pruned:
    """Remove *doomed* holders that no lease covers, and then the content that nobody needs.

    *among* limits the content to those digests. The deletion itself is left to `clear_trash`.
    """
    with store.leases.gate(alone=True):
        leased = store.leases.covered()
        free = [holder for holder in doomed if holder.digest not in leased]
        names = store.forget(entry for holder in free for entry in holder.entries)
        for holder in free:
            if holder.path is not None:
                holder.path.unlink(missing_ok=True)
        needed = leased.union(*(holder.contents for holder in holders(store)))
        blobs, chains, size_bytes = _unneeded(store, needed, among)
        trash = store.root / _TRASH
        trash.mkdir(mode=0o700, exist_ok=True)
        for path in (*map(store.blobs.path, blobs), *(store.chains.path(chain).parent for chain in chains)):
            # Another may have removed a damaged one by now.
            with suppress(FileNotFoundError):
                os.rename(path, trash / uuid.uuid4().hex)
    volumes = [
        one
        for one in _volumes_of(free)
        if _volumes(store).remove(one.path, store.root / _TRASH / uuid.uuid4().hex)
    ]
    return _pruned(names, blobs, chains, size_bytes, volumes)


def removing(store: Store, doomed: Iterable[Holder]) -> Pruned:
    """Return what `collect` would do to *doomed* and to all content, and do nothing."""
    with store.leases.gate(alone=True):
        leased = store.leases.covered()
        free = [holder for holder in doomed if holder.digest not in leased]
        kept = [holder for holder in holders(store) if holder not in free]
        blobs, chains, size_bytes = _unneeded(
            store, leased.union(*(holder.contents for holder in kept)), None
        )
    names = tuple(sorted(name for holder in free for name in holder.names))
    return _pruned(names, blobs, chains, size_bytes, _volumes_of(free))


def _pruned(
    names: tuple[str, ...],
    blobs: tuple[Digest, ...],
    chains: tuple[str, ...],
    size_bytes: int,
    volumes: list[Volume],
) -> Pruned:
    return Pruned(
        names=names,
        blobs=blobs,
        chains=chains,
        volumes=tuple(volume.path.name for volume in volumes),
        size_bytes=size_bytes + sum(volume.size_bytes for volume in volumes),
    )


def _volumes(store: Store) -> Volumes:
    return Volumes(store.root / _CACHE / "mounts")


def _volumes_of(found: Iterable[Holder]) -> list[Volume]:
    return [holder.volume for holder in found if holder.volume is not None]


def clear_trash(store: Store) -> None:
    """Delete what was removed, also by processes that died before they came to it."""
    with locked(_locks(store) / "trash.lock"):
        for path in (store.root / _TRASH).glob("*"):
            _delete(path)


def leftovers(store: Store) -> None:
    """Delete what killed downloads and unpacks left; what a living process works at stays."""
    for path in (store.root / "ingest").glob("*"):
        # Content of unknown digest is locked itself; a download by its digest's lock.
        lock = path if path.name.startswith("new-") else _locks(store) / f"{path.name}.lock"
        _delete_free(path, lock)
    _volumes(store).clear()
    for path in (store.root / "chains").glob("*/.*.unpacking"):
        name = path.name.removeprefix(".").removesuffix(".unpacking")
        _delete_free(path, _locks(store) / f"chain-{name}.lock")
    remove_free_locks(store.root / "locks", keep=_KEPT_LOCKS)
    remove_free_locks(store.root / _CACHE)
    # Whoever writes the index holds this lock, so what lies there is of no living process.
    with locked(_locks(store) / "index.lock"):
        for path in store.root.glob(".index.json.*"):
            path.unlink(missing_ok=True)


def _unneeded(
    store: Store, needed: frozenset[str], among: frozenset[str] | None
) -> tuple[tuple[Digest, ...], tuple[str, ...], int]:
    def judged(name: str) -> bool:
        return name not in needed and (among is None or name in among)

    blobs = tuple(sorted(digest for digest in store.blobs.all() if judged(digest)))
    chains = tuple(sorted(chain for chain in store.chains.all() if judged(chain)))
    size_bytes = sum(map(store.blobs.size, blobs)) + sum(map(store.chains.size, chains))
    return blobs, chains, size_bytes


def _cached(folder: Path) -> Iterator[Holder]:
    for path in sorted(folder.glob("*.json")):
        with suppress(FileNotFoundError):
            with path.open("rb") as file:
                text = file.read(_ENTRY_LIMIT_BYTES).decode("utf-8", "replace")
            yield Holder(contents=frozenset(_DIGEST.findall(text)), used=_used(path), path=path)


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _locks(store: Store) -> Path:
    folder = store.root / "locks"
    folder.mkdir(exist_ok=True)
    return folder


def _delete_free(path: Path, lock: Path) -> None:
    descriptor = try_lock(lock)
    if descriptor is None:
        return
    try:
        _delete(path)
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    try:
        remove_tree(path)
    except PermissionError:
        # A layer may hold folders that a plain user cannot enter or change, though they are his.
        for folder, names, _ in os.walk(path):
            for inner in (os.path.join(folder, name) for name in names):
                if not os.path.islink(inner):
                    os.chmod(inner, 0o700)
        remove_tree(path)
