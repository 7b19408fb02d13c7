"""Laws of files in and out of a container, by a process whose root is the container's."""

from __future__ import annotations

import io
import os
import socket
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import PathMissing
from pytest_containers.runtime import syscalls, transfer

if TYPE_CHECKING:
    from tests.runtime.conftest import Apart, Outcome

pytestmark = pytest.mark.kernel

_LONG_AGO_NS: Final = 1_000_000_000 * 10**9


class Root:
    """A folder that plays a container's root."""

    def __init__(self, apart: Apart, path: Path) -> None:
        self._apart = apart
        self.path = path

    def inside(self, action: Callable[[], Outcome]) -> Outcome:
        """Run *action* in a child whose root is this folder."""

        def enter() -> Outcome:
            os.chroot(self.path)
            os.chdir("/")
            return action()

        return self._apart(enter)

    def file(self, name: str, content: str = "content") -> Path:
        """Make a file and the folders that hold it."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def pack(self, path: str) -> dict[str, tarfile.TarInfo]:
        """Return the entries of *path*'s tar by name, in their order."""
        with tarfile.open(fileobj=io.BytesIO(self.packed(path))) as tar:
            return {entry.name: entry for entry in tar}

    def packed(self, path: str) -> bytes:
        """Return *path* as a tar."""

        def action() -> bytes:
            out = io.BytesIO()
            transfer.pack(path, out)
            return out.getvalue()

        return self.inside(action)

    def unpack(self, folder: str, tar: bytes) -> None:
        """Unpack a tar below *folder*."""
        self.inside(partial(transfer.unpack, folder, io.BytesIO(tar)))


@pytest.fixture
def root(apart: Apart, tmp_path: Path) -> Root:
    """Return an empty root."""
    (tmp_path / "root").mkdir(mode=0o755)
    return Root(apart, tmp_path / "root")


def entry(
    name: str,
    content: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    owner: int = 0,
    link: str = "",
    moment: int = 1_000_000_000,
) -> tuple[tarfile.TarInfo, bytes]:
    """Return what `tar` takes."""
    made = tarfile.TarInfo(name)
    made.type, made.mode, made.uid, made.gid = kind, mode, owner, owner
    made.linkname, made.mtime, made.size = link, moment, len(content)
    made.uname = made.gname = "root"  # a number counts, a name of another machine does not
    return made, content


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return a tar of *entries*."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for made, content in entries:
            tar.addfile(made, io.BytesIO(content))
    return out.getvalue()


def test_pack_file_is_named_by_its_last_part(root: Root) -> None:
    """One file is one entry, with owner, mode, time and content."""
    path = root.file("etc/app/conf", "text")
    path.chmod(0o4711)
    os.chown(path, 1000, 1001)
    path.chmod(0o4711)
    os.utime(path, ns=(_LONG_AGO_NS, _LONG_AGO_NS + 5))
    found = root.pack("/etc/app/conf")
    assert list(found) == ["conf"]
    conf = found["conf"]
    assert (conf.mode, conf.uid, conf.gid, conf.size) == (0o4711, 1000, 1001, 4)
    assert (conf.uname, conf.gname) == ("", "")
    assert conf.pax_headers["mtime"] == "1000000000.000000005"


@pytest.mark.parametrize(
    ("path", "first"), [("/srv", "srv"), ("/srv/", "srv"), ("srv", "srv"), ("/", "."), ("//srv//", "srv")]
)
def test_pack_folder_comes_whole(root: Root, path: str, first: str) -> None:
    """A folder is its own entry and all below it, under its last part."""
    for name in ("srv/b", "srv/a/deep", "srv/empty/x"):
        root.file(name)
    (root.path / "srv/empty/x").unlink()
    prefix = "./srv" if first == "." else "srv"
    expected = [f"{prefix}{below}" for below in ("", "/a", "/a/deep", "/b", "/empty")]
    assert list(root.pack(path)) == (["."] if first == "." else []) + expected


def test_pack_follows_a_link_at_the_path_alone(root: Root) -> None:
    """A link that is asked for is its target under the link's name; links below stay links."""
    root.file("data/one")
    (root.path / "data/link").symlink_to("one")
    (root.path / "to-folder").symlink_to("/data")
    (root.path / "to-file").symlink_to("data/../data/one")
    assert list(root.pack("/to-folder")) == ["to-folder", "to-folder/link", "to-folder/one"]
    assert root.pack("/to-folder")["to-folder/link"].linkname == "one"
    assert root.pack("/to-file")["to-file"].isreg()


def test_pack_link_stays_inside(root: Root, tmp_path: Path) -> None:
    """A link that says where the host's files are says so in vain."""
    (tmp_path / "secret").write_text("outside")
    root.file("secret", "inside")
    (root.path / str(tmp_path).lstrip("/")).mkdir(parents=True)
    for target in ("/secret", "../secret", f"{tmp_path}{'/..' * 20}/secret"):
        (root.path / "link").symlink_to(target)
        with tarfile.open(fileobj=io.BytesIO(root.packed("/link"))) as tar:
            file = tar.extractfile("link")
            assert file is not None
            assert file.read() == b"inside"
        (root.path / "link").unlink()


