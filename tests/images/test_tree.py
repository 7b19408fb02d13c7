"""A layer among layers: whiteouts, opaque folders, and the view that overlayfs makes of them."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_containers.errors import ImageError
from pytest_containers.images.layer import unpack

if TYPE_CHECKING:
    from tests.images.conftest import TarBuilder

MakeTar = Callable[[], "TarBuilder"]
Listing = Callable[[Path], dict[str, tuple[str, int, int, bytes]]]

pytestmark = pytest.mark.kernel


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    """Return a layer below with two folders and a file in each."""
    folder = tmp_path / "lower"
    for name in ("d", "e"):
        (folder / name).mkdir(parents=True)
        (folder / name / "old").write_bytes(b"old")
    (folder / "top").write_bytes(b"old")
    (folder / "link").symlink_to("d")
    return folder


@pytest.fixture
def merged(mounts_of_its_own: Callable[..., str], tmp_path: Path) -> Callable[..., set[str]]:
    """Return what mounts layers, oldest first, and lists the files overlayfs shows."""

    def look(*layers: Path) -> set[str]:
        point, empty = tmp_path / "merged", tmp_path / "empty"
        point.mkdir(exist_ok=True)
        empty.mkdir(exist_ok=True)
        lowerdir = ":".join(str(layer) for layer in (*reversed(layers), empty))
        script = 'mount -t overlay overlay -o "lowerdir=$1" "$2"; cd "$2"; find . -mindepth 1 -printf "%P\\n"'
        return set(mounts_of_its_own(script, lowerdir, point).splitlines())

    return look


def _unpack(tar: TarBuilder, into: Path, *parents: Path) -> None:
    unpack(io.BytesIO(tar.bytes()), into, parents=parents)


def _is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


def test_whiteout_hides_the_lower_file(
    tar: MakeTar, into: Path, lower: Path, merged: Callable[..., set[str]]
) -> None:
    """A ``.wh.`` entry becomes the device that overlayfs takes for a removed name."""
    _unpack(tar().file(".wh.top").file("d/.wh.old"), into, lower)
    assert _is_whiteout(into / "top")
    assert _is_whiteout(into / "d/old")
    assert merged(lower, into) == {"d", "e", "e/old", "link"}


def test_whiteout_keeps_sibling_from_same_layer(
    tar: MakeTar, into: Path, lower: Path, merged: Callable[..., set[str]]
) -> None:
    """A whiteout hides only what older layers hold, before or behind its sibling in the stream."""
    layer = tar().file("top", b"new").file(".wh.top").file(".wh.d").file("d/new").file("e/new").file(".wh.e")
    _unpack(layer, into, lower)
    assert (into / "top").read_bytes() == b"new"
    assert _is_opaque(into / "d")
    assert _is_opaque(into / "e")
    assert merged(lower, into) == {"top", "d", "d/new", "e", "e/new", "link"}


@pytest.mark.parametrize("first", [True, False])
def test_opaque_hides_wherever_it_stands(
    tar: MakeTar, into: Path, lower: Path, merged: Callable[..., set[str]], first: bool
) -> None:
    """``.wh..wh..opq`` hides the lower folder's files and never this layer's, first or last."""
    layer = tar()
    for name in ("d/.wh..wh..opq", "d/new") if first else ("d/new", "d/.wh..wh..opq"):
        layer.file(name)
    _unpack(layer, into, lower)
    assert merged(lower, into) == {"d", "d/new", "e", "e/old", "link", "top"}


def test_opaque_root_hides_every_lower_name(
    tar: MakeTar, into: Path, lower: Path, merged: Callable[..., set[str]]
) -> None:
    """The kernel asks no root for opaqueness, so every name of it is hidden one by one."""
    _unpack(tar().file("d/new").file(".wh..wh..opq").file("top", b"new"), into, lower)
    assert merged(lower, into) == {"d", "d/new", "top"}


def test_whiteout_of_nothing_is_nothing(tar: MakeTar, into: Path, lower: Path, tree: Listing) -> None:
    """A mark for a name that no lower layer has would show as a broken file."""
    layer = (
        tar().file(".wh.absent").file("absent/.wh.x").file(".wh.top").file("top/.wh.x").file(".wh..wh.plnk/1")
    )
    _unpack(layer, into, lower)
    assert set(tree(into)) == {"top"}


def test_folder_that_held_whiteouts_alone_is_hidden(
    tar: MakeTar, into: Path, lower: Path, merged: Callable[..., set[str]]
) -> None:
    """A whiteout inside a folder does not count as the layer's own having of that folder."""
    _unpack(tar().file("d/.wh.old").file(".wh.d"), into, lower)
    assert _is_whiteout(into / "d")
    assert merged(lower, into) == {"e", "e/old", "link", "top"}


