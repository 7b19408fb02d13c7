"""The image store of a machine: an OCI image layout, and beside it the layers unpacked.

The folder can be copied, cached and carried: nothing in it names its own place. Names are entries
of ``index.json`` with the canonical reference as ``org.opencontainers.image.ref.name``
(image-spec, annotations.md); blobs and unpacked layers are found by what they are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from pytest_containers._files import locked, write_atomic
from pytest_containers.errors import (
    HostError,
    ImageError,
    ImageNotFound,
    NotPortable,
    ReferenceInvalid,
)
from pytest_containers.images.blobs import Blobs, room
from pytest_containers.images.chains import HOST, HOST_ROOT, Chains, chain_ids, host_chain
from pytest_containers.images.digest import Digest
from pytest_containers.images.host import host_key, host_record, is_host
from pytest_containers.images.layer import LIMIT_BYTES
from pytest_containers.images.leases import Lease, Leases
from pytest_containers.images.manifest import (
    BASE_KEY_ANNOTATION,
    MANIFEST_LIMIT_BYTES,
    Descriptor,
    Index,
    Manifest,
    read_config,
)
from pytest_containers.images.reference import Reference
from pytest_containers.progress import Watch
from pytest_containers.spec import ImageRecord

__all__ = ["CONFIG_LIMIT_BYTES", "REF_NAME", "Store"]

REF_NAME: Final = "org.opencontainers.image.ref.name"
# A config carries labels and history; the largest ones in use are some hundred kilobytes.
CONFIG_LIMIT_BYTES: Final = 8 << 20
_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'


class Store:
    """Images by name: blobs, manifests, unpacked layers. Safe between processes."""

    def __init__(self, root: Path, layer_limit_bytes: int = LIMIT_BYTES) -> None:
        self.root = root
        self.leases = Leases(root)
        self.blobs = Blobs(root, self.leases.cover)
        self.chains = Chains(root, self.blobs, limit_bytes=layer_limit_bytes)
        # The index as it was last read, and the state of the file it was read from.
        self._last: tuple[tuple[int, int, int], Index] | None = None

    @classmethod
    def open(cls, root: Path, *, layer_limit_bytes: int = LIMIT_BYTES) -> Store:
        """Return the store in the folder *root*, made where missing; raise HostError where it cannot be.

        A layer that unpacks to more than *layer_limit_bytes* is refused.
        """
        try:
            with room(root):
                # Layers hold set-user-ID programs of root; only the owner may reach them.
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not (root / "oci-layout").exists():
                    write_atomic(root / "oci-layout", _LAYOUT)
        except OSError as error:
            raise HostError(
                f"cannot keep images in {root}",
                seen=str(error),
                mend="name a folder you may write with --containers-store (PYTEST_CONTAINERS_STORE)",
            ) from error
        return cls(root, layer_limit_bytes)

    def find(self, reference: Reference) -> ImageRecord | None:
        """Return the image of that name where it can be started, else None.

        An image that lost blobs is none, so that a pull mends it. Neither is one that was built
        on this machine's files when other packages were installed.
        """
        if is_host(reference):
            return host_record()
        # Nothing goes away between two looks; later only a lease holds it.
        with self.leases.gate():
            return self._find(reference)

    def _find(self, reference: Reference) -> ImageRecord | None:
        entry = self._entry(reference)
        if entry is None or not self.blobs.has(entry.digest):
            return None
        manifest = Manifest.parse(self.blobs.read(entry.digest, MANIFEST_LIMIT_BYTES))
        if not self.blobs.has(manifest.config.digest) or _is_stale(manifest):
            return None
        record = self._record(reference, entry.digest, manifest)
        chains = chain_ids(_base_of(manifest), record.diff_ids)
        present = (
            self.chains.has(chain) or self.blobs.has(layer.digest)
            for chain, layer in zip(chains, manifest.layers, strict=True)
        )
        return record if all(present) else None

    def list(self) -> tuple[ImageRecord, ...]:
        """Return every named image that can be started, sorted by reference; ``host`` is not listed."""
        names = sorted(entry.annotations.get(REF_NAME, "") for entry in self._index().manifests)
        found: list[ImageRecord] = []
        for name in names:
            # One damaged image does not hide the others; asking for it by name says what is wrong.
            with contextlib.suppress(ImageError):
                record = self.find(Reference.parse(name))
                found += [record] if record else []
        return tuple(found)

    def manifest(self, reference: Reference) -> tuple[bytes, Manifest]:
        """Return an image's manifest, the exact bytes and read; raise ImageNotFound.

        Raises NotPortable for ``host``, which is no stored image.
        """
        if is_host(reference):
            raise NotPortable(
                "the image host is this machine's own files and has no manifest",
                mend="use it as the base of an image, or import a root file system's tar",
            )
        entry = self._entry(reference)
        if entry is None:
            raise self._not_found(reference)
        data = self.blobs.read(entry.digest, MANIFEST_LIMIT_BYTES)
        return data, Manifest.parse(data)

    def tag(self, reference: Reference, manifest_bytes: bytes, *, local: bool = False) -> ImageRecord:
        """Give the image of that manifest a name, taken from another image where one has it.

        Its config must be in the store. Only a manifest made here (*local*) or named here before
        may stand on this machine's files: one from outside would have them read. Raises
        ReferenceInvalid for ``host``, NotPortable for such a manifest.
        """
        if is_host(reference):
            raise ReferenceInvalid(
                "no image can be named host", seen="it is the machine itself", mend="choose another name"
            )
        manifest = Manifest.parse(manifest_bytes)
        manifest.check_image()
        digest = Digest.of(manifest_bytes)
        if manifest.base and not local and all(entry.digest != digest for entry in self._index().manifests):
            raise NotPortable(
                f"{reference.familiar} says it stands on this machine's own files",
                seen="it was not made on this machine",
                mend="do not use this image, or build it here",
            )
        record = self._record(reference, digest, manifest)
        self.blobs.add(manifest_bytes)
        self._touch(digest)
        entry = Descriptor(
            media_type=manifest.media_type,
            digest=digest,
            size=len(manifest_bytes),
            annotations={REF_NAME: str(reference)},
        )
        with locked(self._lock()):
            self._rewrite(reference, entry)
        return record

    def remove(self, reference: Reference) -> None:
        """Forget a name; blobs and layers stay for the images that share them. Raises ImageNotFound."""
        with locked(self._lock()):
            if self._named(reference) is None:
                raise self._not_found(reference)
            self._rewrite(reference, None)

    def entries(self) -> tuple[Descriptor, ...]:
        """Return every named manifest as the index has it; its name is the annotation `REF_NAME`."""
        return tuple(entry for entry in self._index().manifests if entry.annotations.get(REF_NAME))

    def forget(self, entries: Iterable[Descriptor]) -> tuple[str, ...]:
        """Forget names that still mean what *entries* say; return those, sorted."""
        gone = {(entry.annotations[REF_NAME], entry.digest) for entry in entries}
        with locked(self._lock()):
            index = self._index()
            lost = [e for e in index.manifests if (e.annotations.get(REF_NAME), e.digest) in gone]
            kept = tuple(entry for entry in index.manifests if entry not in lost)
            if lost:
                self._write(replace(index, manifests=kept))
        return tuple(sorted(entry.annotations[REF_NAME] for entry in lost))

    def contents(self, digest: Digest) -> frozenset[str]:
        """Return the digests of all that belongs to the image of that manifest, itself included.

        That is config, layers, and the chains they unpack to: as far as what is there tells.
        """
        found = {str(digest)}
        with contextlib.suppress(ImageError):
            manifest = Manifest.parse(self.blobs.read(digest, MANIFEST_LIMIT_BYTES))
            found |= {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
            _, diff_ids = read_config(self.blobs.read(manifest.config.digest, CONFIG_LIMIT_BYTES))
            found |= set(chain_ids(_base_of(manifest), diff_ids))
        return frozenset(found)

    def lease(self, image: ImageRecord | None = None) -> Lease:
        """Return a lease on all of *image*, which counts as used now; raise ImageNotFound if it is gone.

        Without an image it is on whatever this store fetches, makes or unpacks until the lease is
        closed: whoever builds an image holds one until the image has its name. See `leases`.
        """
        if image is None:
            return self.leases.open(gather=True)
        if not image.portable and not image.diff_ids:
            return self.leases.open()
        digest = Digest.parse(image.digest)
        lease = self.leases.open(*self.contents(digest))
        # Between being found and being covered it may have been removed.
        if not self._touch(digest):
            lease.close()
            raise self._not_found(Reference.parse(image.reference))
        return lease

    def unpack(self, manifest: Manifest, diff_ids: Iterable[str]) -> None:
        """Unpack every layer that is not, oldest first."""
        parent = _base_of(manifest)
        for layer, diff_id in zip(manifest.layers, diff_ids, strict=True):
            parent = self.chains.unpack(parent, layer, diff_id)

    def unpack_layer(
        self,
        parent_chain: str | None,
        descriptor: Descriptor,
        diff_id: str,
        *,
        source: Callable[[], BinaryIO] | None = None,
        watch: Watch | None = None,
    ) -> str:
        """Unpack one layer whose blob is here, on a chain that is unpacked; return its ChainID.

        *source* opens the layer instead where its blob is not here yet.
        Raises LayerCorrupt, LayerEscape, LayerTooLarge, DigestMismatch, StoreFull.
        """
        return self.chains.unpack(parent_chain, descriptor, diff_id, source=source, watch=watch)

    def layers(self, image: ImageRecord) -> tuple[Path, ...]:
        """Return the folders of an image's layers, oldest first, unpacked where they were not.

        The first is ``/`` for an image on this machine's own files.
        """
        if not image.portable and not image.diff_ids:
            return (HOST_ROOT,)
        base: str | None = None
        if not image.portable:
            base = _base_of(self._manifest_of(image))
        chains = chain_ids(base, image.diff_ids)
        self.leases.cover(*chains)
        if not all(self.chains.has(chain) for chain in chains):
            self.unpack(self._manifest_of(image), image.diff_ids)
        lowest = () if base is None else (HOST_ROOT,)
        return (*lowest, *(self.chains.path(chain) for chain in chains))

    def _manifest_of(self, image: ImageRecord) -> Manifest:
        return Manifest.parse(self.blobs.read(Digest.parse(image.digest), MANIFEST_LIMIT_BYTES))

    def _record(self, reference: Reference, digest: Digest, manifest: Manifest) -> ImageRecord:
        data = self.blobs.read(manifest.config.digest, CONFIG_LIMIT_BYTES)
        config, diff_ids = read_config(data)
        if len(diff_ids) != len(manifest.layers):
            raise ImageError(
                f"the image {reference.familiar} does not fit together",
                seen=f"{len(manifest.layers)} layers in its manifest, {len(diff_ids)} in its config",
            )
        return ImageRecord(
            reference=str(reference),
            id=manifest.config.digest,
            digest=digest,
            config=config,
            diff_ids=diff_ids,
            portable=not manifest.base,
            size_bytes=manifest.size_bytes,
        )

    def _entry(self, reference: Reference) -> Descriptor | None:
        """Return the entry of that name, or of the digest it asks for."""
        entry = self._named(reference)
        if entry is None and reference.digest is not None:
            entries = self._index().manifests
            return next((entry for entry in entries if entry.digest == reference.digest), None)
        return entry

    def _named(self, reference: Reference) -> Descriptor | None:
        name = str(reference)
        entries = self._index().manifests
        return next((entry for entry in entries if entry.annotations.get(REF_NAME) == name), None)

    def _not_found(self, reference: Reference) -> ImageNotFound:
        return ImageNotFound(
            f"the store has no image {reference.familiar}",
            seen=f"the store is {self.root}",
            mend="pull or build it, or check its name",
        )

    def _index(self) -> Index:
        path = self.root / "index.json"
        try:
            with path.open("rb") as file:
                seen = os.fstat(file.fileno())
                # It is replaced and never written to, so another state is another file.
                mark = (seen.st_ino, seen.st_mtime_ns, seen.st_size)
                last = self._last
                if last is None or last[0] != mark:
                    self._last = last = (mark, Index.parse(file.read()))
                return last[1]
        except FileNotFoundError:
            return Index()
        except ImageError as error:
            raise ImageError(
                f"the list of images {path} cannot be read",
                seen=str(error),
                mend="remove that file; the images are then pulled or built again",
            ) from error

    def _rewrite(self, reference: Reference, entry: Descriptor | None) -> None:
        index = self._index()
        name = str(reference)
        kept = [other for other in index.manifests if other.annotations.get(REF_NAME) != name]
        self._write(replace(index, manifests=(*kept, entry) if entry is not None else tuple(kept)))

    def _write(self, index: Index) -> None:
        with room(self.root):
            write_atomic(self.root / "index.json", index.encode())

    def _touch(self, digest: Digest) -> bool:
        """Note in the manifest's own time that the image is used; tell whether it is there."""
        try:
            os.utime(self.blobs.path(digest))
        except FileNotFoundError:
            return False
        return True

    def _lock(self) -> Path:
        folder = self.root / "locks"
        folder.mkdir(exist_ok=True)
        return folder / "index.lock"


def _base_of(manifest: Manifest) -> str | None:
    """Return the chain an image's first layer lies on: None, or this machine in a certain state."""
    if not manifest.base:
        return None
    if manifest.base != HOST:
        raise ImageError(
            "the image stands on a base this version does not know",
            seen=manifest.base,
            mend="update pytest-containers",
        )
    return host_chain(manifest.annotations.get(BASE_KEY_ANNOTATION, ""))


def _is_stale(manifest: Manifest) -> bool:
    return manifest.base == HOST and _base_of(manifest) != host_chain(host_key())
