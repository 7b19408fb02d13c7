"""Archives that lie, lead out, lack something or grow: refused by name, and nothing of them stays."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pytest_containers.errors import (
    ContainersError,
    DigestMismatch,
    ImageError,
    LayerCorrupt,
    LayerEscape,
    LayerTooLarge,
    NotPortable,
    ReferenceInvalid,
)
from pytest_containers.images.digest import Digest
from pytest_containers.images.load import load
from pytest_containers.images.manifest import BASE_ANNOTATION, Manifest
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from tests.images.conftest import header, pax_record

if TYPE_CHECKING:
    from tests.images.archives.conftest import Image
    from tests.images.conftest import TarBuilder

Archived = Callable[[dict[str, bytes]], bytes]
MakeTar = Callable[[], "TarBuilder"]
NothingLeft = Callable[[Store], bool]
NAME = "r.example/team/app:1"


def _docker(tar: MakeTar, image: Image, layers: list[str]) -> TarBuilder:
    entry = {"Config": "config", "RepoTags": [NAME], "Layers": layers}
    return tar().file("manifest.json", json.dumps([entry]).encode()).file("config", image.config)


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/out", "./../out"])
def test_member_that_leads_out_is_refused(
    store: Store, image: Image, archived: Archived, nothing_left: NothingLeft, tmp_path: Path, name: str
) -> None:
    """A name with ``..`` past the top, or an absolute one, condemns the whole archive."""
    with pytest.raises(LayerEscape, match="leads out"):
        load(store, io.BytesIO(archived({**image.layout(), name: b"x"})))
    assert nothing_left(store)
    assert os.listdir(tmp_path) == ["store"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", "../a/../../b"])
def test_link_that_leads_out_is_refused(
    store: Store, image: Image, tar: MakeTar, nothing_left: NothingLeft, target: str
) -> None:
    """A layer cannot be a link to a file of this machine."""
    made = _docker(tar, image, ["a/one", "two"]).symlink("a/one", target).file("two", image.layers[1])
    with pytest.raises(LayerEscape, match="leads out"):
        load(store, io.BytesIO(made.bytes()))
    assert nothing_left(store)


def test_links_in_a_circle_end(store: Store, image: Image, tar: MakeTar, nothing_left: NothingLeft) -> None:
    """A link to itself is refused after as many steps as the kernel takes."""
    made = _docker(tar, image, ["one", "two"]).symlink("one", "two").symlink("two", "one")
    with pytest.raises(LayerEscape, match="circle"):
        load(store, io.BytesIO(made.bytes()))
    assert nothing_left(store)


@pytest.mark.parametrize("kind", [b"3", b"4", b"6", b"5"])
def test_layer_that_is_no_file_is_missing(
    store: Store, image: Image, tar: MakeTar, nothing_left: NothingLeft, kind: bytes
) -> None:
    """A device, a fifo or a folder in a layer's place is as good as nothing."""
    made = _docker(tar, image, ["one", "two"]).add("one", kind).file("two", image.layers[1])
    with pytest.raises(ImageError, match="no one"):
        load(store, io.BytesIO(made.bytes()))
    assert nothing_left(store)


def test_two_members_of_one_name_are_refused(
    store: Store, image: Image, tar: MakeTar, nothing_left: NothingLeft
) -> None:
    """Another tool would take the other one and see another image."""
    made = _docker(tar, image, ["one", "two"]).file("one", image.layers[0]).file("two", image.layers[1])
    with pytest.raises(LayerCorrupt, match="two members"):
        load(store, io.BytesIO(made.file("./one", b"other").bytes()))
    assert nothing_left(store)


def test_folder_with_links_is_not_followed(
    store: Store, image: Image, tmp_path: Path, put_files: Callable[..., Path], nothing_left: NothingLeft
) -> None:
    """Neither a file nor a folder on the way may be a link or a fifo, wherever it leads."""
    layout = put_files(tmp_path / "layout", image.layout())
    (layout / "blobs").rename(tmp_path / "elsewhere")
    (layout / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ImageError, match="lacks the blob"):
        load(store, layout)
    (layout / "index.json").unlink()
    os.mkfifo(layout / "index.json")
    with pytest.raises(ImageError, match="no archive of images"):
        load(store, layout)
    assert nothing_left(store)


@pytest.mark.parametrize("form", ["docker", "layout"])
def test_archive_that_lacks_a_file_is_refused(
    store: Store, image: Image, archived: Archived, nothing_left: NothingLeft, form: str
) -> None:
    """Every file but the marker is needed; which one is missing is told before anything is kept."""
    files = image.docker() if form == "docker" else image.layout()
    for name in files.keys() - {"oci-layout"}:
        with pytest.raises(ImageError):
            load(store, io.BytesIO(archived({key: data for key, data in files.items() if key != name})))
        assert nothing_left(store)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:-1] + b"!"])
