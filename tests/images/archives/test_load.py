"""Load: every form that tools write, and what an archive may leave open."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import ImageError, ImageNotFound, ReferenceInvalid
from pytest_containers.images.digest import Digest
from pytest_containers.images.load import load
from pytest_containers.images.manifest import (
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    Descriptor,
    Index,
)
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.progress import Progress

if TYPE_CHECKING:
    from tests.images.archives.conftest import Image
    from tests.images.conftest import TarBuilder

Archived = Callable[[dict[str, bytes]], bytes]
PutFiles = Callable[[Path, dict[str, bytes]], Path]
SeenFiles = Callable[[Store, str], list[list[str]]]
NAME = "r.example/team/app:1"
FILES = [["b", "etc/a"], ["c", "etc/a"]]
AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


def test_docker_archive_becomes_an_image(
    store: Store, image: Image, archived: Archived, seen_files: SeenFiles
) -> None:
    """The config keeps its bytes, hence its id, and the plain layers become gzip blobs."""
    (record,) = load(store, io.BytesIO(archived(image.docker())))
    assert (record.reference, record.id, record.diff_ids) == (NAME, Digest.of(image.config), image.diff_ids)
    assert seen_files(store, NAME) == FILES
    layers = store.manifest(Reference.parse(NAME))[1].layers
    assert {layer.media_type for layer in layers} == {OCI_LAYER_GZIP}
    with store.blobs.open(layers[0].digest) as blob:
        assert gzip.decompress(blob.read()) == image.layers[0]


@pytest.mark.parametrize(
    ("pack", "media_type", "kept"),
    [
        (gzip.compress, OCI_LAYER_GZIP, True),
        (_zstd, OCI_LAYER_ZSTD, True),
        (lzma.compress, OCI_LAYER_GZIP, False),
        (bz2.compress, OCI_LAYER_GZIP, False),
    ],
)
def test_compressed_layers_are_kept_where_registries_know_them(
    store: Store,
    image: Image,
    archived: Archived,
    pack: Callable[[bytes], bytes],
    media_type: str,
    kept: bool,
) -> None:
    """Gzip and zstd stay as they are; what no manifest can name becomes gzip."""
    load(store, io.BytesIO(archived(image.docker(pack))))
    layer = store.manifest(Reference.parse(NAME))[1].layers[0]
    assert layer.media_type == media_type
    with store.blobs.open(layer.digest) as blob:
        data = blob.read()
    assert (data[8:] == pack(image.layers[0])[8:]) is kept


def test_links_of_the_oldest_format_are_followed_inside(
    store: Store, image: Image, tar: Callable[[], TarBuilder], seen_files: SeenFiles
) -> None:
    """Docker linked a layer that two images share; podman links its old names, some by hard links."""
    one, two = image.layers
    entry = {"Config": "./config", "RepoTags": [NAME], "Layers": ["./new/layer.tar", "hard.tar"]}
    made = (
        tar()
        .folder("old")
        .file("old/layer.tar", one)
        .folder("new")
        .symlink("new/layer.tar", "../old/layer.tar")
    )
    made.file("second.tar", two).link("hard.tar", "./second.tar").file("config", image.config)
    load(store, io.BytesIO(made.file("manifest.json", json.dumps([entry]).encode()).bytes()))
    assert seen_files(store, NAME) == FILES


@pytest.mark.parametrize("pack", [bytes, gzip.compress, _zstd, lzma.compress, bz2.compress])
def test_layout_is_loaded_from_a_tar_of_any_compression(
    store: Store, image: Image, archived: Archived, seen_files: SeenFiles, pack: Callable[[bytes], bytes]
) -> None:
    """An OCI layout keeps every digest, also where docker's own form stands beside it."""
    files = {**image.layout(), "manifest.json": b"[]"}
    (record,) = load(store, io.BytesIO(pack(archived(files))))
    assert record.digest == Digest.of(image.manifest.encode())
    assert store.manifest(Reference.parse(NAME))[0] == image.manifest.encode()
    assert seen_files(store, NAME) == FILES


