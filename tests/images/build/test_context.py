"""What COPY and ADD select in a build's context."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.context import Context
from pytest_containers.images.build.disk import DiskTree
from pytest_containers.images.build.instruction import Add, Copy, Instruction
from pytest_containers.images.build.picking import Picker, clean
from pytest_containers.images.build.selection import Selection
from tests.images.build.writing import written

Parse = Callable[[str], Instruction]
Select = Callable[[str], Selection]


def _make(root: Path, *paths: str) -> None:
    """Make files that hold their own names; a path that ends in a slash is a folder."""
    for path in paths:
        target = root / path
        (target if path.endswith("/") else target.parent).mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            target.write_text(path)


def _names(selection: Selection) -> list[str]:
    return list(written(selection))


@pytest.fixture
def select(tmp_path: Path, instruction: Parse) -> Select:
    """Return a function that selects in the test's folder what one line says."""

    def run(text: str) -> Selection:
        transfer = instruction(text)
        assert isinstance(transfer, Copy | Add)
        return Context.open(tmp_path).select(transfer)

    return run


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("COPY a.txt /x", ["a.txt"]),
        ("COPY /a.txt /x", ["a.txt"]),
        ("COPY ../../a.txt /x", ["a.txt"]),
        ("COPY dir/../a.txt /x", ["a.txt"]),
        ("COPY dir /x", ["b.txt", "sub", "sub/c.md"]),
        ("COPY dir/ /x", ["b.txt", "sub", "sub/c.md"]),
        ("COPY a.txt dir/sub /x/", ["a.txt", "c.md"]),
        ("COPY *.txt /x/", ["a.txt", "z.txt"]),
        ("COPY d* /x/", ["b.txt", "sub", "sub/c.md"]),
        ("COPY dir/*/*.md /x/", ["c.md"]),
        ("COPY nothing* /x/", []),
        ("COPY no/such/* /x/", []),
        ("COPY --exclude=*.txt . /x", ["dir", "dir/b.txt", "dir/sub", "dir/sub/c.md"]),
        ("COPY --exclude=**/*.txt . /x", ["dir", "dir/sub", "dir/sub/c.md"]),
        ("COPY --exclude=sub dir /x", ["b.txt"]),
        ("COPY --exclude=sub --exclude=!sub/c.md dir /x", ["b.txt", "sub", "sub/c.md"]),
        ("COPY --exclude=a* *.txt /x/", ["z.txt"]),
        ("COPY --exclude=dir d* /x/", []),
        ("COPY --exclude=dir * /x/", ["a.txt", "z.txt"]),
        ("COPY --exclude=sub dir/* /x/", ["b.txt"]),
        ("COPY --exclude=a* a.txt z.txt /x/", ["z.txt"]),
        ("COPY --parents dir/sub/c.md /x", ["dir", "dir/sub", "dir/sub/c.md"]),
        ("COPY --parents ./dir/sub /x", ["dir", "dir/sub", "dir/sub/c.md"]),
        ("COPY --parents dir/./sub/c.md /x", ["sub", "sub/c.md"]),
        ("COPY --parents **/*.md /x", ["dir", "dir/sub", "dir/sub/c.md"]),
        ("COPY --parents dir/./**/*.md /x", ["sub", "sub/c.md"]),
        ("COPY --parents dir/*/c.md /x", ["dir", "dir/sub", "dir/sub/c.md"]),
        ("COPY --parents dir/*.none /x", []),
        ("COPY --parents --exclude=**/*.md dir /x", ["dir", "dir/b.txt", "dir/sub"]),
        ("COPY --parents --exclude=**/*.md dir/sub/c.md /x", []),
    ],
)
def test_select_names(tmp_path: Path, select: Select, line: str, names: list[str]) -> None:
    """A source is its own name, a folder its contents, a wildcard its matches, in order."""
    _make(tmp_path, "a.txt", "z.txt", "dir/b.txt", "dir/sub/c.md")
    assert _names(select(line)) == names


