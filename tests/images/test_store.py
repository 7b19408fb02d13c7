"""Images by name: what the index says, what a damaged store says, and who may stand on the host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import (
    DigestMismatch,
    HostError,
    ImageError,
    ImageNotFound,
    NotPortable,
    ReferenceInvalid,
)
from pytest_containers.images import store as module
from pytest_containers.images.digest import Digest
from pytest_containers.images.host import host_key
from pytest_containers.images.manifest import (
    BASE_ANNOTATION,
    BASE_KEY_ANNOTATION,
    OCI_CONFIG,
    Descriptor,
    Manifest,
    write_config,
)
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.spec import ImageConfig

if TYPE_CHECKING:
    from tests.images.conftest import TarBuilder

MakeTar = Callable[[], "TarBuilder"]
PutLayer = Callable[[Store, bytes], tuple[Descriptor, str]]
REDIS = Reference.parse("redis:7")
CONFIG = ImageConfig(command=("redis-server",), env=("A=1",), architecture="amd64")


@pytest.fixture
def manifest(store: Store, tar: MakeTar, put_layer: PutLayer) -> Manifest:
    """Return the manifest of an image of two layers whose blobs are in the store."""
    return _image(store, [tar().file("a", b"1").bytes(), tar().file("b").file(".wh.a").bytes()], put_layer)


def _image(
    store: Store, layers: list[bytes], put_layer: PutLayer, annotations: Mapping[str, str] | None = None
) -> Manifest:
    put = [put_layer(store, layer) for layer in layers]
    config = write_config(CONFIG, [diff_id for _, diff_id in put])
    described = Descriptor(media_type=OCI_CONFIG, digest=store.blobs.add(config), size=len(config))
    return Manifest(config=described, layers=tuple(layer for layer, _ in put), annotations=annotations or {})


def _on_host(store: Store, put_layer: PutLayer, tar: MakeTar, key: str) -> Manifest:
    annotations = {BASE_ANNOTATION: "host", BASE_KEY_ANNOTATION: key}
    return _image(store, [tar().file("etc/of-a-test").bytes()], put_layer, annotations)


def test_store_is_an_oci_layout(store: Store, manifest: Manifest) -> None:
    """Other tools find the image by its reference in index.json (image-spec, image-layout.md)."""
    store.tag(REDIS, manifest.encode())
    index = json.loads((store.root / "index.json").read_bytes())
    assert json.loads((store.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert index["manifests"] == [
        {
            "mediaType": manifest.media_type,
            "digest": Digest.of(manifest.encode()),
            "size": len(manifest.encode()),
            "annotations": {"org.opencontainers.image.ref.name": "docker.io/library/redis:7"},
            "platform": {"architecture": "amd64", "os": "linux"},
        }
    ]


def test_tagged_image_is_found(store: Store, manifest: Manifest) -> None:
    """The record says id, digest, layers, config and size; it is the one tagging returned."""
    record = store.tag(REDIS, manifest.encode())
    assert store.find(REDIS) == record
    assert (record.reference, record.id) == ("docker.io/library/redis:7", manifest.config.digest)
    assert (record.digest, record.config) == (Digest.of(manifest.encode()), CONFIG)
    assert (len(record.diff_ids), record.portable, record.size_bytes) == (2, True, manifest.size_bytes)
    assert store.manifest(REDIS) == (manifest.encode(), manifest)


def test_image_is_found_by_its_digest(store: Store, manifest: Manifest) -> None:
    """A reference that asks for a digest finds the image whatever name it was pulled by."""
    digest = store.tag(REDIS, manifest.encode()).digest
    found = store.find(Reference.parse(f"redis@{digest}"))
    assert found is not None
    assert found.digest == digest
    assert store.find(Reference.parse("redis@sha256:" + "0" * 64)) is None


def test_name_moves_to_another_image(
    store: Store, manifest: Manifest, tar: MakeTar, put_layer: PutLayer
) -> None:
    """A name is one image's; the list is sorted and has every name once."""
    store.tag(REDIS, manifest.encode())
    store.tag(Reference.parse("b"), manifest.encode())
    other = _image(store, [tar().file("c").bytes()], put_layer)
    moved = store.tag(REDIS, other.encode())
    assert store.find(REDIS) == moved
    assert [record.reference for record in store.list()] == [
        "docker.io/library/b:latest",
        "docker.io/library/redis:7",
    ]


