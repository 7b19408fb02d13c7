"""Load: images out of archives of docker, podman, skopeo, containerd and our own.

What an archive holds is read and judged as a whole before anything of it is kept; where it turns
out wrong later, what came of it goes again. Only the bytes of an archive are believed: names of
members say where to look and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from pytest_containers.errors import DigestMismatch, ImageError
from pytest_containers.images.bundle import Bundle, open_bundle
from pytest_containers.images.digest import Digest
from pytest_containers.images.dockerarchive import DOCKER_INDEX, DockerImage, read_docker
from pytest_containers.images.garbage import clear_trash, collect
from pytest_containers.images.layer import LIMIT_BYTES
from pytest_containers.images.layout import INDEX, LayoutImage, read_layout
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.progress import Watch
from pytest_containers.spec import ImageRecord

__all__ = ["load"]

_Image = DockerImage | LayoutImage


def load(
    store: Store,
    source: BinaryIO | Path,
    *,
    reference: Reference | None = None,
    platform: Platform | None = None,
    limit_bytes: int = LIMIT_BYTES,
    watch: Watch | None = None,
) -> tuple[ImageRecord, ...]:
    """Take the images of an archive into the store, unpack and name them; return them in its order.

    *source* is a tar, in any compression we read, or the folder of an OCI layout. *reference* names
    the image of an archive that holds one, in place of the names it brings. *platform*, the machine's
    own by default, chooses from an index. Raises ImageError (no archive of images, something is
    missing), ImageNotFound (no such platform), ReferenceInvalid, DigestMismatch, LayerCorrupt,
    LayerEscape, LayerTooLarge, NotPortable, StoreFull; then nothing is named and nothing left.
    """
    lease = store.lease()
    before = frozenset([*store.blobs.all(), *store.chains.all()])
    try:
        with open_bundle(source, scratch=store.root / "ingest", limit_bytes=limit_bytes) as bundle:
            images = _named(_read(bundle, platform or Platform.host()), reference)
            kept = [(image, image.keep(store, bundle, watch)) for image in images]
        for image, data in kept:
            _check_names(image.names, Digest.of(data))
        return tuple(store.tag(name, data) for image, data in kept for name in image.names)
    except BaseException:
        lease.close()
        new = frozenset([*store.blobs.all(), *store.chains.all()]) - before
        collect(store, among=new)
        clear_trash(store)
        raise
    finally:
        lease.close()


def _read(bundle: Bundle, platform: Platform) -> tuple[_Image, ...]:
    # An archive in both forms, as docker writes it since version 25, keeps its digests in this one.
    if bundle.size(INDEX) is not None:
        return read_layout(bundle, platform)
    if bundle.size(DOCKER_INDEX) is not None:
        return read_docker(bundle)
    raise ImageError(
        "this is no archive of images",
        seen=f"neither {INDEX} nor {DOCKER_INDEX} is in it",
        mend="import makes an image of a root file system's tar; save writes an archive of images",
    )


def _named(images: Iterable[_Image], reference: Reference | None) -> tuple[_Image, ...]:
    found = tuple(images)
    if reference is not None and len(found) != 1:
        raise ImageError(
            f"the archive holds {len(found)} images, and one name was given for them",
            seen=", ".join(name.familiar for image in found for name in image.names)[:500],
            mend="load it without a name, and tag the images then",
        )
    if reference is not None:
        return (found[0].renamed(reference),)
    if not found:
        raise ImageError("the archive holds no image", mend="save an image into it")
    return tuple(image if image.names else image.renamed(_by_id(image.config)) for image in found)


def _by_id(config: bytes) -> Reference:
    """Return what an image is called that its archive does not name: the same each time it is loaded.

    docker and podman load such images too, to be used by their ids.
    """
    return Reference.parse(f"loaded-{Digest.of(config).hex[:16]}")


def _check_names(names: Iterable[Reference], digest: Digest) -> None:
    for name in names:
        if name.digest is not None and name.digest != digest:
            raise DigestMismatch(
                f"the image in the archive is not {name}",
                seen=f"its manifest is {digest}",
                mend="load it under a name without a digest",
            )
