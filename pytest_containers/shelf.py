"""The images of a run, as a test asks for them: the ``images`` fixture (floor 4)."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from pytest_containers.engines.base import Images
from pytest_containers.errors import (
    DockerfileWarning,
    LayerCorrupt,
    LayerEscape,
    LayerTooLarge,
    RegistryError,
    SpecInvalid,
)
from pytest_containers.inventory import ArchiveFormat, ImageDetails, Pruned
from pytest_containers.progress import BuildEvent, BuildWatch, Watch
from pytest_containers.spec import BuildSpec, ImageConfig, ImageRecord, PullPolicy

__all__ = ["Shelf", "warn"]


class Shelf:
    """Pulls, pushes, names and lists images, under the run's settings."""

    def __init__(self, images: Images, *, policy: PullPolicy = "missing", offline: bool = False) -> None:
        self._images = images
        self._policy: PullPolicy = "never" if offline else policy
        self._offline = offline

    def pull(
        self,
        reference: str,
        *,
        policy: PullPolicy | None = None,
        platform: str | None = None,
        watch: Watch | None = None,
    ) -> ImageRecord:
        """Return the image, fetched where *policy*, or the run's own, says so.

        *watch* hears, from several threads, how far it is. Raises ReferenceInvalid, ImageNotFound,
        RegistryError and its kin.
        """
        chosen = self._policy if self._offline or policy is None else policy
        return self._images.pull(reference, policy=chosen, platform=platform, watch=watch)

    def push(self, reference: str, *, platform: str | None = None, watch: Watch | None = None) -> str:
        """Send an image to the registry that its name says; return the digest to pull it by.

        A name that has images of several platforms is sent as an index of all, or, with *platform*,
        as that one image.
        """
        if self._offline:
            raise RegistryError(
                f"{reference} is not pushed", seen="the run is offline", mend="leave --containers-offline out"
            )
        return self._images.push(reference, platform=platform, watch=watch)

    def tag(self, source: str, target: str) -> None:
        """Give an image a second name."""
        self._images.tag(source, target)

    def list(self) -> tuple[ImageRecord, ...]:
        """Return every named image of the store, sorted by reference."""
        return self._images.list()

    def inspect(self, reference: str, *, platform: str | None = None) -> ImageDetails:
        """Return config, layers and history of an image. Raises ImageNotFound."""
        return self._images.inspect(reference, platform=platform)

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
        pull: PullPolicy | None = None,
        watch: BuildWatch | None = None,
        transfer: Watch | None = None,
    ) -> ImageRecord:
        """Make an image of the Dockerfile in *folder* and name it *tag*; steps come from a cache.

        Without a tag the name is made from the folder's. *ssh*, *allow* and *contexts* are those of
        `spec.BuildSpec`. *pull* says when the images it needs are fetched, as in `pull`. *watch* hears
        of each step and of what it writes, *transfer* how far those images are. What the Dockerfile
        says and probably does not mean is a DockerfileWarning, unless *watch* hears of it. Raises
        SpecInvalid with file and line, BuildFailed, and what a pull raises.
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
            pull=self._policy if self._offline or pull is None else pull,
        )
        return self._images.build(spec, watch or warn, transfer=transfer)

    def import_tar(
        self,
        tar: str | os.PathLike[str] | BinaryIO,
        reference: str,
        *,
        config: ImageConfig | None = None,
        watch: Watch | None = None,
    ) -> ImageRecord:
        """Make a one-layer image of the tar of a root file system, packed or not (docker import).

        Raises SpecInvalid where there is no file, ImageError for an archive of images.
        """
        if not isinstance(tar, str | os.PathLike):
            return self._images.import_tar(tar, reference, config or ImageConfig(), watch=watch)
        path = Path(tar)
        if not path.is_file():
            raise SpecInvalid(f"there is no file {path}", mend="name the tar of a root file system")
        with path.open("rb") as file:
            try:
                return self._images.import_tar(file, reference, config or ImageConfig(), watch=watch)
            except (LayerCorrupt, LayerEscape, LayerTooLarge) as error:
                raise type(error)(f"{path}: {error.what}", seen=error.seen, mend=error.mend) from error

    def save(
        self,
        references: str | Sequence[str],
        out: str | os.PathLike[str] | BinaryIO,
        *,
        format: ArchiveFormat = "docker",  # noqa: A002  # as every tool of archives calls it
        watch: Watch | None = None,
    ) -> None:
        """Write images as an archive that docker and podman load: to a path, or to a stream.

        *format* ``"oci"`` is a tar of an OCI layout, ``"oci-dir"`` its folder. Raises ImageNotFound,
        NotPortable for an image that stands on ``host``.
        """
        names = (references,) if isinstance(references, str) else tuple(references)
        where = os.fspath(out) if isinstance(out, str | os.PathLike) else out
        self._images.save(names, where, format=format, watch=watch)

    def load(
        self,
        archive: str | os.PathLike[str] | BinaryIO,
        reference: str | None = None,
        *,
        platform: str | None = None,
        watch: Watch | None = None,
    ) -> tuple[ImageRecord, ...]:
        """Take the images of an archive of docker, podman or `save`, or of an OCI layout's folder.

        They keep their names; *reference* names the one image of an archive. Raises SpecInvalid where
        there is no file, ImageError for what is no archive of images: `import_tar` takes the tar of a
        root file system.
        """
        if isinstance(archive, str | os.PathLike):
            if not Path(archive).exists():
                raise SpecInvalid(f"there is no file {os.fspath(archive)}", mend="name an archive of images")
            archive = os.fspath(archive)
        return self._images.load(archive, reference=reference, platform=platform, watch=watch)

    def prune(
        self,
        *,
        older_than_s: float | None = None,
        max_bytes: int | None = None,
        keep_lock: str | os.PathLike[str] | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        """Make room: see `Images.prune`."""
        lock = os.fspath(keep_lock) if keep_lock else None
        return self._images.prune(
            older_than_s=older_than_s, max_bytes=max_bytes, keep_lock=lock, dry_run=dry_run
        )


def warn(event: BuildEvent) -> None:
    """Let a build's notice be a warning, which pytest shows in its summary."""
    if event.kind == "notice":
        warnings.warn(event.step, DockerfileWarning, stacklevel=2)


def _tag(folder: Path, dockerfile: str, target: str | None) -> str:
    """Return the name of an image that nobody named: always the same for the same folder."""
    whole = "\0".join((str(folder), dockerfile, target or ""))
    return f"built-{hashlib.sha256(whole.encode()).hexdigest()[:16]}"