def test_changed_blob_is_refused(
    store: Store,
    image: Image,
    archived: Archived,
    nothing_left: NothingLeft,
    at: int,
    change: Callable[[bytes], bytes],
) -> None:
    """Manifest, config and layers have to be what their digests say, in size and content."""
    files = image.layout()
    name = list(image.blobs)[at]
    with pytest.raises(DigestMismatch):
        load(store, io.BytesIO(archived({**files, name: change(files[name])})))
    assert nothing_left(store)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("at", [0, 1])
def test_layer_that_is_not_its_diff_id_is_refused(
    store: Store,
    image: Image,
    archived: Archived,
    tar: MakeTar,
    nothing_left: NothingLeft,
    pack: Callable[[bytes], bytes],
    at: int,
) -> None:
    """A docker archive has no digests of its layers but those in the config."""
    files = image.docker(pack)
    name = f"{image.diff_ids[at].hex}.tar"
    with pytest.raises(DigestMismatch, match=r"another one|does not unpack"):
        load(store, io.BytesIO(archived({**files, name: pack(tar().file("evil").bytes())})))
    assert nothing_left(store)


@pytest.mark.parametrize("form", ["docker", "layout"])
def test_known_chain_vouches_for_no_other_bytes(
    store: Store, image: Image, archived: Archived, tar: MakeTar, form: str
) -> None:
    """A layer that is unpacked already is compared all the same: it would be pushed one day."""
    load(store, io.BytesIO(archived(image.layout())))
    before = set(store.blobs.all())
    evil = gzip.compress(tar().file("evil").bytes(), mtime=0)
    settings = replace(image.settings, command=("evil",))
    liar = type(image)(layers=image.layers, settings=settings)
    if form == "docker":
        files = {**liar.docker(), f"{image.diff_ids[0].hex}.tar": evil}
    else:
        layers = (
            replace(image.manifest.layers[0], digest=Digest.of(evil), size=len(evil)),
            image.manifest.layers[1],
        )
        data = replace(liar.manifest, layers=layers).encode()
        entry = replace(liar.entry(), digest=Digest.of(data), size=len(data))
        more = {f"blobs/sha256/{Digest.of(blob).hex}": blob for blob in (data, evil)}
        files = {**liar.layout(entry), **more}
    with pytest.raises(DigestMismatch):
        load(store, io.BytesIO(archived(files)))
    assert set(store.blobs.all()) == before
    assert store.find(Reference.parse(NAME)) is not None


def test_config_that_is_not_what_it_is_called_is_refused(
    store: Store, image: Image, archived: Archived, nothing_left: NothingLeft
) -> None:
    """The config's name is the image's id in every docker archive."""
    files = image.docker()
    name = f"{Digest.of(image.config).hex}.json"
    with pytest.raises(DigestMismatch, match="not what its name says"):
        load(store, io.BytesIO(archived({**files, name: image.config + b" "})))
    assert nothing_left(store)


def test_hostile_layer_takes_the_good_ones_along(
    store: Store, image: Image, archived: Archived, tar: MakeTar, nothing_left: NothingLeft
) -> None:
    """What came before the layer that escapes is removed again."""
    bad = type(image)(layers=(*image.layers, tar().file("../../evil").bytes()))
    for files in (bad.docker(), bad.layout()):
        with pytest.raises(LayerEscape):
            load(store, io.BytesIO(archived(files)))
        assert nothing_left(store)


def test_refused_archive_leaves_what_others_have(
    store: Store, stored: Reference, image: Image, archived: Archived, tar: MakeTar
) -> None:
    """Layers that a named image shares with a refused one stay."""
    before = {*store.blobs.all(), *store.chains.all()}
    bad = type(image)(layers=(*image.layers, tar().file("../../evil").bytes()))
    with pytest.raises(LayerEscape):
        load(store, io.BytesIO(archived(bad.layout())))
    assert {*store.blobs.all(), *store.chains.all()} == before
    assert store.find(stored) is not None


def test_bomb_is_refused_at_its_limit(
    store: Store, image: Image, archived: Archived, nothing_left: NothingLeft
) -> None:
    """A few kilobytes that become many megabytes end at the limit."""
    bomb = gzip.compress(archived({**image.layout(), "zeros": bytes(20_000_000)}))
    assert len(bomb) < 100_000
    with pytest.raises(LayerTooLarge, match="archive unpacks past"):
        load(store, io.BytesIO(bomb), limit_bytes=10_000_000)
    assert nothing_left(store)


def test_archive_of_countless_members_is_refused(
    store: Store, tar: MakeTar, nothing_left: NothingLeft
) -> None:
    """The index of members is kept in memory, so it has a limit, too."""
    one = tar().folder("x" * 90).bytes(end=False)
    with pytest.raises(LayerTooLarge, match="too many members"):
        load(store, io.BytesIO(one * 66_000))
    assert nothing_left(store)


