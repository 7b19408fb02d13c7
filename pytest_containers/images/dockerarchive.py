"""Docker's own archive format: what ``docker save`` wrote before 25, and podman, kaniko and bazel do.

A ``manifest.json`` lists images: the member that is the config, the members that are the layers,
oldest first, and names (moby, image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset
Format"). Layers are plain tars there in most, compressed ones in some archives. There is no
manifest with digests in it, so one is made; the config keeps its bytes, which are the image's id.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, Final, Self

from pytest_containers.errors import DigestMismatch, ImageError, LayerTooLarge, ReferenceInvalid
from pytest_containers.images.bundle import MOST_IMAGES, Bundle
from pytest_containers.images.commit import pack_layer
from pytest_containers.images.decompress import compression, pieces
from pytest_containers.images.digest import Digest
from pytest_containers.images.document import Fields
from pytest_containers.images.manifest import (
    MANIFEST_LIMIT_BYTES,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    Descriptor,
    Manifest,
    read_config,
)
from pytest_containers.images.progress import Meter
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import CONFIG_LIMIT_BYTES, Store
from pytest_containers.progress import Watch

__all__ = ["DOCKER_INDEX", "DockerImage", "read_docker"]

DOCKER_INDEX: Final = "manifest.json"
_MAGIC_BYTES: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerImage:
    """One image of an archive: its config, and its layers' members with their DiffIDs, oldest first."""

    names: tuple[Reference, ...]
    config: bytes
    layers: tuple[tuple[str, Digest], ...]

    def renamed(self, reference: Reference) -> DockerImage:
        """Return the same image under one name."""
        return replace(self, names=(reference,))

    def keep(self, store: Store, bundle: Bundle, watch: Watch | None) -> bytes:
        """Put every blob into the store and unpack the layers; return the manifest's bytes.

        An image of the same id that the store has whole is taken as it is.
        """
        digest = Digest.of(self.config)
        if known := _known(store, digest):
            return known
        config = Descriptor(media_type=OCI_CONFIG, digest=store.blobs.add(self.config), size=len(self.config))
        with _Packing(store, bundle, watch) as packing:
            chain: str | None = None
            packed = [packing.begin(member, diff_id) for member, diff_id in self.layers]
            for member, diff_id in self.layers:
                layer = Descriptor(media_type="", digest=diff_id, size=bundle.size(member) or 0)
                source = partial(bundle.open, member)
                chain = store.unpack_layer(chain, layer, diff_id, source=source, watch=watch)
            layers = tuple(future.result() for future in packed)
        return Manifest(config=config, layers=layers).encode()


def read_docker(bundle: Bundle) -> tuple[DockerImage, ...]:
    """Return the images of an archive; raise ImageError, DigestMismatch, ReferenceInvalid."""
    data = bundle.read(DOCKER_INDEX, MANIFEST_LIMIT_BYTES)
    found: dict[Digest, DockerImage] = {}
    entries = Fields.parse_list(data, DOCKER_INDEX)
    if len(entries) > MOST_IMAGES:
        raise LayerTooLarge("the archive names too many images", seen=f"{len(entries)}")
    for fields in entries:
        image = _read_image(bundle, fields)
        digest = Digest.of(image.config)
        before = found[digest].names if digest in found else ()
        found[digest] = replace(image, names=tuple(dict.fromkeys((*before, *image.names))))
    return tuple(found.values())


