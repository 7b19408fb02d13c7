"""Locked images: what is locked is pulled, whatever the tag means by then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import ImageError, ImageNotFound, NotPortable, RegistryError
from pytest_containers.images import manifest as m
from pytest_containers.images.digest import Digest
from pytest_containers.images.lockfile import LockedBlob, LockFile
from pytest_containers.images.pinning import lock, pull_locked, verify
from pytest_containers.images.platform import Platform
from pytest_containers.images.prune import prune
from pytest_containers.images.pull import pull
from pytest_containers.images.push import push
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.progress import Progress
from pytest_containers.spec import ImageConfig

if TYPE_CHECKING:
    from pytest_containers.images.transport import Settings
    from tests.images.registry.conftest import Faulty, Image, ImageMaker
    from tests.plugins.registries import RegistryStarter

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


def blobs_of(image: Image) -> set[LockedBlob]:
    """Return what a lock file says of an image's config and layers."""
    return {LockedBlob(digest=digest, size=len(data)) for digest, data in image.blobs.items()}


def two_platforms(faulty: Faulty, make_image: ImageMaker) -> tuple[Reference, Digest, Image, Image]:
    """Serve an index of two platforms; return its name, digest and images."""
    images = [make_image(b"x", config=ImageConfig(architecture=name)) for name in ("amd64", "arm64")]
    entries = []
    for image, platform in zip(images, (AMD64, ARM64), strict=True):
        faulty.hold("app", image)
        entries.append(
            m.Descriptor(
                media_type=m.OCI_MANIFEST, digest=image.digest, size=len(image.data), platform=platform
            )
        )
    data = m.Index(manifests=tuple(entries)).encode()
    answer = faulty.answer(headers={"Content-Type": m.OCI_INDEX}, body=data)
    faulty.on("GET", "/v2/app/manifests/latest", answer)
    faulty.on("GET", f"/v2/app/manifests/{Digest.of(data)}", answer)
    return Reference.parse(f"{faulty.host}/app"), Digest.of(data), images[0], images[1]


def test_lock_names_index_manifests_and_blobs(
    faulty: Faulty, make_image: ImageMaker, settings: Settings
) -> None:
    """The index is what the tag means; each platform has its manifest and the sizes of its blobs."""
    name, index, amd64, arm64 = two_platforms(faulty, make_image)
    (image,) = lock([name, name], [AMD64, ARM64], settings=settings).images
    assert (image.reference, image.digest) == (name, index)
    for platform, wanted in ((AMD64, amd64), (ARM64, arm64)):
        manifest = image.manifest(platform)
        assert manifest is not None
        assert (manifest.digest, manifest.size) == (wanted.digest, len(wanted.data))
        assert set(manifest.blobs) == blobs_of(wanted)
    assert not [path for path in faulty.paths("GET") if "/blobs/" in path]


def test_lock_of_a_platform_that_is_not_there(
    faulty: Faulty, make_image: ImageMaker, settings: Settings
) -> None:
    """An index says it, and where there is none the config does."""
    name, *_ = two_platforms(faulty, make_image)
    faulty.hold("alone", make_image(b"1", config=ImageConfig(architecture="amd64")))
    for reference in (name, Reference.parse(f"{faulty.host}/alone")):
        assert lock([reference], [AMD64], settings=settings).digests
        with pytest.raises(ImageNotFound, match="no image for linux/s390x"):
            lock([reference], [Platform.parse("linux/s390x")], settings=settings)


def test_what_cannot_be_locked_is_told(settings: Settings, faulty: Faulty) -> None:
    """The machine itself, an unknown image, and anything while offline."""
    with pytest.raises(NotPortable):
        lock([Reference.parse("host")], settings=settings)
    with pytest.raises(ImageNotFound):
        lock([Reference.parse(f"{faulty.host}/gone")], settings=settings)
    with pytest.raises(RegistryError, match="offline"):
        lock([Reference.parse("redis")], settings=replace(settings, offline=True))


@pytest.mark.kernel
def test_locked_image_is_pulled_when_its_tag_has_moved(
    start_registry: RegistryStarter, make_image: ImageMaker, store: Store, settings: Settings, tmp_path: Path
) -> None:
    """The name gets the image that was locked; an ordinary pull gets the new one."""
    old, new = make_image(b"old"), make_image(b"new")
    name = old.put(store, f"{start_registry()}/team/app:1")
    push(store, name, settings=settings)
    lockfile = lock([name], settings=settings)
    new.put(store, str(name))
    push(store, name, settings=settings)
    other = Store.open(tmp_path / "other")
    (record,) = pull_locked(other, LockFile.parse(lockfile.encode()), settings=settings)
    assert (record.reference, record.digest) == (str(name), old.digest)
    assert other.find(name) == record
    assert pull(other, name, settings=settings, pinned=lockfile.find(name)).digest == old.digest
    assert pull(other, name, settings=settings).digest == new.digest


