"""Images from archives: a root file system's tar (docker import)."""

from __future__ import annotations

from typing import BinaryIO

from pytest_containers.images.commit import add_layer, now, write_image
from pytest_containers.images.decompress import pieces
from pytest_containers.images.manifest import History
from pytest_containers.images.progress import Meter
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.progress import Watch
from pytest_containers.spec import ImageConfig, ImageRecord

__all__ = ["import_tar"]


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
    LayerTooLarge, StoreFull; nothing is named then.
    """
    with store.lease():
        with Meter(watch, reference.familiar, "load") as meter:
            layer, diff_id = add_layer(store, None, meter.counted(pieces(tar)))
        return write_image(
            store,
            reference,
            layers=(layer,),
            diff_ids=(diff_id,),
            config=config,
            history=(History(created=now(), created_by="pytest-containers import"),),
            annotations={},
        )
