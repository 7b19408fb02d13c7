"""The images of the in-memory engine."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from pytest_containers.engines.base import Images, Registries
from pytest_containers.errors import (
    ImageError,
    ImageNotFound,
    NotPortable,
    ReferenceInvalid,
    SpecInvalid,
    Unauthorized,
    Unsupported,
)
from pytest_containers.inventory import (
    ArchiveFormat,
    HistoryStep,
    ImageDetails,
    LayerDetails,
    Problem,
    Pruned,
)
from pytest_containers.progress import BuildWatch, Phase, Progress, Watch
from pytest_containers.spec import BuildSpec, BuiltFrom, ImageConfig, ImageRecord, PullPolicy
from tests.engines.memory_files import HOST, Files

__all__ = ["MemoryImages", "MemoryRegistries"]

_MADE = "2024-05-06T07:08:09Z"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MemoryImages(Images):
    """Images by reference; *registry* is what a pull can find."""

    def __init__(self) -> None:
        self.registry: dict[str, tuple[ImageConfig, Files]] = {}
        self._named: dict[str, ImageRecord] = {}
        self._files: dict[str, Files] = {}

    def put(
        self,
        reference: str,
        files: Files,
        config: ImageConfig,
        *,
        portable: bool = True,
        built_from: BuiltFrom | None = None,
        stale: str = "",
    ) -> ImageRecord:
        """Name an image."""
        digest = hashlib.sha256(repr((sorted(files.entries.items()), config)).encode()).hexdigest()
        self._files[f"sha256:{digest}"] = files
        record = ImageRecord(
            reference=reference,
            id=f"sha256:{digest}",
            digest=f"sha256:{digest}",
            config=config,
            portable=portable,
            built_from=built_from,
            stale=stale,
        )
        self._named[reference] = record
        return record

    def files(self, image: ImageRecord) -> Files:
        """Return a new copy of an image's files."""
        return self._files[image.id].copy()

    def pull(
        self,
        reference: str,
        *,
        policy: PullPolicy = "missing",
        platform: str | None = None,
        watch: Watch | None = None,
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
            record = self.put(reference, files, config)
            _tell(watch, record.digest, "download")
        return self._known(reference)

    def push(self, reference: str, *, platform: str | None = None, watch: Watch | None = None) -> str:
        record = self._known(reference)
        if not record.portable:
            raise NotPortable(f"{reference} stands on this machine's own files")
        self.registry[reference] = (record.config, self._files[record.id])
        return record.digest

    def tag(self, source: str, target: str) -> None:
        self._named[target] = replace(self._known(source), reference=target)

    def list(self) -> tuple[ImageRecord, ...]:
        return tuple(self._named[reference] for reference in sorted(self._named))

    def inspect(self, reference: str, *, platform: str | None = None) -> ImageDetails:
        step = HistoryStep(created=_MADE, created_by="memory", comment="", empty_layer=False)
        record = self._known(reference)
        layer = LayerDetails(digest=record.id, diff_id=record.id, media_type="memory", size_bytes=0)
        return ImageDetails(record=record, created=_MADE, layers=(layer,), history=(step,))

    def remove(self, reference: str) -> None:
        self._known(reference)
        del self._named[reference]

    def build(self, spec: BuildSpec, watch: BuildWatch, *, transfer: Watch | None = None) -> ImageRecord:
        raise Unsupported.of("memory", f"building the folder {spec.folder}")

    def import_tar(
        self, tar: BinaryIO, reference: str, config: ImageConfig, *, watch: Watch | None = None
    ) -> ImageRecord:
        files = Files()
        files.unpack("/", tar)
        if files.find("/manifest.json") is not None:
            raise ImageError(f"{reference} is not made: this is an archive of images", mend="load it")
        return self.put(reference, files, config)

    def save(
        self,
        references: tuple[str, ...],
        out: BinaryIO | str,
        *,
        format: ArchiveFormat = "docker",  # noqa: A002  # the seam's name
        watch: Watch | None = None,
    ) -> None:
        records = [self._known(reference) for reference in references]
        for record in records:
            if not record.portable:
                raise NotPortable(f"{record.reference} cannot be saved")
        content = pickle.dumps([(one.reference, one.config, self._files[one.id]) for one in records])
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(content)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(out, "wb")) if isinstance(out, str) else out
            with tarfile.open(fileobj=file, mode="w|") as tar:
                tar.addfile(entry, io.BytesIO(content))
        _tell(watch, records[0].digest, "save")

    def load(
        self,
        archive: BinaryIO | str,
        *,
        reference: str | None = None,
        platform: str | None = None,
        watch: Watch | None = None,
    ) -> tuple[ImageRecord, ...]:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(archive, "rb")) if isinstance(archive, str) else archive
            with tarfile.open(fileobj=file, mode="r|") as tar:
                for entry in tar:
                    if entry.name == "manifest.json" and (content := tar.extractfile(entry)):
                        found = pickle.loads(content.read())
                        break
                else:
                    raise ImageError("this is no archive of images", mend="import it")
        return tuple(self.put(reference or name, files, config) for name, config, files in found)

    def prune(
        self,
        *,
        older_than_s: float | None = None,
        max_bytes: int | None = None,
        keep_lock: str | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        kept = Path(keep_lock).read_text().split() if keep_lock else ()
        doomed = [name for name in self._named if name not in kept] if older_than_s == 0 else []
        for name in () if dry_run else doomed:
            del self._named[name]
        return Pruned(names=tuple(sorted(doomed)))

    def _known(self, reference: str) -> ImageRecord:
        if reference not in self._named:
            raise ImageNotFound(f"no image {reference}", mend="pull it, or mend its name")
        return self._named[reference]


class MemoryRegistries(Registries):
    """Credentials in a dictionary, and lock files of a line an image: its name and its digest."""

    def __init__(self, images: MemoryImages) -> None:
        self._images = images
        self.credentials: dict[str, tuple[str, str]] = {}

    def login(self, registry: str, username: str, secret: str) -> str:
        if secret == "wrong":
            raise Unauthorized(f"{registry} does not take these credentials for {username!r}")
        self.credentials[registry] = (username, secret)
        return "memory"

    def logout(self, registry: str) -> bool:
        return self.credentials.pop(registry, None) is not None

    def lock(
        self, references: tuple[str, ...], *, file: str, platforms: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        path = Path(file)
        lines = dict(line.split() for line in path.read_text().splitlines()) if path.exists() else {}
        names = references or tuple(lines)
        if not names:
            raise SpecInvalid(f"nothing is to be locked in {file}")
        for name in names:
            lines[name] = self._images.pull(name, policy="always").digest
        path.write_text("".join(f"{name} {digest}\n" for name, digest in sorted(lines.items())))
        return tuple(f"{name}@{lines[name]}" for name in names)

    def pull_locked(
        self, *, file: str, platform: str | None = None, watch: Watch | None = None
    ) -> tuple[ImageRecord, ...]:
        lines = Path(file).read_text().splitlines()
        return tuple(self._images.pull(line.split()[0], watch=watch) for line in lines)

    def verify(self, *, file: str, platform: str | None = None) -> tuple[Problem, ...]:
        there = {record.reference: record.digest for record in self._images.list()}
        lines = [line.split() for line in Path(file).read_text().splitlines()]
        return tuple(
            Problem(reference=name, what="not in the store")
            for name, digest in lines
            if there.get(name) != digest
        )


def _tell(watch: Watch | None, subject: str, phase: Phase) -> None:
    if watch is not None:
        watch(Progress(subject=subject, phase=phase, done_bytes=0, total_bytes=0))
