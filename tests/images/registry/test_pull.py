"""Pull: the way from a name to an unpacked image."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import (
    DigestMismatch,
    ImageError,
    ImageNotFound,
    NotPortable,
    RegistryError,
)
from pytest_containers.images import manifest as m
from pytest_containers.images.digest import Digest
from pytest_containers.images.platform import Platform
from pytest_containers.images.pull import pull
from pytest_containers.images.push import push
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.spec import ImageConfig

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_containers.images.transport import Settings
    from tests.images.registry.conftest import Answer, Asked, Faulty, ImageMaker
    from tests.plugins.registries import RegistryStarter

AMD64 = Platform.parse("linux/amd64")
ARM64 = Platform.parse("linux/arm64")


def entry(data: bytes, platform: Platform | None = None, media_type: str = m.OCI_MANIFEST) -> m.Descriptor:
    """Return what an index says about a manifest."""
    return m.Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data), platform=platform)


def hold_index(faulty: Faulty, target: str, index: m.Index) -> bytes:
    """Serve an index by tag and digest; return its bytes."""
    data = index.encode()
    answer = faulty.answer(headers={"Content-Type": m.OCI_INDEX}, body=data)
    faulty.on("GET", f"/v2/app/manifests/{target}", answer)
    faulty.on("GET", f"/v2/app/manifests/{Digest.of(data)}", answer)
    return data


@pytest.mark.kernel
def test_pull_from_the_real_registry_gives_the_files(
    start_registry: RegistryStarter, make_image: ImageMaker, store: Store, settings: Settings, tmp_path: Path
) -> None:
    """What was pushed to Debian's registry comes back byte for byte, by tag and by digest."""
    image = make_image(b"one", b"two" * 50_000)
    reference = image.put(store, f"{start_registry()}/team/app:1")
    push(store, reference, settings=settings)
    second = Store.open(tmp_path / "second")
    by_tag = pull(second, reference, settings=settings)
    by_digest = pull(second, reference.pinned(image.digest), settings=settings)
    assert by_tag.digest == by_digest.digest == image.digest
    assert by_tag.config.command == ("/file-0",)
    contents = [(folder / f"file-{at}").read_bytes() for at, folder in enumerate(second.layers(by_tag))]
    assert contents == [b"one", b"two" * 50_000]
    assert second.find(reference) == by_tag


@pytest.mark.kernel
def test_pull_of_an_unknown_image_from_the_real_registry(
    start_registry: RegistryStarter, store: Store, settings: Settings
) -> None:
    """A name that the registry does not have is ImageNotFound, in the registry's words."""
    with pytest.raises(ImageNotFound, match="MANIFEST_UNKNOWN"):
        pull(store, Reference.parse(f"{start_registry()}/nobody/has:this"), settings=settings)
    assert store.list() == ()