@pytest.mark.parametrize("path", ["/missing", "/file/below", "/dangling", "/loop", "/missing/below"])
def test_pack_is_refused_when_there_is_no_such_path(root: Root, path: str) -> None:
    """What is not there is PathMissing, with the path as it was asked for."""
    root.file("file")
    (root.path / "dangling").symlink_to("/missing")
    (root.path / "loop").symlink_to("loop")
    with pytest.raises(PathMissing, match=f"no {path} in the container"):
        root.packed(path)


def test_pack_keeps_hard_links_and_leaves_sockets_out(root: Root) -> None:
    """Two names of one file stay so, a FIFO is described, a socket is left out."""
    os.link(root.file("srv/a"), root.path / "srv/b")
    os.mkfifo(root.path / "srv/fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root.path / "srv/socket"))
    found = root.pack("/srv")
    assert list(found) == ["srv", "srv/a", "srv/b", "srv/fifo"]
    assert (found["srv/b"].islnk(), found["srv/b"].linkname) == (True, "srv/a")


def test_pack_asks_the_image_for_no_names(root: Root) -> None:
    """Owners stay numbers: the C library would load what the image's nsswitch.conf names (CVE-2019-14271)."""
    root.file("file")
    root.file("etc/nsswitch.conf", "passwd: files\ngroup: files\n")
    for name in ("passwd", "group"):
        os.mkfifo(root.path / "etc" / name)  # whoever opens it waits for ever
    assert list(root.pack("/file")) == ["file"]


def test_pack_survives_files_that_go_away(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is gone when its turn comes is left out: containers run on."""
    root.file("srv/kept")
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [*real(path), "gone"])
    assert list(root.pack("/srv")) == ["srv", "srv/kept"]


def test_unpack_gives_what_the_entries_say(root: Root) -> None:
    """Owners, modes with their set-id bits, and times are the entries', those of folders too."""
    tar = tar_of(
        entry("app", kind=tarfile.DIRTYPE, mode=0o2750, owner=1000, moment=1_000_000_001),
        entry("app/tool", b"tool", mode=0o6755, owner=1001, moment=1_000_000_002),
        entry("app/deep", kind=tarfile.DIRTYPE, mode=0o500, owner=1002, moment=1_000_000_003),
        entry("app/deep/file", b"x", mode=0o400, owner=1003, moment=1_000_000_004),
        entry("app/link", kind=tarfile.SYMTYPE, link="tool", owner=1004),
        entry(
            "app/hard", kind=tarfile.LNKTYPE, link="app/tool", mode=0o6755, owner=1001, moment=1_000_000_002
        ),
        entry("app/fifo", kind=tarfile.FIFOTYPE, mode=0o622),
    )
    root.unpack("/", tar)
    expected = {
        "app": (0o2750, 1000, 1_000_000_001),
        "app/tool": (0o6755, 1001, 1_000_000_002),
        "app/deep": (0o500, 1002, 1_000_000_003),
        "app/deep/file": (0o400, 1003, 1_000_000_004),
        "app/fifo": (0o622, 0, 1_000_000_000),
    }
    for name, (mode, owner, moment) in expected.items():
        seen = (root.path / name).lstat()
        assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_mtime) == (mode, owner, moment), name
    assert os.readlink(root.path / "app/link") == "tool"
    link = (root.path / "app/link").lstat()
    assert (link.st_uid, link.st_mtime) == (1004, 1_000_000_000)
    assert (root.path / "app/hard").samefile(root.path / "app/tool")
    assert (root.path / "app/tool").read_text() == "tool"


def test_unpack_makes_the_folder(root: Root) -> None:
    """Folders that are missing are made, also such that no entry names."""
    root.unpack("/a/b", tar_of(entry("c/file", b"x")))
    for name in ("a", "a/b", "a/b/c"):
        assert stat.S_IMODE((root.path / name).stat().st_mode) == 0o755, name
    assert stat.S_IMODE((root.path / "a/b/c/file").stat().st_mode) == 0o644


@pytest.mark.parametrize("folder", ["/file", "/file/below", "/link"])
def test_unpack_is_refused_when_the_folder_is_a_file(root: Root, folder: str) -> None:
    """A file in the place of the folder, or on the way to it, is PathMissing and stays as it is."""
    root.file("file", "as it was")
    (root.path / "link").symlink_to("file")
    with pytest.raises(PathMissing, match=f"{folder} in the container is not a folder"):
        root.unpack(folder, tar_of(entry("x", b"x")))
    assert (root.path / "file").read_text() == "as it was"


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _hard_link(path: Path) -> None:
    os.link(path.parent / "other", path)


def _link(path: Path) -> None:
    path.symlink_to("other")


def _full(path: Path) -> None:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 7))