def _read_image(bundle: Bundle, fields: Fields) -> DockerImage:
    name = _member(fields.text("Config"))
    config = bundle.read(name, CONFIG_LIMIT_BYTES)
    with contextlib.suppress(ReferenceInvalid):
        # Every tool calls it by its digest, in one spelling or another.
        called = name.rpartition("/")[2].removeprefix("sha256:").removesuffix(".json")
        announced = Digest.parse(f"sha256:{called}")
        if not announced.matches(config):
            raise DigestMismatch(
                f"the config {name} in the archive is not what its name says", seen=str(Digest.of(config))
            )
    _, diff_ids = read_config(config)
    members = tuple(_member(text) for text in fields.texts("Layers"))
    if len(diff_ids) != len(members):
        raise ImageError(
            f"config and layers of {name} in the archive do not fit together",
            seen=f"{len(diff_ids)} DiffIDs, {len(members)} layers",
        )
    for member in members:
        bundle.open(member).close()
    names = tuple(Reference.parse(text) for text in fields.texts("RepoTags"))
    layers = tuple(zip(members, map(Digest.parse, diff_ids), strict=True))
    return DockerImage(names=names, config=config, layers=layers)


def _member(text: str) -> str:
    if not text:
        raise ImageError(f"{DOCKER_INDEX} in the archive does not say where config and layers are")
    return text.removeprefix("./")


def _known(store: Store, config: Digest) -> bytes | None:
    """Return the manifest of an image with that config of which nothing is missing."""
    for entry in store.entries():
        contents = store.contents(entry.digest)
        if config not in contents:
            continue
        data = store.blobs.read(entry.digest, MANIFEST_LIMIT_BYTES)
        manifest = Manifest.parse(data)
        blobs = (manifest.config, *manifest.layers)
        if manifest.config.digest == config and not manifest.base:
            store.leases.cover(*contents)
            if all(store.blobs.has(blob.digest) for blob in blobs):
                return data
    return None


class _Packing:
    """The layers of an archive become blobs in a thread, while another unpacks them."""

    def __init__(self, store: Store, bundle: Bundle, watch: Watch | None) -> None:
        self._store = store
        self._bundle = bundle
        self._watch = watch
        self._stopped = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pack")
        self._begun: dict[Digest, Future[Descriptor]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._stopped.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def begin(self, member: str, diff_id: Digest) -> Future[Descriptor]:
        """Pack one layer, verified; the same layer a second time is the same blob."""
        if diff_id not in self._begun:
            self._begun[diff_id] = self._thread.submit(self._pack, member, diff_id)
        return self._begun[diff_id]

    def _pack(self, member: str, diff_id: Digest) -> Descriptor:
        with self._bundle.open(member) as file:
            kind = compression(file.read(_MAGIC_BYTES))
        with (
            self._bundle.open(member) as file,
            Meter(self._watch, diff_id, "load", self._bundle.size(member)) as meter,
        ):
            tap = _Tap(file, meter, self._stopped)
            if kind in {"gzip", "zstd"}:
                return self._copy(tap, diff_id, OCI_LAYER_GZIP if kind == "gzip" else OCI_LAYER_ZSTD)
            return pack_layer(self._store, pieces(tap), expected=diff_id)

    def _copy(self, tap: _Tap, diff_id: Digest, media_type: str) -> Descriptor:
        """Keep a layer as it is compressed, where it unpacks to what the config says."""
        hasher = diff_id.hasher()
        with self._store.blobs.create() as blob:
            tap.see = blob.write
            for piece in pieces(tap):
                hasher.update(piece)
            if hasher.hexdigest() != diff_id.hex:
                raise DigestMismatch(
                    f"the layer {diff_id} is another one than its image says",
                    seen=f"its bytes are those of {hasher.hexdigest()}",
                    mend="fetch or make the archive again",
                )
            digest, size = blob.commit()
        return Descriptor(media_type=media_type, digest=digest, size=size)


class _Tap:
    """A file whose bytes are counted as they are read, and shown to `see`."""

    def __init__(self, file: BinaryIO, meter: Meter, stopped: threading.Event) -> None:
        self._file = file
        self._meter = meter
        self._stopped = stopped
        self.see: Callable[[bytes], object] = len

    def read(self, size: int, /) -> bytes:
        if self._stopped.is_set():
            raise ImageError("the rest of the archive was not read")
        data = self._file.read(size)
        self.see(data)
        self._meter.add(len(data))
        return data
