"""A selection written as the layer it is on nothing, its target the root."""

from __future__ import annotations

import io
import tarfile

from pytest_containers.images.build.instruction import Copy
from pytest_containers.images.build.layertar import LayerTar
from pytest_containers.images.build.lowers import LowerTree
from pytest_containers.images.build.placing import Placement, place
from pytest_containers.images.build.selection import Selection

__all__ = ["written"]

_NANO = 10**9


def written(
    selection: Selection,
    *,
    name: str | None = None,
    owner: tuple[int, int] | None = None,
    mode: str = "",
    mtime_s: int | None = None,
) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """Return each entry by its name, with its content; the one file gets *name* where that is given."""
    out = io.BytesIO()
    tar = LayerTar(out, latest_ns=None if mtime_s is None else mtime_s * _NANO)
    target = "/" if name is None else f"/{name}"
    copy = Copy(location=selection.location, text="", sources=("source",), target=target, mode=mode)
    place(Placement(tar, LowerTree(())), copy, selection, "/", owner)
    tar.close()
    out.seek(0)
    if not tar.entries:
        return {}
    with tarfile.open(fileobj=out, mode="r:") as read:
        contents = ((entry, read.extractfile(entry) if entry.isreg() else None) for entry in read)
        return {entry.name: (entry, file.read() if file else b"") for entry, file in contents}