@pytest.mark.parametrize("make", [_fifo, _socket, _hard_link, _link, _full])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE])
def test_unpack_replaces_what_is_no_folder(root: Root, make: Callable[[Path], None], kind: bytes) -> None:
    """An entry takes the place of a FIFO, socket, node or link; what that led to is not touched."""
    root.file("srv/other", "other")
    root.file("srv/source", "source")
    make(root.path / "srv/name")
    link = {tarfile.SYMTYPE: "elsewhere", tarfile.LNKTYPE: "srv/source"}.get(kind, "")
    content = b"new" if kind == tarfile.REGTYPE else b""
    root.unpack("/", tar_of(entry("srv/name", content, kind=kind, link=link)))
    assert (root.path / "srv/other").read_text() == "other"
    seen = (root.path / "srv/name").lstat()
    formats = {tarfile.SYMTYPE: stat.S_IFLNK, tarfile.FIFOTYPE: stat.S_IFIFO}
    assert stat.S_IFMT(seen.st_mode) == formats.get(kind, stat.S_IFREG)
    if kind == tarfile.LNKTYPE:
        assert seen.st_ino == (root.path / "srv/source").stat().st_ino


def test_unpack_twice_is_as_once(root: Root) -> None:
    """The same tar may come again: every kind of entry takes its own place."""
    tar = tar_of(
        entry("app", kind=tarfile.DIRTYPE, mode=0o755),
        entry("app/file", b"content"),
        entry("app/hard", kind=tarfile.LNKTYPE, link="app/file"),
        entry("app/link", kind=tarfile.SYMTYPE, link="file"),
        entry("app/fifo", kind=tarfile.FIFOTYPE),
    )
    root.unpack("/", tar)
    first = root.packed("/app")
    root.unpack("/", tar)
    assert root.packed("/app") == first
    assert (root.path / "app/hard").samefile(root.path / "app/file")


def test_unpack_writes_into_a_file_that_is_mounted(root: Root, tmp_path: Path) -> None:
    """A file that is a mount, as /etc/hosts is, cannot be replaced and gets the new content itself."""
    source = tmp_path / "source"
    source.write_text("as it was")
    target = root.file("etc/hosts", "below")

    def action() -> None:
        transfer.unpack("/etc", io.BytesIO(tar_of(entry("hosts", b"new"))))

    def mounted() -> None:
        syscalls.mount(str(source), str(target), None, syscalls.MS_BIND)
        os.chroot(root.path)
        action()

    root._apart(mounted)
    assert (source.read_text(), target.read_text()) == ("new", "below")


def test_unpack_replaces_a_program_that_runs(root: Root) -> None:
    """A running program's file can be exchanged: the new one is another file (ETXTBSY, open(2))."""
    tool = root.path / "tool"
    tool.write_bytes(Path("/bin/cat").read_bytes())
    tool.chmod(0o755)
    with subprocess.Popen([tool], stdin=subprocess.PIPE) as running:
        root.unpack("/", tar_of(entry("tool", b"#!/bin/sh\n", mode=0o755)))
        running.communicate()
    assert tool.read_text() == "#!/bin/sh\n"


def test_unpack_folder_goes_through_a_link_to_a_folder(root: Root) -> None:
    """An image's /lib may be a link to /usr/lib: a folder entry of that name leaves it so."""
    (root.path / "usr/lib").mkdir(parents=True)
    (root.path / "lib").symlink_to("usr/lib")
    root.unpack("/", tar_of(entry("lib", kind=tarfile.DIRTYPE, mode=0o755), entry("lib/file", b"x")))
    assert (root.path / "lib").is_symlink()
    assert (root.path / "usr/lib/file").exists()


def test_unpack_never_replaces_a_folder(root: Root) -> None:
    """A file cannot take a folder's place: that is an error, and the folder stays."""
    root.file("data/file")
    with pytest.raises(OSError, match="Is a directory"):
        root.unpack("/", tar_of(entry("data", b"x")))
    assert (root.path / "data/file").exists()


@pytest.mark.parametrize("name", ["../../escaped", "/escaped", "a/../../../escaped", "link/escaped"])
def test_unpack_stays_inside(root: Root, tmp_path: Path, name: str) -> None:
    """Whatever an entry is called, and wherever links of the image lead, it is below the root."""
    (root.path / "link").symlink_to("/")
    (root.path / "a").mkdir()
    root.unpack("/", tar_of(entry(name, b"x")))
    assert (root.path / "escaped").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


def test_unpack_is_refused_when_the_tar_is_cut(root: Root) -> None:
    """A stream that ends in the middle of a file is an error."""
    with pytest.raises(tarfile.ReadError):
        root.unpack("/", tar_of(entry("file", b"x" * 10_000))[:5000])


def test_transfer_streams(root: Root) -> None:
    """Pack writes and unpack reads strictly forward: both may be a pipe."""
    root.file("srv/big", "x" * 300_000)

    def through() -> int:
        ours, theirs = os.pipe()

        def read() -> None:
            with os.fdopen(ours, "rb") as source:
                transfer.unpack("/copy", source)

        reader = threading.Thread(target=read)
        reader.start()
        with os.fdopen(theirs, "wb") as out:
            transfer.pack("/srv", out)
        reader.join()
        return os.stat("/copy/srv/big").st_size

    assert root.inside(through) == 300_000
