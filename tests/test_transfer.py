"""Files in and out, with the rules of docker cp."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from pytest_containers import Container, EngineError, PathMissing, SpecInvalid
from pytest_containers.engines.base import Tree
from pytest_containers.session import Session
from pytest_containers.spec import Change, FileStat, ImageConfig, ImageRecord
from pytest_containers.transfer import copy_out, read_file
from tests.engines.sessions import launch, open_session


@pytest.fixture
def session() -> Iterator[Session]:
    """Return a session on an engine in memory."""
    session = open_session()
    yield session
    session.close()


@pytest.fixture
def box(session: Session) -> Container:
    """Return a container with a folder /srv/old, that has one file in it."""
    return launch(session, command="sleep 60", files={"/srv/old/file": "old"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of this machine with a file, a folder, a link and a program in it."""
    top = tmp_path / "top"
    (top / "low").mkdir(parents=True)
    (top / "file").write_text("one")
    (top / "low" / "file").write_text("two")
    (top / "link").symlink_to("low/file")
    (top / "run").write_text("#!/bin/sh\n")
    (top / "run").chmod(0o755)
    return top


def _names(container: Container, path: str) -> list[str]:
    return container.exec(["ls", path], check=True).stdout.split()


def test_file_goes_to_a_new_name(box: Container, folder: Path) -> None:
    """A file copied to a path that is not there gets that path, in folders made for it."""
    box.copy_in(folder / "file", "/srv/made/new.txt")
    assert box.read_text("/srv/made/new.txt") == "one"


def test_file_replaces_a_file(box: Container, folder: Path) -> None:
    """A file copied onto a file takes its place."""
    box.copy_in(folder / "file", "/srv/old/file")
    assert box.read_text("/srv/old/file") == "one"


def test_file_goes_into_a_folder(box: Container, folder: Path) -> None:
    """A file copied to a folder keeps its name in it; a slash says folder, also of one to be made."""
    box.copy_in(folder / "run", "/srv/old")
    box.copy_in(folder / "run", "/srv/later/")
    assert _names(box, "/srv/old") == ["file", "run"]
    assert _names(box, "/srv/later") == ["run"]


