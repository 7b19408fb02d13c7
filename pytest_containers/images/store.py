"""The image store of a machine: an OCI image layout, and beside it the layers unpacked.

The folder can be copied, cached and carried: nothing in it names its own place. Names are entries
of ``index.json`` with the canonical reference as ``org.opencontainers.image.ref.name``
(image-spec, annotations.md); a name has one entry for each platform. Blobs and unpacked layers are
found by what they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
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
from pytest_containers.images.platform import Platform, choose, platform_of
from pytest_containers.images.reference import Reference
from pytest_containers.progress import Watch
from pytest_containers.spec import BuiltFrom, ImageRecord

__all__ = ["CONFIG_LIMIT_BYTES", "REF_NAME", "Store"]

REF_NAME: Final = "org.opencontainers.image.ref.name"
# A config carries labels and history; the largest ones in use are some hundred kilobytes.
CONFIG_LIMIT_BYTES: Final = 8 << 20
# Folders that hold unpacked layers, or are about to.
_PRIVATE: Final = ("chains", "ingest", "trash")
# An annotation of a name's entry in index.json (image-spec, annotations.md, "Rules").
_BUILT_FROM: Final = "io.github.pytest-containers.built-from"
_STALE: Final = "it was made on the machine's own files, and other packages are installed now"
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
                for name in _PRIVATE:
                    if (folder := root / name).is_dir():
                        folder.chmod(0o700)  # a cache that a CI restored has other modes
                if not (root / "oci-layout").exists():
                    write_atomic(root / "oci-layout", _LAYOUT)
        except OSError as error:
            raise HostError(
                f"cannot keep images in {root}",
                seen=str(error),
                mend="name a folder you may write with --containers-store (PYTEST_CONTAINERS_STORE)",
            ) from error
        return cls(root, layer_limit_bytes)

    def find(
        self, reference: Reference, platform: Platform | None = None, *, stale: bool = False
    ) -> ImageRecord | None:
        """Return the image of that name for *platform*, this machine's where it is None, else None.

        An image that lost blobs is none, so that a pull mends it. Neither is one that was built
        on this machine's files when other packages were installed, unless *stale* asks for these too.
        """
        if is_host(reference):
            return host_record()
        # Nothing goes away between two looks; later only a lease holds it.
        platform = platform or Platform.host()
        with self.leases.gate():
            record = self._find(reference, self._entry(reference, platform), stale=stale)
        fits = record is None or not record.config.architecture or platform.runs(platform_of(record.config))
        return record if fits else None

    def _find(
        self, reference: Reference, entry: Descriptor | None, *, stale: bool = False
    ) -> ImageRecord | None:
        """Return the image of an entry where nothing of it is missing, and which may be *stale*."""
        if entry is None or not self.blobs.has(entry.digest):
            return None
        manifest = Manifest.parse(self.blobs.read(entry.digest, MANIFEST_LIMIT_BYTES))
        if not self.blobs.has(manifest.config.digest) or (_is_stale(manifest) and not stale):
            return None
        record = replace(
            self._record(reference, entry.digest, manifest),
            built_from=_built_from(entry),
            stale=_STALE if _is_stale(manifest) else "",
        )
        chains = chain_ids(_base_of(manifest), record.diff_ids)
        present = (
            self.chains.has(chain) or self.blobs.has(layer.digest)
            for chain, layer in zip(chains, manifest.layers, strict=True)
        )
        return record if all(present) else None

    def record(self, reference: Reference, manifest_bytes: bytes) -> ImageRecord | None:
        """Return the image of a manifest that *reference* has, of any platform; None if it is not whole."""
        digest = Digest.of(manifest_bytes)
        with self.leases.gate():
            entries = self._candidates(reference)
            return self._find(reference, next((e for e in entries if e.digest == digest), None), stale=True)

    def list(self) -> tuple[ImageRecord, ...]:
        """Return every named image that is whole, of every platform, sorted by reference; stale ones too.

        ``host`` is not listed.
        """
        found: list[ImageRecord] = []
        for entry in sorted(self.entries(), key=lambda one: (one.annotations[REF_NAME], str(one.platform))):
            # One damaged image does not hide the others; asking for it by name says what is wrong.
            with contextlib.suppress(ImageError), self.leases.gate():
                record = self._find(Reference.parse(entry.annotations[REF_NAME]), entry, stale=True)
                found += [record] if record else []
        return tuple(found)

    def manifest(self, reference: Reference, platform: Platform | None = None) -> tuple[bytes, Manifest]:
        """Return an image's manifest, the exact bytes and read; raise ImageNotFound.

        Without *platform* it is this machine's, or the last one named where there is none for this
        machine. Raises NotPortable for ``host``, which is no stored image.
        """
        if is_host(reference):
            raise NotPortable(
                "the image host is this machine's own files and has no manifest",
                mend="use it as the base of an image, or import a root file system's tar",
            )
        entry = self._entry(reference, platform or Platform.host())
        if entry is None and platform is None:
            entry = next(reversed(self._candidates(reference)), None)
        if entry is None:
            raise self._not_found(reference, platform)
        data = self.blobs.read(entry.digest, MANIFEST_LIMIT_BYTES)
        return data, Manifest.parse(data)

    def tag(
        self,
        reference: Reference,
        manifest_bytes: bytes,
        *,
        local: bool = False,
        built_from: BuiltFrom | None = None,
    ) -> ImageRecord:
        """Give the image of that manifest a name, taken from the image of the same platform that has it.

        Its config must be in the store. Only a manifest made here (*local*) or named here before
        may stand on this machine's files: one from outside would have them read. *built_from* is kept
        beside the name and not in the image, which is the same wherever it is built. Raises
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
        record = replace(self._record(reference, digest, manifest), built_from=built_from)
        self.blobs.add(manifest_bytes)
        self._touch(digest)
        entry = Descriptor(
            media_type=manifest.media_type,
            digest=digest,
            size=len(manifest_bytes),
            annotations={
                REF_NAME: str(reference),
                **({} if built_from is None else {_BUILT_FROM: json.dumps(asdict(built_from))}),
            },
            platform=platform_of(record.config) if record.config.architecture else None,
        )
        with locked(self._lock()):
            index = self._index()
            kept = (other for other in index.manifests if not _replaces(entry, other))
            self._write(replace(index, manifests=(*kept, entry)))
        return record

    def remove(self, reference: Reference) -> None:
        """Forget a name; blobs and layers stay for the images that share them. Raises ImageNotFound."""
        with locked(self._lock()):
            index = self._index()
            kept = tuple(e for e in index.manifests if e.annotations.get(REF_NAME) != str(reference))
            if len(kept) == len(index.manifests):
                raise self._not_found(reference)
            self._write(replace(index, manifests=kept))

    def named(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return the manifests of a name, one for each platform that is here; raise ImageNotFound."""
        found = self._candidates(reference)
        if not found:
            raise self._not_found(reference)
        return found

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
        cancel: threading.Event | None = None,
    ) -> str:
        """Unpack one layer whose blob is here, on a chain that is unpacked; return its ChainID.

        *source* opens the layer instead where its blob is not here yet, *cancel* ends a wait for another
        process.
        Raises LayerCorrupt, LayerEscape, LayerTooLarge, DigestMismatch, StoreFull.
        """
        return self.chains.unpack(
            parent_chain, descriptor, diff_id, source=source, watch=watch, cancel=cancel
        )

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

    def _entry(self, reference: Reference, platform: Platform) -> Descriptor | None:
        """Return the entry of that name, or of the digest it asks for, that suits *platform* best."""
        entries = self._candidates(reference)
        at = choose(platform, [entry.platform for entry in entries])
        return None if at is None else entries[at]

    def _candidates(self, reference: Reference) -> tuple[Descriptor, ...]:
        entries = self._index().manifests
        found = tuple(entry for entry in entries if entry.annotations.get(REF_NAME) == str(reference))
        if not found and reference.digest is not None:
            return tuple(entry for entry in entries if entry.digest == reference.digest)
        return found

    def _not_found(self, reference: Reference, platform: Platform | None = None) -> ImageNotFound:
        has = ", ".join(str(entry.platform) for entry in self._candidates(reference) if entry.platform)
        return ImageNotFound(
            f"the store has no image {reference.familiar}" + (f" for {platform}" if platform else ""),
            seen=f"the store is {self.root}" + (f"; it has the image for {has}" if has else ""),
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


def _built_from(entry: Descriptor) -> BuiltFrom | None:
    """Return what a name was built from, where the index says so in a form of this version."""
    try:
        return BuiltFrom(**json.loads(entry.annotations.get(_BUILT_FROM, "")))
    except (ValueError, TypeError):
        return None


def _replaces(new: Descriptor, old: Descriptor) -> bool:
    """Return whether *new* takes the name from *old*: the name is the same, and so is the platform."""
    if new.annotations.get(REF_NAME) != old.annotations.get(REF_NAME):
        return False
    return new.platform is None or old.platform is None or new.platform.distance(old.platform) == 0


def _is_stale(manifest: Manifest) -> bool:
    return manifest.base == HOST and _base_of(manifest) != host_chain(host_key())