@pytest.mark.parametrize(
    ("ignore", "line", "names"),
    [
        ("*.txt", "COPY . /x", [".dockerignore", "dir", "dir/b.txt", "dir/sub", "dir/sub/c.md"]),
        ("dir", "COPY . /x", [".dockerignore", "a.txt"]),
        ("**\n!dir/sub", "COPY . /x", ["dir", "dir/sub", "dir/sub/c.md"]),
        ("dir\n!dir/sub/c.md", "COPY dir /x", ["sub", "sub/c.md"]),
        ("a*", "COPY *.txt /x", []),
        ("dir\n!dir/b.txt", "COPY d* /x/", ["b.txt"]),
        ("dir\n!dir/nothing", "COPY d* /x/", []),
        ("dir\n!dir/nothing", "COPY * /x/", [".dockerignore", "a.txt"]),
        ("dir/*\n!dir/nothing", "COPY dir/* /x/", []),
        ("**/c.md", "COPY --parents dir/sub /x", ["dir", "dir/sub"]),
        ("dir/b.txt", "COPY --parents **/b.txt /x", []),
    ],
)
def test_select_leaves_out_what_is_ignored(
    tmp_path: Path, select: Select, ignore: str, line: str, names: list[str]
) -> None:
    """What the ignore file names is as if it were not there, also below a folder that is copied."""
    _make(tmp_path, "a.txt", "dir/b.txt", "dir/sub/c.md")
    (tmp_path / ".dockerignore").write_text(ignore)
    assert _names(select(line)) == names


@pytest.mark.parametrize(
    ("source", "exclude", "parents"),
    [
        ("**/*.md", (), True),
        ("dir/./**/*.md", (), True),
        ("dir/*/*.md", (), True),
        (".", ("**", "!**/*.md"), False),
    ],
)
def test_pick_has_each_folder_once(
    tmp_path: Path, source: str, exclude: tuple[str, ...], *, parents: bool
) -> None:
    """A folder that several selected files lie in comes before the first of them, and only there."""
    _make(tmp_path, "dir/sub/c.md", "dir/sub/d.md", "dir/more/e.md", "dir/none/f.txt")
    with contextlib.closing(DiskTree(tmp_path)) as tree:
        picked = Picker(tree=tree, place="the test").pick(source, exclude=exclude, parents=parents)
    names = [item.name for item in picked]
    assert len(names) == len(set(names))
    for name in names:
        folder = name.rpartition("/")[0]
        assert not folder or names.index(folder) < names.index(name)
    assert {name.removeprefix("dir/") for name in names if name.endswith(".md")} == {
        *("sub/c.md", "sub/d.md", "more/e.md")
    }
    assert not any("none" in name for name in names)


def test_open_prefers_the_ignore_file_of_the_dockerfile(tmp_path: Path) -> None:
    """A file named as the Dockerfile with .dockerignore behind it wins over the general one."""
    (tmp_path / ".dockerignore").write_text("general")
    (tmp_path / "my.Dockerfile.dockerignore").write_text("special")
    context = Context.open(tmp_path, "my.Dockerfile")
    assert context.ignored_by == "my.Dockerfile.dockerignore"
    assert context.ignore.ignores("special")
    assert not context.ignore.ignores("general")


@pytest.mark.parametrize("name", ["none", "file"])
def test_open_refuses_what_is_no_folder(tmp_path: Path, name: str) -> None:
    """A context is a folder that is there."""
    (tmp_path / "file").touch()
    with pytest.raises(SpecInvalid, match=f"{name} is not a folder") as caught:
        Context.open(tmp_path / name)
    assert caught.value.mend


def test_missing_source_is_named_with_its_line_and_the_nearest_name(tmp_path: Path, select: Select) -> None:
    """A plain name that is not there is an error that knows a better one."""
    _make(tmp_path, "src/requirements.txt")
    with pytest.raises(SpecInvalid) as caught:
        select("COPY src/requirement.txt /x")
    assert caught.value.what == "Dockerfile:2: no src/requirement.txt in the build context"
    assert caught.value.mend == "did you mean src/requirements.txt?"


