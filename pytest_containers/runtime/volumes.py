"""Anonymous volumes: the folders that an image declares with VOLUME (floor 1).

Each is a folder beside the container's own layer, bound to its place before the first process
runs, so that no commit carries its content. A new one begins with what the image has there, owner
and modes included, as Docker's do (image-spec, config.md, "Volumes").
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from functools import partial

from pytest_containers.errors import PathMissing
from pytest_containers.runtime import join, transfer
from pytest_containers.runtime.loop import Recipe
from pytest_containers.runtime.sandbox import Sandbox
from pytest_containers.spec import Bind

__all__ = ["seed"]


def seed(sandbox: Sandbox) -> Recipe[None]:
    """Make the volumes that *sandbox* has not got yet, and let its bundle bind them."""
    while sandbox.bundle.volumes:
        path, *left = sandbox.bundle.volumes
        folder = os.path.join(os.path.dirname(sandbox.snapshot.upper), "volumes", str(len(left)))
        shutil.rmtree(folder, ignore_errors=True)  # what a start before this one did not finish
        os.makedirs(folder)
        yield from _copy_up(sandbox, path, folder)
        (name,) = os.listdir(folder)
        # One by one, so that a start that is tried again goes on where the last one failed.
        sandbox.bundle = replace(
            sandbox.bundle,
            volumes=tuple(left),
            binds=(Bind(source=os.path.join(folder, name), target=path), *sandbox.bundle.binds),
            image_volumes=sandbox.bundle.image_volumes | {path},
        )


def _copy_up(sandbox: Sandbox, path: str, folder: str) -> Recipe[None]:
    """Copy what the container shows at *path* below *folder*, each side from within its own root."""
    with os.fdopen(os.memfd_create("volume", os.MFD_CLOEXEC), "w+b") as tar:
        try:
            # The image's own files: binds below the volume are not part of what it begins with.
            yield from join.within(
                sandbox, partial(transfer.pack, path, tar), enter=partial(_enter, sandbox.snapshot.root)
            )
        except PathMissing:
            os.mkdir(os.path.join(folder, "volume"))
            return
        tar.seek(0)
        yield from join.within(sandbox, partial(transfer.unpack, "/", tar), enter=partial(_enter, folder))


def _enter(folder: str) -> None:
    os.chroot(folder)
    os.chdir("/")
