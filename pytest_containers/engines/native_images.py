"""The images of the native engine: the images wing behind the seam (floor 2).

The wing is imported at the first use: a run on images that are there needs no registry client.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pytest_containers.engines.base import Images
from pytest_containers.engines.native_store import StorePlace
from pytest_containers.errors import ImageNotFound
from pytest_containers.inventory import ArchiveFormat, HistoryStep, ImageDetails, LayerDetails, Pruned
from pytest_containers.progress import BuildEvent, BuildWatch, Watch
from pytest_containers.spec import BuildSpec, ImageConfig, ImageRecord, PullPolicy

if TYPE_CHECKING:
    from pytest_containers.images.leases import Lease
    from pytest_containers.images.lockfile import LockedImage
    from pytest_containers.images.platform import Platform
    from pytest_containers.images.reference import Reference
    from pytest_containers.images.store import Store
    from pytest_containers.images.transport import Settings
    from pytest_containers.runtime.client import Connection

__all__ = ["NativeImages"]


class NativeImages(Images):
    """The images of the store at *place*; *connect* leads to the run's supervisor, for builds."""

    def __init__(self, place: StorePlace, connect: Callable[[], Connection]) -> None:
        self._place = place
        self._connect = connect

    @property
    def _store(self) -> Store:
        return self._place.store

    def _settings(self) -> Settings:
        return self._place.settings()

    def pull(
        self,
        reference: str,
        *,
        policy: PullPolicy = "missing",
        platform: str | None = None,
        watch: Watch | None = None,
    ) -> ImageRecord:
        """Return the image, ready to start; fetch it where *policy*, or the lock file, says so.

        One on this machine's own files is in no registry: where it is stale it is built again.
        """
        from pytest_containers.images.host import is_host
        from pytest_containers.images.platform import Platform
        from pytest_containers.images.reference import Reference

        name = Reference.parse(reference)
        wanted = Platform.parse(platform) if platform else None
        if is_host(name):
            return self._host(name, wanted)
        pinned = self._place.pinned(name)
        if found := self._present(name, wanted, pinned, policy):
            return found
        if pinned is None and (own := self._own(name, wanted, policy, watch)):
            return own
        if policy == "never" or self._place.access.offline:
            reason = "the run is offline" if self._place.access.offline else "the pull policy is never"
            raise self._place.absent(name, reason, platform)
        from pytest_containers.images.pull import pull

        return pull(
            self._store,
            name,
            platform=wanted,
            settings=self._settings(),
            pinned=pinned,
            watch=watch,
        )

    def _host(self, name: Reference, wanted: Platform | None) -> ImageRecord:
        from pytest_containers.images.platform import Platform

        found = self._store.find(name)
        if found and (wanted is None or Platform.host().runs(wanted)):
            return found
        raise ImageNotFound(
            f"host has no image for {wanted}",
            seen=f"it is this machine itself, {Platform.host()}",
            mend="leave platform= out, or name an image of a registry",
        )

    def _present(
        self, name: Reference, wanted: Platform | None, pinned: LockedImage | None, policy: PullPolicy
    ) -> ImageRecord | None:
        """Return what the store has of a name where that is good enough: nobody is asked."""
        if pinned is None:
            return None if policy == "always" else self._store.find(name, wanted)
        from pytest_containers.images.platform import Platform

        locked = pinned.manifest(wanted or Platform.host())
        if locked is None:
            return None
        found = self._store.find(name, wanted)
        if found and found.digest == locked.digest:
            return found
        # The store may have it under another name, or under none: a lock file's digest is enough.
        if not all(
            self._store.blobs.has(d) for d in (locked.digest, *(blob.digest for blob in locked.blobs))
        ):
            return None
        from pytest_containers.images.pull import pull
        from pytest_containers.images.transport import Settings

        return pull(self._store, name, platform=wanted, settings=Settings(offline=True), pinned=pinned)

    def _own(
        self, name: Reference, wanted: Platform | None, policy: PullPolicy, watch: Watch | None
    ) -> ImageRecord | None:
        """Return an image that stands on this machine's files, built again where it is stale.

        None for all others. Raises ImageNotFound where it is stale and cannot be built from a folder alone.
        """
        found = self._store.find(name, wanted, stale=True)
        if found is None or found.portable:
            return None
        if not found.stale:
            return found
        source = found.built_from
        if source and source.repeatable and Path(source.folder, source.dockerfile).is_file():
            spec = BuildSpec(
                folder=source.folder,
                tags=(name.familiar,),
                dockerfile=source.dockerfile,
                target=source.target,
                platform=None if wanted is None else str(wanted),
                pull="never" if self._place.access.offline else policy,
            )
            return self.build(spec, _unheard, transfer=watch)
        mend = "make it again: commit or build under the same name"
        if source:
            mend = f"build it again: images.build({source.folder!r}, tag={name.familiar!r})"
        raise ImageNotFound(
            f"the image {name.familiar} does not fit this machine any more", seen=found.stale, mend=mend
        )

    def push(self, reference: str, *, platform: str | None = None, watch: Watch | None = None) -> str:
        """Send an image to the registry its name says; return the digest of its manifest or index."""
        from pytest_containers.images.platform import Platform
        from pytest_containers.images.push import push
        from pytest_containers.images.reference import Reference

        wanted = Platform.parse(platform) if platform else None
        name = Reference.parse(reference)
        return push(self._store, name, platform=wanted, settings=self._settings(), watch=watch)

    def tag(self, source: str, target: str) -> None:
        """Give an image a second name."""
        from pytest_containers.images.reference import Reference

        name = Reference.parse(source)
        self._store.manifest(name)  # raises for what has none
        for entry in self._store.named(name):
            data = self._store.blobs.read(entry.digest, entry.size)
            record = self._store.record(name, data)
            self._store.tag(Reference.parse(target), data, built_from=record.built_from if record else None)

    def list(self) -> tuple[ImageRecord, ...]:
        """Return every named image of the store, sorted by reference."""
        return self._store.list()

    def inspect(self, reference: str, *, platform: str | None = None) -> ImageDetails:
        """Return what the store knows of an image."""
        from pytest_containers.images.config import read_created, read_history
        from pytest_containers.images.platform import Platform
        from pytest_containers.images.reference import Reference

        name = Reference.parse(reference)
        wanted = Platform.parse(platform) if platform else None
        data, manifest = self._store.manifest(name, wanted)
        record = self._store.record(name, data)
        if record is None:
            raise self._place.absent(name, "an image is inspected as it is there", platform)
        config = self._store.blobs.read(manifest.config.digest, manifest.config.size)
        return ImageDetails(
            record=record,
            created=read_created(config),
            layers=tuple(
                LayerDetails(
                    digest=layer.digest,
                    diff_id=diff_id,
                    media_type=layer.media_type,
                    size_bytes=layer.size,
                )
                for layer, diff_id in zip(manifest.layers, record.diff_ids, strict=True)
            ),
            history=tuple(
                HistoryStep(
                    created=step.created,
                    created_by=step.created_by,
                    comment=step.comment,
                    empty_layer=step.empty_layer,
                )
                for step in read_history(config)
            ),
        )

    def remove(self, reference: str) -> None:
        """Forget a name."""
        from pytest_containers.images.reference import Reference

        self._store.remove(Reference.parse(reference))

    def build(self, spec: BuildSpec, watch: BuildWatch, *, transfer: Watch | None = None) -> ImageRecord:
        """Make an image of a Dockerfile, its commands run in containers of this run."""
        from pytest_containers.engines.native_build import NativeRunner
        from pytest_containers.images.build.build import build

        def pull(reference: str, *, platform: str | None, watch: Watch) -> ImageRecord:
            return self.pull(reference, policy=spec.pull, platform=platform, watch=watch)

        runner = NativeRunner(self._connect, self)
        with self._store.lease():
            return build(
                self._store,
                runner,
                spec,
                pull=pull,
                watch=watch,
                transfer=transfer,
                transport=self._settings(),
            )

    def import_tar(
        self, tar: BinaryIO, reference: str, config: ImageConfig, *, watch: Watch | None = None
    ) -> ImageRecord:
        """Make a one-layer image of a root file system's tar."""
        from pytest_containers.images.archive import import_tar
        from pytest_containers.images.reference import Reference

        return import_tar(self._store, tar, Reference.parse(reference), config, watch=watch)

    def save(
        self,
        references: tuple[str, ...],
        out: BinaryIO | str,
        *,
        format: ArchiveFormat = "docker",  # noqa: A002  # as every tool of archives calls it
        watch: Watch | None = None,
    ) -> None:
        """Write images as an archive."""
        from pytest_containers.images.reference import Reference
        from pytest_containers.images.save import save

        where = Path(out) if isinstance(out, str) else out
        save(self._store, map(Reference.parse, references), where, format=format, watch=watch)

    def load(
        self,
        archive: BinaryIO | str,
        *,
        reference: str | None = None,
        platform: str | None = None,
        watch: Watch | None = None,
    ) -> tuple[ImageRecord, ...]:
        """Take the images of an archive into the store."""
        from pytest_containers.images.load import load
        from pytest_containers.images.platform import Platform
        from pytest_containers.images.reference import Reference

        return load(
            self._store,
            Path(archive) if isinstance(archive, str) else archive,
            reference=Reference.parse(reference) if reference else None,
            platform=Platform.parse(platform) if platform else None,
            watch=watch,
        )

    def prune(
        self,
        *,
        older_than_s: float | None = None,
        max_bytes: int | None = None,
        keep_lock: str | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        """Remove what nobody needs; what a living process uses stays."""
        from pytest_containers.images.lockfile import LockFile
        from pytest_containers.images.prune import prune

        keep = LockFile.read(Path(keep_lock)).digests if keep_lock else ()
        found = prune(self._store, older_than_s=older_than_s, max_bytes=max_bytes, keep=keep, dry_run=dry_run)
        return Pruned(
            names=found.names,
            blobs=tuple(map(str, found.blobs)),
            layers=found.chains,
            caches=found.volumes,
            size_bytes=found.size_bytes,
        )

    def commit(
        self, parent: ImageRecord, layer: BinaryIO, reference: str, config: ImageConfig
    ) -> ImageRecord:
        """Make an image of *parent* and one layer more, a plain tar."""
        from pytest_containers.images.commit import commit
        from pytest_containers.images.reference import Reference

        return commit(self._store, parent, layer, Reference.parse(reference), config)

    def lease(self, image: ImageRecord) -> Lease | None:
        """Return what keeps an image's layers from being pruned; ``host`` needs none."""
        if not image.portable and not image.diff_ids:
            return None
        return self._store.lease(image)

    def layers(self, image: ImageRecord) -> tuple[str, ...]:
        """Return the folders of an image's layers, oldest first, unpacked where they were not."""
        return tuple(str(layer) for layer in self._store.layers(image))


def _unheard(event: BuildEvent) -> None:
    """Hear of a build that was not asked for: what its Dockerfile says was told at the first one."""
