"""An OCI image layout in an archive: the images its index names (image-spec, image-layout.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pytest_containers.errors import DigestMismatch, ImageError, ImageNotFound, LayerTooLarge, NotPortable
from pytest_containers.images.bundle import MOST_IMAGES, Bundle
from pytest_containers.images.chains import chain_id
from pytest_containers.images.decompress import pieces
from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import (
    DOCKER_INDEX,
    MANIFEST_LIMIT_BYTES,
    OCI_INDEX,
    Descriptor,
    Index,
    Manifest,
    read_config,
)
from pytest_containers.images.platform import Platform
from pytest_containers.images.progress import Meter
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import CONFIG_LIMIT_BYTES, REF_NAME, Store
from pytest_containers.progress import Watch

__all__ = ["CONTAINERD_NAME", "INDEX", "LayoutImage", "place", "read_layout"]

INDEX: Final = "index.json"
# The whole reference, where containerd and docker write it (containerd, core/images/annotations.go).
CONTAINERD_NAME: Final = "io.containerd.image.name"
_COPY_BYTES: Final = 1 << 20
_DEEPEST_INDEX: Final = 4
_INDEXES: Final = (OCI_INDEX, DOCKER_INDEX)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutImage:
    """One image of a layout, checked as far as manifest, config and the sizes of layers go."""

    names: tuple[Reference, ...]
    data: bytes
    manifest: Manifest
    config: bytes
    diff_ids: tuple[str, ...]

    def renamed(self, reference: Reference) -> LayoutImage:
        """Return the same image under one name."""
        return replace(self, names=(reference,))

    def keep(self, store: Store, bundle: Bundle, watch: Watch | None) -> bytes:
        """Put every blob into the store and unpack the layers; return the manifest's bytes."""
        store.blobs.add(self.config)
        chain: str | None = None
        for layer, diff_id in zip(self.manifest.layers, self.diff_ids, strict=True):
            fresh = _receive(store, bundle, layer, watch)
            above = chain_id(chain, diff_id)
            if fresh and store.chains.has(above):
                # It is not unpacked again, so nothing else compares these bytes with the config.
                _check_plain(store, layer, diff_id)
            chain = store.unpack_layer(chain, layer, diff_id, watch=watch)
        return self.data


