"""Digests of selections, the tars they are written as, and selections out of tars."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.context import Context
from pytest_containers.images.build.instruction import Add, Copy, Instruction
from pytest_containers.images.build.selection import Selection
from tests.images.build.writing import written

Parse = Callable[[str], Instruction]
Select = Callable[[str], Selection]


@pytest.fixture
def select(tmp_path: Path, instruction: Parse) -> Select:
    """Return a function that selects in the test's folder what one line says."""

    def run(text: str) -> Selection:
        transfer = instruction(text)
        assert isinstance(transfer, Copy | Add)
        return Context.open(tmp_path).select(transfer)

    return run


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry, content in members:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _entry(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o640) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode, entry.uid, entry.gid, entry.mtime = kind, link, mode, 11, 12, 99
    return entry


def test_write_gives_the_one_file_another_name(tmp_path: Path, select: Select) -> None:
    """A file that is copied to a name is the only entry, of that name."""
    (tmp_path / "a").write_bytes(b"bytes")
    found = written(select("COPY a /x"), name="x", owner=(5, 6), mode="u+x")
    entry, content = found["x"]
    assert list(found) == ["x"]
    assert (entry.uid, entry.gid, entry.mode & 0o100, content) == (5, 6, 0o100, b"bytes")


def test_write_applies_the_mode_to_files_and_folders_but_not_to_links(tmp_path: Path, select: Select) -> None:
    """--chmod is for everything that has a mode of its own."""
    (tmp_path / "dir").mkdir(0o700)
    (tmp_path / "dir/file").touch(0o600)
    (tmp_path / "dir/link").symlink_to("file")
    found = written(select("COPY . /x"), mode="go=rX")
    modes = {name: entry.mode for name, (entry, _) in found.items()}
    assert modes == {"dir": 0o755, "dir/file": 0o644, "dir/link": 0o777}


def test_write_clamps_times(tmp_path: Path, select: Select) -> None:
    """A file keeps its time to the nanosecond, unless it is younger than the build may be."""
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", ns=(0, 1_500_000_000_000_000_007))
    assert written(select("COPY a /x"))["a"][0].pax_headers["mtime"] == "1500000000.000000007"
    assert written(select("COPY a /x"), mtime_s=1000)["a"][0].mtime == 1000
    assert written(select("COPY a /x"), mtime_s=1_600_000_000)["a"][0].mtime < 1_500_000_001


def test_write_keeps_attributes_and_any_name(tmp_path: Path, select: Select) -> None:
    """The user's extended attributes and names that are no UTF-8 arrive as they are."""
    path = os.fsencode(tmp_path) + b"/\xff"
    with open(path, "wb"):
        os.setxattr(path, "user.kept", b"\xfe")
    found = written(select("COPY . /x"))
    entry = found["\udcff"][0]
    assert entry.pax_headers["SCHILY.xattr.user.kept"].encode("utf-8", "surrogateescape") == b"\xfe"


def test_write_notices_a_file_that_changed(tmp_path: Path, select: Select) -> None:
    """What is written is what the digest is of, or nothing."""
    old = bytes(100_000)
    (tmp_path / "a").write_bytes(old)
    for content in (b"1" * len(old), old[1:], old + b"1"):
        selection = select("COPY a /x")
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(SpecInvalid, match="Dockerfile:2: a changed while it was copied"):
            written(selection)
        (tmp_path / "a").write_bytes(old)


def test_write_streams_a_large_file(tmp_path: Path, select: Select) -> None:
    """A file of many pieces arrives whole."""
    content = os.urandom(1 << 16) * 40 + b"end"
    (tmp_path / "a").write_bytes(content)
    assert written(select("COPY a /x"))["a"][1] == content


@pytest.mark.parametrize("change", ["content", "mode", "name", "link", "attribute", "kind"])
def test_digest_covers_what_reaches_the_image(tmp_path: Path, select: Select, change: str) -> None:
    """Every change that an image could show gives another digest."""
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "l").symlink_to("a")
    before = select("COPY . /x").digest
    if change == "content":
        (tmp_path / "a").write_bytes(b"2")
    elif change == "mode":
        (tmp_path / "a").chmod(0o711)
    elif change == "name":
        (tmp_path / "a").rename(tmp_path / "b")
    elif change == "attribute":
        os.setxattr(tmp_path / "a", "user.new", b"")
    else:
        (tmp_path / "l").unlink()
        (tmp_path / "l").symlink_to("b") if change == "link" else (tmp_path / "l").mkdir()
    assert select("COPY . /x").digest != before