@pytest.mark.parametrize("line", ["COPY out /x", "COPY out/a /x", "COPY --parents out/a /x"])
def test_missing_source_that_is_ignored_says_so(tmp_path: Path, select: Select, line: str) -> None:
    """A name that only the ignore file hides is told from one that is not there."""
    _make(tmp_path, "out/a")
    (tmp_path / ".dockerignore").write_text("out\n")
    with pytest.raises(SpecInvalid, match="Dockerfile:2: no out") as caught:
        select(line)
    assert caught.value.seen == ".dockerignore leaves it out"


@pytest.mark.parametrize("line", ["COPY --parents none /x", "COPY --parents none/./a* /x", "COPY a.txt/b /x"])
def test_missing_source_in_any_form_is_refused(tmp_path: Path, select: Select, line: str) -> None:
    """Neither --parents nor a file in place of a folder hides that a source is missing."""
    _make(tmp_path, "a.txt")
    with pytest.raises(SpecInvalid, match="Dockerfile:2: no "):
        select(line)


def test_link_as_source_is_followed_and_deeper_ones_are_kept(tmp_path: Path, select: Select) -> None:
    """Only links that a source names are what they lead to."""
    _make(tmp_path, "dir/file")
    (tmp_path / "top").symlink_to("dir/file")
    (tmp_path / "folder").symlink_to("/dir")
    (tmp_path / "dir/link").symlink_to("/etc/passwd")
    assert _names(select("COPY top /x")) == ["top"]
    assert select("COPY top /x").one_file
    assert _names(select("COPY folder /x")) == ["file", "link"]
    assert _names(select("COPY folder/file /x")) == ["file"]
    assert written(select("COPY dir /x"))["link"][0].linkname == "/etc/passwd"


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "dir/../../outside", "again"])
def test_link_that_leads_out_is_refused(tmp_path: Path, instruction: Parse, target: str) -> None:
    """No link in a context brings a file from outside it, at the end of others neither."""
    _make(tmp_path, "outside", "context/dir/")
    context = tmp_path / "context"
    (context / "link").symlink_to(target)
    (context / "again").symlink_to("../outside")
    copy = instruction("COPY link /x")
    assert isinstance(copy, Copy)
    with pytest.raises(SpecInvalid, match=r"Dockerfile:2: the symbolic link (link|again) leads out"):
        Context.open(context).select(copy)


def test_link_in_a_circle_is_refused(tmp_path: Path, select: Select) -> None:
    """Links that lead to each other end in an error."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(SpecInvalid, match="in a circle"):
        select("COPY a /x")


def test_file_that_becomes_a_link_is_not_followed(tmp_path: Path, instruction: Parse) -> None:
    """A link put in a folder's place after the selection is never gone through."""
    _make(tmp_path, "outside/secret", "context/dir/secret")
    # More than is kept of a file between the selection and the copy.
    (tmp_path / "context/dir/secret").write_bytes(bytes(100_000))
    copy = instruction("COPY dir /x")
    assert isinstance(copy, Copy)
    selection = Context.open(tmp_path / "context").select(copy)
    (tmp_path / "context/dir").rename(tmp_path / "moved")
    (tmp_path / "context/dir").symlink_to("../outside")
    with pytest.raises(SpecInvalid, match="cannot be read"):
        written(selection)


def test_source_that_no_path_can_be_is_refused(select: Select) -> None:
    """What the kernel could not be asked for is an error of the Dockerfile."""
    with pytest.raises(SpecInvalid, match=r"Dockerfile:2: the source .* cannot be a path"):
        select(r'COPY ["a\u0000b", "/x"]')
    with pytest.raises(SpecInvalid, match="cannot be a path"):
        clean("\ud800")


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[None]:
    """Put a socket into the test's folder."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        yield


@pytest.mark.usefixtures("listening")
def test_sockets_are_passed_over_and_fifos_kept(tmp_path: Path, select: Select) -> None:
    """A server's socket in a context stops no build; a FIFO is copied as one."""
    os.mkfifo(tmp_path / "fifo")
    assert _names(select("COPY . /x")) == ["fifo"]


