"""Push: an image leaves as it is, once, and only where it may."""

from __future__ import annotations

import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import ImageError, ImageNotFound, NotPortable, RegistryError, Unauthorized
from pytest_containers.images import manifest as m
from pytest_containers.images.blobs import Blobs
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
    from tests.images.registry.conftest import Answer, Asked, Faulty, Image, ImageMaker
    from tests.plugins.authority import Authority
    from tests.plugins.registries import RegistryStarter


@pytest.fixture
def image(make_image: ImageMaker) -> Image:
    """An image of two layers."""
    return make_image(b"one", bytes(range(256)) * 40)


def accept(faulty: Faulty, image: Image) -> dict[str, bytes]:
    """Let *faulty* take uploads into ``app``; return where they end up, by digest."""
    taken: dict[str, bytes] = {}
    for digest in image.blobs:
        faulty.on("HEAD", f"/v2/app/blobs/{digest}", faulty.answer(status=404))

    def put(asked: Asked) -> Answer:
        taken[asked.path.partition("digest=")[2].replace("%3A", ":")] = asked.body
        return faulty.answer(status=201)

    begun = {"Location": "/v2/app/blobs/uploads/1?state=s"}
    faulty.on("POST", "/v2/app/blobs/uploads/", faulty.answer(status=202, headers=begun))
    faulty.on("PUT", "/v2/app/blobs/uploads/1", put)
    faulty.on("PUT", "/v2/app/manifests/latest", faulty.answer(status=201))
    return taken


