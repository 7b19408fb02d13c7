"""The store of the native engine, and how its registries are reached (floor 2).

The wing is imported at the first use: a run on images that are there needs no registry client.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_containers.errors import ImageError, ImageNotFound
from pytest_containers.inventory import RegistryAccess

if TYPE_CHECKING:
    from pytest_containers.images.digest import Digest
    from pytest_containers.images.lockfile import LockedImage, LockFile
    from pytest_containers.images.reference import Reference
    from pytest_containers.images.store import Store
    from pytest_containers.images.transport import Settings

__all__ = ["StorePlace"]

_MEGABYTE: Final = 1_000_000
_SHOWN: Final = 3


class StorePlace:
    """The image store in *folder*, made at its first use; *lock* is a lock file's path or empty."""

    def __init__(self, folder: Path, access: RegistryAccess, lock: str = "") -> None:
        self.folder = folder
        self.access = access
        self._lock_path = lock
        self._guard = threading.Lock()
        self._opened: Store | None = None
        self._lockfile: LockFile | None = None

    @property
    def store(self) -> Store:
        """The store, opened when first asked for. Raises HostError."""
        from pytest_containers.images.store import Store

        with self._guard:
            if self._opened is None:
                self._opened = Store.open(self.folder)
            return self._opened

    def settings(self) -> Settings:
        """Return how registries are reached, for the wing."""
        from pytest_containers.images.transport import Settings

        mirrors: dict[str, tuple[str, ...]] = {}
        for registry, mirror in self.access.mirrors:
            mirrors[registry] = (*mirrors.get(registry, ()), mirror)
        own = tuple(Path(folder) for folder in self.access.certificates)
        return Settings(
            offline=self.access.offline,
            mirrors=mirrors,
            insecure=self.access.insecure,
            certificates=(*own, *Settings().certificates),
        )

    def pinned(self, reference: Reference) -> LockedImage | None:
        """Return what the lock file says of a name, None where it says nothing. Raises ImageError."""
        # A run without a lock file, and that is most of them, has no need for a reader of TOML.
        return self._locked().find(reference) if self._lock_path else None

    def absent(self, reference: Reference, reason: str, platform: str | None) -> ImageNotFound:
        """Return the error for an image that is not there and that nobody is asked for."""
        pinned = self.pinned(reference)
        seen = f"no registry is asked, as {reason}; the store is {self.folder}"
        mend = "pull it while that is allowed, or check its name"
        if pinned is not None:
            missing = "\n".join(self._missing_of_lock())
            seen += f"\nof {self._lock_path} are missing:\n{missing}"
            mend = f"run `pytest-containers pull --lock {self._lock_path}` while a registry can be asked"
        elif missing := self._missing_of(reference):
            seen += f"\nof the image are missing: {missing}"
        return ImageNotFound(
            f"the store has no image {reference.familiar}" + (f" for {platform}" if platform else ""),
            seen=seen,
            mend=mend,
        )

    def _locked(self) -> LockFile:
        from pytest_containers.images.lockfile import LockFile

        with self._guard:
            if self._lockfile is None:
                self._lockfile = LockFile.read(Path(self._lock_path))
            return self._lockfile

    def _missing_of_lock(self) -> Iterator[str]:
        """Yield a line for each image of the lock file that is not there whole."""
        from pytest_containers.images.platform import Platform

        for image in self._locked().images:
            manifest = image.manifest(Platform.host())
            if manifest is None:
                yield f"{image.reference.familiar}: not locked for {Platform.host()}"
                continue
            sizes = {blob.digest: blob.size for blob in manifest.blobs} | {manifest.digest: manifest.size}
            if lost := {digest: size for digest, size in sizes.items() if not self.store.blobs.has(digest)}:
                yield f"{image.reference.familiar}: {_blobs(lost)}"

    def _missing_of(self, reference: Reference) -> str:
        """Return which blobs a named image has lost; empty where there is no such image."""
        try:
            _, manifest = self.store.manifest(reference)
        except ImageError:
            return ""
        sizes = {blob.digest: blob.size for blob in (manifest.config, *manifest.layers)}
        return _blobs({digest: size for digest, size in sizes.items() if not self.store.blobs.has(digest)})


def _blobs(sizes: Mapping[Digest, int]) -> str:
    if not sizes:
        return ""
    names = ", ".join(str(digest)[:19] for digest in list(sizes)[:_SHOWN])
    more = ", ..." if len(sizes) > _SHOWN else ""
    return f"{len(sizes)} blobs, {sum(sizes.values()) / _MEGABYTE:.1f} MB ({names}{more})"
