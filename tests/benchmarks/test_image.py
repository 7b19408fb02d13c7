"""The image that is pulled, pushed and loaded: the same bytes every time, and what its table says of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

from benchmarks.image import FULL, QUICK, Size, archive, editions

SMALL = Size(files=(50, 9), mean_bytes=2_000)


def test_image_is_the_same_every_time() -> None:
    """Two runs pull the same blobs, so their figures can be compared."""
    first, again = editions(SMALL, 2), editions(SMALL, 2)
    assert [[layer.digest for layer in made] for made in first] == [
        [layer.digest for layer in made] for made in again
    ]


def test_editions_share_no_layer() -> None:
    """Whoever has pulled one edition has no layer of the next."""
    layers = [layer for made in editions(SMALL, 3) for layer in made]
    assert len(layers) == 3 * len(SMALL.files)
    assert len({layer.digest for layer in layers}) == len({layer.diff_id for layer in layers}) == len(layers)


def test_layer_is_what_its_digests_say() -> None:
    """The digest is that of the blob, the DiffID that of the tar inside."""
    for layer in editions(SMALL, 2)[1]:
        assert layer.digest == "sha256:" + hashlib.sha256(layer.blob).hexdigest()
        assert layer.diff_id == "sha256:" + hashlib.sha256(gzip.decompress(layer.blob)).hexdigest()


def test_layer_has_its_files() -> None:
    """Each layer has its edition's file and as many more as its size says, all of different names."""
    for made, files in zip(editions(SMALL, 1)[0], SMALL.files, strict=True):
        with tarfile.open(fileobj=io.BytesIO(made.blob)) as tar:
            names = [entry.name for entry in tar if entry.isfile()]
        assert len(names) == len(set(names)) == files + 1


def test_image_has_the_number_of_files_it_is_measured_by() -> None:
    """The full image has the files of the budget, the quick one a fifth of them."""
    assert sum(FULL.files) == 15_700
    assert sum(QUICK.files) * 5 == sum(FULL.files)


def test_archive_holds_what_its_config_says(tmp_path: Path) -> None:
    """A docker archive's layers are plain, and each is the one whose digest its config lists."""
    (made,) = editions(SMALL, 1)
    archive(tmp_path / "archive.tar", "localhost/made:1", made)
    with tarfile.open(tmp_path / "archive.tar") as tar:
        content = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    (about,) = json.loads(content["manifest.json"])
    wanted = json.loads(content[about["Config"]])["rootfs"]["diff_ids"]
    assert ["sha256:" + hashlib.sha256(content[name]).hexdigest() for name in about["Layers"]] == wanted
    assert about["RepoTags"] == ["localhost/made:1"]
