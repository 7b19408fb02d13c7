"""Cache mounts in the store: who shares one, and when a prune takes it."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_containers.images.build.volumes import Volumes
from pytest_containers.images.prune import prune
from pytest_containers.images.store import Store

DAY_S = 86_400.0
SIZE = 100_000


@pytest.fixture
def volumes(store: Store) -> Volumes:
    """Return the cache mounts of the store: three that were used some days ago, of a size each."""
    made = Volumes(store.root / "build" / "mounts")
    for name, days in (("a", 3.0), ("b", 2.0), ("c", 1.0)):
        with made.hold(name, "shared", Path.mkdir) as folder:
            (folder / "deep").mkdir()
            (folder / "deep/file").write_bytes(bytes(SIZE))
        then = time.time() - days * DAY_S
        os.utime(folder.with_name(f"{name}.lock"), (then, then))
    return made


def left(volumes: Volumes) -> list[str]:
    """Return the names of the cache mounts that are left."""
    return [volume.path.name for volume in volumes.all()]


def test_prune_by_age_removes_cache_mounts(store: Store, volumes: Volumes) -> None:
    """A mount counts from its last use; a dry run says the same and removes nothing."""
    told = prune(store, older_than_s=1.5 * DAY_S, dry_run=True)
    assert (told.volumes, told.size_bytes) == (("a", "b"), 2 * SIZE)
    assert left(volumes) == ["a", "b", "c"]
    assert prune(store, older_than_s=1.5 * DAY_S) == told
    assert left(volumes) == ["c"]
    assert sorted(path.name for path in (store.root / "build/mounts").glob("*.lock")) == [
        ".making-c.lock",
        "c.lock",
    ]


def test_prune_by_size_counts_cache_mounts(store: Store, volumes: Volumes) -> None:
    """The least recently used mounts go until the rest fits; without a limit all stay."""
    prune(store)
    assert left(volumes) == ["a", "b", "c"]
    prune(store, max_bytes=2 * SIZE)
    assert left(volumes) == ["b", "c"]


def test_prune_spares_a_cache_mount_in_use(store: Store, volumes: Volumes) -> None:
    """What a command has mounted stays, however old and large it is; it may be used again afterwards."""
    with volumes.hold("b", "shared", Path.mkdir) as folder:
        prune(store, max_bytes=0)
        assert left(volumes) == ["b"]
        assert (folder / "deep/file").stat().st_size == SIZE
    prune(store, max_bytes=0)
    assert left(volumes) == []
    with volumes.hold("b", "private", Path.mkdir) as folder:
        assert list(folder.iterdir()) == []


def test_cache_mount_of_two_is_locked_shared_or_doubled(volumes: Volumes) -> None:
    """Shared takes the folder of others, private another one, and a locked one is not to be had by others."""
    with volumes.hold("a", "shared", Path.mkdir) as first, volumes.hold("a", "shared", Path.mkdir) as second:
        assert first == second
        with volumes.hold("a", "private", Path.mkdir) as third:
            assert third.name == "a-1"
    with ThreadPoolExecutor() as threads:
        with volumes.hold("a", "locked", Path.mkdir) as first:
            waiting = threads.submit(_names, volumes)
            (first / "mine").touch()
        assert waiting.result() == ["deep", "mine"]


def _names(volumes: Volumes) -> list[str]:
    with volumes.hold("a", "locked", Path.mkdir) as folder:
        return sorted(path.name for path in folder.iterdir())


def test_cache_mount_that_is_being_filled_holds_no_other_up(volumes: Volumes) -> None:
    """While one mount is filled from a large image, another new one is made."""

    def fill(path: Path) -> None:
        with volumes.hold("other", "shared", Path.mkdir) as other:
            assert other.is_dir()
        path.mkdir()

    with volumes.hold("slow", "shared", fill) as folder:
        assert folder.is_dir()


def test_cache_mount_that_a_killed_process_was_filling_is_cleared(store: Store, volumes: Volumes) -> None:
    """What lies beside its place is removed, unless a living process is filling it."""

    def fill(path: Path) -> None:
        volumes.clear()
        path.mkdir()

    with volumes.hold("living", "shared", fill) as folder:
        assert folder.is_dir()
    dead = store.root / "build/mounts/.making-dead"
    (dead / "volume").mkdir(parents=True)
    volumes.clear()
    assert not dead.exists()
