"""One layer on disk: what an entry becomes, and what a hostile one does not."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import ImageError, LayerCorrupt, LayerEscape, LayerTooLarge
from pytest_containers.images.layer import unpack

if TYPE_CHECKING:
    from tests.images.conftest import MTIME, TarBuilder
else:
    MTIME = 1_600_000_000

MakeTar = Callable[[], "TarBuilder"]
Listing = Callable[[Path], dict[str, tuple[str, int, int, bytes]]]


def _unpack(tar: TarBuilder, into: Path, *parents: Path, limit_bytes: int = 1 << 30) -> int:
    return unpack(io.BytesIO(tar.bytes()), into, parents=parents, limit_bytes=limit_bytes)


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    """Return the folder of a layer below."""
    folder = tmp_path / "lower"
    folder.mkdir()
    return folder


def test_files_are_written_as_described(tar: MakeTar, into: Path, tree: Listing) -> None:
    """Kind, mode, time and content are the entry's; a folder's time is not that of its last child."""
    layer = tar().folder("d", mode=0o1777).file("d/f", b"data", mode=0o4755).symlink("d/s", "../x")
    layer.add("d/p", b"6", mode=0o600).link("d/h", "d/f")
    assert _unpack(layer, into) == 4
    owner = os.getuid()
    assert tree(into) == {
        "d": ("drwxrwxrwt", owner, MTIME, b""),
        "d/f": ("-rwsr-xr-x", owner, MTIME, b"data"),
        "d/h": ("-rwsr-xr-x", owner, MTIME, b"data"),
        "d/s": ("lrwxrwxrwx", owner, MTIME, b"../x"),
        "d/p": ("prw-------", owner, MTIME, b""),
    }
    assert (into / "d/f").samefile(into / "d/h")


@pytest.mark.kernel
def test_owner_does_not_cost_mode_and_capabilities(tar: MakeTar, into: Path) -> None:
    """The set-user-ID bit and file capabilities outlive the change of owner."""
    # VFS_CAP_REVISION_2 with CAP_NET_RAW (capabilities(7), "File capability extended attribute").
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    layer = tar().add(
        "ping", mode=0o6755, uid=33, gid=44, pax={b"SCHILY.xattr.security.capability": capability}
    )
    layer.add("null", b"3", device=(1, 3), mode=0o666, uid=0, gid=5)
    _unpack(layer, into)
    ping, null = (into / "ping").stat(), (into / "null").stat()
    assert (ping.st_uid, ping.st_gid, stat.S_IMODE(ping.st_mode)) == (33, 44, 0o6755)
    assert os.getxattr(into / "ping", "security.capability") == capability
    assert (null.st_rdev, null.st_gid, stat.S_IMODE(null.st_mode)) == (os.makedev(1, 3), 5, 0o666)


def test_missing_parents_are_made(tar: MakeTar, into: Path) -> None:
    """A folder no entry describes is 0755, whatever the umask of the process."""
    before = os.umask(0o077)
    try:
        _unpack(tar().file("a/b/c", b"x"), into)
    finally:
        os.umask(before)
    assert stat.S_IMODE((into / "a").stat().st_mode) == stat.S_IMODE((into / "a/b").stat().st_mode) == 0o755
    assert stat.S_IMODE((into / "a/b/c").stat().st_mode) == 0o644


def test_root_entry_describes_the_root(tar: MakeTar, into: Path) -> None:
    """The entry ``./`` sets mode and time of the layer's own folder."""
    _unpack(tar().folder("./", mode=0o750).file("./f"), into)
    assert stat.S_IMODE(into.stat().st_mode) == 0o750
    assert int(into.stat().st_mtime) == MTIME