def test_digest_does_not_cover_times_or_what_is_not_selected(tmp_path: Path, select: Select) -> None:
    """A fresh checkout of the same files finds the old steps."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/a").write_bytes(b"1")
    before = select("COPY dir /x").digest
    os.utime(tmp_path / "dir/a", (1, 1))
    (tmp_path / "dir").rename(tmp_path / "other")
    (tmp_path / "beside").touch()
    assert select("COPY other /y").digest == before
    assert before.startswith("sha256:")


def test_digest_does_not_depend_on_the_order_files_were_made(tmp_path: Path, instruction: Parse) -> None:
    """The order of names decides, not that of the file system."""
    names = [f"file{number}" for number in range(50)]
    copy = instruction("COPY . /x")
    assert isinstance(copy, Copy)
    digests = set()
    for folder, order in (("one", names), ("two", names[::-1])):
        (tmp_path / folder).mkdir()
        for name in order:
            (tmp_path / folder / name).write_text(name)
        digests.add(Context.open(tmp_path / folder).select(copy).digest)
    assert len(digests) == 1


def _plain(data: bytes) -> bytes:
    return data


@pytest.mark.parametrize("pack", [_plain, gzip.compress, bz2.compress, lzma.compress])
def test_add_unpacks_archives_by_content(
    tmp_path: Path, select: Select, pack: Callable[[bytes], bytes]
) -> None:
    """An archive under any name becomes its entries, with their own owners and modes."""
    members = (
        (_entry("./", tarfile.DIRTYPE), b""),
        (_entry("./dir", tarfile.DIRTYPE, mode=0o750), b""),
        (_entry("/dir/a"), b"content"),
        (_entry("dir/hard", tarfile.LNKTYPE, link="./dir/a"), b""),
        (_entry("dir/soft", tarfile.SYMTYPE, link="../../out"), b""),
    )
    (tmp_path / "data.txt").write_bytes(pack(_tar(*members)))
    selection = select("ADD data.txt /x")
    assert not selection.one_file
    found = written(selection, owner=(1, 2), mode="777")
    assert list(found) == ["dir", "dir/a", "dir/hard", "dir/soft"]
    entry, content = found["dir/a"]
    assert (entry.uid, entry.gid, entry.mode, entry.mtime, content) == (11, 12, 0o640, 99, b"content")
    assert (found["dir/hard"][0].linkname, found["dir/soft"][0].linkname) == ("dir/a", "../../out")


@pytest.mark.parametrize("line", ["COPY a.tar /x", "ADD --unpack=false a.tar /x", "COPY --parents a.tar /x"])
def test_archives_stay_whole_where_nobody_unpacks(tmp_path: Path, select: Select, line: str) -> None:
    """COPY and --unpack=false take an archive as the file it is."""
    (tmp_path / "a.tar").write_bytes(_tar((_entry("inner"), b"")))
    assert list(written(select(line))) == ["a.tar"]


@pytest.mark.parametrize(
    "content",
    [b"", b"text", bytes(2048), gzip.compress(b"text" * 500, mtime=0), b"\x1f\x8b broken", b"BZh9broken"],
)
def test_add_keeps_what_is_no_archive(tmp_path: Path, select: Select, content: bytes) -> None:
    """Compressed data that is no tar, damaged data and an empty tar are copied as files."""
    (tmp_path / "a.tar.gz").write_bytes(content)
    selection = select("ADD a.tar.gz /x")
    assert selection.one_file
    assert written(selection)["a.tar.gz"][1] == content


def test_add_keeps_archives_inside_a_folder(tmp_path: Path, select: Select) -> None:
    """Only an archive that a source names is unpacked."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/a.tar").write_bytes(_tar((_entry("inner"), b"")))
    assert list(written(select("ADD dir /x"))) == ["a.tar"]
    assert list(written(select("ADD dir/*.tar /x"))) == ["inner"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (((_entry("../out"), b""),), "has an entry outside itself"),
        (((_entry("a/../../out"), b""),), "has an entry outside itself"),
        (((_entry("a", tarfile.LNKTYPE, link="../out"), b""),), "has an entry outside itself"),
        (((_entry("a/.wh.b"), b""),), "has an entry that no image can hold"),
    ],
)
def test_add_refuses_archives_that_reach_out(
    tmp_path: Path, select: Select, members: tuple[tuple[tarfile.TarInfo, bytes], ...], message: str
) -> None:
    """No entry of an archive is written outside the target, or removes anything."""
    (tmp_path / "a.tar").write_bytes(_tar(*members))
    with pytest.raises(SpecInvalid, match=f"Dockerfile:2: the archive a.tar {message}"):
        written(select("ADD a.tar /x"))


@pytest.mark.parametrize("cut", [600, 1500, 1700])
def test_add_refuses_a_cut_archive(tmp_path: Path, select: Select, cut: int) -> None:
    """An archive that ends within an entry, or goes on with a damaged one, is not half unpacked."""
    whole = _tar((_entry("a"), b"x" * 300), (_entry("b"), b"y" * 300))
    (tmp_path / "a.tar").write_bytes(whole[:cut])
    with pytest.raises(SpecInvalid, match=r"Dockerfile:2: the archive a\.tar cannot be read"):
        written(select("ADD a.tar /x"))
