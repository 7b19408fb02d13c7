"""Prune: by age, by size, garbage; never what is kept, and never what somebody lives on."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pytest_containers._files import try_lock
from pytest_containers.errors import ImageNotFound
from pytest_containers.images.build.cache import Cached, StepCache
from pytest_containers.images.digest import Digest
from pytest_containers.images.garbage import holders
from pytest_containers.images.manifest import OCI_CONFIG, OCI_LAYER_GZIP, Descriptor, Manifest, write_config
from pytest_containers.images.prune import Pruned, prune
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.spec import ImageConfig

if TYPE_CHECKING:
    from tests.images.conftest import TarBuilder

DAY_S = 86_400.0
SIZE = 100_000
Make = Callable[..., Reference]


@pytest.fixture
def make(
    store: Store, tar: Callable[[], TarBuilder], put_layer: Callable[..., tuple[Descriptor, str]]
) -> Make:
    """Return what puts an image into the store, unpacked, last used some days ago."""

    def put(name: str, *files: str, days: float = 0.0) -> Reference:
        layers = [
            put_layer(store, tar().file(file, random.Random(file).randbytes(SIZE)).bytes()) for file in files
        ]
        config = write_config(
            ImageConfig(command=(name,), architecture="amd64"), [diff_id for _, diff_id in layers]
        )
        described = Descriptor(media_type=OCI_CONFIG, digest=store.blobs.add(config), size=len(config))
        data = Manifest(config=described, layers=tuple(layer for layer, _ in layers)).encode()
        reference = Reference.parse(name)
        store.layers(store.tag(reference, data))
        then = time.time() - days * DAY_S
        os.utime(store.blobs.path(Digest.of(data)), (then, then))
        return reference

    return put


def names(store: Store) -> list[str]:
    """Return the short names of what can be started."""
    return [Reference.parse(record.reference).familiar for record in store.list()]


def content(store: Store) -> set[str]:
    """Return every blob and chain."""
    return {*store.blobs.all(), *store.chains.all()}


def test_garbage_goes_and_images_stay(store: Store, make: Make) -> None:
    """Without an age or a size only what no image needs is removed, and its room is told."""
    make("a", "one")
    gone = make("b", "one", "two")
    before = content(store)
    assert prune(store) == Pruned()
    (record,) = (each for each in store.list() if each.reference == str(gone))
    store.remove(gone)
    pruned = prune(store)
    assert pruned.names == ()
    assert {*pruned.blobs, *pruned.chains} == before - content(store)
    assert record.digest in pruned.blobs
    assert len(pruned.chains) == 1
    # One layer of the image was nobody else's: compressed once and unpacked once.
    assert 2 * SIZE <= pruned.size_bytes <= 2 * SIZE + 5000
    assert names(store) == ["a:latest"]
    assert prune(store) == Pruned()


def test_old_images_go(store: Store, make: Make) -> None:
    """The age is that of the last use; layers that younger images share stay."""
    make("old", "one", "two", days=10)
    make("young", "one", days=2)
    assert prune(store, older_than_s=11 * DAY_S).names == ()
    assert prune(store, older_than_s=5 * DAY_S).names == ("docker.io/library/old:latest",)
    assert names(store) == ["young:latest"]
    assert store.layers(store.list()[0])[0].is_dir()


def test_use_makes_an_image_young(store: Store, make: Make) -> None:
    """A lease notes the use; naming an image is one, too."""
    for name in ("used", "tagged", "unused"):
        make(name, name, days=10)
    record = store.find(Reference.parse("used"))
    assert record is not None
    store.lease(record).close()
    store.tag(Reference.parse("second"), store.manifest(Reference.parse("tagged"))[0])
    assert prune(store, older_than_s=DAY_S).names == ("docker.io/library/unused:latest",)


def test_least_recently_used_go_first(store: Store, make: Make) -> None:
    """As many go as it takes to come below the size, and no more."""
    for days, name in enumerate(["newest", "newer", "older", "oldest"]):
        make(name, name, days=days)
    limit = 4 * 2 * SIZE + 10_000
    assert prune(store, max_bytes=limit).names == ()
    assert prune(store, max_bytes=limit - 2 * SIZE).names == ("docker.io/library/oldest:latest",)
    assert sorted(prune(store, max_bytes=limit - 6 * SIZE).names) == [
        "docker.io/library/newer:latest",
        "docker.io/library/older:latest",
    ]
    assert names(store) == ["newest:latest"]
    assert prune(store, max_bytes=0).names == ("docker.io/library/newest:latest",)
    assert content(store) == set()


def test_size_counts_a_shared_layer_once(store: Store, make: Make) -> None:
    """Removing an image that shares all of its layers makes no room for one that does not."""
    make("a", "one", days=1)
    make("b", "one", days=2)
    assert prune(store, max_bytes=2 * SIZE + 10_000).names == ()


def test_kept_images_stay(store: Store, make: Make) -> None:
    """By name or by manifest digest, under every name they have."""
    by_name, by_digest = make("a", "one", days=9), make("b", "two", days=9)
    store.tag(Reference.parse("alias"), store.manifest(by_name)[0])
    make("c", "three", days=9)
    keep = (by_name, Digest.of(store.manifest(by_digest)[0]))
    assert prune(store, older_than_s=0, keep=keep).names == ("docker.io/library/c:latest",)
    assert prune(store, max_bytes=0, keep=keep).names == ()
    assert names(store) == ["a:latest", "alias:latest", "b:latest"]


def test_dry_run_tells_and_leaves(store: Store, make: Make) -> None:
    """It says exactly what would be done, and does nothing."""
    make("a", "one", days=9)
    make("b", "two")
    store.blobs.add(b"garbage")
    before = content(store)
    planned = prune(store, older_than_s=DAY_S, dry_run=True)
    assert content(store) == before
    assert names(store) == ["a:latest", "b:latest"]
    assert prune(store, older_than_s=DAY_S) == planned
    assert planned.names == ("docker.io/library/a:latest",)


def test_leased_image_stays_with_its_name(store: Store, make: Make) -> None:
    """Neither age nor size takes what somebody runs; without a name its content stays."""
    reference = make("a", "one", "two", days=9)
    record = store.find(reference)
    assert record is not None
    with store.lease(record):
        assert prune(store, older_than_s=0, max_bytes=0).names == ()
        store.remove(reference)
        assert prune(store, older_than_s=0, max_bytes=0) == Pruned()
        assert all(folder.is_dir() for folder in store.layers(record))
    assert len(prune(store).chains) == 2


def test_work_in_progress_stays(store: Store, make: Make) -> None:
    """What is fetched and unpacked under a lease has no name yet and is no garbage."""
    reference = make("a", "one")
    with store.lease():
        data, manifest = store.manifest(reference)
        store.remove(reference)
        store.blobs.add(data)
        store.blobs.add(store.blobs.read(manifest.config.digest))
        store.unpack_layer(None, manifest.layers[0], next(store.chains.all()))
        with store.blobs.receive(manifest.layers[0].digest):
            pass
        assert prune(store) == Pruned()
        store.tag(reference, data)
    assert prune(store) == Pruned()
    assert names(store) == ["a:latest"]


def test_entry_of_the_build_cache_holds_what_it_names(store: Store, make: Make) -> None:
    """A step that is remembered is an image without a name: it has an age, and goes with its content."""
    record_of = make("a", "one")
    _, manifest = store.manifest(record_of)
    entry = store.root / "build" / "key.json"
    entry.parent.mkdir(parents=True)
    entry.write_text(f'{{"layer": "{manifest.layers[0].digest}", "chain": "{next(store.chains.all())}"}}')
    store.remove(record_of)
    pruned = prune(store)
    assert len(pruned.blobs) == 2
    assert content(store) == {manifest.layers[0].digest, *store.chains.all()}
    assert len(list(store.chains.all())) == 1
    os.utime(entry, (1000, 1000))
    assert len(prune(store, older_than_s=DAY_S).chains) == 1
    assert not entry.exists()
    assert content(store) == set()


def test_step_that_a_prune_forgets_while_it_is_read_is_found(store: Store) -> None:
    """A build that has read an entry of the cache goes on where a prune removes the entry then."""
    cache = StepCache(store)
    digest = store.blobs.add(b"a layer")
    layer = Descriptor(media_type=OCI_LAYER_GZIP, digest=digest, size=7)
    with cache.hold("key"):
        cache.keep("key", Cached(layer=layer, diff_id=digest))
    # The question whether the blob is there comes between reading the entry and noting its use.
    store.blobs.cover = lambda _: (store.root / "build/key.json").unlink(missing_ok=True)
    found = cache.find("key")
    assert found is not None
    assert found.layer == layer


def test_image_that_lost_its_manifest_keeps_its_name(store: Store, make: Make) -> None:
    """A pull mends it; what cannot be read is no reason to fail, nor to remove what is whole."""
    lost, whole = make("lost", "one"), make("whole", "two")
    store.blobs.path(Digest.of(store.manifest(lost)[0])).write_bytes(b"rotten")
    prune(store)
    assert names(store) == ["whole:latest"]
    assert store.layers(store.list()[0])[0].is_dir()
    assert [entry.annotations["org.opencontainers.image.ref.name"] for entry in store.entries()] == [
        str(lost),
        str(whole),
    ]


def test_leftovers_of_the_dead_go(store: Store, make: Make) -> None:
    """Half a download, half an unpack, a blob and a layer of unknown digest, a half-written index."""
    make("a", "one")
    chain = next(store.chains.all())
    place = store.chains.path(chain).parent
    dead = [
        store.root / "ingest" / f"sha256-{'1' * 64}",
        store.root / "ingest" / "new-0",
        store.root / "ingest" / "layer-0" / "diff" / "a",
        place.parent / f".{'2' * 64}.unpacking" / "diff" / "a",
        store.root / ".index.json.abc",
        store.root / "trash" / "deep" / "a",
    ]
    for path in dead:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    prune(store)
    assert not any(path.exists() for path in dead)
    assert list(place.parent.iterdir()) == [place]


def test_leftovers_of_the_living_stay(store: Store) -> None:
    """What another process works at is locked, and nobody else's business."""
    digest, chain = Digest("sha256:" + "1" * 64), "2" * 64
    work = store.root / "chains" / "22" / f".{chain}.unpacking"
    work.mkdir(parents=True)
    lock = store.root / "locks" / f"chain-{chain}.lock"
    with store.blobs.receive(digest) as writer, store.blobs.create() as new, store.chains.create(None):
        held = try_lock(lock)
        assert held is not None
        writer.write(b"half")
        new.write(b"half")
        prune(store)
        assert len(list((store.root / "ingest").iterdir())) == 3
        assert work.is_dir()
        os.close(held)
        prune(store)
        assert not work.exists()


