"""Round trips with skopeo, podman and docker: the same image goes in and comes out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.images.digest import Digest
from pytest_containers.images.load import load
from pytest_containers.images.reference import Reference
from pytest_containers.images.save import Format, save
from pytest_containers.images.store import Store

if TYPE_CHECKING:
    from tests.images.archives.conftest import Image
    from tests.plugins.oracles import Oracles

pytestmark = pytest.mark.kernel

NAME = "r.example/team/app:1"
Archived = Callable[[dict[str, bytes]], bytes]

SOURCES: tuple[tuple[Format, str], ...] = (
    ("docker", "docker-archive"),
    ("oci", "oci-archive"),
    ("oci-dir", "oci"),
)


@pytest.fixture
def loaded(store: Store, image: Image) -> Callable[[Path], Store]:
    """Return what loads an archive into another store, where it must be the image of the test."""

    def check(archive: Path) -> Store:
        other = Store.open(store.root.parent / "other")
        (record,) = load(other, archive)
        seen = (record.reference, record.id, record.diff_ids)
        assert seen == (NAME, Digest.of(image.config), image.diff_ids)
        layers = [sorted(os.listdir(folder)) for folder in other.layers(record)]
        assert layers == [["b", "etc"], ["c", "etc"]]
        return other

    return check


@pytest.mark.parametrize(("form", "transport"), SOURCES)
def test_skopeo_reads_what_is_saved(
    oracles: Oracles,
    store: Store,
    stored: Reference,
    image: Image,
    tmp_path: Path,
    loaded: Callable[[Path], Store],
    form: Format,
    transport: str,
) -> None:
    """Config and DiffIDs are those of the store, byte for byte, and every blob is copied."""
    save(store, [stored], tmp_path / "out", format=form)
    source = f"{transport}:{tmp_path / 'out'}:{NAME}"
    assert oracles.skopeo("inspect", "--raw", "--config", source).strip().encode() == image.config
    oracles.skopeo("copy", source, f"oci:{tmp_path / 'copied'}:{NAME}")
    loaded(tmp_path / "copied")


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive", "oci"])
def test_what_skopeo_writes_is_loaded(
    oracles: Oracles,
    store: Store,
    stored: Reference,
    tmp_path: Path,
    loaded: Callable[[Path], Store],
    transport: str,
) -> None:
    """Its docker archive has symbolic links and plain layers, its layouts a name or a tag."""
    save(store, [stored], tmp_path / "out", format="oci")
    source, target = f"oci-archive:{tmp_path / 'out'}:{NAME}", f"{transport}:{tmp_path / 'theirs'}:{NAME}"
    oracles.skopeo("copy", source, target)
    loaded(tmp_path / "theirs")


@pytest.mark.parametrize("form", ["docker", "oci", "oci-dir"])
def test_podman_loads_what_is_saved(
    oracles: Oracles, store: Store, stored: Reference, image: Image, tmp_path: Path, form: Format
) -> None:
    """It has the image by its id, and by its name, which for a folder is that of the folder."""
    save(store, [stored], tmp_path / "out", format=form)
    name = oracles.podman("load", "--input", tmp_path / "out").partition("Loaded image: ")[2].strip()
    (seen,) = json.loads(oracles.podman("image", "inspect", name))
    oracles.podman("image", "rm", "--force", name)
    assert name == (f"localhost{tmp_path / 'out'}" if form == "oci-dir" else NAME)
    assert seen["Id"] == Digest.of(image.config).hex
    assert tuple(seen["RootFS"]["Layers"]) == image.diff_ids


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir"])
def test_what_podman_saves_is_loaded(
    oracles: Oracles,
    image: Image,
    archived: Archived,
    tmp_path: Path,
    loaded: Callable[[Path], Store],
    form: str,
) -> None:
    """An image that it made a storage of comes back with its id and its DiffIDs."""
    (tmp_path / "in").write_bytes(archived(image.docker()))
    oracles.podman("load", "--input", tmp_path / "in")
    oracles.podman("save", "--format", form, "--output", tmp_path / "theirs", NAME)
    oracles.podman("image", "rm", "--force", NAME)
    loaded(tmp_path / "theirs")


def test_docker_loads_what_is_saved_and_the_other_way_round(
    oracles: Oracles,
    store: Store,
    stored: Reference,
    image: Image,
    tmp_path: Path,
    loaded: Callable[[Path], Store],
) -> None:
    """The daemon knows the image by its id and its DiffIDs, and what it saves is loaded again."""
    # Docker archives only: a daemon of before version 25 knows no other.
    save(store, [stored], tmp_path / "out")
    oracles.docker("load", "--input", tmp_path / "out")
    (seen,) = json.loads(oracles.docker("image", "inspect", NAME))
    oracles.docker("save", "--output", tmp_path / "theirs", NAME)
    oracles.docker("image", "rm", "--force", NAME)
    assert seen["Id"] == Digest.of(image.config)
    assert tuple(seen["RootFS"]["Layers"]) == image.diff_ids
    loaded(tmp_path / "theirs")
