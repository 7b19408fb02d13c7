"""Archives by name: what is read in place, and what that costs."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import ImageError
from pytest_containers.images.bundle import open_bundle
from pytest_containers.images.load import load
from pytest_containers.images.store import Store

if TYPE_CHECKING:
    from tests.images.archives.conftest import Image
    from tests.images.conftest import TarBuilder

MakeTar = Callable[[], "TarBuilder"]


def test_plain_tar_file_is_read_in_place(tmp_path: Path, tar: MakeTar) -> None:
    """Nothing of a plain file is copied, several members can be read at once."""
    (tmp_path / "a.tar").write_bytes(tar().file("one", b"1" * 9000).file("d/two", b"2" * 9000).bytes())
    with open_bundle(tmp_path / "a.tar", scratch=tmp_path / "scratch") as bundle:
        with bundle.open("one") as one, bundle.open("d/two") as two:
            assert (one.read(4), two.read(4), one.read(8996)) == (b"1111", b"2222", b"1" * 8996)
        assert (bundle.size("one"), bundle.size("d"), bundle.size("x")) == (9000, None, None)
        assert bundle.read("one", 9000) == b"1" * 9000
        with pytest.raises(ImageError, match="too large"):
            bundle.read("one", 8999)
    assert not (tmp_path / "scratch").exists()


def test_wrapped_stream_is_not_taken_for_its_file(tmp_path: Path, tar: MakeTar) -> None:
    """A gzip reader has the descriptor of the compressed file; its bytes are others."""
    (tmp_path / "a.gz").write_bytes(gzip.compress(tar().file("one", b"1").bytes()))
    with gzip.open(tmp_path / "a.gz") as plain:
        assert plain.fileno() >= 0
        with open_bundle(plain, scratch=tmp_path / "scratch") as bundle:  # type: ignore[arg-type]
            assert bundle.read("one", 1) == b"1"


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "", "a//b"])
def test_folder_gives_nothing_outside_it(tmp_path: Path, name: str) -> None:
    """A name that leads out, or nowhere, is no name of a file in the folder."""
    (tmp_path / "in").mkdir()
    (tmp_path / "a").write_text("outside")
    with open_bundle(tmp_path / "in", scratch=tmp_path) as bundle, pytest.raises(ImageError):
        bundle.open(name)


def test_archive_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The path stands in the message."""
    with pytest.raises(ImageError, match=r"gone\.tar"), open_bundle(tmp_path / "gone.tar", scratch=tmp_path):
        pass


def test_file_that_shrinks_is_told(tmp_path: Path, tar: MakeTar) -> None:
    """A file that is cut while it is read does not give fewer bytes without a word."""
    path = tmp_path / "a.tar"
    path.write_bytes(tar().file("one", b"1" * 200_000).bytes())
    with open_bundle(path, scratch=tmp_path) as bundle, bundle.open("one") as one:
        assert one.read(10) == b"1" * 10
        os.truncate(path, 1000)
        with pytest.raises(ImageError, match="shorter"):
            one.read()


def test_errors_of_the_reader_are_its_own(tmp_path: Path, tar: MakeTar) -> None:
    """What happens to somebody who reads an archive is not said to be the archive's."""
    path = tmp_path / "a.tar"
    path.write_bytes(tar().file("one").bytes())
    with pytest.raises(FileNotFoundError, match="mine"), open_bundle(path, scratch=tmp_path):
        raise FileNotFoundError("mine")
    with pytest.raises(FileNotFoundError, match="mine"), open_bundle(tmp_path, scratch=tmp_path):
        raise FileNotFoundError("mine")


_LOAD = """
import pathlib, resource, sys
from pytest_containers.images.load import load
from pytest_containers.images.store import Store
store = Store.open(pathlib.Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load(store, sys.stdin.buffer)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_is_bounded(
    tmp_path: Path, image: Image, tar: MakeTar, python: Callable[..., subprocess.Popen[str]]
) -> None:
    """A layer of 150 MB through a compressed pipe costs a fraction of that."""
    big = type(image)(layers=(tar().file("big", bytes(150_000_000)).bytes(),))
    made = tar()
    for name, data in big.docker().items():
        made.file(name, data)
    (tmp_path / "a.gz").write_bytes(gzip.compress(made.bytes(), 1))
    loading = python(_LOAD, tmp_path / "store")
    assert loading.stdin is not None
    with open(loading.stdin.fileno(), "wb", closefd=False) as out:
        out.write((tmp_path / "a.gz").read_bytes())
    said, errors = loading.communicate(timeout=60)
    assert int(said) < 60_000, errors


@pytest.mark.kernel
def test_full_disk_leaves_nothing_of_an_archive(
    mounts_of_its_own: Callable[..., str], image: Image, tar: MakeTar, tmp_path: Path
) -> None:
    """A disk that fills while an archive is loaded is StoreFull, and the store is empty after it."""
    big = type(image)(layers=(tar().file("big", os.urandom(3_000_000)).bytes(),))
    made = tar()
    for name, data in big.docker().items():
        made.file(name, data)
    (tmp_path / "a.tar").write_bytes(made.bytes())
    script = (
        "import io, pathlib, sys\n"
        "from pytest_containers.errors import StoreFull\n"
        "from pytest_containers.images.load import load\n"
        "from pytest_containers.images.store import Store\n"
        "store = Store.open(pathlib.Path(sys.argv[1]) / 'store')\n"
        "path = pathlib.Path(sys.argv[2])\n"
        "for source in (path, io.BytesIO(path.read_bytes())):\n"
        "    try: load(store, source)\n"
        "    except StoreFull: print(*store.blobs.all(), *store.chains.all(), *store.root.glob('ingest/*'))\n"
    )
    mount = 'mkdir "$1"; mount -t tmpfs -o size=2m tmpfs "$1"; "$PYTHON" -c "$2" "$1" "$3"'
    assert mounts_of_its_own(mount, tmp_path / "small", script, tmp_path / "a.tar") == "\n\n"


def test_killed_load_leaves_nothing_in_the_way(
    store: Store, image: Image, tar: MakeTar, python: Callable[..., subprocess.Popen[str]]
) -> None:
    """What a killed process had spooled had no name; the same archive loads after it."""
    made = tar()
    for name, data in image.docker().items():
        made.file(name, data)
    data = made.bytes()
    loading = python(_LOAD, store.root)
    assert loading.stdin is not None
    with open(loading.stdin.fileno(), "wb", closefd=False) as out:
        out.write(data[: len(data) // 2])
    loading.kill()
    loading.communicate()
    assert list((store.root / "ingest").glob("*")) == []
    assert load(store, io.BytesIO(data))[0].diff_ids == image.diff_ids
