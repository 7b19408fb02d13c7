"""Laws of what a container changed: as a list, and as an image layer that makes it again."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.images import layer
from pytest_containers.runtime import syscalls
from pytest_containers.runtime.difference import changes, opened, write_layer
from pytest_containers.runtime.snapshot import mount_overlay

if TYPE_CHECKING:
    from tests.runtime.conftest import Apart

pytestmark = pytest.mark.kernel

# A file capability: CAP_NET_BIND_SERVICE permitted and effective (linux/capability.h, version 2).
_FILE_CAPABILITY: Final = bytes.fromhex("0100000200040000000000000000000000000000")
_FEATURES: Final = (("redirect_dir", "off"), ("index", "off"), ("metacopy", "off"))


class Edit:
    """Lower layers on disk, and what an action in their merged view leaves in the upper one."""

    def __init__(self, apart: Apart, folder: Path) -> None:
        self._apart = apart
        self._folder = folder
        self.lowers: tuple[str, ...] = ()
        self.upper = folder / "upper"
        self.upper.mkdir()

    def layer(self, *names: str) -> Path:
        """Put a layer on top of those before, with files, or folders where a name ends in a slash."""
        folder = self._folder / f"lower{len(self.lowers)}"
        folder.mkdir()
        self.lowers += (str(folder),)
        for name in names:
            path = folder / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.write_text(name)
        return folder

    def do(self, action: Callable[[Path], None]) -> list[str]:
        """Run *action* on the merged view; return the changes as ``kind path``."""
        if not self.lowers:
            self.layer()
        self._apart(partial(self._mounted, action))
        with opened(self.lowers) as lowers:
            return [f"{kind} {path}" for kind, path in changes(str(self.upper), lowers)]

    def _mounted(self, action: Callable[[Path], None]) -> None:
        root, work = self._folder / "root", self._folder / "work"
        root.mkdir(exist_ok=True)
        work.mkdir(exist_ok=True)
        places = (("upperdir", str(self.upper)), ("workdir", str(work)), *_FEATURES)
        one_by_one = syscalls.overlay_takes_layers(self.lowers[0])
        mount_overlay(self.lowers, places, str(root), one_by_one=one_by_one)
        action(root)

    def tar(self) -> bytes:
        """Return the layer as a tar."""
        out = io.BytesIO()
        with opened(self.lowers) as lowers:
            write_layer(str(self.upper), out, lowers=lowers)
        return out.getvalue()

    def entries(self) -> dict[str, tarfile.TarInfo]:
        """Return the entries of the layer by name, in their order; no name comes twice."""
        with tarfile.open(fileobj=io.BytesIO(self.tar())) as tar:
            found = tar.getmembers()
        assert len({entry.name for entry in found}) == len(found)
        return {entry.name: entry for entry in found}


@pytest.fixture
def edit(apart: Apart, tmp_path: Path) -> Edit:
    """Return a place without layers."""
    return Edit(apart, tmp_path)


def _whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def test_changes_are_none_when_nothing_was_done(edit: Edit) -> None:
    """A container that only read has no changes, and its layer is a tar without entries."""
    edit.layer("etc/passwd")

    def read(root: Path) -> None:
        (root / "etc/passwd").read_text()

    assert edit.do(read) == []
    assert edit.entries() == {}
    assert len(edit.tar()) % 512 == 0


def test_layer_has_no_folder_that_changed_in_time_alone(edit: Edit) -> None:
    """A folder in which a file came and went is no change; one with another mode, or emptied, is."""
    edit.layer("time/x", "mode/x", "emptied/x", "deep/er/x", "attribute/x")

    def act(root: Path) -> None:
        for name in ("time", "deep/er"):
            (root / name / "file").touch()
            (root / name / "file").unlink()
        (root / "mode").chmod(0o700)
        os.setxattr(root / "attribute", "user.mine", b"1")
        (root / "emptied/x").unlink()

    edit.do(act)
    assert list(edit.entries()) == ["attribute", "emptied", "emptied/.wh.x", "mode"]


def test_changes_tell_added_changed_and_deleted(edit: Edit) -> None:
    """Each path is told once, sorted, with the folders that hold it when they are touched as well."""
    edit.layer("etc/conf", "etc/old", "usr/bin/tool", "keep")

    def act(root: Path) -> None:
        (root / "etc/conf").write_text("other")
        (root / "etc/old").unlink()
        (root / "etc/new").write_text("new")
        (root / "srv").mkdir()
        (root / "srv/link").symlink_to("nowhere")

    assert edit.do(act) == ["C /etc", "C /etc/conf", "A /etc/new", "D /etc/old", "A /srv", "A /srv/link"]


def test_changes_tell_of_attributes_alone(edit: Edit) -> None:
    """A file whose mode or owner changed, and whose content did not, has changed."""
    edit.layer("a", "b", "folder/x")

    def act(root: Path) -> None:
        (root / "a").chmod(0o600)
        os.chown(root / "b", 5, 5)
        (root / "folder").chmod(0o700)

    assert edit.do(act) == ["C /a", "C /b", "C /folder"]


def test_changes_tell_one_deletion_of_a_folder(edit: Edit) -> None:
    """A folder that is gone is one line, whatever was in it."""
    edit.layer("data/one", "data/deep/two", "rest")
    assert edit.do(lambda root: shutil.rmtree(root / "data")) == ["D /data"]


def test_changes_tell_of_a_change_of_kind(edit: Edit) -> None:
    """A file in the place of a folder, or a folder in that of a file, is a change."""
    edit.layer("folder/inner", "file")

    def act(root: Path) -> None:
        shutil.rmtree(root / "folder")
        (root / "folder").write_text("a file now")
        (root / "file").unlink()
        (root / "file").mkdir()
        (root / "file/inner").touch()

    assert edit.do(act) == ["C /file", "A /file/inner", "C /folder"]


def test_changes_tell_of_a_rename(edit: Edit) -> None:
    """A file under another name is one deleted and one added."""
    edit.layer("before")

    def rename(root: Path) -> None:
        (root / "before").rename(root / "after")

    assert edit.do(rename) == ["A /after", "D /before"]


def test_changes_compare_with_all_layers(edit: Edit) -> None:
    """What an upper layer of the image hides of a lower one is no longer the image's."""
    edit.layer("gone", "old/file", "dir/file", "kept", "blocked/file")
    above = edit.layer("dir/other", "old/fresh")
    _whiteout(above / "gone")
    _whiteout(above / "dir/file")
    (above / "blocked").write_text("a file above a folder")
    os.setxattr(above / "old", "trusted.overlay.opaque", b"y")

    def act(root: Path) -> None:
        for name in ("gone", "old/file", "dir/file", "dir/other", "old/fresh", "kept"):
            (root / name).write_text("now")
        (root / "blocked").unlink()
        (root / "blocked").mkdir()
        (root / "blocked/file").touch()

    found = edit.do(act)
    assert [line for line in found if line.startswith("A")] == [
        "A /blocked/file",
        "A /dir/file",
        "A /gone",
        "A /old/file",
    ]
    assert {"C /dir/other", "C /old/fresh", "C /kept", "C /blocked"} <= set(found)


