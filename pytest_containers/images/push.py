"""Push an image of the store to the registry its name says.

distribution-spec, "Pushing": every blob is asked for by HEAD, mounted from another repository of
the same registry where one is known to hold it, else uploaded; then the manifest, byte for byte as
it is in the store, gives the image its name. Where the store has the name for several platforms,
their manifests go by digest, and an index of them gets the name.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pytest_containers.errors import ImageError, NotPortable, RegistryError
from pytest_containers.images.credentials import Keychain
from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import MANIFEST_LIMIT_BYTES, Descriptor, Index, Manifest
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference
from pytest_containers.images.registry import Registry
from pytest_containers.images.store import REF_NAME, Store
from pytest_containers.images.transport import Settings, Transport
from pytest_containers.images.upload import Upload
from pytest_containers.progress import Watch

__all__ = ["push"]


def push(
    store: Store,
    reference: Reference,
    *,
    platform: Platform | None = None,
    settings: Settings | None = None,
    keychain: Keychain | None = None,
    watch: Watch | None = None,
) -> Digest:
    """Send an image to its registry; return the digest by which anybody can pull it.

    That is the manifest's, or the index's where the name has several platforms and *platform* does
    not choose one. Blobs that the registry has are not sent again; foreign layers never are. Raises
    ImageNotFound for an image that is not in the store, NotPortable for one that stands on this
    machine's own files, Unauthorized, RegistryError.
    """
    settings = settings or Settings()
    keychain = keychain or Keychain(environ=settings.environ)
    with store.lease() as lease, Transport(settings) as transport:
        images = _chosen(store, reference, platform)
        for image in images:
            _check_portable(reference, image.manifest)
        if settings.offline:
            raise RegistryError(f"{reference} cannot be pushed", seen="offline: no registry is asked")
        for image in images:
            lease.cover(*store.contents(image.descriptor.digest))
        registry = Registry(reference.registry, transport=transport, keychain=keychain)
        upload = Upload(
            registry=registry,
            repository=reference.repository,
            blobs=store.blobs,
            transport=transport,
            sources=_Sources(store, reference).of,
            watch=watch,
        )
        blobs = (blob for image in images for blob in (*image.manifest.layers, image.manifest.config))
        _send(upload, tuple(blobs), transport)
        return _name(registry, reference, images)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """One image to send: its manifest, the exact bytes and read, and as an index lists it."""

    data: bytes
    manifest: Manifest
    descriptor: Descriptor


def _chosen(store: Store, reference: Reference, platform: Platform | None) -> tuple[_Image, ...]:
    data, _ = store.manifest(reference, platform)
    entries = store.named(reference)
    if platform is not None:
        entries = tuple(entry for entry in entries if entry.digest == Digest.of(data))
    found: list[_Image] = []
    for entry in entries:
        data = store.blobs.read(entry.digest, MANIFEST_LIMIT_BYTES)
        # The name is the store's own annotation.
        listed = replace(entry, annotations={})
        found.append(_Image(data=data, manifest=Manifest.parse(data), descriptor=listed))
    return tuple(found)


def _name(registry: Registry, reference: Reference, images: tuple[_Image, ...]) -> Digest:
    """Put the manifests, and what gives the image its name the last of all."""
    if len(images) == 1:
        data, media_type = images[0].data, images[0].manifest.media_type
    else:
        for image in images:
            registry.put_manifest(
                reference.repository, image.descriptor.digest, image.data, image.manifest.media_type
            )
        index = Index(manifests=tuple(image.descriptor for image in images))
        data, media_type = index.encode(), index.media_type
    return registry.put_manifest(reference.repository, _target(reference, data), data, media_type)


def _check_portable(reference: Reference, manifest: Manifest) -> None:
    if manifest.base:
        raise NotPortable(
            f"{reference} cannot be pushed",
            seen=f"its layers stand on the base {manifest.base!r}, which is this machine's own files",
            mend="build it on an image that a registry has, or import a root file system and build on that",
        )


def _target(reference: Reference, data: bytes) -> str:
    digest = Digest.of(data)
    if reference.digest is not None and reference.digest != digest:
        raise ImageError(
            f"{reference} cannot be pushed under this digest",
            seen=f"the store's manifest is {digest}",
            mend="push it by tag",
        )
    return reference.tag or digest


def _send(upload: Upload, descriptors: tuple[Descriptor, ...], transport: Transport) -> None:
    """Upload every blob, several at a time; the first error ends the others."""
    blobs = list({d.digest: d for d in descriptors if not d.foreign}.values())
    with ThreadPoolExecutor(
        max_workers=max(transport.settings.parallel, 1), thread_name_prefix="push"
    ) as threads:
        futures = [threads.submit(upload.blob, descriptor) for descriptor in blobs]
        try:
            for future in futures:
                future.result()
        except BaseException:
            transport.cancel()
            threads.shutdown(wait=False, cancel_futures=True)
            raise


class _Sources:
    """Other repositories of the same registry that hold a blob, as far as the store knows.

    The store may have hundreds of images, and every new blob asks: what they are is read once.
    """

    def __init__(self, store: Store, reference: Reference) -> None:
        self._store = store
        self._reference = reference
        self._lock = threading.Lock()
        self._known: dict[Digest, list[str]] | None = None

    def of(self, digest: Digest) -> list[str]:
        """Return the repositories that hold *digest*; safe between threads."""
        with self._lock:
            if self._known is None:
                self._known = self._read()
        return self._known.get(digest, [])

    def _read(self) -> dict[Digest, list[str]]:
        known: dict[Digest, list[str]] = {}
        for entry in self._store.entries():
            other = Reference.parse(entry.annotations[REF_NAME])
            if other.registry == self._reference.registry and other.repository != self._reference.repository:
                # A manifest that is lost or damaged is the business of whoever uses that image.
                with contextlib.suppress(ImageError):
                    for digest in self._layers(entry.digest):
                        known.setdefault(digest, []).append(other.repository)
        return known

    def _layers(self, digest: Digest) -> Iterator[Digest]:
        manifest = Manifest.parse(self._store.blobs.read(digest, MANIFEST_LIMIT_BYTES))
        if not manifest.base:
            yield from (layer.digest for layer in manifest.layers)