def test_locked_image_that_is_here_costs_no_request(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """With warm blobs nobody is asked, also offline and though the name is another image's by now."""
    name, _, amd64, _ = two_platforms(faulty, make_image)
    lockfile = lock([name], [AMD64], settings=settings)
    pull_locked(store, lockfile, platform=AMD64, settings=settings)
    make_image(b"another").put(store, str(name))
    asked = len(faulty.asked)
    for each in (settings, replace(settings, offline=True)):
        (record,) = pull_locked(store, lockfile, platform=AMD64, settings=each)
        assert record.digest == amd64.digest
    assert len(faulty.asked) == asked


def test_locked_image_that_is_not_here_fails_offline(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """The image of the same name that is here is not the one that was asked for."""
    name, index, *_ = two_platforms(faulty, make_image)
    lockfile = lock([name], [AMD64], settings=settings)
    make_image(b"another").put(store, str(name))
    with pytest.raises(ImageNotFound, match=str(index)):
        pull_locked(store, lockfile, platform=AMD64, settings=replace(settings, offline=True))


def test_pull_of_what_is_not_locked_is_told(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """Neither another platform nor another name is pulled by a lock file that lacks it."""
    name, *_ = two_platforms(faulty, make_image)
    lockfile = lock([name], [AMD64], settings=settings)
    with pytest.raises(ImageNotFound, match=r"not locked for linux/arm64(.|\n)*linux/amd64"):
        pull_locked(store, lockfile, platform=ARM64, settings=settings)
    with pytest.raises(ImageError, match="not in the lock file"):
        pull_locked(store, lockfile, references=[Reference.parse("redis")], settings=settings)


def test_images_are_pulled_together(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """Every image of the file comes, in the file's order, and each blob's progress is told to its end."""
    for number in range(6):
        faulty.hold(f"app{number}", make_image(b"shared", b"%d" % number))
    names = [Reference.parse(f"{faulty.host}/app{number}") for number in range(6)]
    lockfile = lock(reversed(names), settings=settings)
    seen: list[Progress] = []
    records = pull_locked(store, lockfile, settings=settings, watch=seen.append)
    assert [record.reference for record in records] == [str(name) for name in names]
    ended = {
        event.subject for event in seen if event.phase == "download" and event.done_bytes == event.total_bytes
    }
    assert ended == {blob.digest for image in lockfile.images for blob in image.manifests[0].blobs}
    assert verify(store, lockfile) == ()


def test_verify_tells_what_differs(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """A missing name, another image of that name, a missing and a damaged blob, each once a name."""
    names = [Reference.parse(f"{faulty.host}/app{number}") for number in range(5)]
    images = [make_image(b"%d" % number) for number in range(5)]
    for number, image in enumerate(images):
        faulty.hold(f"app{number}", image)
    lockfile = lock(names, settings=settings)
    pull_locked(store, lockfile, settings=settings)
    assert verify(store, lockfile) == ()
    store.remove(names[0])
    store.tag(names[1], images[4].data)
    store.blobs.remove(images[2].manifest.layers[0].digest)
    store.blobs.path(images[3].manifest.layers[0].digest).write_bytes(b"rotten")
    told = [str(problem) for problem in verify(store, lockfile)]
    assert [text.partition(": ")[0].rpartition("/")[2] for text in told] == [
        f"app{number}:latest" for number in range(4)
    ]
    for text, words in zip(
        told, ("not in the store", "the store has", "is missing", "changed on disk"), strict=True
    ):
        assert words in text
    pull_locked(store, lockfile, settings=settings)
    assert verify(store, lockfile) == ()
    assert (
        verify(store, lockfile, platform=Platform.parse("linux/s390x"))[0].what
        == "not locked for linux/s390x"
    )


def test_locked_images_are_kept_by_a_prune(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """Everything else goes, and the lock file's images are whole after it."""
    for number in range(2):
        faulty.hold(f"app{number}", make_image(b"%d" % number))
        pull(store, Reference.parse(f"{faulty.host}/app{number}"), settings=settings)
    lockfile = lock([Reference.parse(f"{faulty.host}/app1")], settings=settings)
    assert len(prune(store, max_bytes=0, keep=lockfile.digests).names) == 1
    assert verify(store, lockfile) == ()
