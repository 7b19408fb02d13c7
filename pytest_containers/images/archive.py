"""Images from archives: a root file system's tar (docker import)."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final

from pytest_containers.errors import ImageError, LayerCorrupt
from pytest_containers.images.commit import add_layer, now, write_image
from pytest_containers.images.decompress import pieces
from pytest_containers.images.garbage import clear_trash, collect
from pytest_containers.images.manifest import History
from pytest_containers.images.progress import Meter
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.progress import Watch
from pytest_containers.spec import ImageConfig, ImageRecord

__all__ = ["import_tar"]

# What an archive of images has at its top and no root file system has: image-layout.md of the
# image-spec, and the layer folder of docker before version 25 beside its index.
_MARKS: Final = ("oci-layout", "manifest.json")
_WHOLE: Final = "name the tar of a root file system, and write it whole"


def import_tar(
    store: Store,
    tar: BinaryIO,
    reference: Reference,
    config: ImageConfig,
    *,
    watch: Watch | None = None,
) -> ImageRecord:
    """Make a one-layer image of a root file system's tar, compressed in any way we read.

    The tar is read once, from where it stands to its end. Raises LayerCorrupt, LayerEscape,
    LayerTooLarge, StoreFull, ImageError for an archive of images; nothing is named then.
    """
    with store.lease():
        with Meter(watch, reference.familiar, "load") as meter:
            try:
                layer, diff_id = add_layer(store, None, meter.counted(pieces(tar)))
            except LayerCorrupt as error:
                raise LayerCorrupt(error.what, seen=error.seen, mend=error.mend or _WHOLE) from error
        mark = _mark(store.chains.path(diff_id))
        if not mark:
            return write_image(
                store,
                reference,
                layers=(layer,),
                diff_ids=(diff_id,),
                config=config,
                history=(History(created=now(), created_by="pytest-containers import"),),
                annotations={},
            )
    collect(store, among=frozenset((layer.digest, diff_id)))
    clear_trash(store)
    raise ImageError(
        f"{reference.familiar} is not made: this is an archive of images and no root file system",
        seen=f"{mark} is at its top",
        mend="load it: images.load(FILE), or pytest-containers load FILE",
    )


def _mark(tree: Path) -> str:
    """Return what shows that *tree* is no root file system, empty where nothing does."""
    rootless = not (tree / "etc").is_dir()
    return next((mark for mark in _MARKS if rootless and (tree / mark).is_file()), "")
