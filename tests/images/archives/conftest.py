"""Archives of images as the tools write them, made byte by byte."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.images.digest import Digest
from pytest_containers.images.garbage import holders
from pytest_containers.images.manifest import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    write_config,
)
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.spec import ImageConfig

if TYPE_CHECKING:
    from tests.images.conftest import TarBuilder

NAME = "r.example/team/app:1"


@dataclass(slots=True)
class Image:
    """An image to be put into archives; *layers* are plain tars."""

    layers: tuple[bytes, ...]
    settings: ImageConfig = field(default_factory=lambda: ImageConfig(command=("run",), architecture="amd64"))

    @property
    def config(self) -> bytes:
        """The config's bytes."""
        return write_config(self.settings, self.diff_ids)

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """The digests of the plain layers."""
        return tuple(Digest.of(layer) for layer in self.layers)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the image with gzip layers."""
        packed = [gzip.compress(layer, 1, mtime=0) for layer in self.layers]
        return Manifest(
            config=Descriptor(media_type=OCI_CONFIG, digest=Digest.of(self.config), size=len(self.config)),
            layers=tuple(
                Descriptor(media_type=OCI_LAYER_GZIP, digest=Digest.of(blob), size=len(blob))
                for blob in packed
            ),
        )

    @property
    def blobs(self) -> dict[str, bytes]:
        """Everything that belongs to the OCI form, by its name in a layout."""
        packed = [gzip.compress(layer, 1, mtime=0) for layer in self.layers]
        data = (self.manifest.encode(), self.config, *packed)
        return {f"blobs/sha256/{Digest.of(blob).hex}": blob for blob in data}

    def entry(self, name: str = NAME, platform: Platform | None = None) -> Descriptor:
        """Return what an index says of it."""
        data = self.manifest.encode()
        annotations = {"io.containerd.image.name": name} if name else {}
        return Descriptor(
            media_type=OCI_MANIFEST,
            digest=Digest.of(data),
            size=len(data),
            annotations=annotations,
            platform=platform,
        )

    def layout(self, *entries: Descriptor) -> dict[str, bytes]:
        """Return the files of an OCI layout with this image in it."""
        index = Index(media_type=OCI_INDEX, manifests=entries or (self.entry(),)).encode()
        return {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index, **self.blobs}

    def docker(self, pack: Callable[[bytes], bytes] = bytes, name: str = NAME) -> dict[str, bytes]:
        """Return the files of a docker archive, as podman and (with a *pack*) kaniko write them."""
        members = {f"{diff_id.hex}.tar": pack(layer) for diff_id, layer in self.parts()}
        config = f"{Digest.of(self.config).hex}.json"
        entry = {
            "Config": config,
            "RepoTags": [name] if name else None,
            "Layers": [f"{diff_id.hex}.tar" for diff_id in self.diff_ids],
        }
        return {config: self.config, **members, "manifest.json": json.dumps([entry]).encode()}

    def parts(self) -> tuple[tuple[Digest, bytes], ...]:
        """Return DiffID and bytes of every layer."""
        return tuple(zip(self.diff_ids, self.layers, strict=True))


@pytest.fixture
def image(tar: Callable[[], TarBuilder]) -> Image:
    """Return an image of two layers: the second removes a file of the first."""
    first = tar().folder("etc").file("etc/a", b"1" * 3000).file("b", b"2")
    return Image(layers=(first.bytes(), tar().folder("etc").file("etc/.wh.a").file("c", b"3").bytes()))


@pytest.fixture
def archived(tar: Callable[[], TarBuilder]) -> Callable[[dict[str, bytes]], bytes]:
    """Return what makes a tar of files."""

    def make(files: dict[str, bytes]) -> bytes:
        made = tar()
        for name, data in files.items():
            made.file(name, data)
        return made.bytes()

    return make


@pytest.fixture
def put_files() -> Callable[[Path, dict[str, bytes]], Path]:
    """Return what writes files to a folder, which is made."""

    def put(folder: Path, files: dict[str, bytes]) -> Path:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder

    return put


@pytest.fixture
def stored(store: Store, image: Image) -> Reference:
    """Return the name of the image in the store, unpacked."""
    for blob in image.blobs.values():
        store.blobs.add(blob)
    store.layers(store.tag(Reference.parse(NAME), image.manifest.encode()))
    return Reference.parse(NAME)


@pytest.fixture
def seen_files() -> Callable[[Store, str], list[list[str]]]:
    """Return what lists the files of an image's layers, oldest first; whiteouts are among them."""

    def listed(store: Store, name: str) -> list[list[str]]:
        record = store.find(Reference.parse(name))
        assert record is not None
        return [
            sorted(
                os.path.relpath(Path(folder, file), layer)
                for folder, _, files in os.walk(layer)
                for file in files
            )
            for layer in store.layers(record)
        ]

    return listed


@pytest.fixture
def nothing_left() -> Callable[[Store], bool]:
    """Return what tells whether a store holds no image, no content and no lease."""

    def tell(store: Store) -> bool:
        content = [*store.blobs.all(), *store.chains.all(), *holders(store)]
        rests = [path for name in ("ingest", "trash", "leases") for path in (store.root / name).glob("*")]
        return not content and not rests and not list((store.root / "chains").glob("*/.*"))

    return tell
