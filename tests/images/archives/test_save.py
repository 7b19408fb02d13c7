"""Save: what is written, that it is whole, and what cannot be."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import DigestMismatch, ImageError, ImageNotFound, NotPortable
from pytest_containers.images.commit import commit
from pytest_containers.images.digest import Digest
from pytest_containers.images.host import host_record
from pytest_containers.images.load import load
from pytest_containers.images.reference import Reference
from pytest_containers.images.save import Format, save
from pytest_containers.images.store import Store
from pytest_containers.spec import ImageConfig

if TYPE_CHECKING:
    from tests.images.archives.conftest import Image
    from tests.images.conftest import TarBuilder

FORMATS: tuple[Format, ...] = ("docker", "oci", "oci-dir")


def _members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = [member for member in tar.getmembers() if member.isfile()]
        return {member.name: file.read() for member in files if (file := tar.extractfile(member))}


@pytest.mark.parametrize("form", FORMATS)
def test_saved_image_is_loaded_as_it_was(
    store: Store, stored: Reference, tmp_path: Path, form: Format
) -> None:
    """Manifest, config, layers and name come back byte for byte, whatever the format."""
    save(store, [stored], tmp_path / "out", format=form)
    other = Store.open(tmp_path / "other")
    (record,) = load(other, tmp_path / "out")
    assert record == store.find(stored)
    assert other.manifest(stored) == store.manifest(stored)
    assert set(other.blobs.all()) == set(store.blobs.all())


def test_docker_archive_names_what_docker_reads(store: Store, stored: Reference, image: Image) -> None:
    """One member says where config and layers are and what the image is called; names are short ones."""
    store.tag(Reference.parse("redis:7"), store.manifest(stored)[0])
    out = io.BytesIO()
    save(store, [stored, Reference.parse("redis:7"), stored], out)
    members = _members(out.getvalue())
    (entry,) = json.loads(members["manifest.json"])
    assert members[entry["Config"]] == image.config
    assert [Digest.of(members[name]) for name in entry["Layers"]] == [
        la.digest for la in image.manifest.layers
    ]
    assert entry["RepoTags"] == ["r.example/team/app:1", "redis:7"]


def test_saved_archive_is_the_same_every_time(store: Store, stored: Reference) -> None:
    """No time and no owner of the moment is in it, so it can be compared and cached."""
    first, second = io.BytesIO(), io.BytesIO()
    save(store, [stored], first)
    save(store, [stored], second)
    assert first.getvalue() == second.getvalue()


def test_shared_layer_is_saved_once(store: Store, stored: Reference, image: Image) -> None:
    """Images that share layers share them in the archive."""
    config = replace(image.settings, command=("other",))
    other = type(image)(layers=image.layers, settings=config)
    for blob in other.blobs.values():
        store.blobs.add(blob)
    name = Reference.parse("r.example/other:2")
    store.tag(name, other.manifest.encode())
    out = io.BytesIO()
    save(store, [stored, name], out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        blobs = [member.name for member in tar.getmembers() if member.name.startswith("blobs/sha256/")]
    assert len(blobs) == len(set(blobs)) == len({**image.blobs, **other.blobs})


def test_image_on_the_host_is_not_saved(store: Store, tar: Callable[[], TarBuilder], tmp_path: Path) -> None:
    """What stands on this machine's files would be half an image elsewhere."""
    name = Reference.parse("mine")
    commit(store, host_record(), io.BytesIO(tar().file("x").bytes()), name, ImageConfig())
    for reference in (name, Reference.parse("host")):
        with pytest.raises(NotPortable):
            save(store, [reference], tmp_path / "out")
    assert os.listdir(tmp_path) == ["store"]


def test_unknown_image_is_not_saved(store: Store, tmp_path: Path) -> None:
    """A name that the store has not is told, and no name at all is as well."""
    with pytest.raises(ImageNotFound, match="redis"):
        save(store, [Reference.parse("redis")], tmp_path / "out")
    with pytest.raises(ImageError, match="no image was named"):
        save(store, [], tmp_path / "out")


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_blob_is_not_saved(
    store: Store, stored: Reference, image: Image, tmp_path: Path, form: Format
) -> None:
    """Bytes that the disk changed are found while they are copied; no archive appears."""
    layer = image.manifest.layers[1]
    store.blobs.path(layer.digest).write_bytes(b"x" * layer.size)
    with pytest.raises(DigestMismatch, match="changed on disk"):
        save(store, [stored], tmp_path / "out", format=form)
    assert os.listdir(tmp_path) == ["store"]


def test_archive_replaces_a_file_and_no_folder(store: Store, stored: Reference, tmp_path: Path) -> None:
    """A file gives way as a whole; a folder with something in it does not."""
    (tmp_path / "out").write_text("old")
    save(store, [stored], tmp_path / "out")
    assert tarfile.is_tarfile(tmp_path / "out")
    with pytest.raises(ImageError, match="not empty"):
        save(store, [stored], tmp_path, format="oci-dir")
    (tmp_path / "empty").mkdir()
    save(store, [stored], tmp_path / "empty", format="oci-dir")
    assert (tmp_path / "empty" / "index.json").is_file()
    with pytest.raises(ImageError, match="stream"):
        save(store, [stored], io.BytesIO(), format="oci-dir")


def test_archive_that_cannot_be_written_is_told(store: Store, stored: Reference, tmp_path: Path) -> None:
    """The path is in the message, and a full disk has its own kind."""
    with pytest.raises(ImageError, match="nowhere/out"):
        save(store, [stored], tmp_path / "nowhere" / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(ImageError, match="cannot be written"):
        save(store, [stored], tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["out", "store"]


@pytest.mark.kernel
def test_full_disk_leaves_no_archive(
    mounts_of_its_own: Callable[..., str], store: Store, tar: Callable[[], TarBuilder], tmp_path: Path
) -> None:
    """A disk that fills up is StoreFull, and what was written is gone."""
    from pytest_containers.images.archive import import_tar

    big = tar().file("a", os.urandom(3_000_000)).bytes()
    import_tar(store, io.BytesIO(big), Reference.parse("big"), ImageConfig())
    script = (
        "import os, pathlib, sys\n"
        "from pytest_containers.errors import StoreFull\n"
        "from pytest_containers.images.reference import Reference\n"
        "from pytest_containers.images.save import save\n"
        "from pytest_containers.images.store import Store\n"
        "store, small = Store.open(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2])\n"
        "names = [Reference.parse('big')]\n"
        "for form in ('docker', 'oci-dir'):\n"
        "    try: save(store, names, small / 'o', format=form)\n"
        "    except StoreFull as error: print('full', os.listdir(small))\n"
    )
    mount = 'mkdir "$1"; mount -t tmpfs -o size=1m tmpfs "$1"; "$PYTHON" -c "$2" "$3" "$1"'
    said = mounts_of_its_own(mount, tmp_path / "small", script, store.root)
    assert said == "full []\nfull []\n"