def test_last_of_equal_names_wins(tar: MakeTar, into: Path, tree: Listing) -> None:
    """A second entry replaces the first, of any kind by any kind; a folder by a folder keeps its files."""
    layer = tar().file("a", b"old").file("a", b"new").folder("b").file("b/x").file("b", b"file")
    layer.symlink("c", "a").file("c", b"file").file("d").folder("d").folder("e").file("e/x").folder(
        "e", mode=0o700
    )
    _unpack(layer, into)
    kinds = {name: (mode[0], content) for name, (mode, _, _, content) in tree(into).items()}
    assert kinds == {
        "a": ("-", b"new"),
        "b": ("-", b"file"),
        "c": ("-", b"file"),
        "d": ("d", b""),
        "e": ("d", b""),
        "e/x": ("-", b""),
    }
    assert stat.S_IMODE((into / "e").stat().st_mode) == 0o700


def test_replaced_file_leaves_its_other_name_alone(tar: MakeTar, into: Path) -> None:
    """A hard link keeps the first content when one of its names is written again."""
    _unpack(tar().file("a", b"old").link("b", "a").file("a", b"new"), into)
    assert ((into / "a").read_bytes(), (into / "b").read_bytes()) == (b"new", b"old")


@pytest.mark.parametrize("name", ["/abs", "./rel", "a//b", "a/./b", "///x/.//y"])
def test_name_is_taken_from_the_root_of_the_layer(tar: MakeTar, into: Path, tree: Listing, name: str) -> None:
    """A leading slash, a dot and double slashes change nothing; the layer's root is the root."""
    _unpack(tar().file(name, b"x"), into)
    plain = "/".join(part for part in name.split("/") if part not in ("", "."))
    assert tree(into)[plain][3] == b"x"


def test_parent_link_is_resolved_inside(tar: MakeTar, into: Path) -> None:
    """A link among the parents means what it means in the container, absolute and ``..`` alike."""
    layer = tar().folder("run").folder("var").symlink("var/run", "/run").symlink("up", "../../../../run")
    layer.file("var/run/pid", b"1").file("up/lock", b"2").symlink("late", "made/later").file("late/f", b"3")
    _unpack(layer, into)
    assert (into / "run/pid").read_bytes() == b"1"
    assert (into / "run/lock").read_bytes() == b"2"
    assert (into / "made/later/f").read_bytes() == b"3"
    assert (into / "var/run").is_symlink()


