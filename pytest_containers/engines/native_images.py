"""The images of the native engine: the images wing behind the seam (floor 2).

The wing is imported at the first use: a run on images that are there needs no registry client.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pytest_containers.engines.base import Images
from pytest_containers.errors import ImageError, ImageNotFound
from pytest_containers.progress import BuildWatch
from pytest_containers.spec import BuildSpec, ImageConfig, ImageRecord, PullPolicy

if TYPE_CHECKING:
    from pytest_containers.images.leases import Lease
    from pytest_containers.images.reference import Reference
    from pytest_containers.images.store import Store
    from pytest_containers.images.transport import Settings
    from pytest_containers.runtime.client import Connection

__all__ = ["NativeImages"]


class NativeImages(Images):
    """The image store in the folder *store*, made at its first use.

    *connect* leads to the run's supervisor, for the commands of a build. *offline* asks no
    registry for anything; *mirrors* maps a registry to those asked before it.
    """

    def __init__(
        self,
        store: Path,
        connect: Callable[[], Connection],
        *,
        offline: bool,
        mirrors: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._connect = connect
        self._folder = store
        self._offline = offline
        self._mirrors = mirrors
        self._lock = threading.Lock()
        self._opened: Store | None = None

    @property
    def _store(self) -> Store:
        from pytest_containers.images.store import Store

        with self._lock:
            if self._opened is None:
                self._opened = Store.open(self._folder)
            return self._opened

    def _settings(self) -> Settings:
        from pytest_containers.images.transport import Settings

        return Settings(offline=self._offline, mirrors=self._mirrors)

    def pull(
        self, reference: str, *, policy: PullPolicy = "missing", platform: str | None = None
    ) -> ImageRecord:
        """Return the image, ready to start; fetch it where *policy* says so."""
        from pytest_containers.images.host import is_host
        from pytest_containers.images.platform import Platform
        from pytest_containers.images.reference import Reference

        name = Reference.parse(reference)
        wanted = Platform.parse(platform) if platform else None
        if policy != "always" or is_host(name):
            found = self._store.find(name)
            if found and (wanted is None or found.config.architecture == wanted.architecture):
                return found
            if is_host(name):
                raise ImageNotFound(
                    f"host has no image for {platform}",
                    seen=f"it is this machine itself, {Platform.host()}",
                    mend="leave platform= out, or name an image of a registry",
                )
            self._refuse_outdated(name)
        if policy == "never" or self._offline:
            reason = "the run is offline" if self._offline else "the pull policy is never"
            raise ImageNotFound(
                f"the store has no image {name.familiar}" + (f" for {platform}" if platform else ""),
                seen=f"no registry is asked, as {reason}; the store is {self._folder}",
                mend="pull it while that is allowed, or check its name",
            )
        from pytest_containers.images.pull import pull

        return pull(self._store, name, platform=wanted, settings=self._settings())

    def _refuse_outdated(self, name: Reference) -> None:
        """Say so where an image stood on this machine's files: no registry has it."""
        try:
            _, manifest = self._store.manifest(name)
        except ImageError:
            return
        if manifest.base:
            raise ImageNotFound(
                f"the image {name.familiar} does not fit this machine any more",
                seen="it was made on the machine's own files, and other packages are installed now",
                mend="make it again: commit or build under the same name",
            )

    def push(self, reference: str) -> str:
        """Send an image to the registry its name says; return the manifest's digest."""
        from pytest_containers.images.push import push
        from pytest_containers.images.reference import Reference

        return push(self._store, Reference.parse(reference), settings=self._settings())

    def tag(self, source: str, target: str) -> None:
        """Give an image a second name."""
        from pytest_containers.images.reference import Reference

        data, _ = self._store.manifest(Reference.parse(source))
        self._store.tag(Reference.parse(target), data)

    def list(self) -> tuple[ImageRecord, ...]:
        """Return every named image of the store, sorted by reference."""
        return self._store.list()

    def remove(self, reference: str) -> None:
        """Forget a name."""
        from pytest_containers.images.reference import Reference

        self._store.remove(Reference.parse(reference))

    def build(self, spec: BuildSpec, watch: BuildWatch) -> ImageRecord:
        """Make an image of a Dockerfile, its commands run in containers of this run."""
        from pytest_containers.engines.native_build import NativeRunner
        from pytest_containers.images.build.build import build

        runner = NativeRunner(self._connect, self)
        with self._store.lease():
            return build(self._store, runner, spec, pull=self.pull, watch=watch, transport=self._settings())

    def load(self, tar: BinaryIO, reference: str, config: ImageConfig) -> ImageRecord:
        """Make a one-layer image of a root file system's tar."""
        from pytest_containers.images.archive import import_tar
        from pytest_containers.images.reference import Reference

        return import_tar(self._store, tar, Reference.parse(reference), config)

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
