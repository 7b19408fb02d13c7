"""Leases: what a living process holds, for as long as it lives, and whoever has its descriptor."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import ImageNotFound
from pytest_containers.images.digest import Digest
from pytest_containers.images.host import host_record
from pytest_containers.images.leases import Leases
from pytest_containers.images.manifest import OCI_CONFIG, Descriptor, Manifest, write_config
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.spec import ImageConfig

if TYPE_CHECKING:
    from tests.images.conftest import TarBuilder

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
NAME = Reference.parse("redis:7")


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    """Return the leases of a folder."""
    return Leases(tmp_path)


def covered(leases: Leases) -> frozenset[str]:
    """Return what is held, as somebody sees it who is about to remove things."""
    with leases.gate(alone=True):
        return leases.covered()


@pytest.fixture
def named(
    store: Store, tar: Callable[[], TarBuilder], put_layer: Callable[..., tuple[Descriptor, str]]
) -> Manifest:
    """Return the manifest of an image of one layer that the store has under a name."""
    layer, diff_id = put_layer(store, tar().file("a").bytes())
    config = write_config(ImageConfig(architecture="amd64"), [diff_id])
    described = Descriptor(media_type=OCI_CONFIG, digest=store.blobs.add(config), size=len(config))
    manifest = Manifest(config=described, layers=(layer,))
    store.tag(NAME, manifest.encode())
    return manifest


def test_lease_covers_until_it_is_closed(leases: Leases, tmp_path: Path) -> None:
    """Names are added one after another and end together; no file stays."""
    with leases.open(ONE) as lease:
        assert covered(leases) == {ONE}
        lease.cover(TWO, ONE)
        assert covered(leases) == {ONE, TWO}
        with leases.open(TWO):
            pass
        assert covered(leases) == {ONE, TWO}
    assert covered(leases) == frozenset()
    assert list((tmp_path / "leases").iterdir()) == []
    lease.close()
    lease.cover(ONE)
    assert covered(leases) == frozenset()


def test_gathering_lease_covers_what_is_asked_for(store: Store, named: Manifest) -> None:
    """What a store makes, fetches or unpacks meanwhile is held, also if it was there before."""
    with store.lease() as lease:
        made = store.blobs.add(b"new")
        found = store.blobs.add(write_config(ImageConfig(), []))
        with store.blobs.receive(Digest(ONE)):
            pass
        assert not store.blobs.has(Digest(TWO))
        chains = store.layers(store.tag(Reference.parse("other"), named.encode()))
        held = covered(store.leases)
        assert {made, found, ONE, TWO, Digest.of(named.encode())} <= held
        assert {f"sha256:{folder.parent.name}" for folder in chains} <= held
    assert lease.fileno() == -1
    store.blobs.add(b"newer")
    assert covered(store.leases) == frozenset()


def test_lease_on_an_image_covers_all_of_it(store: Store, named: Manifest) -> None:
    """Manifest, config, layers and chains are held by one descriptor, and the use is noted."""
    record = store.find(NAME)
    assert record is not None
    path = store.blobs.path(Digest(record.digest))
    os.utime(path, (1000, 1000))
    with store.lease(record):
        assert covered(store.leases) == store.contents(Digest(record.digest))
        assert {record.digest, record.id, named.layers[0].digest, *record.diff_ids} == covered(store.leases)
    assert path.stat().st_mtime > 1_000_000


def test_lease_on_an_image_that_went_is_refused(store: Store, named: Manifest) -> None:
    """Between finding and leasing it may be removed; then it must be pulled again."""
    record = store.find(NAME)
    assert record is not None
    store.blobs.remove(Digest(record.digest))
    with pytest.raises(ImageNotFound, match="redis"):
        store.lease(record)
    assert list((store.root / "leases").iterdir()) == []


def test_lease_on_the_host_covers_nothing(store: Store) -> None:
    """The machine's own files are nothing of the store."""
    with store.lease(host_record()):
        assert covered(store.leases) == frozenset()


def test_inherited_descriptor_holds_the_lease(leases: Leases) -> None:
    """A process that was given the descriptor keeps the lease when its first owner lets go."""
    lease = leases.open(ONE)
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lease.fileno()])
    lease.close()
    assert covered(leases) == {ONE}
    child.communicate()
    assert covered(leases) == frozenset()


_HOLD = """
import sys, pathlib
from pytest_containers.images.leases import Leases
lease = Leases(pathlib.Path(sys.argv[1])).open(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


def test_killed_process_holds_nothing(
    leases: Leases, tmp_path: Path, python: Callable[..., subprocess.Popen[str]]
) -> None:
    """The kernel frees the lock, and the file of a dead process goes when somebody looks."""
    holder = python(_HOLD, tmp_path, TWO)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert covered(leases) == {TWO}
    holder.kill()
    holder.communicate()
    assert len(list((tmp_path / "leases").iterdir())) == 1
    assert covered(leases) == frozenset()
    assert list((tmp_path / "leases").iterdir()) == []


def test_nobody_begins_to_use_while_it_is_decided(leases: Leases) -> None:
    """A thread that wants to cover something waits until the gate is open again."""
    begun, done = threading.Event(), threading.Event()

    def cover() -> None:
        lease = leases.open()
        begun.set()
        lease.cover(ONE)
        done.set()
        lease.close()

    with leases.gate(alone=True):
        thread = threading.Thread(target=cover)
        thread.start()
        assert begun.wait(20)
        assert not done.wait(0.1)
        assert leases.covered() == frozenset()
    thread.join(20)
    assert done.is_set()