def test_changes_have_any_name(edit: Edit) -> None:
    """Names that are no text arrive as Python's own (os.fsdecode)."""
    name = os.fsdecode(b"bytes-\xff\n\xfe")
    assert edit.do(lambda root: (root / name).touch()) == [f"A /{name}"]
    assert list(edit.entries()) == [name]


def test_layer_has_owner_mode_and_time(edit: Edit) -> None:
    """Set-id bits, owners past 2^21 and nanoseconds are in the tar (pax, POSIX.1-2001)."""
    moment = 1_600_000_000_123_456_789

    def act(root: Path) -> None:
        path = root / "tool"
        path.write_bytes(b"x" * 3)
        os.chown(path, 3_000_000_000, 70_000)
        path.chmod(0o6755)
        os.utime(path, ns=(moment, moment))
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)

    edit.do(act)
    entries = edit.entries()
    tool = entries["tool"]
    assert (tool.mode, tool.uid, tool.gid, tool.size) == (0o6755, 3_000_000_000, 70_000, 3)
    assert tool.pax_headers["mtime"] == "1600000000.123456789"
    assert (tool.uname, tool.gname) == ("", "")
    assert (entries["tmp"].isdir(), entries["tmp"].mode) == (True, 0o1777)


def test_layer_has_whiteouts_for_what_is_gone(edit: Edit) -> None:
    """A deletion is a file named .wh. and the name (image-spec, layer.md, "Whiteouts")."""
    edit.layer("top", "folder/inner", "folder/kept")

    def act(root: Path) -> None:
        (root / "top").unlink()
        (root / "folder/inner").unlink()

    edit.do(act)
    entries = edit.entries()
    assert list(entries) == ["folder", "folder/.wh.inner", ".wh.top"]
    assert entries[".wh.top"].isreg()
    assert entries[".wh.top"].size == 0