def test_folder_becomes_a_new_folder(box: Container, folder: Path) -> None:
    """A folder copied to a path that is not there is that folder, with links and modes."""
    box.copy_in(folder, "/srv/new")
    assert _names(box, "/srv/new") == ["file", "link", "low", "run"]
    assert box.read_text("/srv/new/link") == "two"
    out = io.BytesIO()
    box._handle.tree.read("/srv/new/run", out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        assert (tar.getmember("run").mode, tar.getmember("run").uid) == (0o755, 0)


def test_folder_goes_into_a_folder(box: Container, folder: Path) -> None:
    """A folder copied to a folder is inside it under its name; with a dot, only its content is."""
    box.copy_in(folder, "/srv/old")
    assert _names(box, "/srv/old") == ["file", "top"]
    box.copy_in(f"{folder}/.", "/srv/old")
    assert _names(box, "/srv/old") == ["file", "link", "low", "run", "top"]


def test_folder_of_no_name_gets_its_own(
    box: Container, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder one stands in has a name, too."""
    monkeypatch.chdir(folder / "low")
    box.copy_in("..", "/srv/old")
    assert _names(box, "/srv/old/top/low") == ["file"]


def test_folder_does_not_replace_a_file(box: Container, folder: Path) -> None:
    """A folder meant for a file's place is refused, and what is missing here, too."""
    with pytest.raises(SpecInvalid, match="is a folder and /srv/old/file a file"):
        box.copy_in(folder, "/srv/old/file")
    with pytest.raises(SpecInvalid, match="does not exist on this machine"):
        box.copy_in(folder / "none", "/srv/old")


def test_copy_in_does_not_read_the_target_folder(
    box: Container, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To know that a target is a folder takes no read of it, however much it holds."""
    box.write_bytes("/srv/old/huge", bytes(1 << 20))
    tree = box._handle.tree

    def read(self: object, path: str, into: BinaryIO) -> None:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(type(tree), "read", read)
    box.copy_in(folder / "run", "/srv/old")
    assert _names(box, "/srv/old") == ["file", "huge", "run"]


def test_file_comes_out(box: Container, tmp_path: Path) -> None:
    """A file goes to a new name, onto a file, or into a folder, and one is told where."""
    target = tmp_path / "new.txt"
    assert box.copy_out("/srv/old/file", target) == target
    assert box.copy_out("/srv/old/file", target) == target
    assert target.read_text() == "old"
    assert box.copy_out("/srv/old/file", tmp_path) == tmp_path / "file"
    assert (tmp_path / "file").read_text() == "old"


def test_folder_comes_out(box: Container, folder: Path, tmp_path: Path) -> None:
    """A folder that went in comes out as it was, links, modes and times included."""
    box.copy_in(folder, "/srv/new")
    out = box.copy_out("/srv/new", tmp_path / "out")
    assert out == tmp_path / "out"
    assert sorted(os.listdir(out)) == ["file", "link", "low", "run"]
    assert (out / "link").readlink() == Path("low/file")
    assert (out / "run").stat().st_mode & 0o7777 == 0o755
    assert int((out / "low" / "file").stat().st_mtime) == int((folder / "low" / "file").stat().st_mtime)
    nested = box.copy_out("/srv/new", out)
    assert nested == out / "new"
    assert box.copy_out("/srv/new/.", out) == out
    assert sorted(os.listdir(out)) == ["file", "link", "low", "new", "run"]
    assert (box.copy_out("/", tmp_path / "root") / "etc" / "passwd").is_file()


def test_copy_out_to_what_cannot_take_it_is_refused(box: Container, tmp_path: Path) -> None:
    """No folder to put it in, a file where a folder comes, a folder where a file comes: told apart."""
    (tmp_path / "taken").write_text("")
    (tmp_path / "file").mkdir()
    with pytest.raises(SpecInvalid, match="is a folder and"):
        box.copy_out("/srv/old", tmp_path / "taken")
    with pytest.raises(SpecInvalid, match=r"no folder .*none on this machine"):
        box.copy_out("/srv/old/file", tmp_path / "none" / "file")
    with pytest.raises(SpecInvalid, match=r"no folder .*none on this machine"):
        box.copy_out("/srv/old/file", f"{tmp_path}/none/")
    with pytest.raises(SpecInvalid, match="in the way"):
        box.copy_out("/srv/old/file", tmp_path)
    with pytest.raises(PathMissing, match="/srv/none"):
        box.copy_out("/srv/none", tmp_path)


def test_read_of_a_folder_is_refused(box: Container) -> None:
    """A folder has no content; the mend names copy_out."""
    with pytest.raises(SpecInvalid, match="/srv/old is not a file") as caught:
        box.read_bytes("/srv/old")
    assert "copy_out" in caught.value.mend
    with pytest.raises(SpecInvalid, match="does not name a file"):
        box.write_bytes("/", b"")


def test_path_is_absolute_inside(box: Container) -> None:
    """A relative path begins at the root, and an empty one is refused."""
    assert box.read_text("srv/old/file") == "old"
    for wrong in ("", "a\0b"):
        with pytest.raises(SpecInvalid, match="is not a path"):
            box.read_bytes(wrong)


class _Hostile(Tree):
    """A container's files as a container that was taken over would hand them out."""

    def __init__(self, *entries: tarfile.TarInfo) -> None:
        self._entries = entries

    def read(self, path: str, into: BinaryIO) -> None:
        with tarfile.open(fileobj=into, mode="w|") as tar:
            for entry in self._entries:
                tar.addfile(entry, io.BytesIO(b"x" * entry.size))

    def stat(self, path: str) -> FileStat:
        raise NotImplementedError

    def write(self, folder: str, tar: BinaryIO) -> None:
        raise NotImplementedError

    def changes(self) -> tuple[Change, ...]:
        raise NotImplementedError

    def commit(self, reference: str, config: ImageConfig) -> ImageRecord:
        raise NotImplementedError


def _entry(name: str, kind: bytes = tarfile.REGTYPE, *, to: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, to, mode
    entry.size = 1 if kind == tarfile.REGTYPE else 0
    return entry


_TOP = _entry("top", tarfile.DIRTYPE, mode=0o755)


@pytest.mark.parametrize(
    "entries",
    [
        (_entry("top/../../outside"),),
        (_entry("top/link", tarfile.SYMTYPE, to=".."), _entry("top/link/outside")),
        (_entry("top/link", tarfile.SYMTYPE, to="/"), _entry("top/link/tmp/outside")),
        (_entry("top/hard", tarfile.LNKTYPE, to="top/../../secret"),),
        (_entry("top/s", tarfile.SYMTYPE, to=".."), _entry("top/hard", tarfile.LNKTYPE, to="top/s/secret")),
    ],
)
def test_hostile_archive_writes_nothing_outside(tmp_path: Path, entries: tuple[tarfile.TarInfo, ...]) -> None:
    """No entry leaves the place that was named, whatever the container says."""
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(EngineError, match="archive of a container"):
        copy_out(_Hostile(_TOP, *entries), "/top", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["out", "secret"]
    assert not (tmp_path / "out" / "hard").exists()


def test_special_files_and_bits_stay_inside(tmp_path: Path) -> None:
    """Devices and pipes are left out, and no file becomes set-user-ID on this machine."""
    fifo, device = _entry("top/fifo", tarfile.FIFOTYPE), _entry("top/null", tarfile.CHRTYPE)
    program, twin = _entry("top/su", mode=0o4755), _entry("top/twin", tarfile.LNKTYPE, to="top/su")
    out = copy_out(_Hostile(_TOP, fifo, device, program, twin), "/top", tmp_path / "out")
    assert sorted(os.listdir(out)) == ["su", "twin"]
    assert (out / "su").stat().st_mode & 0o7777 == 0o755
    assert (out / "su").stat().st_ino == (out / "twin").stat().st_ino


def test_folder_without_rights_is_copied_whole(tmp_path: Path) -> None:
    """A folder's own mode comes last, so that a read-only one takes its content first."""
    closed = _entry("top/closed", tarfile.DIRTYPE, mode=0o500)
    out = copy_out(_Hostile(_TOP, closed, _entry("top/closed/file")), "/top", tmp_path / "out")
    assert (out / "closed").stat().st_mode & 0o7777 == 0o500
    assert (out / "closed" / "file").read_text() == "x"


def test_empty_archive_is_an_error(tmp_path: Path) -> None:
    """An engine that hands out nothing is told, not believed."""
    with pytest.raises(EngineError, match="empty archive"):
        copy_out(_Hostile(), "/top", tmp_path / "out")
    with pytest.raises(SpecInvalid, match="not a file"):
        read_file(_Hostile(), "/top")
