"""The merged view of layers, without a mount."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.attributes import mark_opaque
from pytest_containers.images.build.context import select
from pytest_containers.images.build.instruction import Copy, Instruction
from pytest_containers.images.build.lowers import LowerTree
from pytest_containers.images.build.picking import Picker
from pytest_containers.images.build.selection import Selection
from tests.images.build.writing import written

Layer = Callable[..., Path]


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    """Return a function that makes a layer's folder: texts are files, None whiteouts, paths links."""

    def make(name: str, /, **files: str | Path | None) -> Path:
        root = tmp_path / name
        root.mkdir()
        for path, content in files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                os.mknod(target, 0o020000, os.makedev(0, 0))
            elif isinstance(content, Path):
                target.symlink_to(content)
            else:
                target.write_text(content)
        return root

    return make


def _opaque(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    mark_opaque(descriptor)
    os.close(descriptor)


def test_lower_tree_shows_what_an_overlay_would(layer: Layer) -> None:
    """The topmost file wins, folders merge, a whiteout hides, an opaque folder hides all below it."""
    one = layer("one", **{"a": "1", "d/x": "1", "d/y": "1", "gone": "1", "o/p": "1", "f/in": "1"})
    two = layer("two", **{"a": "2", "d/y": None, "d/z": "2", "gone": None, "o/q": "2", "f": "file"})
    _opaque(two / "o")
    with closing(LowerTree((one, two))) as tree:
        assert tree.names("") == ["a", "d", "f", "o"]
        assert tree.names("d") == ["x", "z"]
        assert tree.names("o") == ["q"]
        assert [tree.node(path) for path in ("gone", "d/y", "o/p", "f/in")] == [None] * 4
        with tree.open("a") as file:
            assert file.read() == b"2"
        with tree.open("d/x") as file:
            assert file.read() == b"1"


def test_lower_tree_follows_no_link(layer: Layer, tmp_path: Path) -> None:
    """A layer with a link in a folder's place leads nowhere, not to the machine's files."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    with closing(LowerTree((layer("one", link=tmp_path / "outside"),))) as tree:
        node = tree.node("link")
        assert node is not None
        assert (node.kind, tree.node("link/secret"), tree.names("link")) == ("link", None, [])


def test_lower_tree_on_nothing_is_empty() -> None:
    """A stage from scratch has a root and nothing in it."""
    with closing(LowerTree(())) as tree:
        root = tree.node("")
        assert root is not None
        assert (root.kind, tree.names(""), tree.node("a")) == ("folder", [], None)


def test_lower_tree_ends_at_other_file_systems() -> None:
    """What is mounted in the machine's own root is no part of it, as in an overlay."""
    with closing(LowerTree((Path("/"),))) as tree:
        node = tree.node("proc")
        assert node is not None
        assert (node.kind, tree.names("proc"), tree.node("proc/self")) == ("folder", [], None)


@pytest.fixture
def copied(layer: Layer, instruction: Callable[[str], Instruction]) -> Callable[[str], Selection]:
    """Return a function that selects what a COPY --from of one stage's files takes."""
    root = layer("stage", **{"usr/lib/a.so.1": "a", "usr/lib/a.so": Path("a.so.1"), "usr/lib/sub/x": "x"})
    os.link(root / "usr/lib/a.so.1", root / "usr/lib/again")
    os.symlink("/usr/lib", root / "lib")
    os.symlink("../../gone", root / "usr/gone")
    os.chown(root / "usr/lib/a.so.1", 11, 12)

    def run(line: str) -> Selection:
        copy = instruction(line)
        assert isinstance(copy, Copy)
        with closing(LowerTree((root,))) as tree:
            return select(Picker(tree=tree, place="the stage", rooted=True), copy)

    return run


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("COPY /usr/lib /x", ["a.so", "a.so.1", "again", "sub", "sub/x"]),
        ("COPY /lib/ /x", ["a.so", "a.so.1", "again", "sub", "sub/x"]),
        ("COPY --exclude=a* /usr/lib /x", ["sub", "sub/x"]),
        ("COPY /usr/lib/*.so* /x/", ["a.so", "a.so.1"]),
        ("COPY --parents /usr/./lib/*/x /x/", ["lib", "lib/sub", "lib/sub/x"]),
        ("COPY /usr/lib/none* /x/", []),
        ("COPY /../lib/a.so /x/", ["a.so"]),
    ],
)
def test_copy_from_a_stage_selects_as_in_a_context(
    copied: Callable[[str], Selection], line: str, names: list[str]
) -> None:
    """COPY --from has the rules of COPY, its links resolved in the stage's own root."""
    assert list(written(copied(line))) == names


def test_copy_from_a_stage_keeps_owners_and_hard_links(copied: Callable[[str], Selection]) -> None:
    """What a stage made belongs to whom it said, unless others are given; two names stay one file."""
    found = written(copied("COPY /usr/lib /x"))
    assert (found["a.so.1"][0].uid, found["again"][0].linkname) == (11, "a.so.1")
    assert written(copied("COPY /usr/lib /x"), owner=(1, 2))["a.so.1"][0].uid == 1


def test_copy_from_a_stage_says_what_is_missing(copied: Callable[[str], Selection]) -> None:
    """A link to nothing is an error that names the stage."""
    with pytest.raises(SpecInvalid, match="no usr/gone in the stage") as caught:
        copied("COPY /usr/gone /x")
    assert caught.value.seen == "a link to ../../gone, which is not there"
