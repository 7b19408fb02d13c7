"""Layers, merged as overlayfs merges them, against the same entries done one by one in a chroot."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pytest_containers.errors import ImageError
from pytest_containers.images.layer import unpack

if TYPE_CHECKING:
    from tests.images.conftest import TarBuilder

Entry = tuple[str, str, str]
View = dict[str, str]

_NAME: Final = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)
_TARGET: Final = st.one_of(
    _NAME, _NAME.map("/{}".format), _NAME.map("../{}".format), st.sampled_from(["..", "/"])
)
_ENTRY: Final = st.one_of(
    st.tuples(st.just("0"), _NAME, st.sampled_from(["one", "two", "three"])),
    st.tuples(st.just("5"), _NAME, st.just("")),
    st.tuples(st.just("2"), _NAME, _TARGET),
    st.tuples(st.just("1"), _NAME, _NAME),
)
_WHITEOUT: Final = _NAME.map(
    lambda name: ("0", f"{os.path.dirname(name)}/.wh.{os.path.basename(name)}".lstrip("/"), "")
)
# Whiteouts first: a layer's never speak of its own files, which one by one they would.
_LAYER: Final = st.tuples(st.lists(_WHITEOUT, max_size=2), st.lists(_ENTRY, min_size=1, max_size=6))
_LAYERS: Final = st.lists(_LAYER.map(lambda parts: [*parts[0], *parts[1]]), min_size=1, max_size=3)


def _look(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"link to {os.readlink(path)}"
    return "folder" if stat.S_ISDIR(mode) else f"file of {path.read_text()}"


def _seen(root: Path) -> View:
    return {str(path.relative_to(root)): _look(path) for path in root.rglob("*")}


def _merged(layers: list[Path]) -> View:
    """Return what overlayfs shows (docs.kernel.org, filesystems/overlayfs.html), oldest layer first."""
    view: View = {}
    for layer in layers:
        for path in sorted(layer.rglob("*")):
            name = str(path.relative_to(layer))
            status = path.lstat()
            whiteout = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
            opaque = stat.S_ISDIR(status.st_mode) and "trusted.overlay.opaque" in os.listxattr(path)
            if whiteout or opaque or not stat.S_ISDIR(status.st_mode) or view.get(name) != "folder":
                view = {
                    key: what for key, what in view.items() if key != name and not key.startswith(name + "/")
                }
            if not whiteout:
                view[name] = _look(path)
    return view


def _clear(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _folder(path: str, own: set[str], *, make: bool, cover: bool = False) -> str | None:
    """Return the real folder that *path* means; links that are not the layer's *own* are not followed.

    What a lower layer has in the way of a folder goes. Raises OSError where *make* does not allow it.
    With *cover* nothing is made where nothing is in the way: None is where it would be.
    """
    here = ""
    todo = [part for part in path.split("/") if part]
    links = 0
    while todo:
        part = todo.pop(0)
        if part == "..":
            here = here.rpartition("/")[0]
            continue
        step = f"{here}/{part}"
        if os.path.islink(step) and step in own:
            links += 1
            if links > 40:
                raise OSError(errno.ELOOP, path)
            target = os.readlink(step)
            todo = [one for one in target.split("/") if one] + todo
            here = "" if target.startswith("/") else here
            continue
        if cover and not os.path.lexists(step):
            return None
        if os.path.islink(step) or not os.path.isdir(step):
            if not make or step in own:
                raise NotADirectoryError(path)
            _clear(step)
            os.mkdir(step)
            own.add(step)
        here = step
    return here


def _link(target: str, path: str, own: set[str]) -> None:
    folder, _, last = ("/" + target).rpartition("/")
    source = f"{_folder(folder, own, make=False)}/{last}"
    if stat.S_ISDIR(os.lstat(source).st_mode):
        raise IsADirectoryError(source)
    if source != path:
        _clear(path)
        os.link(source, path, follow_symlinks=False)
    own.add(source)


def _do(kind: str, name: str, target: str, own: set[str]) -> None:
    """Apply one entry as its plain meaning is; what stands in the way goes."""
    parent, _, last = ("/" + name).rpartition("/")
    if last.startswith(".wh."):
        if (folder := _folder(parent, own, make=True, cover=True)) is not None:
            _clear(f"{folder}/{last[4:]}")
        return
    path = f"{_folder(parent, own, make=True)}/{last}"
    if kind == "1":
        _link(target, path, own)
    elif kind != "5" or os.path.islink(path) or not os.path.isdir(path):
        _clear(path)
        if kind == "5":
            os.mkdir(path)
        elif kind == "2":
            os.symlink(target, path)
        else:
            Path(path).write_text(target)
    own.add(path)


def _is_done_one_by_one(root: Path, entries: list[Entry]) -> bool:
    child = os.fork()
    if not child:
        # Nothing but this may happen here: the process has pytest's memory and another root.
        try:
            os.chroot(root)
            os.chdir("/")
            own: set[str] = set()
            for entry in entries:
                _do(*entry, own)
            os._exit(0)
        except OSError:
            os._exit(1)
        finally:
            os._exit(2)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code != 2
    return code == 0


@pytest.mark.kernel
@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[
        HealthCheck.filter_too_much,
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(layers=_LAYERS)
def test_merged_layers_are_the_entries_done_one_by_one(
    layers: list[list[Entry]], tar: Callable[[], TarBuilder]
) -> None:
    """What a container sees of its layers is what their entries say, in their order."""
    with tempfile.TemporaryDirectory() as held:
        plain = Path(held, "plain")
        plain.mkdir()
        unpacked: list[Path] = []
        for number, entries in enumerate(layers):
            into = Path(held, str(number))
            into.mkdir()
            layer = tar()
            for kind, name, target in entries:
                if kind == "0":
                    layer.file(name, target.encode())
                else:
                    layer.add(name, kind.encode(), link=target)
            with contextlib.suppress(ImageError):
                unpack(io.BytesIO(layer.bytes()), into, parents=tuple(unpacked))
                unpacked.append(into)
            # Where a path leads nowhere either side may refuse; the views are compared elsewhere.
            assume(len(unpacked) == number + 1 and _is_done_one_by_one(plain, entries))
        assert _merged(unpacked) == _seen(plain)
        shutil.rmtree(plain)