def test_last_part_is_never_followed(tar: MakeTar, into: Path, tmp_path: Path) -> None:
    """An entry over a symbolic link replaces the link."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"safe")
    _unpack(tar().symlink("a", str(outside)).file("a", b"new").symlink("b", str(tmp_path)).folder("b"), into)
    assert outside.read_bytes() == b"safe"
    assert (into / "a").read_bytes() == b"new"
    assert not (into / "b").is_symlink()


@pytest.fixture
def way(lower: Path) -> Callable[[str], None]:
    """Return what puts something of a kind at ``lib`` of the lower layer, beside ``usr/lib/old``."""

    def put(kind: str) -> None:
        (lower / "usr/lib").mkdir(parents=True)
        (lower / "usr/lib/old").write_bytes(b"old")
        match kind:
            case "link":
                (lower / "lib").symlink_to("usr/lib")
            case "absolute link":
                (lower / "lib").symlink_to("/usr/lib")
            case "link to a link":
                (lower / "lib").symlink_to("lib64")
                (lower / "lib64").symlink_to("usr/lib")
            case "dangling link":
                (lower / "lib").symlink_to("nowhere")
            case "file":
                (lower / "lib").write_bytes(b"")
            case _:
                os.mkfifo(lower / "lib")

    return put


_WAYS = ["link", "absolute link", "link to a link", "dangling link", "file", "fifo"]


@pytest.mark.parametrize("kind", _WAYS)
@pytest.mark.parametrize("depth", [0, 1])
def test_folder_takes_the_place_of_what_lower_layers_have_in_the_way(
    tar: MakeTar,
    into: Path,
    lower: Path,
    tmp_path: Path,
    way: Callable[[str], None],
    tree: Listing,
    kind: str,
    depth: int,
) -> None:
    """A name below a link or file of a lower layer makes a folder, and nothing is written elsewhere."""
    way(kind)
    between = [tmp_path / f"between-{number}" for number in range(depth)]
    for folder in between:
        folder.mkdir()
    _unpack(tar().file("lib/deep/new", b"x"), into, lower, *between)
    assert set(tree(into)) == {"lib", "lib/deep", "lib/deep/new"}
    assert stat.S_IMODE((into / "lib").stat().st_mode) == 0o755


@pytest.mark.parametrize("kind", _WAYS)
def test_link_of_a_lower_layer_leads_no_entry_elsewhere(
    tar: MakeTar, into: Path, lower: Path, way: Callable[[str], None], tree: Listing, kind: str
) -> None:
    """Links, folders, whiteouts and opaque marks below it are of the new folder as well."""
    way(kind)
    layer = tar().symlink("lib/a", "x").folder("lib/b").file("lib/c").link("lib/d", "lib/c")
    _unpack(layer.file("lib/.wh.old").file("lib/.wh..wh..opq"), into, lower)
    assert set(tree(into)) == {"lib", "lib/a", "lib/b", "lib/c", "lib/d"}


@pytest.mark.parametrize("kind", _WAYS)
def test_whiteout_below_a_lower_link_makes_a_folder_too(
    tar: MakeTar, into: Path, lower: Path, way: Callable[[str], None], tree: Listing, kind: str
) -> None:
    """A layer that only removes a file there hides the link: so docker's overlay2 applies it."""
    way(kind)
    _unpack(tar().file("lib/.wh.old"), into, lower)
    assert set(tree(into)) == {"lib"}
    assert (into / "lib").is_dir()


def test_hard_link_through_a_lower_link_has_no_target(
    tar: MakeTar, into: Path, lower: Path, way: Callable[[str], None]
) -> None:
    """The target of a hard link is looked for without following links of lower layers."""
    way("link")
    with pytest.raises(LayerCorrupt, match="no file to link to"):
        _unpack(tar().link("copy", "lib/old"), into, lower)


def test_link_that_the_layer_makes_anew_is_followed(
    tar: MakeTar, into: Path, lower: Path, way: Callable[[str], None], tree: Listing
) -> None:
    """A layer that brings the link itself puts what is below it where the link leads."""
    way("link")
    _unpack(tar().symlink("lib", "usr/lib").file("lib/new", b"x"), into, lower)
    assert set(tree(into)) == {"lib", "usr", "usr/lib", "usr/lib/new"}


def test_folder_of_a_lower_layer_keeps_what_it_is(tar: MakeTar, into: Path, lower: Path) -> None:
    """A folder only a lower layer describes comes up with mode, time and attributes; so does the root."""
    (lower / "tmp").mkdir()
    (lower / "tmp").chmod(0o1777)
    os.setxattr(lower / "tmp", "user.k", b"v")
    os.utime(lower / "tmp", (5, 5))
    lower.chmod(0o751)
    _unpack(tar().file("tmp/f"), into, lower)
    status = (into / "tmp").stat()
    assert (stat.S_IMODE(status.st_mode), int(status.st_mtime)) == (0o1777, 5)
    assert os.getxattr(into / "tmp", "user.k") == b"v"
    assert stat.S_IMODE(into.stat().st_mode) == 0o751


def test_hard_link_to_a_lower_file_copies_it_up(tar: MakeTar, into: Path, lower: Path, tree: Listing) -> None:
    """Both names are one file of this layer, and the lower one is untouched."""
    (lower / "d").mkdir()
    (lower / "d/f").write_bytes(b"data")
    (lower / "d/f").chmod(0o640)
    os.utime(lower / "d/f", (7, 7))
    before = tree(lower)
    _unpack(tar().link("copy", "d/f"), into, lower)
    assert (into / "copy").samefile(into / "d/f")
    assert tree(into)["copy"] == tree(into)["d/f"] == ("-rw-r-----", os.getuid(), 7, b"data")
    assert tree(lower) == before