def test_layout_with_plain_layers_keeps_them(
    store: Store, image: Image, archived: Archived, seen_files: SeenFiles
) -> None:
    """Docker 25 and later saves layers as plain tars under digests of their own."""
    layers = tuple(
        Descriptor(media_type=OCI_LAYER, digest=diff_id, size=len(layer)) for diff_id, layer in image.parts()
    )
    data = replace(image.manifest, layers=layers).encode()
    entry = replace(image.entry(), digest=Digest.of(data), size=len(data))
    blobs = {f"blobs/sha256/{Digest.of(blob).hex}": blob for blob in (data, *image.layers)}
    (record,) = load(store, io.BytesIO(archived({**image.layout(entry), **blobs})))
    assert (record.digest, record.diff_ids) == (Digest.of(data), image.diff_ids)
    assert seen_files(store, NAME) == FILES


def test_layout_is_loaded_from_a_folder(
    store: Store, image: Image, put_files: PutFiles, tmp_path: Path, seen_files: SeenFiles
) -> None:
    """A folder is read where it lies."""
    load(store, put_files(tmp_path / "layout", image.layout()))
    assert seen_files(store, NAME) == FILES


def test_archive_may_come_through_a_pipe(store: Store, image: Image, archived: Archived) -> None:
    """Standard input cannot be read twice; ``manifest.json`` is the last member of most archives."""
    data = archived(image.docker())
    read, write = os.pipe()

    def feed() -> None:
        with os.fdopen(write, "wb") as out:
            out.write(data)

    feeder = threading.Thread(target=feed)
    feeder.start()
    with os.fdopen(read, "rb") as source:
        (record,) = load(store, source)
    feeder.join()
    assert record.diff_ids == image.diff_ids
    assert list((store.root / "ingest").iterdir()) == []


def test_archive_is_read_from_where_the_file_stands(
    store: Store, image: Image, archived: Archived, tmp_path: Path
) -> None:
    """What was read of a file before belongs to somebody else."""
    (tmp_path / "a").write_bytes(b"head" * 10 + archived(image.layout()))
    with (tmp_path / "a").open("rb") as source:
        source.read(40)
        assert load(store, source)[0].reference == NAME


def test_image_that_is_here_is_not_packed_again(store: Store, image: Image, archived: Archived) -> None:
    """The same id means the same image: the manifest that a registry gave it stays."""
    load(store, io.BytesIO(archived(image.layout())))
    second = replace_name(image.docker(), "r.example/second:2")
    (record,) = load(store, io.BytesIO(archived(second)))
    assert (record.reference, record.digest) == ("r.example/second:2", Digest.of(image.manifest.encode()))


