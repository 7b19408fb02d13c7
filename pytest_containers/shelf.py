"""The images of a run, as a test asks for them: the ``images`` fixture (floor 4)."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_containers.engines.base import Images
from pytest_containers.errors import RegistryError, SpecInvalid
from pytest_containers.spec import ImageConfig, ImageRecord, PullPolicy

__all__ = ["Shelf"]


class Shelf:
    """Pulls, pushes, names and lists images, under the run's settings."""

    def __init__(self, images: Images, *, policy: PullPolicy = "missing", offline: bool = False) -> None:
        self._images = images
        self._policy: PullPolicy = "never" if offline else policy
        self._offline = offline

    def pull(
        self, reference: str, *, policy: PullPolicy | None = None, platform: str | None = None
    ) -> ImageRecord:
        """Return the image, fetched where *policy*, or the run's own, says so.

        Raises ReferenceInvalid, ImageNotFound, RegistryError and its kin.
        """
        chosen = self._policy if self._offline or policy is None else policy
        return self._images.pull(reference, policy=chosen, platform=platform)

    def push(self, reference: str) -> str:
        """Send an image to the registry that its name says; return the manifest's digest."""
        if self._offline:
            raise RegistryError(
                f"{reference} is not pushed", seen="the run is offline", mend="leave --containers-offline out"
            )
        return self._images.push(reference)

    def tag(self, source: str, target: str) -> None:
        """Give an image a second name."""
        self._images.tag(source, target)

    def list(self) -> tuple[ImageRecord, ...]:
        """Return every named image of the store, sorted by reference."""
        return self._images.list()

    def remove(self, reference: str) -> None:
        """Forget a name. Raises ImageNotFound."""
        self._images.remove(reference)

    def load(
        self, tar: str | os.PathLike[str], reference: str, *, config: ImageConfig | None = None
    ) -> ImageRecord:
        """Make a one-layer image of the tar file of a root file system, packed or not (docker import)."""
        path = Path(tar)
        if not path.is_file():
            raise SpecInvalid(f"there is no file {path}", mend="name the tar of a root file system")
        with path.open("rb") as file:
            return self._images.load(file, reference, config or ImageConfig())
