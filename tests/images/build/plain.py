"""Builds that run nothing, on a store alone: no container, no engine."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from pytest_containers.images.archive import import_tar
from pytest_containers.images.build.build import build
from pytest_containers.images.build.runner import Command, Workspace
from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import Manifest
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.images.transport import Settings
from pytest_containers.progress import BuildEvent, Watch
from pytest_containers.spec import BuildSpec, ImageConfig, ImageRecord
from tests.images.build.corpus import base_tar, merged

__all__ = ["PlainBuilds", "Site"]


class PlainBuilds:
    """A store and what was built on it.

    Of the last build, *cached* counts the steps that were found, *notices* are those it was told, and
    *pulled* the images it asked for, with their platforms.
    """

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder)
        self.cached = 0
        self.notices: list[str] = []
        self.pulled: list[tuple[str, str | None]] = []
        self.settings = Settings(environ={}, backoff_s=0.0)

    def load(self, name: str, tar: bytes, config: ImageConfig | None = None) -> ImageRecord:
        """Have an image *name* of one layer."""
        return import_tar(self.store, io.BytesIO(tar), Reference.parse(name), config or ImageConfig())

    def open(
        self,
        layers: tuple[str, ...],
        command: Command | None,
        *,
        storage: Literal["memory", "disk"] = "disk",
    ) -> AbstractContextManager[Workspace]:
        """Fail: no step needs a container."""
        raise AssertionError(layers, command, storage)

    def sockets(self) -> AbstractContextManager[Path]:
        """Fail: no step needs a socket."""
        raise AssertionError

    def build(self, folder: Path, **more: object) -> ImageRecord:
        """Build the Dockerfile in *folder*, with fields of a BuildSpec in *more*."""
        self.cached = 0
        self.notices = []
        self.pulled = []
        spec = BuildSpec(folder=str(folder), tags=("made",), **more)  # type: ignore[arg-type]
        return build(self.store, self, spec, pull=self._pull, watch=self._hear, transport=self.settings)

    def manifest(self, record: ImageRecord) -> Manifest:
        """Return an image's manifest."""
        return Manifest.parse(self.store.blobs.read(Digest.parse(record.digest)))

    def config(self, record: ImageRecord) -> Mapping[str, object]:
        """Return an image's config as it is written."""
        found: Mapping[str, object] = json.loads(self.store.blobs.read(self.manifest(record).config.digest))
        return found

    def layers(self, record: ImageRecord) -> list[bytes]:
        """Return an image's layers as plain tars, oldest first."""
        return [self._plain(layer.digest) for layer in self.manifest(record).layers]

    def _plain(self, digest: Digest) -> bytes:
        with self.store.blobs.open(digest) as blob:
            content = blob.read()
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content

    def _pull(self, name: str, /, *, platform: str | None, watch: Watch) -> ImageRecord:
        self.pulled.append((name, platform))
        found = self.store.find(Reference.parse(name), Platform.parse(platform) if platform else None)
        assert found is not None, name
        return found

    def _hear(self, event: BuildEvent) -> None:
        self.cached += event.kind == "cached"
        if event.kind == "notice":
            self.notices.append(event.step)


class Site(PlainBuilds):
    """A context to build from, on a store with the image ``base``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "store")
        self.context = folder / "context"
        self.context.mkdir()
        self.load("base", base_tar())

    def write(self, **files: str) -> None:
        """Write files of the context."""
        for name, text in files.items():
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def tree(self, *lines: str, **more: object) -> Mapping[str, str]:
        """Build *lines*; return the image's files."""
        (self.context / "Dockerfile").write_text("\n".join(lines) + "\n")
        return merged(self.layers(self.build(self.context, **more)))

    def top(self, *lines: str, **more: object) -> str:
        """Build *lines*; return the digest of the uppermost layer's blob."""
        (self.context / "Dockerfile").write_text("\n".join(lines) + "\n")
        return str(self.manifest(self.build(self.context, **more)).layers[-1].digest)
