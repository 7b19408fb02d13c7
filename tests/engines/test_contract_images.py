"""The contract of engines/base.py: images that are made, looked at, carried and removed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import ImageError, ImageNotFound, NotPortable
from pytest_containers.progress import Progress
from pytest_containers.spec import ContainerSpec, ImageConfig, ImageRecord

if TYPE_CHECKING:
    from tests.engines.conftest import Bench


def _root(name: str = "etc/motd") -> io.BytesIO:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        entry = tarfile.TarInfo(name)
        entry.size = 6
        writer.addfile(entry, io.BytesIO(b"hello\n"))
    tar.seek(0)
    return tar


def _made(bench: Bench, reference: str) -> ImageRecord:
    return bench.engine.images.import_tar(_root(), reference, ImageConfig(command=("/bin/true",)))


def test_archive_of_images_is_loaded_again(bench: Bench, tmp_path: Path) -> None:
    """Save and load are each other's inverse, by stream and by path, and tell how far they are."""
    images = bench.engine.images
    made = _made(bench, "contract-save:1")
    stream, told = io.BytesIO(), list[Progress]()
    images.save(("contract-save:1",), stream, watch=told.append)
    images.save(("contract-save:1",), str(tmp_path / "saved.tar"))
    images.remove("contract-save:1")
    with pytest.raises(ImageNotFound):
        images.pull("contract-save:1", policy="never")
    stream.seek(0)
    assert images.load(stream) == (made,)
    (renamed,) = images.load(str(tmp_path / "saved.tar"), reference="contract-save:2")
    assert (renamed.digest, renamed.config) == (made.digest, made.config)
    assert {event.phase for event in told} == {"save"}
    handle = bench.create(ContainerSpec(name="loaded"), renamed)
    into = io.BytesIO()
    handle.tree.read("/etc/motd", into)
    assert b"hello\n" in into.getvalue()
    for name in ("contract-save:1", "contract-save:2"):
        images.remove(name)


def test_archive_is_not_a_root_file_system(bench: Bench) -> None:
    """Each of load and import refuses what is for the other, and names nothing."""
    images = bench.engine.images
    before = images.list()
    with pytest.raises(ImageError, match="no archive of images"):
        images.load(_root())
    with pytest.raises(ImageError, match="archive of images"):
        images.import_tar(_root("manifest.json"), "contract-import:1", ImageConfig())
    assert images.list() == before


def test_host_is_not_saved(bench: Bench) -> None:
    """What stands on this machine's files cannot leave it."""
    handle = bench.create(ContainerSpec(name="mine", command=("true",)))
    handle.tree.commit("contract-mine:1", ImageConfig())
    with pytest.raises(NotPortable):
        bench.engine.images.save(("contract-mine:1",), io.BytesIO())
    bench.engine.images.remove("contract-mine:1")


def test_inspect_tells_layers_and_history(bench: Bench) -> None:
    """An image of one layer has one, with its DiffID, and a step of history that made it."""
    made = _made(bench, "contract-inspect:1")
    found = bench.engine.images.inspect("contract-inspect:1")
    assert found.record == made
    assert len(found.layers) == len(found.history) == 1
    assert found.layers[0].digest.startswith("sha256:")
    assert found.created.startswith("20")
    bench.engine.images.remove("contract-inspect:1")
    with pytest.raises(ImageNotFound):
        bench.engine.images.inspect("contract-inspect:1")


def test_prune_removes_what_is_old_and_in_no_use(bench: Bench) -> None:
    """A dry run tells the same and removes nothing; a running container's image stays usable."""
    images = bench.engine.images
    made = _made(bench, "contract-prune:1")
    handle = bench.create(ContainerSpec(name="user"), made)
    assert images.prune(dry_run=True).names == ()
    images.prune(older_than_s=0, dry_run=True)
    assert "contract-prune:1" in [record.reference.rpartition("/")[2] for record in images.list()]
    images.prune(older_than_s=0)
    into = io.BytesIO()
    handle.tree.read("/etc/motd", into)
    assert b"hello\n" in into.getvalue()
    handle.remove()
    images.prune(older_than_s=0)
    assert images.list() == ()


def test_logout_without_a_login_is_told(bench: Bench) -> None:
    """There is nothing to forget for a registry that nobody logged in to."""
    assert bench.engine.registries.logout("nobody.example:5000") is False