def replace_name(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    """Return a docker archive whose one image is called *name*."""
    entry = {**json.loads(files["manifest.json"])[0], "RepoTags": [name]}
    return {**files, "manifest.json": json.dumps([entry]).encode()}


def test_archive_of_several_images_gives_them_all(store: Store, image: Image, archived: Archived) -> None:
    """Every name of every image is there, in the archive's order."""
    other = type(image)(layers=image.layers[:1])
    files = {**image.docker(), **other.docker(name="r.example/other:1")}
    entries = [json.loads(each["manifest.json"])[0] for each in (image.docker(), other.docker())]
    entries[0]["RepoTags"] = ["b", "a"]
    entries[1]["RepoTags"] = ["r.example/other:1"]
    files["manifest.json"] = json.dumps(entries).encode()
    records = load(store, io.BytesIO(archived(files)))
    assert [record.reference for record in records] == [
        "docker.io/library/b:latest",
        "docker.io/library/a:latest",
        "r.example/other:1",
    ]


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_image_without_a_name_is_named_by_its_id(
    store: Store, image: Image, archived: Archived, form: str
) -> None:
    """Without a name in the archive it has the same one each time; the given name is the only one it gets."""
    bare = archived(image.docker(name="") if form == "docker" else image.layout(image.entry("")))
    expected = f"docker.io/library/loaded-{Digest.of(image.config).hex[:16]}:latest"
    for _ in range(2):
        assert [record.reference for record in load(store, io.BytesIO(bare))] == [expected]
    store.remove(Reference.parse(expected))
    named = archived(image.docker() if form == "docker" else image.layout())
    for data in (bare, named):
        records = load(store, io.BytesIO(data), reference=Reference.parse("mine:2"))
        assert [record.reference for record in records] == ["docker.io/library/mine:2"]
    assert [record.reference for record in store.list()] == ["docker.io/library/mine:2"]


@pytest.mark.parametrize("text", ["7", "latest", "sha256-abc"])
def test_tag_alone_is_no_name(store: Store, image: Image, archived: Archived, text: str) -> None:
    """Tools write the tag into the layout's own annotation; a repository cannot be made of it."""
    annotations = {"org.opencontainers.image.ref.name": text}
    files = image.layout(replace(image.entry(), annotations=annotations))
    (record,) = load(store, io.BytesIO(archived(files)))
    assert record.reference.startswith("docker.io/library/loaded-")


def test_two_images_without_names_are_loaded(store: Store, image: Image, archived: Archived) -> None:
    """An archive of images that were saved by their ids holds as many images as were saved."""
    other = type(image)(layers=image.layers[:1])
    files = {**image.docker(name=""), **other.docker(name="")}
    entries = [json.loads(each.docker(name="")["manifest.json"])[0] for each in (image, other)]
    files["manifest.json"] = json.dumps([{**entry, "RepoTags": None} for entry in entries]).encode()
    records = load(store, io.BytesIO(archived(files)))
    assert len({record.reference for record in records}) == len(records) == 2


def test_one_name_is_not_given_to_two_images(store: Store, image: Image, archived: Archived) -> None:
    """A name for an archive of several images would be a name for one of them only."""
    other = type(image)(layers=image.layers[:1])
    files = {**image.layout(image.entry(), other.entry("r.example/b:1")), **other.blobs}
    with pytest.raises(ImageError, match="2 images"):
        load(store, io.BytesIO(archived(files)), reference=Reference.parse("mine"))


def _index_entry(*entries: Descriptor) -> tuple[Descriptor, dict[str, bytes]]:
    data = Index(manifests=entries).encode()
    entry = Descriptor(
        media_type=OCI_INDEX,
        digest=Digest.of(data),
        size=len(data),
        annotations={"io.containerd.image.name": NAME},
    )
    return entry, {f"blobs/sha256/{entry.digest.hex}": data}


@pytest.mark.parametrize("nested", [True, False])
def test_platform_chooses_from_an_index(store: Store, image: Image, archived: Archived, nested: bool) -> None:
    """Of an index in the archive, or of entries of one name, one platform's image is loaded."""
    arm = type(image)(layers=image.layers[:1], settings=replace(image.settings, architecture="arm64"))
    entries = (image.entry(platform=AMD64), arm.entry(platform=ARM64))
    index, more = _index_entry(*entries)
    files = {**image.layout(*((index,) if nested else entries)), **arm.blobs, **more}
    for platform, wanted in ((ARM64, arm), (AMD64, image)):
        (record,) = load(store, io.BytesIO(archived(files)), platform=platform)
        assert record.id == Digest.of(wanted.config)
    with pytest.raises(ImageNotFound, match="linux/amd64, linux/arm64"):
        load(store, io.BytesIO(archived(files)), platform=Platform.parse("linux/s390x"))


def test_index_may_name_platforms_that_are_not_in_the_archive(
    store: Store, image: Image, archived: Archived
) -> None:
    """Docker saves the index of all platforms and the blobs of one; attestations are no images."""
    arm = type(image)(layers=image.layers[:1], settings=replace(image.settings, architecture="arm64"))
    proof = replace(image.entry("", Platform(os="unknown", architecture="unknown")))
    index, more = _index_entry(proof, arm.entry(platform=ARM64), image.entry(platform=AMD64))
    files = {**image.layout(index), **more}
    assert load(store, io.BytesIO(archived(files)), platform=AMD64)[0].id == Digest.of(image.config)
    with pytest.raises(ImageNotFound, match="it has linux/amd64"):
        load(store, io.BytesIO(archived(files)), platform=ARM64)


@pytest.mark.parametrize("name", ["a/Upper:1", "a b", "host@sha256:0", ":"])
def test_name_that_is_none_is_refused(store: Store, image: Image, archived: Archived, name: str) -> None:
    """The names that an archive brings follow the same grammar as those of people."""
    with pytest.raises(ReferenceInvalid):
        load(store, io.BytesIO(archived(image.docker(name=name))))
    assert store.list() == ()


def test_load_tells_how_far_it_is(store: Store, image: Image, archived: Archived) -> None:
    """Each layer ends once in each phase with all of its bytes."""
    seen: list[Progress] = []
    load(store, io.BytesIO(archived(image.docker())), watch=seen.append)
    ends = [(event.subject, event.phase) for event in seen if event.done_bytes == event.total_bytes]
    assert sorted(ends) == sorted(
        (diff_id, phase) for diff_id in image.diff_ids for phase in ("load", "unpack")
    )
    assert {event.total_bytes for event in seen} == {len(layer) for layer in image.layers}
