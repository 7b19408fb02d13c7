"""Import: a root file system's tar becomes an image of one layer."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import LayerCorrupt, LayerEscape
from pytest_containers.images.archive import import_tar
from pytest_containers.images.digest import Digest
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.spec import ImageConfig

if TYPE_CHECKING:
    from tests.images.conftest import TarBuilder

MakeTar = Callable[[], "TarBuilder"]
Listing = Callable[[Path], dict[str, tuple[str, int, int, bytes]]]
NAME = Reference.parse("debian-base")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_tar_becomes_one_layer(store: Store, tar: MakeTar, pack: Callable[[bytes], bytes]) -> None:
    """However it came compressed, the layer is the plain tar and the config the caller's."""
    plain = tar().folder("./").file("./etc/hostname", b"h").bytes()
    record = import_tar(store, io.BytesIO(pack(plain)), NAME, ImageConfig(command=("/bin/sh",)))
    (layer,) = store.layers(record)
    assert record.diff_ids == (Digest.of(plain),)
    assert (layer / "etc/hostname").read_bytes() == b"h"
    assert (record.config.command, record.portable) == (("/bin/sh",), True)
    assert record.config.architecture == Platform.host().architecture
    assert store.find(NAME) == record


def test_stored_layer_is_gzip(store: Store, tar: MakeTar) -> None:
    """What is kept can be pushed as it is, to any registry."""
    plain = tar().file("a", b"x" * 5000).bytes()
    import_tar(store, io.BytesIO(plain), NAME, ImageConfig())
    (layer,) = store.manifest(NAME)[1].layers
    with store.blobs.open(layer.digest) as blob:
        assert gzip.decompress(blob.read()) == plain


def test_same_tar_is_one_blob(store: Store, tar: MakeTar) -> None:
    """The compressed bytes follow from the plain ones: no time is in them."""
    plain = tar().file("a").bytes()
    for name in ("one", "two"):
        import_tar(store, io.BytesIO(plain), Reference.parse(name), ImageConfig())
    one, two = (store.manifest(Reference.parse(name))[1] for name in ("one", "two"))
    assert one.layers == two.layers


def test_tar_of_gnu_tar_is_imported(store: Store, tmp_path: Path, tree: Listing) -> None:
    """A folder packed by tar(1) with attributes comes out as it was."""
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_bytes(os.urandom(100_000))
    (root / "usr/bin/tool").chmod(0o755)
    os.link(root / "usr/bin/tool", root / "usr/bin/other")
    (root / "bin").symlink_to("usr/bin")
    os.setxattr(root / "usr", "user.k", bytes(range(200)))
    for path in (root / "usr/bin", root / "usr", root):
        os.utime(path, (1000, 1000))
    command = ["tar", "--xattrs", "-C", str(root), "-cf", "-", "."]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    (layer,) = store.layers(import_tar(store, io.BytesIO(packed), NAME, ImageConfig()))
    assert tree(layer) == tree(root)
    assert os.getxattr(layer / "usr", "user.k") == bytes(range(200))


@pytest.mark.parametrize("data", [b"", b"<html>", b"\x1f\x8bno gzip", bytes(512)])
def test_what_is_no_tar_is_refused(store: Store, data: bytes) -> None:
    """Whatever else is given ends as one error, with no image and no blob."""
    with pytest.raises(LayerCorrupt):
        import_tar(store, io.BytesIO(data), NAME, ImageConfig())
    assert store.find(NAME) is None
    assert not (store.root / "blobs").exists()


def test_hostile_tar_is_refused(store: Store, tar: MakeTar, tmp_path: Path) -> None:
    """Nothing is written outside and nothing is named."""
    with pytest.raises(LayerEscape):
        import_tar(store, io.BytesIO(tar().file("../../../evil").bytes()), NAME, ImageConfig())
    assert store.list() == ()
    assert not list(tmp_path.rglob("evil"))
