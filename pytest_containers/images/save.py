"""Save: images of the store as an archive that docker, podman, skopeo and containerd read.

Both formats are an OCI image layout (image-spec, image-layout.md) with manifests and blobs byte for
byte as in the store. The docker format has a ``manifest.json`` besides, which names the same files
as Docker's own archives do (moby, image/spec/spec.md, "Combined Image JSON + Filesystem Changeset
Format"): layers may be compressed there since Docker 1.10. The same images give the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final, Literal

from pytest_containers._files import remove_tree
from pytest_containers.errors import ImageError, NotPortable, StoreFull
from pytest_containers.images.blobs import Blobs
from pytest_containers.images.digest import Digest
from pytest_containers.images.document import encode_list
from pytest_containers.images.layout import CONTAINERD_NAME, place
from pytest_containers.images.manifest import Descriptor, Index, Manifest
from pytest_containers.images.progress import Meter
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import REF_NAME, Store
from pytest_containers.progress import Watch

__all__ = ["Format", "save"]

Format = Literal["docker", "oci", "oci-dir"]
_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'
_COPY_BYTES: Final = 1 << 20
# Puts one file, given its name, size, and what yields its bytes.
_Put = Callable[[str, int, Iterator[bytes]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """One image under all of its names."""

    data: bytes
    manifest: Manifest
    references: tuple[Reference, ...]

    @property
    def own(self) -> Descriptor:
        """The descriptor of the manifest itself."""
        return Descriptor(
            media_type=self.manifest.media_type, digest=Digest.of(self.data), size=len(self.data)
        )


def save(
    store: Store,
    references: Iterable[Reference],
    out: BinaryIO | Path,
    *,
    format: Format = "docker",  # noqa: A002  # as every tool of archives calls it
    watch: Watch | None = None,
) -> None:
    """Write images, each under the names it is asked for by, to *out*.

    ``docker`` and ``oci`` are tars, to a stream or to a file that appears whole or not at all;
    ``oci-dir`` is a folder, which must be missing or empty. Raises ImageNotFound, NotPortable for
    an image on this machine's own files, DigestMismatch where the disk lost a blob, StoreFull.
    """
    with store.lease() as lease:
        images = _chosen(store, references)
        for image in images:
            lease.cover(*store.contents(image.own.digest))
        if format == "oci-dir":
            if not isinstance(out, Path):
                raise ImageError("an OCI layout in a folder cannot be written to a stream")
            _write_folder(store, images, out, watch)
        elif isinstance(out, Path):
            with _appearing(out) as file:
                _write_tar(store, images, file, watch, docker=format == "docker")
        else:
            _write_tar(store, images, out, watch, docker=format == "docker")


def _chosen(store: Store, references: Iterable[Reference]) -> tuple[_Saved, ...]:
    names: dict[bytes, list[Reference]] = {}
    for reference in references:
        data, manifest = store.manifest(reference)
        if manifest.base:
            raise NotPortable(
                f"{reference.familiar} cannot be saved",
                seen=f"its layers stand on the base {manifest.base!r}, which is this machine's own files",
                mend="build it on an image of a registry, or import a root file system and build on that",
            )
        known = names.setdefault(data, [])
        known += [] if reference in known else [reference]
    if not names:
        raise ImageError("no image was named to be saved")
    return tuple(
        _Saved(data=data, manifest=Manifest.parse(data), references=tuple(found))
        for data, found in names.items()
    )


def _write_all(
    store: Store, images: tuple[_Saved, ...], put: _Put, watch: Watch | None, *, docker: bool
) -> None:
    """Put every file of the archive, small ones first, so that a stream's reader knows what comes."""
    small = {"oci-layout": _LAYOUT, "index.json": _index(images)}
    if docker:
        small["manifest.json"] = _docker_index(images)
    for name, data in small.items():
        put(name, len(data), iter((data,)))
    written: set[Digest] = set()
    for image in images:
        for blob in (image.own, image.manifest.config, *image.manifest.layers):
            if blob.digest not in written:
                written.add(blob.digest)
                with Meter(watch, blob.digest, "save", blob.size) as meter:
                    chunks = _verified(store.blobs, blob, meter)
                    put(place(blob.digest), blob.size, chunks)


def _index(images: tuple[_Saved, ...]) -> bytes:
    entries = [
        replace(image.own, annotations={CONTAINERD_NAME: str(reference), REF_NAME: str(reference)})
        for image in images
        for reference in image.references
    ]
    return Index(manifests=tuple(entries)).encode()


def _docker_index(images: tuple[_Saved, ...]) -> bytes:
    return encode_list(
        {
            "Config": place(image.manifest.config.digest),
            "RepoTags": [r.familiar for r in image.references if r.tag and not r.digest],
            "Layers": [place(layer.digest) for layer in image.manifest.layers],
        }
        for image in images
    )


def _verified(blobs: Blobs, blob: Descriptor, meter: Meter) -> Iterator[bytes]:
    """Yield a blob's bytes; raise DigestMismatch behind the last where they are not the blob's."""
    hasher = blob.digest.hasher()
    size = 0
    with blobs.open(blob.digest) as file:
        while chunk := file.read(_COPY_BYTES):
            hasher.update(chunk)
            size += len(chunk)
            yield chunk
            meter.at(size)
    if size != blob.size or hasher.hexdigest() != blob.digest.hex:
        blobs.verify(blob.digest)
        raise ImageError(
            f"blob {blob.digest} is not of the size its manifest says", seen=f"{size} bytes, not {blob.size}"
        )


def _write_tar(
    store: Store, images: tuple[_Saved, ...], out: BinaryIO, watch: Watch | None, *, docker: bool
) -> None:
    import tarfile

    def begin(name: str, size: int, *, folder: bool = False) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.mode = (tarfile.DIRTYPE, 0o755) if folder else (tarfile.REGTYPE, 0o644)
        member.size = size
        # GNU's format writes sizes past 8 GiB as base-256 numbers, which every reader takes.
        out.write(member.tobuf(tarfile.GNU_FORMAT))

    def put(name: str, size: int, chunks: Iterator[bytes]) -> None:
        begin(name, size)
        out.writelines(chunks)
        out.write(bytes(-size % tarfile.BLOCKSIZE))

    for folder in _folders(images):
        begin(folder, 0, folder=True)
    _write_all(store, images, put, watch, docker=docker)
    # Two blocks of zeros are the end (pax(1), "ustar Interchange Format").
    out.write(bytes(2 * tarfile.BLOCKSIZE))


def _folders(images: tuple[_Saved, ...]) -> tuple[str, ...]:
    """Return the folders of the layout, outer ones first."""
    blobs = (
        blob.digest for image in images for blob in (image.own, image.manifest.config, *image.manifest.layers)
    )
    return ("blobs", *sorted({f"blobs/{digest.algorithm}" for digest in blobs}))


def _write_folder(store: Store, images: tuple[_Saved, ...], out: Path, watch: Watch | None) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise ImageError(f"the folder {out} is not empty", mend="name a new one, or empty it")
    with _writing(out):
        outer = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            work = outer / "layout"
            work.mkdir()
            for folder in _folders(images):
                (work / folder).mkdir()

            def put(name: str, _: int, chunks: Iterator[bytes]) -> None:
                with (work / name).open("wb") as file:
                    file.writelines(chunks)

            _write_all(store, images, put, watch, docker=False)
            # An empty folder in its place gives way (rename(2)).
            os.rename(work, out)
        finally:
            remove_tree(outer)


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that is renamed to *path* when the block ends without an error."""
    with _writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else ImageError
        raise kind(f"the archive {path} cannot be written", seen=str(error)) from error