def test_pull_fetches_no_blob_twice(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """Blobs that are in the store are not asked for, nor is a layer that an image holds twice."""
    image = make_image(b"same", b"same")
    doubled = replace(image.manifest, layers=(image.manifest.layers[0],) * 2)
    config = m.write_config(ImageConfig(), [m.read_config(next(iter(image.blobs.values())))[1][0]] * 2)
    doubled = replace(doubled, config=replace(doubled.config, digest=Digest.of(config), size=len(config)))
    faulty.hold("app", image, data=doubled.encode())
    faulty.on("GET", f"/v2/app/blobs/{Digest.of(config)}", faulty.answer(body=config))
    for _ in range(2):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    blobs = [path for path in faulty.paths("GET") if "/blobs/" in path]
    assert sorted(blobs) == sorted(
        f"/v2/app/blobs/{digest}" for digest in (Digest.of(config), image.manifest.layers[0].digest)
    )


def test_pull_unpacks_while_the_next_layer_is_on_its_way(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """The first layer is unpacked before the last one has come."""
    image = make_image(b"first", b"last")
    faulty.hold("app", image)
    blob = image.blobs[image.manifest.layers[1].digest]
    seen: list[bool] = []

    def late(_: Asked) -> Answer:
        deadline = time.monotonic() + 20
        while not list(store.root.rglob("file-0")) and time.monotonic() < deadline:
            threading.Event().wait(0.005)
        seen.append(bool(list(store.root.rglob("file-0"))))
        return faulty.answer(body=blob)

    faulty.on("GET", f"/v2/app/blobs/{Digest.of(blob)}", late)
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert seen == [True]


def test_pull_takes_the_platform_from_nested_indexes(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """An index leads to the manifest of the platform, over an inner index and past attestations."""
    image = make_image(b"arm", config=ImageConfig(architecture="arm64"))
    faulty.hold("app", image)
    inner = hold_index(faulty, "inner", m.Index(manifests=(entry(image.data, ARM64),)))
    proof = entry(b"proof", Platform(os="unknown", architecture="unknown"))
    outer = m.Index(manifests=(proof, entry(b"x", AMD64), entry(inner, ARM64, m.OCI_INDEX)))
    data = hold_index(faulty, "latest", outer)
    reference = Reference.parse(f"{faulty.host}/app:latest@{Digest.of(data)}")
    record = pull(store, reference, platform=ARM64, settings=settings)
    assert record.digest == image.digest
    assert store.find(reference, ARM64) == record


def test_pull_for_another_platform_leaves_the_name_to_this_machines(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """A name has an image for each platform that was pulled, and means this machine's."""
    here, there = Platform.host(), Platform.parse("linux/s390x")
    images = [make_image(str(one).encode(), config=_config(one)) for one in (here, there)]
    for image in images:
        faulty.hold("app", image)
    offers = zip(images, (here, there), strict=True)
    hold_index(faulty, "latest", m.Index(manifests=tuple(entry(i.data, p) for i, p in offers)))
    reference = Reference.parse(f"{faulty.host}/app")
    ours = pull(store, reference, settings=settings)
    theirs = pull(store, reference, platform=there, settings=settings)
    assert (ours.digest, theirs.digest) == tuple(image.digest for image in images)
    assert store.find(reference) == ours
    assert store.find(reference, there) == theirs
    assert store.list() == (ours, theirs)
    for platform, record in ((None, ours), (there, theirs)):
        assert pull(store, reference, platform=platform, settings=replace(settings, offline=True)) == record


def _config(platform: Platform) -> ImageConfig:
    return ImageConfig(architecture=platform.architecture, variant=platform.variant)


def test_pull_names_the_platforms_there_are(faulty: Faulty, store: Store, settings: Settings) -> None:
    """Where no entry suits, the error lists those that are there."""
    hold_index(faulty, "latest", m.Index(manifests=(entry(b"a", AMD64), entry(b"b", ARM64))))
    with pytest.raises(ImageNotFound, match="it has linux/amd64, linux/arm64"):
        pull(
            store, Reference.parse(f"{faulty.host}/app"), platform=Platform.parse("s390x"), settings=settings
        )


def test_pull_refuses_an_image_for_another_processor(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """A single manifest whose config names another architecture is not taken for ours."""
    faulty.hold("app", make_image(b"x", config=ImageConfig(architecture="arm64")))
    with pytest.raises(ImageNotFound, match="its only image is for linux/arm64"):
        pull(store, Reference.parse(f"{faulty.host}/app"), platform=AMD64, settings=settings)
    assert store.list() == ()


def test_pull_ends_in_indexes_without_end(faulty: Faulty, store: Store, settings: Settings) -> None:
    """A chain of indexes is followed for a few levels and no further."""
    data = b"{}"
    for level in range(8):
        data = hold_index(faulty, f"level-{level}", m.Index(manifests=(entry(data, AMD64, m.OCI_INDEX),)))
    with pytest.raises(ImageError, match="without end"):
        pull(store, Reference.parse(f"{faulty.host}/app:level-7"), platform=AMD64, settings=settings)


def test_pull_checks_the_size_an_index_tells(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """A manifest of another size than its index says is refused, though its digest is right."""
    image = make_image(b"x")
    faulty.hold("app", image)
    hold_index(faulty, "index", m.Index(manifests=(replace(entry(image.data, AMD64), size=7),)))
    with pytest.raises(DigestMismatch, match="the index says 7"):
        pull(store, Reference.parse(f"{faulty.host}/app:index"), platform=AMD64, settings=settings)


def test_pull_by_digest_refuses_other_bytes(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """A manifest that is not what its digest names is refused with both digests."""
    image, fake = make_image(b"x"), make_image(b"y")
    faulty.hold("app", image, data=fake.data)
    with pytest.raises(DigestMismatch) as caught:
        pull(store, Reference.parse(f"{faulty.host}/app@{image.digest}"), settings=settings)
    assert str(image.digest) in str(caught.value)
    assert str(fake.digest) in str(caught.value)
    assert store.list() == ()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b'{"schemaVersion": 1, "name": "app"}', "schema 1"),
        (b"<html>login here</html>", "not JSON"),
        (
            m.Manifest(config=m.Descriptor(media_type=m.EMPTY, digest=Digest.of(b""), size=0)).encode(),
            "artifact",
        ),
    ],
)
def test_pull_refuses_by_name_what_is_no_image(
    faulty: Faulty, store: Store, settings: Settings, body: bytes, word: str
) -> None:
    """What is no image ends as one error with the image's name and what it is instead."""
    faulty.on("GET", "/v2/app/manifests/latest", faulty.answer(body=body))
    with pytest.raises(ImageError, match=word) as caught:
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert f"{faulty.host}/app:latest" in str(caught.value)


def test_pull_refuses_layers_that_the_config_does_not_count(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """Config and manifest must hold the same number of layers."""
    image = make_image(b"x", b"y")
    short = replace(image.manifest, layers=image.manifest.layers[:1])
    faulty.hold("app", image, data=short.encode())
    with pytest.raises(ImageError, match="2 DiffIDs, 1 layers"):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert store.list() == ()


def test_pull_refuses_an_image_that_stands_on_its_makers_machine(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """An image from outside cannot ask for this machine's files as its base; no blob is fetched."""
    faulty.hold("app", make_image(b"x", base="host"))
    with pytest.raises(NotPortable):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert not [path for path in faulty.paths("GET") if "/blobs/" in path]


def test_pull_offline_takes_what_is_there(make_image: ImageMaker, store: Store, settings: Settings) -> None:
    """Offline, an image of the store is enough."""
    image = make_image(b"x")
    reference = image.put(store, "127.0.0.1:1/app")
    assert pull(store, reference, settings=replace(settings, offline=True)).digest == image.digest


def test_pull_offline_names_what_is_missing(faulty: Faulty, store: Store, settings: Settings) -> None:
    """Offline, a missing image is named at once and no registry is asked."""
    with pytest.raises(ImageNotFound, match="offline") as caught:
        pull(store, Reference.parse(f"{faulty.host}/app:7"), settings=replace(settings, offline=True))
    assert f"{faulty.host}/app:7" in str(caught.value)
    assert faulty.asked == []


def test_pull_from_a_registry_that_is_down(faulty: Faulty, store: Store, settings: Settings) -> None:
    """A registry that nobody listens at is one error with its name and what to do."""
    faulty.close()
    with pytest.raises(RegistryError, match="cannot be reached") as caught:
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert faulty.host in str(caught.value)
    assert "refused" in str(caught.value).lower()
    assert store.list() == ()


def test_pull_of_a_foreign_layer_asks_its_own_address_without_credentials(
    faulty: Faulty, other: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """A layer that the registry may not hold comes from the address its descriptor names."""
    image = make_image(b"x")
    foreign = m.Descriptor(
        media_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        digest=image.manifest.layers[0].digest,
        size=image.manifest.layers[0].size,
        urls=(f"{other.url}/layer",),
    )
    faulty.hold("app", image, data=replace(image.manifest, layers=(foreign,)).encode())
    faulty.on("GET", f"/v2/app/blobs/{foreign.digest}", faulty.refusal(404, "BLOB_UNKNOWN"))
    other.on("GET", "/layer", other.ranged(image.blobs[foreign.digest]))
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert [sorted(asked.headers) for asked in other.asked] == [["accept-encoding", "host", "user-agent"]]