@pytest.mark.parametrize("calls", range(6))
def test_prune_that_dies_leaves_what_the_next_one_needs(
    store: Store, make: Make, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Killed at any rename, the store has every name with all of its content, or garbage."""
    make("a", "one", "two", days=9)
    make("b", "one")
    left = [calls]

    def rename(source: Path, target: Path) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        source.rename(target)

    monkeypatch.setattr("pytest_containers.images.garbage.os.rename", rename)
    try:
        prune(store, older_than_s=DAY_S)
    except KeyboardInterrupt:
        assert names(store) == ["b:latest"]
    monkeypatch.undo()
    prune(store)
    assert names(store) == ["b:latest"]
    assert content(store) == holders(store)[0].contents
    assert list((store.root / "trash").iterdir()) == []


@given(data=st.data())
@hypothesis_settings(max_examples=40, deadline=None)
def test_prune_removes_what_nobody_needs_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Of any images over any layers, those that are younger or kept stay whole; the rest is gone."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    blobs = [store.blobs.add(b"layer %d" % number) for number in range(5)]
    wanted: set[str] = set()
    for number in range(data.draw(st.integers(0, 5))):
        layers = data.draw(st.lists(st.sampled_from(blobs), max_size=4))
        config = write_config(ImageConfig(command=(str(number),)), layers)
        described = Descriptor(media_type=OCI_CONFIG, digest=store.blobs.add(config), size=len(config))
        listed = tuple(Descriptor(media_type="x", digest=digest, size=7) for digest in layers)
        manifest = Manifest(config=described, layers=listed).encode()
        name = Reference.parse(f"i{number}")
        store.tag(name, manifest)
        old = data.draw(st.booleans())
        os.utime(store.blobs.path(Digest.of(manifest)), (1000, 1000) if old else None)
        if not old:
            wanted |= {Digest.of(manifest), described.digest, *layers}
    prune(store, older_than_s=DAY_S)
    assert set(store.blobs.all()) == wanted


def test_pruned_image_is_unknown(store: Store, make: Make) -> None:
    """What went is not found, and what it was found as cannot be leased."""
    reference = make("a", "one")
    record = store.find(reference)
    assert record is not None
    prune(store, max_bytes=0)
    assert store.find(reference) is None
    with pytest.raises(ImageNotFound):
        store.lease(record)


_WORK = """
import io, os, pathlib, random, sys
from pytest_containers.errors import ImageNotFound
from pytest_containers.images.archive import import_tar
from pytest_containers.images.digest import Digest
from pytest_containers.images.prune import prune
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.spec import ImageConfig
import tarfile
store = Store.open(pathlib.Path(sys.argv[1]))
chance = random.Random(int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
used = 0
for turn in range(int(sys.argv[3])):
    number = chance.randrange(4)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for at in range(20):
            member = tarfile.TarInfo(f"f{at}")
            member.size = 1000
            tar.addfile(member, io.BytesIO(bytes([number]) * 1000))
    name = Reference.parse(f"i{number}")
    if chance.random() < 0.4:
        prune(store, older_than_s=0, max_bytes=chance.choice([None, 0]))
        continue
    made.seek(0)
    import_tar(store, made, name, ImageConfig())
    record = store.find(name)
    if record is None:
        continue
    try:
        lease = store.lease(record)
    except ImageNotFound:
        continue
    with lease:
        for _ in range(5):
            (layer,) = store.layers(record)
            files = sorted(os.listdir(layer))
            assert len(files) == 20, files
            assert all((layer / file).read_bytes() == bytes([number]) * 1000 for file in files)
            for digest in store.contents(Digest(record.digest)) - {*record.diff_ids}:
                store.blobs.verify(Digest(digest))
            os.sched_yield()
        used += 1
print(used)
"""


def test_eight_processes_make_use_and_prune(
    store: Store, python: Callable[..., subprocess.Popen[str]]
) -> None:
    """Whoever has a lease finds every file whole, however many remove what they can beside it."""
    workers = [python(_WORK, store.root, seed, 25) for seed in range(8)]
    for worker in workers:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    killed = workers.pop()
    killed.kill()
    killed.communicate()
    said = [worker.communicate(timeout=120) for worker in workers]
    assert [errors for _, errors in said] == [""] * 7
    assert sum(int(out) for out, _ in said) > 10
    prune(store, max_bytes=0)
    assert content(store) == set()
    assert [path for name in ("trash", "leases", "ingest") for path in (store.root / name).glob("*")] == []
