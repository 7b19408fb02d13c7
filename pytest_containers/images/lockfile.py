"""``containers.lock``: which image every name means, to the byte, for all who share the file.

The file belongs under version control: it is TOML (read by ``tomllib``), one value a line and
sorted, so that a change of one image is a change of its lines. The hash of the file is a key for a
cache of the store, since the same file means the same blobs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_containers._files import write_atomic
from pytest_containers.errors import ContainersError, ImageError
from pytest_containers.images.digest import Digest
from pytest_containers.images.document import Fields
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference

__all__ = ["LOCK_NAME", "LockFile", "LockedBlob", "LockedImage", "LockedManifest"]

LOCK_NAME: Final = "containers.lock"
_VERSION: Final = 1
_HEAD: Final = "# Made by `pytest-containers lock`; keep it under version control and do not edit it.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedBlob:
    """A config or a layer: what a pull moves."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedManifest:
    """The image for one platform; *blobs* begin with the config, then layers, oldest first."""

    platform: Platform
    digest: Digest
    size: int
    blobs: tuple[LockedBlob, ...] = ()

    @property
    def size_bytes(self) -> int:
        """What a pull of everything moves."""
        return self.size + sum(blob.size for blob in {blob.digest: blob for blob in self.blobs}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedImage:
    """A name and what it means; *digest* is what the registry has under it, index or manifest."""

    reference: Reference
    digest: Digest
    manifests: tuple[LockedManifest, ...] = ()

    def manifest(self, platform: Platform) -> LockedManifest | None:
        """Return what runs on *platform*, as `Platform.distance` judges; None where nothing is locked."""
        ranked = [(platform.distance(each.platform), at) for at, each in enumerate(self.manifests)]
        suiting = [(distance, at) for distance, at in ranked if distance is not None]
        return self.manifests[min(suiting)[1]] if suiting else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LockFile:
    """Images by name, each once, sorted."""

    images: tuple[LockedImage, ...] = ()

    def find(self, reference: Reference) -> LockedImage | None:
        """Return what *reference* is locked to."""
        return next((image for image in self.images if image.reference == reference), None)

    def updated(self, images: Iterable[LockedImage]) -> LockFile:
        """Return this file with *images* in it, in place of what their names meant before."""
        known = {str(image.reference): image for image in (*self.images, *images)}
        return LockFile(images=tuple(known[name] for name in sorted(known)))

    @property
    def digests(self) -> tuple[Digest, ...]:
        """The manifests of every platform: what a prune keeps."""
        return tuple(manifest.digest for image in self.images for manifest in image.manifests)

    @classmethod
    def read(cls, path: Path) -> LockFile:
        """Read a lock file; raise ImageError where it is missing or none."""
        try:
            return cls.parse(path.read_bytes(), str(path))
        except OSError as error:
            raise ImageError(
                f"the lock file {path} cannot be read",
                seen=error.strerror or str(error),
                mend="make it with `pytest-containers lock`",
            ) from error

    @classmethod
    def parse(cls, data: bytes, place: str = LOCK_NAME) -> LockFile:
        """Read a lock file's content; *place* names it in messages."""
        try:
            fields = Fields(values=tomllib.loads(data.decode("utf-8")), place=place)
            version = fields.whole("version")
            if version != _VERSION:
                raise ImageError(
                    f"{place} is of version {version}",
                    seen=f"this is written for version {_VERSION}",
                    mend="make it again, or update pytest-containers",
                )
            return cls().updated(_read_images(fields))
        except (ValueError, RecursionError) as error:
            raise ImageError(f"{place} is no lock file", seen=str(error)[:200]) from error
        except ContainersError as error:
            raise ImageError(
                f"{place} cannot be used: {error.what}",
                seen=error.seen,
                mend=error.mend or "make it again with `pytest-containers lock`",
            ) from error

    def encode(self) -> bytes:
        """Return the file's content: the same images, the same bytes."""
        lines = [_HEAD, f"version = {_VERSION}\n"]
        for image in self.updated(()).images:
            lines += _image_lines(image)
        return "".join(lines).encode("utf-8")

    def write(self, path: Path) -> None:
        """Put the file at *path*, whole or not at all; raise ImageError where that cannot be."""
        try:
            write_atomic(path, self.encode())
        except OSError as error:
            raise ImageError(f"the lock file {path} cannot be written", seen=str(error)) from error


def _image_lines(image: LockedImage) -> Iterator[str]:
    yield f'\n[[image]]\nname = "{image.reference}"\ndigest = "{image.digest}"\n'
    for manifest in sorted(image.manifests, key=lambda each: str(each.platform)):
        yield f'\n[[image.platform]]\nplatform = "{manifest.platform}"\n'
        yield f'manifest = "{manifest.digest}"\nsize = {manifest.size}\nblobs = [\n'
        for blob in manifest.blobs:
            yield f'    {{ digest = "{blob.digest}", size = {blob.size} }},\n'
        yield "]\n"


def _read_images(file: Fields) -> Iterator[LockedImage]:
    seen: set[Reference] = set()
    for fields in file.each("image"):
        image = LockedImage(
            reference=Reference.parse(fields.text("name")),
            digest=Digest.parse(fields.text("digest")),
            manifests=tuple(_read_manifest(each) for each in fields.each("platform")),
        )
        # Two branches that were joined without a look may leave both of their lines.
        if image.reference in seen:
            raise ImageError(f"{image.reference} stands there twice")
        seen.add(image.reference)
        yield image


def _read_manifest(fields: Fields) -> LockedManifest:
    return LockedManifest(
        platform=Platform.parse(fields.text("platform")),
        digest=Digest.parse(fields.text("manifest")),
        size=fields.whole("size"),
        blobs=tuple(
            LockedBlob(digest=Digest.parse(blob.text("digest")), size=blob.whole("size"))
            for blob in fields.each("blobs")
        ),
    )