@pytest.mark.kernel
def test_file_that_is_copied_up_keeps_all_it_has(tar: MakeTar, into: Path, lower: Path) -> None:
    """A hard link brings up owner and attributes of a file, and owner and target of a symbolic link."""
    (lower / "f").write_bytes(b"data")
    os.chown(lower / "f", 12, 34)
    os.setxattr(lower / "f", "user.k", b"v")
    (lower / "s").symlink_to("nowhere")
    os.chown(lower / "s", 56, 78, follow_symlinks=False)
    _unpack(tar().link("f2", "f").link("s2", "s"), into, lower)
    file, link = (into / "f2").stat(), (into / "s2").lstat()
    assert (file.st_uid, file.st_gid, os.getxattr(into / "f2", "user.k")) == (12, 34, b"v")
    assert (link.st_uid, link.st_gid, os.readlink(into / "s2")) == (56, 78, "nowhere")
    assert link.st_ino == (into / "s").lstat().st_ino


def test_hard_link_to_a_removed_file_has_no_target(tar: MakeTar, into: Path, lower: Path) -> None:
    """What this layer has taken away, in whichever folder, is nothing to link to."""
    (lower / "d").mkdir()
    (lower / "d/f").write_bytes(b"data")
    (lower / "f").write_bytes(b"data")
    for removed in ("f", "d/f"):
        whiteout = removed.replace("f", ".wh.f")
        folder = into / removed.replace("/", "-")
        folder.mkdir()
        with pytest.raises(LayerCorrupt, match="no file to link to"):
            _unpack(tar().file(whiteout).link("copy", removed), folder, lower)


def test_holes_count_for_nothing(tar: MakeTar, into: Path) -> None:
    """A sparse file is as long as it says and counts with what it holds, against the limit too."""
    pax = {b"GNU.sparse.map": b"0,5,1000000,5", b"GNU.sparse.size": b"1000005"}
    layer = tar().add("sparse", data=b"x" * 10, pax=pax).file("plain", b"abc")
    assert _unpack(layer, into, limit_bytes=100_000) == 13
    assert (into / "sparse").stat().st_size == 1_000_005


@pytest.mark.kernel
def test_device_that_may_not_be_made_is_left_out(tar: MakeTar, into: Path) -> None:
    """Without the right to make devices a layer has all but these (mknod(2), EPERM)."""
    nobody = 65534
    layer = tar().add("null", b"3", device=(1, 3), uid=nobody, gid=nobody)
    layer.add("after", data=b"x", uid=nobody, gid=nobody)
    os.chown(into, nobody, nobody)
    content = layer.bytes()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(into)
            os.setgroups([])
            os.setgid(nobody)
            os.setuid(nobody)
            unpack(io.BytesIO(content), Path())
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.listdir(into) == ["after"]


def test_hard_link_to_itself_keeps_the_file(tar: MakeTar, into: Path) -> None:
    """A link whose target is its own name changes nothing."""
    _unpack(tar().file("a", b"x").link("a", "./a"), into)
    assert (into / "a").read_bytes() == b"x"


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/../evil", "..", "a/..", "./../evil", "x/../y", ".wh...", ".wh.."]
)
def test_name_that_leads_out_is_refused(
    tar: MakeTar, into: Path, tmp_path: Path, tree: Listing, name: str
) -> None:
    """No ``..`` is taken, harmless or not, and nothing is written outside."""
    with pytest.raises(LayerEscape, match=r"\."):
        _unpack(tar().folder("a").file(name, b"evil"), into)
    assert not [path for path in tree(tmp_path) if "evil" in path]


