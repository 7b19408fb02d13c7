"""The lock file: the same images, the same bytes, and nothing else is taken for one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.errors import ImageError
from pytest_containers.images.digest import Digest
from pytest_containers.images.lockfile import LOCK_NAME, LockedBlob, LockedImage, LockedManifest, LockFile
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference

AMD64, ARM64, ARM_V6 = (Platform.parse(text) for text in ("linux/amd64", "linux/arm64", "linux/arm/v6"))


def digest(number: int) -> Digest:
    """Return one digest of many."""
    return Digest(f"sha256:{number:064x}")


def image(name: str, *platforms: Platform) -> LockedImage:
    """Return a locked image of two blobs for each platform."""
    manifests = tuple(
        LockedManifest(
            platform=platform,
            digest=digest(at + 10),
            size=500 + at,
            blobs=(LockedBlob(digest=digest(at + 20), size=7), LockedBlob(digest=digest(1), size=9000)),
        )
        for at, platform in enumerate(platforms)
    )
    return LockedImage(reference=Reference.parse(name), digest=digest(5), manifests=manifests)


TEXT = f"""\
# Made by `pytest-containers lock`; keep it under version control and do not edit it.
version = 1

[[image]]
name = "docker.io/library/redis:7"
digest = "{digest(5)}"

[[image.platform]]
platform = "linux/amd64"
manifest = "{digest(10)}"
size = 500
blobs = [
    {{ digest = "{digest(20)}", size = 7 }},
    {{ digest = "{digest(1)}", size = 9000 }},
]
"""


def test_lock_file_is_text_with_a_value_a_line() -> None:
    """A person can read what changed; nothing depends on the time or the machine."""
    assert LockFile(images=(image("redis:7", AMD64),)).encode().decode() == TEXT
    assert LockFile.parse(TEXT.encode()) == LockFile(images=(image("redis:7", AMD64),))


def test_lock_file_is_sorted() -> None:
    """The order in which images were locked does not show."""
    one, two = image("b:1", ARM64, AMD64), image("a:1", AMD64)
    first, second = LockFile().updated([one, two]), LockFile().updated([two]).updated([one])
    assert first.encode() == second.encode()
    read = LockFile.parse(first.encode())
    assert [each.reference.familiar for each in read.images] == ["a:1", "b:1"]
    assert [str(each.platform) for each in read.images[1].manifests] == ["linux/amd64", "linux/arm64"]


def test_update_replaces_what_a_name_meant() -> None:
    """Other images stay as they were locked."""
    old = LockFile().updated([image("a:1", AMD64), image("b:1", AMD64)])
    moved = replace(image("a:1", AMD64), digest=digest(99))
    new = old.updated([moved])
    assert new.find(Reference.parse("a:1")) == moved
    assert new.find(Reference.parse("b:1")) == image("b:1", AMD64)
    assert new.find(Reference.parse("c:1")) is None


def test_platform_is_chosen_as_from_an_index() -> None:
    """A later variant of a processor runs what is locked for an earlier one."""
    locked = image("a:1", AMD64, ARM_V6)
    found = locked.manifest(Platform.parse("linux/arm/v7"))
    assert found is not None
    assert found.platform == ARM_V6
    assert locked.manifest(ARM64) is None
    assert LockFile(images=(locked,)).digests == (digest(10), digest(11))
    assert found.size_bytes == 501 + 7 + 9000


def test_file_is_written_whole_and_read(tmp_path: Path) -> None:
    """Nothing is left beside it; a folder that is missing is told with the path."""
    locked = LockFile(images=(image("a:1", AMD64),))
    locked.write(tmp_path / LOCK_NAME)
    assert os.listdir(tmp_path) == ["containers.lock"]
    assert LockFile.read(tmp_path / LOCK_NAME) == locked
    for act in (LockFile.read, locked.write):
        with pytest.raises(ImageError, match="missing/containers"):
            act(tmp_path / "missing" / LOCK_NAME)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("version = 1", "version = 2", "version 2"),
        ("version = 1", "", "version 0"),
        ("redis:7", "Redis 7", "not the name of an image"),
        ("linux/amd64", "a/b/c/d", "not a platform"),
        ("size = 7", "size = -7", "whole number"),
        ("size = 7", 'size = "7"', "whole number"),
        (str(digest(1)), "sha256:1", "not a sha256 digest"),
        ("[[image]]", "[image]", "not a list"),
        ("version = 1", "<<<<<<< HEAD", "no lock file"),
    ],
)
def test_file_that_is_none_is_told(old: str, new: str, word: str) -> None:
    """The place stands in the message, with the line's fault."""
    with pytest.raises(ImageError, match=rf"here(.|\n)*{word}|{word}(.|\n)*here"):
        LockFile.parse(TEXT.replace(old, new).encode(), "here")


def test_name_that_stands_twice_is_refused() -> None:
    """Two branches joined without a look leave both; neither is right by itself."""
    twice = TEXT + TEXT.partition("version = 1\n")[2]
    with pytest.raises(ImageError, match="twice"):
        LockFile.parse(twice.encode())


platforms = st.lists(st.sampled_from([AMD64, ARM64, ARM_V6]), unique=True)
names = st.from_regex(r"[a-z0-9]{1,8}(/[a-z0-9]{1,8})?(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,9})?", fullmatch=True)


@given(st.lists(st.tuples(names, platforms), max_size=4))
def test_what_is_written_is_what_is_read(images: list[tuple[str, list[Platform]]]) -> None:
    """Any images come back, and their bytes are the same again."""
    written = LockFile().updated(image(name, *found) for name, found in images).encode()
    read = LockFile.parse(written)
    assert read.encode() == written
    assert {each.reference for each in read.images} == {Reference.parse(name) for name, _ in images}


@given(st.binary(max_size=200))
def test_any_bytes_are_a_lock_file_or_an_image_error(data: bytes) -> None:
    """Nothing else comes out of the parser."""
    try:
        read = LockFile.parse(b"version = 1\n" + data)
    except ImageError as error:
        read, said = LockFile(), str(error)
    else:
        said = LOCK_NAME
    assert LOCK_NAME in said
    assert read.images == ()
