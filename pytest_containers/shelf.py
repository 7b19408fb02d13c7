"""The images of a run, as a test asks for them: the ``images`` fixture (floor 4)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pytest_containers.engines.base import Images
from pytest_containers.errors import LayerCorrupt, LayerEscape, LayerTooLarge, RegistryError, SpecInvalid
from pytest_containers.progress import BuildWatch
from pytest_containers.spec import BuildSpec, ImageConfig, ImageRecord, PullPolicy

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

    def build(
        self,
        folder: str | os.PathLike[str],
        tag: str | Sequence[str] = (),
        *,
        dockerfile: str = "Dockerfile",
        target: str | None = None,
        args: Mapping[str, str] | None = None,
        secrets: Mapping[str, str | bytes] | None = None,
        labels: Mapping[str, str] | None = None,
        platform: str | None = None,
        use_cache: bool = True,
        ssh: Mapping[str, str] | None = None,
        allow: Iterable[str] = (),
        contexts: Mapping[str, str | os.PathLike[str]] | None = None,
        watch: BuildWatch | None = None,
    ) -> ImageRecord:
        """Make an image of the Dockerfile in *folder* and name it *tag*; steps come from a cache.

        Without a tag the name is made from the folder's. *ssh*, *allow* and *contexts* are those of
        `spec.BuildSpec`. *watch* hears of each step and of what it writes. Raises SpecInvalid with
        file and line, BuildFailed, and what a pull raises.
        """
        where = Path(folder).resolve()
        tags = (tag,) if isinstance(tag, str) else tuple(tag)
        spec = BuildSpec(
            folder=str(where),
            tags=tags or (_tag(where, dockerfile, target),),
            dockerfile=dockerfile,
            target=target,
            args=dict(args or {}),
            secrets={
                name: value.encode() if isinstance(value, str) else value
                for name, value in (secrets or {}).items()
            },
            labels=dict(labels or {}),
            platform=platform,
            use_cache=use_cache,
            ssh=dict(ssh or {}),
            allow=frozenset(allow),
            contexts={name: os.fspath(place) for name, place in (contexts or {}).items()},
        )
        return self._images.build(spec, watch or (lambda _: None))

    def load(
        self, tar: str | os.PathLike[str], reference: str, *, config: ImageConfig | None = None
    ) -> ImageRecord:
        """Make a one-layer image of the tar file of a root file system, packed or not (docker import)."""
        path = Path(tar)
        if not path.is_file():
            raise SpecInvalid(f"there is no file {path}", mend="name the tar of a root file system")
        with path.open("rb") as file:
            try:
                return self._images.load(file, reference, config or ImageConfig())
            except (LayerCorrupt, LayerEscape, LayerTooLarge) as error:
                raise type(error)(f"{path}: {error.what}", seen=error.seen, mend=error.mend) from error


def _tag(folder: Path, dockerfile: str, target: str | None) -> str:
    """Return the name of an image that nobody named: always the same for the same folder."""
    whole = "\0".join((str(folder), dockerfile, target or ""))
    return f"built-{hashlib.sha256(whole.encode()).hexdigest()[:16]}"
