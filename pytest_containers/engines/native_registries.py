"""The registries of the native engine: logins and lock files behind the seam (floor 2)."""

from __future__ import annotations

from pathlib import Path

from pytest_containers.engines.base import Registries
from pytest_containers.engines.native_store import StorePlace
from pytest_containers.errors import SpecInvalid
from pytest_containers.inventory import Problem
from pytest_containers.progress import Watch
from pytest_containers.spec import ImageRecord

__all__ = ["NativeRegistries"]


class NativeRegistries(Registries):
    """What registries say, kept in the credentials of docker, in lock files and in the store."""

    def __init__(self, place: StorePlace) -> None:
        self._place = place

    def login(self, registry: str, username: str, secret: str) -> str:
        """Prove credentials and keep them; return where they are kept."""
        from pytest_containers.images.login import login

        return login(registry, username, secret, settings=self._place.settings())

    def logout(self, registry: str) -> bool:
        """Forget the credentials for a registry; tell whether there were any."""
        from pytest_containers.images.login import logout

        return logout(registry)

    def lock(
        self, references: tuple[str, ...], *, file: str, platforms: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        """Write into *file* what names mean now; return one line for each, name and digest."""
        from pytest_containers.images.lockfile import LockFile
        from pytest_containers.images.pinning import lock
        from pytest_containers.images.platform import Platform
        from pytest_containers.images.reference import Reference

        path = Path(file)
        before = LockFile.read(path) if path.exists() else LockFile()
        names = tuple(map(Reference.parse, references)) or tuple(image.reference for image in before.images)
        if not names:
            raise SpecInvalid(f"nothing is to be locked in {file}", mend="name the images: lock IMAGE ...")
        wanted = tuple(map(Platform.parse, platforms))
        # Names that were locked for the same platforms are asked for together, several at a time.
        asked: dict[tuple[Platform, ...], list[Reference]] = {}
        for name in names:
            known = before.find(name)
            had = tuple(each.platform for each in known.manifests) if known else ()
            asked.setdefault(wanted or had, []).append(name)
        new = LockFile()
        for each, group in asked.items():
            new = new.updated(lock(group, each, settings=self._place.settings()).images)
        before.updated(new.images).write(path)
        return tuple(f"{image.reference}@{image.digest}" for image in new.images)

    def pull_locked(
        self, *, file: str, platform: str | None = None, watch: Watch | None = None
    ) -> tuple[ImageRecord, ...]:
        """Fetch every image of a lock file; what is there whole costs no request."""
        from pytest_containers.images.lockfile import LockFile
        from pytest_containers.images.pinning import pull_locked
        from pytest_containers.images.platform import Platform

        return pull_locked(
            self._place.store,
            LockFile.read(Path(file)),
            platform=Platform.parse(platform) if platform else None,
            settings=self._place.settings(),
            watch=watch,
        )

    def verify(self, *, file: str, platform: str | None = None) -> tuple[Problem, ...]:
        """Return where the store is not what the lock file says; every blob is read."""
        from pytest_containers.images.lockfile import LockFile
        from pytest_containers.images.pinning import verify
        from pytest_containers.images.platform import Platform

        wanted = Platform.parse(platform) if platform else None
        found = verify(self._place.store, LockFile.read(Path(file)), platform=wanted)
        return tuple(Problem(reference=str(each.reference), what=each.what) for each in found)