def _for(store: Store, architecture: str, variant: str = "") -> bytes:
    """Return the manifest of an image without layers for an architecture."""
    config = write_config(replace(CONFIG, architecture=architecture, variant=variant), [])
    described = Descriptor(media_type=OCI_CONFIG, digest=store.blobs.add(config), size=len(config))
    return Manifest(config=described, layers=()).encode()


def test_name_has_one_image_for_each_platform(store: Store) -> None:
    """An image takes the name from the one of the same platform alone; remove forgets all of them."""
    first, second = _for(store, "s390x"), _for(store, "arm", "v7")
    third = _for(store, "arm", "v6")
    for data in (first, second, third, second):
        store.tag(REDIS, data)
    assert [record.config.platform for record in store.list()] == [
        "linux/arm/v6",
        "linux/arm/v7",
        "linux/s390x",
    ]
    found = store.find(REDIS, Platform.parse("linux/arm/v6"))
    assert found is not None
    assert found.digest == Digest.of(third)
    assert store.manifest(REDIS, Platform.parse("linux/arm/v7"))[0] == second
    with pytest.raises(ImageNotFound, match=r"redis:7 for linux/ppc64le.*\n.*linux/s390x, linux/arm/v6"):
        store.manifest(REDIS, Platform.parse("linux/ppc64le"))
    store.remove(REDIS)
    assert store.list() == ()


def test_name_without_an_image_for_this_machine_means_what_it_has(store: Store) -> None:
    """It is not found to be started, and can be pushed, saved and looked at without naming the platform."""
    foreign = _for(store, "s390x" if Platform.host().architecture != "s390x" else "arm64")
    store.tag(REDIS, foreign)
    assert store.find(REDIS) is None
    assert store.manifest(REDIS)[0] == foreign


def test_name_that_another_gives_or_takes_is_known_at_once(store: Store, manifest: Manifest) -> None:
    """What a store remembers of its index is that of the file as it is."""
    other, digest = Store.open(store.root), store.tag(REDIS, manifest.encode()).digest
    for name in (Reference.parse(f"n{number}") for number in range(20)):
        assert other.find(name) is None
        store.tag(name, manifest.encode())
        found = other.find(name)
        assert found is not None
        assert found.digest == digest
        store.remove(name)
        assert other.find(name) is None


def test_removed_name_is_unknown(store: Store, manifest: Manifest) -> None:
    """Removing forgets the name and keeps what other images share."""
    store.tag(REDIS, manifest.encode())
    store.remove(REDIS)
    assert store.find(REDIS) is None
    assert store.blobs.has(manifest.config.digest)
    for ask in (store.remove, store.manifest):
        with pytest.raises(ImageNotFound, match="redis:7"):
            ask(REDIS)


def test_layers_are_unpacked_oldest_first(store: Store, manifest: Manifest) -> None:
    """Asking for the folders unpacks what is not, also after the unpacked layers were deleted."""
    record = store.tag(REDIS, manifest.encode())
    for _ in range(2):
        first, second = store.layers(record)
        assert os.listdir(first) == ["a"]
        assert sorted(os.listdir(second)) == ["a", "b"]
        shutil.rmtree(store.root / "chains")


def test_image_without_layers_has_none(store: Store, put_layer: PutLayer) -> None:
    """An image from scratch has no folder."""
    assert store.layers(store.tag(REDIS, _image(store, [], put_layer).encode())) == ()


def test_image_that_lost_blobs_is_not_found(store: Store, manifest: Manifest) -> None:
    """Nothing of it can be started, so a pull must bring it back; unpacked layers need no blob."""
    record = store.tag(REDIS, manifest.encode())
    store.layers(record)
    store.blobs.remove(manifest.layers[0].digest)
    assert store.find(REDIS) == record
    shutil.rmtree(store.root / "chains")
    assert store.find(REDIS) is None
    store.tag(REDIS, manifest.encode())
    store.blobs.remove(manifest.config.digest)
    assert store.find(REDIS) is None


