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

from pytest_containers._files import Waiting
from pytest_containers.errors import (
    DigestMismatch,
    ImageError,
    ImageNotFound,
    LayerCorrupt,
    LayerEscape,
    LayerTooLarge,
)
from pytest_containers.images.credentials import Keychain
from pytest_containers.images.digest import Digest
from pytest_containers.images.lockfile import LockedImage
from pytest_containers.images.manifest import MANIFEST_LIMIT_BYTES, Descriptor, Manifest, read_config
from pytest_containers.images.platform import Platform
from pytest_containers.images.progress import Meter
from pytest_containers.images.reference import Reference
from pytest_containers.images.registry import Registry
from pytest_containers.images.resolve import check_platform, resolve, resolve_pinned
from pytest_containers.images.source import Source
from pytest_containers.images.store import Store
from pytest_containers.images.transport import Settings, Sink, Transport
from pytest_containers.progress import Watch
from pytest_containers.spec import ImageRecord

__all__ = ["pull"]

_CONFIG_LIMIT_BYTES = 8 << 20
# What a registry sends is what its digest says, so fetching it again would bring the same.
_REMADE = "take another tag, or have the image made and pushed again: this is how its registry has it"


def pull(
    store: Store,
    reference: Reference,
    *,
    platform: Platform | None = None,
    settings: Settings | None = None,
    keychain: Keychain | None = None,
    pinned: LockedImage | None = None,
    watch: Watch | None = None,
) -> ImageRecord:
    """Fetch an image into the store, unpack it and name it; return its record.

    Blobs that the store has are not fetched again. *platform* is the machine's own where it is
    None, *settings* and *keychain* come from the environment. *pinned* is what a lock file says of
    the name: that image and no other gets it, and no registry is asked where the store has it whole.
    Raises ImageNotFound (unknown image, no such platform, offline), Unauthorized, RegistryError,
    DigestMismatch, LayerCorrupt, LayerEscape, StoreFull; the store then holds no trace of the name.
    """
    settings = settings or Settings()
    platform = platform or Platform.host()
    with store.lease():
        if pinned is not None and (record := _locked(store, reference, pinned, platform)):
            return record
        if settings.offline:
            return _present(store, reference, platform, pinned)
        return _pull(store, reference, platform, settings, keychain, pinned, watch)


def _pull(
    store: Store,
    reference: Reference,
    platform: Platform,
    settings: Settings,
    keychain: Keychain | None,
    pinned: LockedImage | None,
    watch: Watch | None,
) -> ImageRecord:
    keychain = keychain or Keychain(environ=settings.environ)
    with Transport(settings) as transport:
        source = Source(reference, transport=transport, keychain=keychain)
        if pinned is None:
            resolved = resolve(source, reference, platform)
        else:
            resolved = resolve_pinned(source, reference, pinned, platform)
        manifest = resolved.manifest
        with _Downloads(store, source, transport, watch) as downloads:
            downloads.begin((manifest.config, *manifest.layers))
            diff_ids = _read_config(downloads, store, manifest, reference, platform)
            chain: str | None = None
            for layer, diff_id in zip(manifest.layers, diff_ids, strict=True):
                with _told_of(reference):
                    downloads.wait(layer)
                with _told_of(reference, layer):
                    chain = store.unpack_layer(chain, layer, diff_id, watch=watch)
    return store.tag(reference, resolved.data)


@contextlib.contextmanager
def _told_of(reference: Reference, layer: Descriptor | None = None) -> Iterator[None]:
    """Name the image in what is wrong with its bytes, and the *layer*, which its unpacker does not know."""
    try:
        yield
    except (DigestMismatch, LayerCorrupt, LayerEscape, LayerTooLarge) as error:
        blob = f" ({layer.digest})" if layer and layer.digest not in error.what else ""
        mend = error.mend if isinstance(error, DigestMismatch | LayerEscape) else _REMADE
        raise type(error)(f"{reference}: {error.what}{blob}", seen=error.seen, mend=mend) from error


class _Downloads:
    """The blobs of one image on their way, in several threads; the first error ends them all."""

    def __init__(self, store: Store, source: Source, transport: Transport, watch: Watch | None) -> None:
        self._store = store
        self._source = source
        self._transport = transport
        self._watch = watch
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
        with Meter(self._watch, descriptor.digest, "download", descriptor.size) as meter:
            waiting = Waiting(cancel=self._transport.cancelled, tell=meter.waits)
            for last in (False, True):
                with self._store.blobs.receive(descriptor.digest, descriptor.size, waiting=waiting) as writer:
                    if writer.done:
                        return
                    resumed = writer.offset > 0
                    try:
                        self._source.fetch(place, descriptor, _Metered(writer, meter))
                        # The size may have been reached before: by another process, or by the resume.
                        if not writer.done:
                            writer.commit()
                    except DigestMismatch:
                        if last or not resumed:
                            raise
                    else:
                        return


class _Metered:
    """A sink whose growth is told."""

    def __init__(self, sink: Sink, meter: Meter) -> None:
        self._sink = sink
        self._meter = meter

    @property
    def offset(self) -> int:
        """The number of bytes that are there."""
        return self._sink.offset

    def write(self, data: bytes, /) -> None:
        """Add bytes to the end."""
        self._sink.write(data)
        self._meter.at(self._sink.offset)

    def restart(self) -> None:
        """Forget what is there."""
        self._sink.restart()


def _read_config(
    downloads: _Downloads, store: Store, manifest: Manifest, reference: Reference, platform: Platform
) -> tuple[str, ...]:
    """Return the DiffIDs, once the config is here and fits manifest and platform."""
    if manifest.config.size > _CONFIG_LIMIT_BYTES:
        raise ImageError(f"the config of {reference} is too large", seen=f"{manifest.config.size} bytes")
    with _told_of(reference):
        downloads.wait(manifest.config)
    config, diff_ids = read_config(store.blobs.read(manifest.config.digest, _CONFIG_LIMIT_BYTES))
    if len(diff_ids) != len(manifest.layers):
        raise ImageError(
            f"config and manifest of {reference} do not fit together",
            seen=f"{len(diff_ids)} DiffIDs, {len(manifest.layers)} layers",
        )
    check_platform(config, reference, platform)
    return diff_ids


def _locked(
    store: Store, reference: Reference, pinned: LockedImage, platform: Platform
) -> ImageRecord | None:
    """Return the image a lock file names, given its name, where the store has all of it."""
    locked = pinned.manifest(platform)
    if locked is None:
        return None
    contents = store.contents(locked.digest)
    store.leases.cover(*contents)
    if not all(
        store.blobs.has(digest) for digest in (locked.digest, *(blob.digest for blob in locked.blobs))
    ):
        return None
    data = store.blobs.read(locked.digest, MANIFEST_LIMIT_BYTES)
    record = store.tag(reference, data)
    store.layers(record)
    return record


def _present(
    store: Store, reference: Reference, platform: Platform, pinned: LockedImage | None
) -> ImageRecord:
    record = store.find(reference, platform) if pinned is None else None
    if record is None:
        raise ImageNotFound(
            f"{reference} is not in the store",
            seen=f"offline: no registry is asked; the store at {store.root} has no image of this name"
            + (f" as it is locked, {pinned.digest}" if pinned else ""),
            mend="pull it once while online, or carry the store here",
        )
    return record