def test_folder_in_place_of_a_file_shows_nothing_below(
    tar: MakeTar, into: Path, lower: Path, merged: Callable[..., set[str]]
) -> None:
    """A file between two folders of one name ends what the lower one shows."""
    _unpack(tar().folder("d").file("d").folder("d"), into, lower)
    assert merged(lower, into) == {"d", "e", "e/old", "link", "top"}


def test_hidden_link_is_not_followed(tar: MakeTar, into: Path, lower: Path, tree: Listing) -> None:
    """A name this layer has hidden is a new folder when something is put below it."""
    _unpack(tar().file(".wh.link").file("link/f"), into, lower)
    assert set(tree(into)) == {"link", "link/f"}


def test_removed_folder_hides_two_layers(
    tar: MakeTar, into: Path, lower: Path, tmp_path: Path, merged: Callable[..., set[str]], tree: Listing
) -> None:
    """A folder made again shows nothing of any layer below the one that removed it."""
    middle, top = tmp_path / "middle", into
    middle.mkdir()
    _unpack(tar().file(".wh.d"), middle, lower)
    _unpack(tar().file("d/new").file("d/.wh.old"), top, lower, middle)
    assert set(tree(top)) == {"d", "d/new"}
    assert merged(lower, middle, top) == {"d", "d/new", "e", "e/old", "link", "top"}


def test_lower_opaque_folder_ends_the_view(
    tar: MakeTar, into: Path, lower: Path, tmp_path: Path, tree: Listing
) -> None:
    """What an opaque folder of a middle layer hides is not there for the layer above."""
    middle = tmp_path / "middle"
    middle.mkdir()
    _unpack(tar().file("d/.wh..wh..opq").file("d/mid"), middle, lower)
    _unpack(tar().file("d/.wh.old").file("d/.wh.mid"), into, lower, middle)
    assert set(tree(into)) == {"d", "d/mid"}


_NAMES = st.lists(
    st.sampled_from(["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", "lower"]), min_size=1, max_size=4
)
_PATHS = _NAMES.map("/".join)
_TARGETS = st.one_of(_PATHS, _PATHS.map(lambda path: "/" + path), st.just("../../secret"))
_ENTRIES = st.lists(
    st.tuples(st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6"]), _PATHS, _TARGETS),
    min_size=1,
    max_size=12,
)


@settings(max_examples=250, deadline=None)
@given(entries=_ENTRIES)
def test_no_sequence_of_entries_leads_outside(
    entries: list[tuple[bytes, str, str]], tar: MakeTar, tree: Listing
) -> None:
    """Whatever a layer says, only its own folder changes, and only an ImageError comes of it."""
    with tempfile.TemporaryDirectory() as held:
        root = Path(held)
        into, below = root / "x/into", root / "lower"
        into.mkdir(parents=True)
        (below / "lower/a").mkdir(parents=True)
        (below / "a").symlink_to("lower/../../../secret")
        (below / "b").write_bytes(b"b")
        (root / "secret").mkdir()
        (root / "secret/file").write_bytes(b"s")
        layer = tar()
        for number, (kind, name, target) in enumerate(entries):
            data = b"%d" % number if kind == b"0" else b""
            layer.add(name, kind, data, link=target if kind in {b"1", b"2"} else "", device=(1, 3))
        before = {name: what for name, what in tree(root).items() if not name.startswith("x")}
        with contextlib.suppress(ImageError):
            unpack(io.BytesIO(layer.bytes()), into, parents=(below,))
        after = {name: what for name, what in tree(root).items() if not name.startswith("x")}
        assert after == before
        assert [path.name for path in (root / "x").iterdir()] == ["into"]