def place(digest: Digest) -> str:
    """Return the name of a blob in a layout."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def read_layout(bundle: Bundle, platform: Platform) -> tuple[LayoutImage, ...]:
    """Return the images of a layout, one for each manifest its index names, for *platform*.

    Entries of one name are one image for several platforms. Raises ImageError, ImageNotFound,
    DigestMismatch, NotPortable.
    """
    index = Index.parse(bundle.read(INDEX, MANIFEST_LIMIT_BYTES))
    named: dict[Reference | None, list[Descriptor]] = {}
    found: dict[Digest, LayoutImage] = {}
    if len(index.manifests) > MOST_IMAGES:
        raise LayerTooLarge("the archive names too many images", seen=f"{len(index.manifests)}")
    for entry in index.manifests:
        if not entry.attestation:
            named.setdefault(_name(entry), []).append(entry)
    for name, entries in named.items():
        chosen = entries if name is None else [_choose(tuple(entries), bundle, platform, str(name))]
        for entry in chosen:
            image = _read_image(bundle, entry, platform)
            digest = Digest.of(image.data)
            before = found[digest].names if digest in found else ()
            names = (*before, *((name,) if name is not None else ()))
            found[digest] = replace(image, names=tuple(dict.fromkeys(names)))
    return tuple(found.values())


def _name(entry: Descriptor) -> Reference | None:
    """Return what an entry is called; a tag alone, as skopeo and docker write it, is no name."""
    text = entry.annotations.get(CONTAINERD_NAME) or entry.annotations.get(REF_NAME, "")
    return Reference.parse(text) if "/" in text or ":" in text else None


def _read_image(bundle: Bundle, entry: Descriptor, platform: Platform) -> LayoutImage:
    what = str(entry.digest)
    for _ in range(_DEEPEST_INDEX):
        data = _read_blob(bundle, entry, MANIFEST_LIMIT_BYTES)
        if entry.media_type not in _INDEXES:
            return _image(bundle, data)
        entry = _choose(Index.parse(data).manifests, bundle, platform, what)
    raise ImageError(f"{what} in the archive is an index of indexes without end")


def _choose(entries: tuple[Descriptor, ...], bundle: Bundle, platform: Platform, what: str) -> Descriptor:
    """Return the entry for *platform* among those that are in the archive: it may hold a part only."""
    present = tuple(e for e in entries if bundle.size(place(e.digest)) is not None)
    chosen = Index(manifests=present or entries).choose(platform)
    if chosen is None:
        offers = sorted({str(e.platform) for e in present if e.platform and not e.attestation})
        raise ImageNotFound(
            f"{what} in the archive has no image for {platform}",
            seen="it has " + (", ".join(offers) or "none for any platform"),
            mend="name a platform that it has",
        )
    return chosen


def _image(bundle: Bundle, data: bytes) -> LayoutImage:
    manifest = Manifest.parse(data)
    manifest.check_image()
    if manifest.base:
        raise NotPortable(
            "the image in the archive stands on the files of the machine it was made on",
            seen=f"its manifest names the base {manifest.base!r}",
            mend="build it here",
        )
    config = _read_blob(bundle, manifest.config, CONFIG_LIMIT_BYTES)
    _, diff_ids = read_config(config)
    if len(diff_ids) != len(manifest.layers):
        raise ImageError(
            "config and manifest of the image in the archive do not fit together",
            seen=f"{len(diff_ids)} DiffIDs, {len(manifest.layers)} layers",
        )
    for layer in manifest.layers:
        _check_there(bundle, layer)
    return LayoutImage(names=(), data=data, manifest=manifest, config=config, diff_ids=diff_ids)


def _read_blob(bundle: Bundle, blob: Descriptor, limit_bytes: int) -> bytes:
    _check_there(bundle, blob)
    data = bundle.read(place(blob.digest), limit_bytes)
    if not blob.digest.matches(data):
        raise _changed(blob.digest, f"its bytes have the digest {Digest.of(data)}")
    return data


def _check_there(bundle: Bundle, blob: Descriptor) -> None:
    size = bundle.size(place(blob.digest))
    if size is None:
        raise ImageError(
            f"the archive lacks the blob {blob.digest}",
            seen=f"no file {place(blob.digest)}",
            mend="save it again, whole; a layer that may not be passed on has to be pulled",
        )
    if size != blob.size:
        raise _changed(blob.digest, f"{size} bytes; the manifest says {blob.size}")


def _receive(store: Store, bundle: Bundle, blob: Descriptor, watch: Watch | None) -> bool:
    """Put one blob into the store, verified; tell whether it was not there before."""
    with (
        Meter(watch, blob.digest, "load", blob.size) as meter,
        store.blobs.receive(blob.digest, blob.size) as writer,
    ):
        if writer.done:
            return False
        # What a broken download left is not worth trusting: here is all of it.
        writer.restart()
        with bundle.open(place(blob.digest)) as file:
            while chunk := file.read(_COPY_BYTES):
                writer.write(chunk)
                meter.at(writer.offset)
        writer.commit()
    return True


def _check_plain(store: Store, layer: Descriptor, diff_id: str) -> None:
    hasher = Digest.parse(diff_id).hasher()
    with store.blobs.open(layer.digest) as blob:
        for piece in pieces(blob):
            hasher.update(piece)
    if hasher.hexdigest() != Digest.parse(diff_id).hex:
        raise _changed(layer.digest, f"it does not unpack to {diff_id}")


def _changed(digest: Digest, seen: str) -> DigestMismatch:
    return DigestMismatch(
        f"the blob {digest} in the archive is not what its digest says",
        seen=seen,
        mend="fetch or make the archive again",
    )