def test_layer_marks_a_folder_made_anew(edit: Edit) -> None:
    """A folder deleted and made again hides the old content: its mark comes first inside it."""
    edit.layer("data/old", "data/deep/old")

    def act(root: Path) -> None:
        shutil.rmtree(root / "data")
        (root / "data").mkdir()
        (root / "data/new").touch()

    assert edit.do(act) == ["C /data", "A /data/new"]
    entries = edit.entries()
    assert list(entries) == ["data", "data/.wh..wh..opq", "data/new"]
    assert not any("overlay" in key for entry in entries.values() for key in entry.pax_headers)


def test_layer_has_no_mark_where_nothing_is_hidden(edit: Edit) -> None:
    """Before Linux 5.15 the kernel marks every new folder: the layer is the same on every kernel."""
    edit.layer("old/file", "gone/file", "file", "parent/kept")
    _whiteout(edit.layer("top") / "gone")
    names = ("old", "gone", "file", "new", "parent/new")

    def act(root: Path) -> None:
        shutil.rmtree(root / "old")
        (root / "file").unlink()
        for name in names:
            (root / name).mkdir()

    edit.do(act)
    for name in names:
        os.setxattr(edit.upper / name, "trusted.overlay.opaque", b"y")
    marks = [name for name in edit.entries() if name.endswith(".opq")]
    assert marks == ["file/.wh..wh..opq", "old/.wh..wh..opq"]


def test_layer_keeps_hard_links(edit: Edit) -> None:
    """Names of one file stay names of one file: the first has the content, the others point to it."""

    def act(root: Path) -> None:
        (root / "b").write_text("content")
        (root / "folder").mkdir()
        os.link(root / "b", root / "folder/c")
        os.link(root / "b", root / "a")

    edit.do(act)
    entries = edit.entries()
    assert (entries["a"].isreg(), entries["a"].size) == (True, 7)
    assert [(entries[name].islnk(), entries[name].linkname) for name in ("b", "folder/c")] == [
        (True, "a")
    ] * 2


def test_layer_has_every_kind_of_file_but_sockets(edit: Edit) -> None:
    """Links, FIFOs and nodes are described, a socket is nothing that a tar can hold."""
    edit.layer("dev/")

    def act(root: Path) -> None:
        (root / "link").symlink_to("../../far away")
        os.mkfifo(root / "fifo", 0o640)
        os.mknod(root / "dev/char", 0o600 | stat.S_IFCHR, os.makedev(1, 7))
        os.mknod(root / "dev/block", 0o600 | stat.S_IFBLK, os.makedev(7, 300))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(root / "socket"))

    edit.do(act)
    entries = edit.entries()
    assert list(entries) == ["dev", "dev/block", "dev/char", "fifo", "link"]
    assert (entries["link"].issym(), entries["link"].linkname) == (True, "../../far away")
    assert (entries["fifo"].isfifo(), entries["fifo"].mode) == (True, 0o640)
    assert (entries["dev/char"].devmajor, entries["dev/char"].devminor) == (1, 7)
    assert (entries["dev/block"].isblk(), entries["dev/block"].devminor) == (True, 300)