def test_archive_of_countless_images_is_refused(
    store: Store, image: Image, archived: Archived, nothing_left: NothingLeft
) -> None:
    """Every image is read, so a small list must not mean much work."""
    entries = json.loads(image.docker()["manifest.json"]) * 1001
    docker = {**image.docker(), "manifest.json": json.dumps(entries).encode()}
    layout = image.layout(*(image.entry(f"r.example/a:{number}") for number in range(1001)))
    for files in (docker, layout):
        with pytest.raises(LayerTooLarge, match="too many images"):
            load(store, io.BytesIO(archived(files)))
    assert nothing_left(store)


def test_names_that_grow_without_end_are_refused(
    store: Store, tar: MakeTar, nothing_left: NothingLeft
) -> None:
    """Headers that only add to the next entry's attributes count together: they are kept in memory."""
    made = tar()
    for number in range(40):
        record = pax_record(b"SCHILY.xattr.user.%d" % number, bytes(100_000))
        made.raw(header(b"pax", b"x", len(record)), record)
    with pytest.raises(LayerCorrupt, match="too long"):
        load(store, io.BytesIO(made.file("a").bytes()))
    assert nothing_left(store)


def test_image_of_another_machines_files_is_refused(
    store: Store, image: Image, archived: Archived, nothing_left: NothingLeft
) -> None:
    """An archive cannot have an image read this machine's own files."""
    manifest: Manifest = replace(image.manifest, annotations={BASE_ANNOTATION: "host"})
    data = manifest.encode()
    entry = replace(image.entry(), digest=Digest.of(data), size=len(data))
    files = {**image.layout(entry), f"blobs/sha256/{entry.digest.hex}": data}
    with pytest.raises(NotPortable):
        load(store, io.BytesIO(archived(files)))
    assert nothing_left(store)


@pytest.mark.parametrize("name", ["host", f"redis@sha256:{'0' * 64}"])
def test_name_that_means_something_else_is_refused(
    store: Store, image: Image, archived: Archived, nothing_left: NothingLeft, name: str
) -> None:
    """An archive cannot take the machine's name, nor that of a digest it has not."""
    with pytest.raises((ReferenceInvalid, DigestMismatch)):
        load(store, io.BytesIO(archived(image.docker(name=name))))
    assert store.list() == ()
    assert nothing_left(store)


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive at all" * 100, bytes(10_240), b"\x1f\x8b broken", b"PK\x03\x04" + bytes(2000)],
)
def test_what_is_no_archive_is_told(store: Store, nothing_left: NothingLeft, data: bytes) -> None:
    """Anything else than an archive of images is refused in words about archives."""
    with pytest.raises(ImageError, match="archive"):
        load(store, io.BytesIO(data))
    assert nothing_left(store)


@pytest.mark.parametrize(
    "content", [b"{}", b"[1]", b'[{"Config":1}]', b"[{}]", b"[", b'[{"Config":"config"}]']
)
def test_index_that_is_none_is_refused(
    store: Store, image: Image, archived: Archived, nothing_left: NothingLeft, content: bytes
) -> None:
    """A ``manifest.json`` of another shape ends as one error that names it or what it lacks."""
    with pytest.raises(ImageError):
        load(store, io.BytesIO(archived({"manifest.json": content, "config": image.config})))
    assert nothing_left(store)


def test_archive_cut_anywhere_is_refused(
    store: Store, image: Image, archived: Archived, nothing_left: NothingLeft
) -> None:
    """However much of it came, a part of an archive is no image."""
    data = archived(image.docker())
    whole = len(data.rstrip(b"\0"))
    for end in range(0, whole, 997):
        with pytest.raises(ImageError):
            load(store, io.BytesIO(data[:end]))
    assert nothing_left(store)


@given(seed=st.integers(0, 2**32), form=st.sampled_from(["docker", "layout"]))
@hypothesis_settings(max_examples=60, deadline=None)
def test_damaged_archive_is_refused_or_right(
    tmp_path_factory: pytest.TempPathFactory,
    archive_of: Callable[[str], tuple[Digest, bytes]],
    seed: int,
    form: str,
) -> None:
    """Bytes changed at random make an error of ours and an empty store, or the image as it was."""
    digest, data = archive_of(form)
    chance = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    store = Store.open(tmp_path_factory.mktemp("damaged"))
    try:
        records = load(store, io.BytesIO(bytes(damaged)))
    except ContainersError:
        assert not [*store.blobs.all(), *store.chains.all(), *store.entries()]
    else:
        assert [record.id for record in records] == [digest]


@pytest.fixture(scope="module")
def archive_of(tar: MakeTar) -> Callable[[str], tuple[Digest, bytes]]:
    """Return what gives a form's archive and the id of the image in it."""
    from tests.images.archives.conftest import Image as Made

    image = Made(layers=(tar().file("a", b"1" * 300).bytes(),))

    def give(form: str) -> tuple[Digest, bytes]:
        made = tar()
        for name, data in (image.docker() if form == "docker" else image.layout()).items():
            made.file(name, data)
        return Digest.of(image.config), made.bytes()

    return give