@pytest.mark.kernel
def test_push_to_the_real_registry_can_be_pulled(
    start_registry: RegistryStarter,
    image: Image,
    store: Store,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """What arrives at Debian's registry is what was sent, by its digest."""
    reference = image.put(store, f"{start_registry()}/a/b:1")
    digest = push(store, reference, settings=settings)
    assert digest == image.digest
    second = Store.open(tmp_path / "second")
    assert pull(second, reference.pinned(digest), settings=settings).digest == digest
    assert all(second.blobs.read(name) == blob for name, blob in image.blobs.items())


@pytest.mark.kernel
def test_push_of_several_platforms_is_an_index(
    start_registry: RegistryStarter, make_image: ImageMaker, store: Store, settings: Settings, tmp_path: Path
) -> None:
    """A name with several platforms goes as an index of all, or as the one image that is asked for."""
    host = start_registry()
    platforms = (Platform.host(), Platform.parse("linux/arm/v6"), Platform.parse("linux/arm/v7"))
    for platform in platforms:
        config = ImageConfig(architecture=platform.architecture, variant=platform.variant)
        reference = make_image(str(platform).encode(), config=config).put(store, f"{host}/app:1")
    digest = push(store, reference, settings=settings)
    for platform in platforms:
        second = Store.open(tmp_path / str(platform).replace("/", "-"))
        record = pull(second, reference.pinned(digest), platform=platform, settings=settings)
        assert record.digest == Digest.of(store.manifest(reference, platform)[0])
    alone = push(store, reference, platform=platforms[1], settings=settings)
    assert alone == Digest.of(store.manifest(reference, platforms[1])[0])


@pytest.mark.kernel
def test_push_over_tls_to_the_real_registry(
    start_registry: RegistryStarter,
    authority: Authority,
    image: Image,
    store: Store,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """A registry on loopback that speaks TLS is spoken to in TLS, and its authority is checked."""
    host = start_registry(tls=authority)
    reference = image.put(store, f"{host}/app")
    with pytest.raises(RegistryError, match="cannot be trusted"):
        push(store, reference, settings=settings)
    (tmp_path / "certs" / host).mkdir(parents=True)
    (tmp_path / "certs" / host / "ca.crt").write_bytes(authority.pem())
    assert (
        push(store, reference, settings=replace(settings, certificates=(tmp_path / "certs",))) == image.digest
    )


@pytest.mark.kernel
def test_push_mounts_what_another_repository_has(
    start_registry: RegistryStarter, image: Image, store: Store, settings: Settings
) -> None:
    """Layers that are in another repository of the real registry do not travel again."""
    host = start_registry()
    push(store, image.put(store, f"{host}/first"), settings=settings)
    second = image.put(store, f"{host}/second")
    # Chunks this large would need a PATCH; a mounted blob needs neither PATCH nor PUT.
    for layer in image.manifest.layers:
        store.blobs.path(layer.digest).write_bytes(b"not what it was")
    assert push(store, second, settings=settings) == image.digest
    with urllib.request.urlopen(f"http://{host}/v2/second/blobs/{image.manifest.layers[0].digest}") as reply:
        assert reply.read() == image.blobs[image.manifest.layers[0].digest]


def test_push_sends_nothing_that_is_there(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """A second push is one HEAD per blob and the manifest."""
    accept(faulty, image)
    for digest in image.blobs:
        faulty.on("HEAD", f"/v2/app/blobs/{digest}", faulty.answer())
    push(store, image.put(store, f"{faulty.host}/app"), settings=settings)
    assert len(faulty.paths("HEAD")) == 3
    assert faulty.paths("POST") == []
    assert faulty.paths("PUT") == ["/v2/app/manifests/latest"]


def test_push_reads_the_images_of_its_registry_once(
    faulty: Faulty,
    image: Image,
    make_image: ImageMaker,
    store: Store,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many blobs are new, what may be mounted is looked up once, and elsewhere not at all."""
    accept(faulty, image)
    names = (f"{faulty.host}/near", "registry.example/far")
    near, far = (Digest.of(store.manifest(make_image(name.encode()).put(store, name))[0]) for name in names)
    reference = image.put(store, f"{faulty.host}/app")
    read: list[Digest] = []
    blobs_read = Blobs.read

    def noted(blobs: Blobs, digest: Digest, limit_bytes: int = 4 << 20) -> bytes:
        read.append(digest)
        return blobs_read(blobs, digest, limit_bytes)

    monkeypatch.setattr(Blobs, "read", noted)
    push(store, reference, settings=settings)
    assert len(faulty.paths("POST")) == 3
    assert read.count(near) == 1
    assert far not in read


def test_push_sends_the_manifest_last_and_as_it_is(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """The manifest's bytes and type are the store's, and they come when every blob is there."""
    taken = accept(faulty, image)
    push(store, image.put(store, f"{faulty.host}/app"), settings=settings)
    last = faulty.asked[-1]
    assert (last.method, last.body) == ("PUT", image.data)
    assert last.headers["content-type"] == m.OCI_MANIFEST
    assert taken == {str(digest): blob for digest, blob in image.blobs.items()}


@pytest.mark.parametrize("status", [200, 202])
def test_push_that_is_not_answered_by_a_registry_is_looked_for(
    faulty: Faulty, image: Image, store: Store, settings: Settings, status: int
) -> None:
    """A page in a registry's place says 200 to everything; a manifest that was stored can be found."""
    accept(faulty, image)
    faulty.on("PUT", "/v2/app/manifests/latest", faulty.answer(status=status))
    name = image.put(store, f"{faulty.host}/app")
    with pytest.raises(RegistryError, match="is not there"):
        push(store, name, settings=settings)
    faulty.on("HEAD", "/v2/app/manifests/latest", faulty.answer())
    assert push(store, name, settings=settings) == image.digest


def test_push_by_digest_goes_under_the_digest(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """A reference without a tag names the manifest by its digest, and by no other."""
    accept(faulty, image)
    faulty.on("PUT", f"/v2/app/manifests/{image.digest}", faulty.answer(status=201))
    name = image.put(store, f"{faulty.host}/app")
    pinned = replace(name, tag=None, digest=image.digest)
    assert push(store, pinned, settings=settings) == image.digest
    assert faulty.paths("PUT")[-1] == f"/v2/app/manifests/{image.digest}"


def test_push_leaves_foreign_layers_where_they_are(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """A layer that may not be distributed is named in the manifest and not sent."""
    taken = accept(faulty, image)
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    foreign = replace(image.manifest.layers[0], media_type=kind)
    manifest = replace(image.manifest, layers=(foreign, image.manifest.layers[1]))
    push(store, replace(image, data=manifest.encode()).put(store, f"{faulty.host}/app"), settings=settings)
    assert str(foreign.digest) not in taken
    assert len(taken) == 2


def test_push_of_an_image_on_this_machines_files_says_why_not(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """An image based on host stays here; the error has the reason and the mend, and nothing was sent."""
    image = make_image(b"x", base="host")
    for blob in image.blobs.values():
        store.blobs.add(blob)
    reference = Reference.parse(f"{faulty.host}/app")
    store.tag(reference, image.data, local=True)
    with pytest.raises(NotPortable, match="this machine's own files") as caught:
        push(store, reference, settings=settings)
    assert caught.value.mend
    assert faulty.asked == []


def test_push_of_what_is_not_there(store: Store, settings: Settings) -> None:
    """An image that the store does not have cannot be pushed."""
    with pytest.raises(ImageNotFound):
        push(store, Reference.parse("127.0.0.1:1/app"), settings=settings)


def test_push_offline_asks_nobody(faulty: Faulty, image: Image, store: Store, settings: Settings) -> None:
    """Offline, a push ends before the first request."""
    reference = image.put(store, f"{faulty.host}/app")
    with pytest.raises(RegistryError, match="offline"):
        push(store, reference, settings=replace(settings, offline=True))
    assert faulty.asked == []


def test_push_that_is_not_allowed(faulty: Faulty, image: Image, store: Store, settings: Settings) -> None:
    """A registry that lets us read and not write is told as that; no manifest is sent."""
    accept(faulty, image)
    faulty.on("POST", "/v2/app/blobs/uploads/", faulty.refusal(403, "DENIED", "read only"))
    with pytest.raises(Unauthorized, match="read only"):
        push(store, image.put(store, f"{faulty.host}/app"), settings=settings)
    assert faulty.paths("PUT") == []


def test_push_refuses_a_digest_that_is_another_images(
    faulty: Faulty, image: Image, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """A tag pinned to another digest than the store's is not pushed under a wrong name."""
    wrong: Digest = make_image(b"other").digest
    pinned = replace(image.put(store, f"{faulty.host}/app"), digest=wrong)
    store.tag(pinned, image.data)
    accept(faulty, image)
    with pytest.raises(ImageError, match="under this digest"):
        push(store, pinned, settings=settings)
    assert "PUT" not in {asked.method for asked in faulty.asked if "manifests" in asked.path}