def test_moved_store_is_whole(store: Store, manifest: Manifest) -> None:
    """Nothing in the store names its own place."""
    record = store.tag(REDIS, manifest.encode())
    store.layers(record)
    moved = store.root.rename(store.root.with_name("moved"))
    assert Store.open(moved).find(REDIS) == record
    assert all(str(path).startswith(str(moved)) for path in Store.open(moved).layers(record))


def test_config_that_does_not_fit_is_refused(store: Store, manifest: Manifest) -> None:
    """An image needs as many DiffIDs as layers."""
    broken = Manifest(config=manifest.config, layers=manifest.layers[:1])
    with pytest.raises(ImageError, match="fit together"):
        store.tag(REDIS, broken.encode())
    assert store.list() == ()


def test_damaged_manifest_is_told_and_pulled_again(store: Store, manifest: Manifest) -> None:
    """What the disk changed is an error once and absent then; the list shows the other images."""
    record = store.tag(REDIS, manifest.encode())
    store.blobs.path(Digest(record.digest)).write_bytes(b"rotten")
    with pytest.raises(DigestMismatch):
        store.find(REDIS)
    assert store.find(REDIS) is None
    assert store.list() == ()


def test_damaged_index_is_told(store: Store, manifest: Manifest) -> None:
    """A list of images that cannot be read names its file and the mend."""
    (store.root / "index.json").write_text("{")
    with pytest.raises(ImageError, match=r"index\.json") as caught:
        store.find(REDIS)
    assert "remove that file" in caught.value.mend


def test_store_in_a_file_is_a_host_error(tmp_path: Path) -> None:
    """A folder that cannot be made is named with the option that names another."""
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="cannot keep images") as caught:
        Store.open(tmp_path / "file/store")
    assert "--containers-store" in caught.value.mend


def test_names_of_many_processes_are_all_kept(
    store: Store, manifest: Manifest, python: Callable[..., subprocess.Popen[str]]
) -> None:
    """Eight processes that tag at once lose no name."""
    store.tag(REDIS, manifest.encode())
    script = (
        "import pathlib, sys; from pytest_containers.images.reference import Reference\n"
        "from pytest_containers.images.store import Store\n"
        "store = Store.open(pathlib.Path(sys.argv[1]))\n"
        "data = store.manifest(Reference.parse('redis:7'))[0]\n"
        "for number in range(5): store.tag(Reference.parse(f'n{sys.argv[2]}-{number}'), data)\n"
    )
    tagging = [python(script, store.root, str(number)) for number in range(8)]
    assert [process.communicate(timeout=60)[1] for process in tagging] == [""] * 8
    assert len(store.list()) == 41


def test_host_is_always_there(store: Store) -> None:
    """The machine itself is an image: one layer, no manifest, and not to be named anew."""
    host = Reference.parse("host")
    record = store.find(host)
    assert record is not None
    assert store.layers(record) == (Path("/"),)
    assert store.list() == ()
    with pytest.raises(NotPortable, match="machine's own files"):
        store.manifest(host)


def test_host_is_no_name_for_an_image(store: Store, manifest: Manifest) -> None:
    """An image called host would hide the machine."""
    with pytest.raises(ReferenceInvalid, match="host"):
        store.tag(Reference.parse("host"), manifest.encode())


def test_image_on_the_host_follows_its_packages(
    store: Store, tar: MakeTar, put_layer: PutLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins with the machine's root, and is gone when another package is installed there."""
    monkeypatch.setattr(module, "host_key", lambda: "sha256:before")
    image = _on_host(store, put_layer, tar, "sha256:before")
    record = store.tag(REDIS, image.encode(), local=True)
    root, layer = store.layers(record)
    assert (record.portable, root, os.listdir(layer)) == (False, Path("/"), ["etc"])
    assert store.find(REDIS) == record
    assert store.tag(Reference.parse("second-name"), image.encode()).digest == record.digest
    monkeypatch.setattr(module, "host_key", lambda: "sha256:after")
    assert store.find(REDIS) is None


def test_image_from_outside_cannot_stand_on_the_host(store: Store, tar: MakeTar, put_layer: PutLayer) -> None:
    """A manifest somebody else made would have the machine's files read by its programs."""
    with pytest.raises(NotPortable, match="not made on this machine"):
        store.tag(REDIS, _on_host(store, put_layer, tar, host_key()).encode())
    assert store.list() == ()
