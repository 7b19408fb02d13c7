"""Attacks on commit and diff: a running container swaps its files with links out of it."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import pytest

from pytest_containers.runtime import difference, messages, roots, syscalls
from pytest_containers.spec import ContainerSpec

if TYPE_CHECKING:
    from pytest_containers.engines.native_container import NativeHandle
    from tests.runtime.conftest import Apart, Boxes

pytestmark = pytest.mark.kernel

_ATTACK_S: Final = 4.0
_PATIENCE_S: Final = 20.0
_SECRET: Final = b"hunter2-of-the-host"

# Exchanges a file with a link, and a folder with a link, for ever (renameat2(2), RENAME_EXCHANGE).
_SWAP: Final = """
import ctypes, os, sys
secret = sys.argv[1]
libc = ctypes.CDLL(None)
os.makedirs("/srv/work/folder/below")
for name in ("folder/hidden", "file"):
    with open(f"/srv/work/{name}", "wb") as file:
        file.write(b"a file of the container's own " * 3)
os.symlink(f"{secret}/hidden", "/srv/work/link")
os.symlink(secret, "/srv/work/folderlink")
print("ready", flush=True)
while True:
    for one, other in ((b"file", b"link"), (b"folder", b"folderlink")):
        libc.renameat2(-100, b"/srv/work/" + one, -100, b"/srv/work/" + other, 2)
"""


@pytest.fixture
def secret() -> Iterator[Path]:
    """Return a folder with a file that no container has: /dev/shm is a file system of its own."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    (folder / "hidden").write_bytes(_SECRET)
    (folder / "of-the-host").mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=["memory", "disk"])
def swapping(request: pytest.FixtureRequest, boxes: Boxes, secret: Path) -> NativeHandle:
    """Return a container that swaps its files, which lie in memory or on disk."""
    storage: Literal["memory", "disk"] = request.param
    command = (sys.executable, "-I", "-S", "-c", _SWAP, str(secret))
    box = boxes.start(ContainerSpec(name="box", command=command, storage=storage))
    deadline = time.monotonic() + _PATIENCE_S
    while not box.logs()[0]:
        assert time.monotonic() < deadline
        assert box.state().status == "running"
    return box


def _for_a_while(action: Callable[[], None]) -> None:
    """Run *action* again and again for the time of an attack, and often enough."""
    deadline, count = time.monotonic() + _ATTACK_S, 0
    while time.monotonic() < deadline or count < 20:
        action()
        count += 1


def test_layer_has_nothing_from_outside(swapping: NativeHandle) -> None:
    """A commit, however often it meets a link in the place of a file or folder, holds no file of the host."""

    def look() -> None:
        with tempfile.TemporaryFile() as out:
            swapping._connection.tell(messages.Layer(id=swapping.id), (out.fileno(),))
            out.seek(0)
            content = out.read()
        assert b"srv/work/" in content
        assert _SECRET not in content
        assert b"of-the-host" not in content.replace(b"hunter2-of-the-host", b"")

    _for_a_while(look)


def test_changes_list_nothing_from_outside(swapping: NativeHandle) -> None:
    """A diff names no file of the host."""

    def look() -> None:
        names = {change.path.name for change in swapping.tree.changes()}
        assert "work" in names
        assert "of-the-host" not in names

    _for_a_while(look)


def test_layers_are_looked_into_without_following(apart: Apart, tmp_path: Path, secret: Path) -> None:
    """A link of an image's lower layer does not tell what the host has behind it."""
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (upper / "data").mkdir(parents=True)
    (upper / "data/hidden").touch()
    lower.mkdir()
    (lower / "data").symlink_to(secret)

    def look() -> list[tuple[Literal["A", "C", "D"], str]]:
        with difference.opened((str(lower),)) as layers:
            roots.confine(str(upper))
            return difference.changes("/", layers)

    assert apart(look) == [("C", "/data"), ("A", "/data/hidden")]


@pytest.mark.parametrize("older", [False, True])
def test_confined_root_has_no_devices_and_takes_nothing(
    apart: Apart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, older: bool
) -> None:
    """Where a layer is read, a device node that a container has made opens nothing, and all is read-only."""
    if older:  # than Linux 5.12, which brought mount_setattr(2)

        def absent(_tree: int, _flags: int) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(syscalls, "restrict_tree", absent)
    os.mknod(tmp_path / "null", 0o20666, os.makedev(1, 3))
    (tmp_path / "out").symlink_to("/etc/passwd")

    def look() -> tuple[list[str], list[str]]:
        roots.confine(str(tmp_path))
        refused = []
        for path, flags in (
            ("/null", os.O_RDONLY),
            ("/out", os.O_RDONLY),
            ("/new", os.O_CREAT | os.O_WRONLY),
        ):
            try:
                os.open(path, flags)
            except OSError as error:
                refused.append(type(error).__name__ if error.errno != errno.EROFS else "read-only")
        return sorted(os.listdir("/..")), refused

    assert apart(look) == (["null", "out"], ["PermissionError", "FileNotFoundError", "read-only"])