def _special(root: Path) -> None:
    (root / "folder").mkdir()
    (root / ("folder/" + "long" * 60)).write_text("a long name")
    (root / "ping").write_bytes(b"\x7fELF")
    os.setxattr(root / "ping", "security.capability", _FILE_CAPABILITY)
    os.setxattr(root / "ping", "user.bytes", b"\xff\x00\n=")
    os.setxattr(root / "folder", "user.on-folder", "täxt".encode())
    os.link(root / "ping", root / "ping2")
    (root / "empty").touch()
    (root / "sparse").touch()
    os.truncate(root / "sparse", 1 << 20)
    (root / "täxt").write_text("no ASCII")
    (root / os.fsdecode(b"\xfe\xff")).write_text("no text")
    (root / "suid").touch()
    os.chown(root / "suid", 1000, 1001)
    (root / "suid").chmod(0o4750)
    os.mkfifo(root / "fifo")


@pytest.mark.parametrize("binary", [b"\xff\x00\n=", b"plain", b"", bytes(range(256))])
def test_layer_has_extended_attributes(edit: Edit, binary: bytes) -> None:
    """Any bytes of an attribute are in the tar as star writes them (SCHILY.xattr)."""

    def act(root: Path) -> None:
        (root / "file").touch()
        os.setxattr(root / "file", "user.bytes", binary)
        os.setxattr(root / "file", "security.capability", _FILE_CAPABILITY)

    edit.do(act)
    headers = edit.entries()["file"].pax_headers
    assert headers["SCHILY.xattr.user.bytes"].encode("utf-8", "surrogateescape") == binary
    assert headers["SCHILY.xattr.security.capability"].encode("utf-8", "surrogateescape") == _FILE_CAPABILITY


def _seen(folder: Path) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yield all there is to know of each path below *folder*."""
    for path in sorted(folder.rglob("*")):
        seen = path.lstat()
        names = sorted(os.listxattr(path, follow_symlinks=False))
        private = ("trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.uuid")
        yield (
            str(path.relative_to(folder)),
            (
                (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_rdev, seen.st_mtime_ns),
                seen.st_nlink if stat.S_ISREG(seen.st_mode) else 0,
                path.read_bytes() if stat.S_ISREG(seen.st_mode) else None,
                os.readlink(path) if stat.S_ISLNK(seen.st_mode) else None,
                {n: os.getxattr(path, n, follow_symlinks=False) for n in names if n not in private},
            ),
        )


def _without_needless_mark(upper: Path) -> Path:
    """Return *upper* without the mark that Linux until 5.14 gives to every new folder."""
    with contextlib.suppress(OSError):
        os.removexattr(upper / "folder", "trusted.overlay.opaque")
    return upper


def test_layer_unpacks_to_what_it_was_made_of(edit: Edit, tmp_path: Path) -> None:
    """Packed here and unpacked by the image store, a layer is the same tree, marks and all."""
    lower = edit.layer("gone", "replaced/old", "changed")
    os.utime(lower / "gone", ns=(0, 0))

    def act(root: Path) -> None:
        _special(root)
        (root / "gone").unlink()
        shutil.rmtree(root / "replaced")
        (root / "replaced").mkdir()
        (root / "changed").write_text("other")

    edit.do(act)
    into = tmp_path / "unpacked"
    into.mkdir()
    layer.unpack(io.BytesIO(edit.tar()), into, parents=(Path(edit.lowers[0]),))
    expected, found = dict(_seen(_without_needless_mark(edit.upper))), dict(_seen(into))
    assert stat.S_ISCHR((into / "gone").lstat().st_mode)
    del expected["gone"], found["gone"]  # the time of a whiteout tells nothing
    assert found == expected


def test_layer_unpacks_with_gnu_tar(edit: Edit, tmp_path: Path) -> None:
    """The tar is one that other programs read, attributes included (tar(1), --xattrs)."""
    edit.do(_special)
    into = tmp_path / "unpacked"
    into.mkdir()
    arguments = ["tar", "-x", "-p", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", str(into)]
    subprocess.run(arguments, input=edit.tar(), check=True)
    expected, found = dict(_seen(_without_needless_mark(edit.upper))), dict(_seen(into))
    assert found == expected