@pytest.mark.parametrize("target", ["../secret", "/../secret", "a/../../secret"])
def test_hard_link_out_is_refused(tar: MakeTar, into: Path, tmp_path: Path, target: str) -> None:
    """The target of a hard link is a name inside the layer like any other."""
    (tmp_path / "secret").write_bytes(b"s")
    with pytest.raises(LayerEscape):
        _unpack(tar().link("mine", target), into)
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_hard_link_through_a_link_stays_inside(tar: MakeTar, into: Path, tmp_path: Path) -> None:
    """A symbolic link among a hard link's target's parents cannot lead to the machine's files."""
    (tmp_path / "secret").write_bytes(b"s")
    with pytest.raises(LayerCorrupt, match="no file to link to"):
        _unpack(tar().symlink("out", str(tmp_path)).link("mine", "out/secret"), into)
    assert (tmp_path / "secret").stat().st_nlink == 1


@pytest.mark.parametrize("swap", [False, True])
def test_link_as_parent_never_leaves(tar: MakeTar, into: Path, tmp_path: Path, swap: bool) -> None:
    """A parent that is, or becomes, a link to an absolute path of the machine is resolved in the layer."""
    outside = tmp_path / "outside"
    outside.mkdir()
    layer = tar()
    if swap:
        layer.folder("dir").file("dir/first")
    _unpack(layer.symlink("dir", str(outside)).file("dir/evil", b"x"), into)
    assert list(outside.iterdir()) == []
    assert (into / str(outside).lstrip("/") / "evil").read_bytes() == b"x"


def test_replaced_link_is_not_remembered(tar: MakeTar, into: Path, tree: Listing) -> None:
    """Where a parent link once led does not matter after something else took its name."""
    layer = (
        tar()
        .folder("x")
        .symlink("p", "x")
        .file("p/one")
        .symlink("p", "y")
        .file("p/two")
        .folder("p")
        .file("p/3")
    )
    _unpack(layer, into)
    assert set(tree(into)) == {"x", "x/one", "y", "y/two", "p", "p/3"}


def test_link_in_a_replaced_folder_is_not_remembered(tar: MakeTar, into: Path, tree: Listing) -> None:
    """A folder that was replaced takes along where its links led; what is made there anew counts."""

    def begun() -> TarBuilder:
        return tar().folder("x").folder("q").symlink("q/p", "../x").file("q/p/one").file("q").folder("q")

    _unpack(begun().folder("q/p").file("q/p/two"), into)
    assert set(tree(into)) == {"x", "x/one", "q", "q/p", "q/p/two"}
    (into / "again").mkdir()
    with pytest.raises(LayerCorrupt, match="'q/p'"):
        _unpack(begun().file("q/p").file("q/p/two"), into / "again")


@pytest.mark.parametrize(
    ("pax", "kind"),
    [
        ({b"SCHILY.xattr.trusted.overlay.opaque": b"y"}, b"5"),
        ({b"SCHILY.xattr.user.overlay.redirect": b"/etc"}, b"5"),
        ({b"SCHILY.xattr.trusted.overlay.metacopy": b""}, b"0"),
    ],
)
def test_attribute_that_steers_overlayfs_is_refused(
    tar: MakeTar, into: Path, pax: dict[bytes, bytes], kind: bytes
) -> None:
    """A layer cannot pass for overlayfs's own notes."""
    with pytest.raises(LayerEscape, match="overlayfs"):
        _unpack(tar().add("x", kind, pax=pax), into)


def test_whiteout_device_is_refused(tar: MakeTar, into: Path, tree: Listing) -> None:
    """A character device 0/0 is a removal mark on disk and may not come as an entry."""
    with pytest.raises(LayerEscape, match="removed file"):
        _unpack(tar().add("x", b"3", device=(0, 0)), into)
    assert tree(into) == {}


