"""Prune: make room in a store by age, by size, and of what nobody needs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

from pytest_containers.images.digest import Digest
from pytest_containers.images.garbage import (
    Holder,
    Pruned,
    clear_trash,
    collect,
    holders,
    leftovers,
    mounted,
    removing,
)
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store

__all__ = ["Pruned", "prune"]


def prune(
    store: Store,
    *,
    older_than_s: float | None = None,
    max_bytes: int | None = None,
    keep: Iterable[Reference | Digest] = (),
    dry_run: bool = False,
) -> Pruned:
    """Remove images and cache mounts unused for *older_than_s* seconds, then as many more as it takes.

    *max_bytes* is what blobs, unpacked layers and the cache mounts of builds may take together; the
    least recently used go first, and a mount that a command has never. With neither, every image
    stays and only garbage goes: content that no image and no build cache needs, and what killed
    processes left. *keep* names images, or manifests by digest, that stay in any case. What a
    living process leases stays, too. Safe beside processes that pull, unpack and prune. With
    *dry_run* nothing is changed.
    """
    doomed = _doomed(store, older_than_s, max_bytes, frozenset(str(name) for name in keep))
    if dry_run:
        return removing(store, doomed)
    pruned = collect(store, doomed)
    clear_trash(store)
    leftovers(store)
    return pruned


def _doomed(
    store: Store, older_than_s: float | None, max_bytes: int | None, keep: frozenset[str]
) -> tuple[Holder, ...]:
    """Return what is to go, the least recently used first."""
    with store.leases.gate(alone=True):
        leased = store.leases.covered()
    if older_than_s is None and max_bytes is None:
        return ()
    found = sorted((*holders(store), *mounted(store)), key=lambda holder: holder.used)
    movable = [h for h in found if not {*h.names, h.digest} & keep and h.digest not in leased]
    movable = [h for h in movable if h.volume is None or not h.volume.in_use]
    doomed: list[Holder] = []
    if older_than_s is not None:
        oldest = time.time() - older_than_s
        doomed = [holder for holder in movable if holder.used < oldest]
    if max_bytes is not None:
        kept = [holder for holder in found if holder not in doomed]
        for holder in [h for h in movable if h not in doomed]:
            volumes = sum(h.volume.size_bytes for h in kept if h.volume)
            if volumes + _size(store, leased.union(*(h.contents for h in kept))) <= max_bytes:
                break
            kept.remove(holder)
            doomed.append(holder)
    return tuple(doomed)


def _size(store: Store, names: frozenset[str]) -> int:
    digests = [Digest(name) for name in names]
    # By stat(2) alone: Blobs.has would lease what is about to be judged.
    blobs = 0
    for digest in digests:
        with contextlib.suppress(FileNotFoundError):
            blobs += store.blobs.path(digest).stat().st_size
    return blobs + sum(store.chains.size(digest) for digest in digests)
