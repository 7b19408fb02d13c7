"""The image ``host``: the machine's own root file system as the lowest, read-only layer.

It works with no registry in reach and cannot leave the machine. What is built on it holds as long
as the machine's packages stay what they were, so they give the key.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import write_config
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference
from pytest_containers.spec import ImageConfig, ImageRecord

__all__ = ["HOST_REFERENCE", "host_key", "host_record", "is_host"]

HOST_REFERENCE: Final = Reference.parse("host")
# What a package manager writes with every change: dpkg, rpm (three ages of it), apk.
_STATE_FILES: Final = (
    "etc/os-release",
    "var/lib/dpkg/status",
    "usr/lib/sysimage/rpm/rpmdb.sqlite",
    "var/lib/rpm/rpmdb.sqlite",
    "var/lib/rpm/Packages.db",
    "var/lib/rpm/Packages",
    "lib/apk/db/installed",
)
# pacman keeps a folder a package, named with its version.
_STATE_FOLDERS: Final = ("var/lib/pacman/local",)
# moby's default (oci/defaults.go): an image without a PATH gets this one.
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def is_host(reference: Reference) -> bool:
    """Tell whether a name means the machine itself: ``host`` alone, without registry, tag or digest."""
    return reference == HOST_REFERENCE


def host_key(root: Path = Path("/")) -> str:
    """Return a digest of the machine's release and of every package on it with its version.

    The same packages give the same key on another machine, so a carried cache still fits.
    """
    hasher = hashlib.sha256()
    for line in _state(root):
        hasher.update(line.encode() + b"\n")
    return "sha256:" + hasher.hexdigest()


def host_record(root: Path = Path("/")) -> ImageRecord:
    """Return the image ``host``: no layer of its own, a shell as its command."""
    config = ImageConfig(
        env=(_PATH,), command=("/bin/sh",), architecture=Platform.host().architecture, os="linux"
    )
    return ImageRecord(
        reference="host",
        id=Digest.of(write_config(config, ())),
        digest=host_key(root),
        config=config,
        portable=False,
    )


def _state(root: Path) -> Iterator[str]:
    for name in _STATE_FILES:
        try:
            status = os.stat(root / name)
        except OSError:
            continue
        stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        yield f"{name} {_content(root / name, stamp)}"
    for name in _STATE_FOLDERS:
        if (root / name).is_dir():
            yield f"{name} {' '.join(sorted(os.listdir(root / name)))}"


@functools.lru_cache(maxsize=16)
def _content(path: Path, _stamp: tuple[int, ...]) -> str:
    """Return the hash of a file; another stamp has it read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