@pytest.mark.parametrize(
    ("line", "one_file", "empty"),
    [
        ("COPY a.txt /x", True, False),
        ("COPY a* /x", True, False),
        ("COPY *.txt /x", False, False),
        ("COPY a.txt z.txt /x/", False, False),
        ("COPY dir /x", False, False),
        ("COPY --parents a.txt /x", False, False),
        ("COPY none* /x", False, True),
        ("ADD a.txt /x", True, False),
        ("ADD a.txt https://example.com/b /x/", False, False),
    ],
)
def test_one_file_is_one_source_and_a_file(
    tmp_path: Path, select: Select, line: str, one_file: bool, empty: bool
) -> None:
    """Only a single regular file may get another name in its target."""
    _make(tmp_path, "a.txt", "z.txt", "dir/only")
    selection = select(line)
    assert (selection.one_file, selection.nothing) == (one_file, empty)


def test_inline_files_are_selected_behind_the_sources(tmp_path: Path, instruction: Parse) -> None:
    """A heredoc is a file with mode 0644 that no ignore file hides."""
    _make(tmp_path, "a.txt")
    (tmp_path / ".dockerignore").write_text("b.txt")
    copy = instruction("COPY a.txt <<b.txt <<.c /x/\nb\nb.txt\nc\n.c")
    assert isinstance(copy, Copy)
    selection = Context.open(tmp_path).select(copy)
    found = written(selection, owner=(7, 8), mtime_s=1)
    rows = [(name, entry.mode, entry.uid, entry.mtime) for name, (entry, _) in found.items()][1:]
    assert sorted(rows) == [(".c", 0o644, 7, 1), ("b.txt", 0o644, 7, 1)]
    assert found["b.txt"][1] == b"b\n"


def test_deep_folders_end_in_an_error(tmp_path: Path, select: Select) -> None:
    """A tree made to exhaust descriptors does not."""
    _make(tmp_path, "d/" * 300)
    with pytest.raises(SpecInvalid, match="folders deep"):
        select("COPY . /x")


def test_link_below_a_source_is_not_gone_through(tmp_path: Path, select: Select) -> None:
    """What lies behind a deeper link is neither its contents nor a match of a wildcard."""
    _make(tmp_path, "real/file", "dir/")
    (tmp_path / "dir/link").symlink_to("../real")
    assert _names(select("COPY dir /x")) == ["link"]
    assert _names(select("COPY dir/*/file /x/")) == []
    with pytest.raises(SpecInvalid, match="no dir/link/file"):
        select("COPY --parents dir/link/file /x")


def test_device_is_refused() -> None:
    """A context has no use for a device; COPY says where one lies."""
    with (
        contextlib.closing(DiskTree(Path("/dev"))) as tree,
        pytest.raises(SpecInvalid, match="null in the build context is a device"),
    ):
        tree.node("null")


def test_whiteout_names_are_refused(tmp_path: Path, select: Select) -> None:
    """A name that means removal in a layer is not copied as a file."""
    _make(tmp_path, "dir/.wh.passwd")
    with pytest.raises(SpecInvalid, match=r"\.wh\.passwd .* cannot be in an image"):
        select("COPY dir /x")


def test_select_leaves_no_descriptor_open(tmp_path: Path, select: Select) -> None:
    """Neither a selection nor its writing leaves a folder open."""
    _make(tmp_path, "a/b/c/d", "a/b/e")
    before = os.listdir("/proc/self/fd")
    assert _names(select("COPY . /x"))
    with pytest.raises(SpecInvalid):
        select("COPY a/b/none /x")
    assert os.listdir("/proc/self/fd") == before
