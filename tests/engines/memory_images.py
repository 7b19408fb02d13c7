"""The images of the in-memory engine."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import BinaryIO

from pytest_containers.engines.base import Images
from pytest_containers.errors import ImageNotFound, NotPortable, ReferenceInvalid, Unsupported
from pytest_containers.progress import BuildWatch
from pytest_containers.spec import BuildSpec, ImageConfig, ImageRecord, PullPolicy
from tests.engines.memory_files import HOST, Files

__all__ = ["MemoryImages"]

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MemoryImages(Images):
    """Images by reference; *registry* is what a pull can find."""

    def __init__(self) -> None:
        self.registry: dict[str, tuple[ImageConfig, Files]] = {}
        self._named: dict[str, ImageRecord] = {}
        self._files: dict[str, Files] = {}

    def put(self, reference: str, files: Files, config: ImageConfig, *, portable: bool = True) -> ImageRecord:
        """Name an image."""
        digest = hashlib.sha256(repr((sorted(files.entries.items()), config)).encode()).hexdigest()
        self._files[f"sha256:{digest}"] = files
        record = ImageRecord(
            reference=reference,
            id=f"sha256:{digest}",
            digest=f"sha256:{digest}",
            config=config,
            portable=portable,
        )
        self._named[reference] = record
        return record

    def files(self, image: ImageRecord) -> Files:
        """Return a new copy of an image's files."""
        return self._files[image.id].copy()

    def pull(
        self, reference: str, *, policy: PullPolicy = "missing", platform: str | None = None
    ) -> ImageRecord:
        if reference == "host":
            record = self.put("host", HOST, ImageConfig(env=(_PATH,), command=("/bin/sh",)), portable=False)
            del self._named["host"]
            return record
        if reference != reference.lower() or not reference:
            raise ReferenceInvalid(f"{reference!r} is not the name of an image")
        if (
            policy != "never"
            and reference in self.registry
            and (policy == "always" or reference not in self._named)
        ):
            config, files = self.registry[reference]
            self.put(reference, files, config)
        return self._known(reference)

    def push(self, reference: str) -> str:
        record = self._known(reference)
        if not record.portable:
            raise NotPortable(f"{reference} stands on this machine's own files")
        self.registry[reference] = (record.config, self._files[record.id])
        return record.digest

    def tag(self, source: str, target: str) -> None:
        self._named[target] = replace(self._known(source), reference=target)

    def list(self) -> tuple[ImageRecord, ...]:
        return tuple(self._named[reference] for reference in sorted(self._named))

    def remove(self, reference: str) -> None:
        self._known(reference)
        del self._named[reference]

    def build(self, spec: BuildSpec, watch: BuildWatch) -> ImageRecord:
        raise Unsupported.of("memory", f"building the folder {spec.folder}")

    def load(self, tar: BinaryIO, reference: str, config: ImageConfig) -> ImageRecord:
        files = Files()
        files.unpack("/", tar)
        return self.put(reference, files, config)

    def _known(self, reference: str) -> ImageRecord:
        if reference not in self._named:
            raise ImageNotFound(f"no image {reference}", mend="pull it, or mend its name")
        return self._named[reference]