@pytest.mark.parametrize(
    "layer",
    [
        lambda tar: tar.file("f").file("f/x"),
        lambda tar: tar.symlink("a", "b").symlink("b", "a").file("a/x"),
        lambda tar: tar.file("d/" * 300 + "x"),
        lambda tar: tar.file("n" * 300),
        lambda tar: tar.file("/".join(["n" * 200] * 21)),
        lambda tar: tar.file("f").link("l", "missing"),
        lambda tar: tar.link("l", "l"),
        lambda tar: tar.folder("d").link("l", "d"),
        lambda tar: tar.file("d/f").link("d", "d/f"),
        lambda tar: tar.link("l", "/"),
        lambda tar: tar.symlink("s", ""),
        lambda tar: tar.file("a/.wh."),
        lambda tar: tar.file(".wh.a/b"),
        lambda tar: tar.add("x", b"Q"),
    ],
    ids=[
        "file as folder",
        "loop",
        "too deep",
        "long part",
        "long path",
        "no target",
        "link to nothing",
        "link to folder",
        "target goes",
        "link to root",
        "empty symlink",
        "bare whiteout",
        "inside whiteout",
        "unknown type",
    ],
)
def test_entry_that_cannot_be_is_corrupt(
    tar: MakeTar, into: Path, layer: Callable[[TarBuilder], TarBuilder]
) -> None:
    """What no file system can hold ends as one clear error."""
    with pytest.raises(LayerCorrupt) as caught:
        _unpack(layer(tar()), into)
    assert "layer" in caught.value.what


def test_root_is_not_replaced(tar: MakeTar, into: Path) -> None:
    """An entry for the root that is no folder is refused."""
    with pytest.raises(LayerEscape, match="root"):
        _unpack(tar().symlink("./", "/etc"), into)


def test_layer_past_its_limit_is_refused(tar: MakeTar, into: Path, lower: Path) -> None:
    """The limit counts the stream, and what hard links bring up from lower layers."""
    with pytest.raises(LayerTooLarge):
        _unpack(tar().file("a", bytes(10_000)), into, limit_bytes=5_000)
    (lower / "big").write_bytes(bytes(10_000))
    with pytest.raises(LayerTooLarge):
        _unpack(tar().link("b", "big"), into, lower, limit_bytes=5_000)


def test_stream_is_read_to_its_end(tar: MakeTar, into: Path) -> None:
    """A digest taken of the stream covers what stands behind the tar's end."""
    stream = io.BytesIO(tar().file("a").bytes() + b"more" * 10_000)
    unpack(stream, into)
    assert stream.read() == b""


def test_many_folders_keep_few_descriptors(tar: MakeTar, into: Path) -> None:
    """A layer of many folders is unpacked with a bounded number of open files."""
    layer = tar()
    for number in range(3000):
        layer.file(f"d{number}/e/f")
    before = len(os.listdir("/proc/self/fd"))
    _unpack(layer, into)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(os.listdir(into)) == 3000


def test_error_names_the_entry_and_leaves_no_descriptor(tar: MakeTar, into: Path) -> None:
    """A refused layer says which entry it was, and closes what it opened."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ImageError, match=r"'bad/\.\./entry'"):
        _unpack(tar().file("a/b/c/d").file("bad/../entry"), into)
    assert len(os.listdir("/proc/self/fd")) == before


def test_folder_has_the_attributes_of_its_last_entry_alone(tar: MakeTar, into: Path, lower: Path) -> None:
    """What an earlier entry or a lower layer says of a folder's attributes goes with the next entry."""

    def attribute(name: str) -> dict[bytes, bytes]:
        return {f"SCHILY.xattr.user.{name}".encode(): b"1"}

    (lower / "d").mkdir()
    os.setxattr(lower / "d", "user.lower", b"1")
    layer = tar().add("d", b"5", mode=0o755, pax=attribute("first")).file("d/f")
    layer.add("d", b"5", mode=0o755, pax=attribute("last"))
    _unpack(layer, into, lower)
    assert os.listxattr(into / "d") == ["user.last"]
