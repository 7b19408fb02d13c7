"""Make an image of another one and the changes a container made to it (docker commit)."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import BinaryIO, Final

from pytest_containers.errors import DigestMismatch, LayerCorrupt
from pytest_containers.images import deflate
from pytest_containers.images.blobs import NewBlob
from pytest_containers.images.chains import HOST, chain_ids, host_chain
from pytest_containers.images.decompress import PIECE_BYTES, ahead
from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import (
    BASE_ANNOTATION,
    BASE_KEY_ANNOTATION,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    MANIFEST_LIMIT_BYTES,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    Descriptor,
    History,
    Manifest,
    read_history,
    write_config,
)
from pytest_containers.images.platform import Platform
from pytest_containers.images.progress import Meter
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import CONFIG_LIMIT_BYTES, Store
from pytest_containers.progress import Watch
from pytest_containers.spec import BuiltFrom, ImageConfig, ImageRecord

__all__ = ["add_layer", "commit", "in_oci_terms", "laid_over", "now", "pack_layer", "write_image"]

# Two blocks of zeros end a tar archive (pax(1), "ustar Interchange Format").
_END: Final = bytes(1024)
_KEPT: Final = (BASE_ANNOTATION, BASE_KEY_ANNOTATION)
_OCI_TYPES: Final[Mapping[str, str]] = {DOCKER_LAYER: OCI_LAYER, DOCKER_LAYER_GZIP: OCI_LAYER_GZIP}


def commit(
    store: Store,
    parent: ImageRecord,
    layer: BinaryIO,
    reference: Reference,
    config: ImageConfig,
    *,
    watch: Watch | None = None,
) -> ImageRecord:
    """Make an image of *parent* and one layer more, named *reference*.

    *layer* is the plain tar of the changes with removed files as ``.wh.`` entries (image-spec,
    layer.md). What *config* leaves empty is the parent's; environment, labels, ports and volumes
    are added to the parent's. Raises LayerCorrupt for a tar without its end, and what unpacking
    raises; nothing is named then.
    """
    with store.lease(parent), store.lease():
        return _commit(store, parent, layer, reference, config, watch)


def _commit(
    store: Store,
    parent: ImageRecord,
    layer: BinaryIO,
    reference: Reference,
    config: ImageConfig,
    watch: Watch | None,
) -> ImageRecord:
    layers: tuple[Descriptor, ...] = ()
    history: tuple[History, ...] = ()
    annotations: dict[str, str] = {}
    base = None
    if not parent.portable:
        annotations = {BASE_ANNOTATION: HOST, BASE_KEY_ANNOTATION: parent.digest}
    if parent.portable or parent.diff_ids:
        manifest = Manifest.parse(store.blobs.read(Digest.parse(parent.digest), MANIFEST_LIMIT_BYTES))
        layers = tuple(in_oci_terms(descriptor) for descriptor in manifest.layers)
        history = read_history(store.blobs.read(manifest.config.digest, CONFIG_LIMIT_BYTES))
        annotations = {name: text for name, text in manifest.annotations.items() if name in _KEPT}
    if annotations:
        base = host_chain(annotations[BASE_KEY_ANNOTATION])
    store.layers(parent)
    below = (base, *chain_ids(base, parent.diff_ids))[-1]
    with Meter(watch, reference.familiar, "commit") as meter:
        chunks = meter.counted(iter(lambda: layer.read(PIECE_BYTES), b""))
        added, diff_id = add_layer(store, below, chunks)
    return write_image(
        store,
        reference,
        layers=(*layers, added),
        diff_ids=(*parent.diff_ids, diff_id),
        config=laid_over(parent.config, config),
        history=(*history, History(created=now(), created_by="pytest-containers commit")),
        annotations=annotations,
    )


def add_layer(
    store: Store, below: str | None, chunks: Iterator[bytes], *, plain_gzip: bool = False
) -> tuple[Descriptor, str]:
    """Keep a plain layer tar as a gzip blob, unpack it on the chain *below*; return it and its DiffID.

    Both in one go: *chunks* are hashed and packed in one thread while their files are written in
    another. *plain_gzip* packs as the standard library does, so that the same bytes come of it on
    every machine. Raises LayerCorrupt where the end of the tar is missing: the writer died. Nothing is
    left of a layer that does not unpack.
    """
    with store.blobs.create() as blob, store.chains.create(below) as unpacked:
        packing = _Packing(blob, deflate.deflater(plain=plain_gzip))
        with contextlib.closing(ahead(chunks, packing.add)) as read:
            unpacked.unpack(read)
        packing.check_end()
        descriptor = packing.finish()
        try:
            unpacked.commit(packing.diff_id)
        except BaseException:
            if blob.fresh:
                store.blobs.remove(descriptor.digest)
            raise
    return descriptor, packing.diff_id


def pack_layer(store: Store, chunks: Iterator[bytes], *, expected: str) -> Descriptor:
    """Keep a plain layer tar as a gzip blob; return it.

    Raises DigestMismatch where the DiffID is not the *expected* one. Nothing is kept then.
    """
    with store.blobs.create() as blob:
        packing = _Packing(blob, deflate.deflater())
        with contextlib.closing(ahead(chunks, packing.hash)) as read:
            for chunk in read:
                packing.pack(chunk)
        if packing.diff_id != expected:
            raise DigestMismatch(
                f"the layer {expected} is another one than its image says",
                seen=f"its bytes are those of {packing.diff_id}",
                mend="fetch or make the archive again",
            )
        return packing.finish()


class _Packing:
    """A plain layer on its way into *blob*."""

    def __init__(self, blob: NewBlob, deflater: deflate.Deflater) -> None:
        self._blob = blob
        self._plain = hashlib.sha256()
        self._tail = b""
        self._deflater = deflater

    @property
    def diff_id(self) -> str:
        """The DiffID of what came so far."""
        return Digest.taken(self._plain)

    def add(self, chunk: bytes) -> None:
        """Hash and pack."""
        self.hash(chunk)
        self.pack(chunk)

    def hash(self, chunk: bytes) -> None:
        """Add *chunk* to the DiffID."""
        self._plain.update(chunk)
        self._tail = chunk[-len(_END) :] if len(chunk) >= len(_END) else (self._tail + chunk)[-len(_END) :]

    def pack(self, chunk: bytes) -> None:
        """Add *chunk* to the blob."""
        if packed := self._deflater.compress(chunk):
            self._blob.write(packed)

    def check_end(self) -> None:
        """Raise LayerCorrupt where the end of the tar is missing."""
        if self._tail != _END:
            raise LayerCorrupt(
                "the layer has no end: it is cut off, or no tar",
                seen="no blocks of zeros, which end every tar",
                mend="name the tar of a root file system, and write it whole",
            )

    def finish(self) -> Descriptor:
        """Put the blob in its place."""
        self._blob.write(self._deflater.flush())
        digest, size = self._blob.commit()
        return Descriptor(media_type=OCI_LAYER_GZIP, digest=digest, size=size)


def write_image(
    store: Store,
    reference: Reference,
    *,
    layers: tuple[Descriptor, ...],
    diff_ids: tuple[str, ...],
    config: ImageConfig,
    history: tuple[History, ...],
    annotations: Mapping[str, str],
    built_from: BuiltFrom | None = None,
) -> ImageRecord:
    """Write config and manifest of an image whose layers are in the store, and name it."""
    if not config.architecture:
        host = Platform.host()
        config = replace(config, architecture=host.architecture, variant=host.variant)
    created = history[-1].created if history else now()
    data = write_config(config, diff_ids, history, created)
    described = Descriptor(media_type=OCI_CONFIG, digest=store.blobs.add(data), size=len(data))
    manifest = Manifest(config=described, layers=layers, annotations=annotations)
    return store.tag(reference, manifest.encode(), local=True, built_from=built_from)


def laid_over(below: ImageConfig, above: ImageConfig) -> ImageConfig:
    """Return *below* with everything *above* says: single values replaced, collections joined."""
    env = {item.partition("=")[0]: item for item in (*below.env, *above.env)}
    return ImageConfig(
        entrypoint=above.entrypoint or below.entrypoint,
        command=above.command or below.command,
        env=tuple(env.values()),
        user=above.user or below.user,
        workdir=above.workdir or below.workdir,
        ports=tuple(dict.fromkeys((*below.ports, *above.ports))),
        volumes=tuple(dict.fromkeys((*below.volumes, *above.volumes))),
        labels={**below.labels, **above.labels},
        stop_signal=above.stop_signal or below.stop_signal,
        shell=above.shell or below.shell,
        onbuild=above.onbuild or below.onbuild,
        healthcheck=above.healthcheck or below.healthcheck,
        architecture=above.architecture or below.architecture,
        os=below.os,
        variant=above.variant if above.architecture else below.variant,
        os_version=below.os_version,
        author=above.author or below.author,
    )


def in_oci_terms(descriptor: Descriptor) -> Descriptor:
    """Return a layer as an OCI manifest may list it; the blob is the same in Docker's terms."""
    return replace(descriptor, media_type=_OCI_TYPES.get(descriptor.media_type, descriptor.media_type))


def now() -> str:
    """Return the time as a config writes it (RFC 3339, in seconds)."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
