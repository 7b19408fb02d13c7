"""Pull: from a name to an image that is ready to start.

The way is that of the distribution specification ("Pulling manifests", "Pulling blobs"): manifest
by tag or digest, index to platform to manifest, then config and layers in parallel, each layer
unpacked while later ones are still on their way. Only a whole, verified image gets its name.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from pytest_containers.errors import (
    DigestMismatch,
    ImageError,
    ImageNotFound,
    LayerCorrupt,
    LayerEscape,
    LayerTooLarge,
    NotPortable,
)
from pytest_containers.images.credentials import Keychain
from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import Descriptor, Index, Manifest, parse, read_config
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference
from pytest_containers.images.registry import Registry
from pytest_containers.images.source import Source
from pytest_containers.images.store import Store
from pytest_containers.images.transport import Settings, Transport
from pytest_containers.spec import ImageRecord

__all__ = ["pull"]

# An index of indexes is allowed (image-index.md) and seen with two levels; more is a trap.
_DEEPEST_INDEX = 4
_CONFIG_LIMIT_BYTES = 8 << 20
# What a registry sends is what its digest says, so fetching it again would bring the same.
_REMADE = "take another tag, or have the image made and pushed again: this is how its registry has it"
_NO_REGISTRY = "check the name: what answers there may not be a registry of images"


def pull(
    store: Store,
    reference: Reference,
    *,
    platform: Platform | None = None,
    settings: Settings | None = None,
    keychain: Keychain | None = None,
) -> ImageRecord:
    """Fetch an image into the store, unpack it and name it; return its record.

    Blobs that the store has are not fetched again. *platform* is the machine's own where it is
    None, *settings* and *keychain* come from the environment. Raises ImageNotFound (unknown
    image, no such platform, offline), Unauthorized, RegistryError, DigestMismatch, LayerCorrupt,
    LayerEscape, StoreFull; the store then holds no trace of the name.
    """
    settings = settings or Settings()
    platform = platform or Platform.host()
    if settings.offline:
        return _present(store, reference)
    keychain = keychain or Keychain(environ=settings.environ)
    with Transport(settings) as transport:
        source = Source(reference, transport=transport, keychain=keychain)
        data, manifest = _resolve(source, reference, platform)
        with _Downloads(store, source, transport) as downloads:
            downloads.begin((manifest.config, *manifest.layers))
            diff_ids = _read_config(downloads, store, manifest, reference, platform)
            chain: str | None = None
            for layer, diff_id in zip(manifest.layers, diff_ids, strict=True):
                with _told_of(reference, layer):
                    downloads.wait(layer)
                    chain = store.unpack_layer(chain, layer, diff_id)
    return store.tag(reference, data)


@contextlib.contextmanager
def _told_of(reference: Reference, blob: Descriptor) -> Iterator[None]:
    """Name image and blob in what is wrong with the bytes: those who unpack them know neither."""
    try:
        yield
    except (DigestMismatch, LayerCorrupt, LayerEscape, LayerTooLarge) as error:
        what = error.what if str(blob.digest) in error.what else f"{error.what} (blob {blob.digest})"
        mend = error.mend if isinstance(error, DigestMismatch | LayerEscape) else _REMADE
        raise type(error)(f"{reference}: {what}", seen=error.seen, mend=mend) from error


class _Downloads:
    """The blobs of one image on their way, in several threads; the first error ends them all."""

    def __init__(self, store: Store, source: Source, transport: Transport) -> None:
        self._store = store
        self._source = source
        self._transport = transport
        self._threads = ThreadPoolExecutor(
            max_workers=max(transport.settings.parallel, 1), thread_name_prefix="pull"
        )
        self._futures: dict[Digest, Future[None]] = {}
        self._lock = threading.Lock()
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._transport.cancel()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def begin(self, descriptors: tuple[Descriptor, ...]) -> None:
        """Start to fetch, in this order; an image may hold the same layer twice."""
        for descriptor in descriptors:
            if descriptor.digest not in self._futures:
                self._futures[descriptor.digest] = self._threads.submit(self._guarded, descriptor)

    def wait(self, descriptor: Descriptor) -> None:
        """Return when the blob is in the store; raise what went wrong first, there or elsewhere."""
        error = self._futures[descriptor.digest].exception()
        if error is not None:
            with self._lock:
                raise self._failed or error

    def _guarded(self, descriptor: Descriptor) -> None:
        try:
            self._source.first(lambda place: self._fetch(place, descriptor))
        except BaseException as error:
            with self._lock:
                self._failed = self._failed or error
            self._transport.cancel()
            raise

    def _fetch(self, place: Registry, descriptor: Descriptor) -> None:
        """Fetch one blob; a mismatch on top of what an earlier pull left gets a second, clean try."""
        for last in (False, True):
            with self._store.blobs.receive(descriptor.digest, descriptor.size) as writer:
                if writer.done:
                    return
                resumed = writer.offset > 0
                try:
                    self._source.fetch(place, descriptor, writer)
                    # The size may have been reached before: by another process, or by the resume.
                    if not writer.done:
                        writer.commit()
                except DigestMismatch:
                    if last or not resumed:
                        raise
                else:
                    return


def _resolve(source: Source, reference: Reference, platform: Platform) -> tuple[bytes, Manifest]:
    """Return the manifest for *platform*: its bytes, and read."""
    data, content_type = source.named(reference)
    for _ in range(_DEEPEST_INDEX):
        document = _read(reference, data, content_type)
        if isinstance(document, Manifest):
            _check_whole(document, reference)
            return data, document
        data, content_type = source.child(_choose(document, reference, platform))
    raise ImageError(f"{reference} is an index of indexes without end", seen=f"{_DEEPEST_INDEX} levels")


def _read(reference: Reference, data: bytes, content_type: str) -> Manifest | Index:
    try:
        document = parse(data, content_type)
        if isinstance(document, Manifest):
            document.check_image()
    except ImageError as error:
        mend = error.mend or _NO_REGISTRY
        raise ImageError(f"{reference}: {error.what}", seen=error.seen, mend=mend) from error
    return document


def _check_whole(manifest: Manifest, reference: Reference) -> None:
    """Raise NotPortable for an image that would have its maker's files replaced by this machine's."""
    if manifest.base:
        raise NotPortable(
            f"{reference} stands on the files of the machine it was made on",
            seen=f"its manifest names the base {manifest.base!r}",
            mend="build it here, or on an image that a registry has",
        )


def _choose(index: Index, reference: Reference, platform: Platform) -> Descriptor:
    entry = index.choose(platform)
    if entry is None:
        offers = {str(e.platform) for e in index.manifests if e.platform and not e.attestation}
        raise ImageNotFound(
            f"{reference} has no image for {platform}",
            seen="it has " + (", ".join(sorted(offers)) or "none for any platform"),
            mend="name another tag, or another platform where this machine can emulate it",
        )
    return entry


def _read_config(
    downloads: _Downloads, store: Store, manifest: Manifest, reference: Reference, platform: Platform
) -> tuple[str, ...]:
    """Return the DiffIDs, once the config is here and fits manifest and platform."""
    if manifest.config.size > _CONFIG_LIMIT_BYTES:
        raise ImageError(f"the config of {reference} is too large", seen=f"{manifest.config.size} bytes")
    with _told_of(reference, manifest.config):
        downloads.wait(manifest.config)
    config, diff_ids = read_config(store.blobs.read(manifest.config.digest, _CONFIG_LIMIT_BYTES))
    if len(diff_ids) != len(manifest.layers):
        raise ImageError(
            f"config and manifest of {reference} do not fit together",
            seen=f"{len(diff_ids)} DiffIDs, {len(manifest.layers)} layers",
        )
    # Old builders left the architecture out; then nobody knows better than the user.
    offer = Platform(os=config.os, architecture=config.architecture, variant=platform.variant)
    if config.architecture and platform.distance(offer) is None:
        raise ImageNotFound(
            f"{reference} has no image for {platform}",
            seen=f"its only image is for {offer.os}/{offer.architecture}",
            mend="name another tag, or the platform where this machine can emulate it",
        )
    return diff_ids


def _present(store: Store, reference: Reference) -> ImageRecord:
    record = store.find(reference)
    if record is None:
        raise ImageNotFound(
            f"{reference} is not in the store",
            seen=f"offline: no registry is asked; the store at {store.root} has no image of this name",
            mend="pull it once while online, or carry the store here",
        )
    return record
