"""Laws of the calls that mount, bind, detach and resolve: each does what its manual page says."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.runtime import syscalls
from tests.plugins.kernel import refused_before, since

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.runtime.conftest import Apart

pytestmark = pytest.mark.kernel


def _with_tmpfs(folder: Path, look: Callable[[Path], object]) -> object:
    syscalls.mount("none", str(folder), "tmpfs", syscalls.MS_NODEV, "mode=0711,size=64k")
    return look(folder)


def test_mount_takes_kind_flags_and_data(apart: Apart, tmp_path: Path) -> None:
    """A mount has the options it was given, and shows in the child alone."""

    def look(folder: Path) -> tuple[int, int, int]:
        seen = os.statvfs(folder)
        return stat.S_IMODE(folder.stat().st_mode), seen.f_blocks * seen.f_frsize, seen.f_flag & os.ST_NODEV

    assert apart(partial(_with_tmpfs, tmp_path, look)) == (0o711, 65_536, os.ST_NODEV)
    assert stat.S_IMODE(tmp_path.stat().st_mode) != 0o711


def test_mount_refused_names_the_place(apart: Apart, tmp_path: Path) -> None:
    """The error of a mount says which kind, where, and the kernel's reason."""

    def fail() -> None:
        syscalls.mount("none", str(tmp_path / "missing"), "tmpfs")

    with pytest.raises(OSError, match="mount tmpfs") as caught:
        apart(fail)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(tmp_path / "missing"))


def test_umount_takes_a_mount_off(apart: Apart, tmp_path: Path) -> None:
    """What lay below shows again, also while the mount is in use, when it is detached."""
    (tmp_path / "below").touch()

    def look(folder: Path) -> tuple[list[str], list[str]]:
        held = os.open(folder, os.O_RDONLY)
        above = os.listdir(folder)
        with pytest.raises(OSError, match="umount2"):
            syscalls.umount(str(folder))
        syscalls.umount(str(folder), syscalls.MNT_DETACH)
        os.close(held)
        return above, os.listdir(folder)

    assert apart(partial(_with_tmpfs, tmp_path, look)) == ([], ["below"])


def test_pivot_root_makes_a_folder_the_root(apart: Apart, tmp_path: Path) -> None:
    """After a pivot and a detach the new root is all there is."""

    def look(folder: Path) -> list[str]:
        (folder / "only").touch()
        os.chdir(folder)
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.MNT_DETACH)
        os.chdir("/")
        return os.listdir("/")

    assert apart(partial(_with_tmpfs, tmp_path, look)) == ["only"]


def _layers(folder: Path, names: str) -> tuple[str, ...]:
    for name in (*names.split(), "upper", "work", "root"):
        (folder / name).mkdir()
    for name in names.split():
        (folder / name / "who").write_text(name)
        (folder / name / name).touch()
    return tuple(str(folder / name) for name in names.split())


def test_overlay_shows_the_uppermost_layer_first(apart: Apart, tmp_path: Path) -> None:
    """Of the layers the first `lowerdir+` is on top, whatever signs are in their paths."""

    def look(folder: Path) -> tuple[str, list[str], bool]:
        lowers = _layers(folder, "top,with:signs\\ bottom")
        places = (("upperdir", str(folder / "upper")), ("workdir", str(folder / "work")))
        syscalls.fsopen_overlay((*(("lowerdir+", one) for one in lowers), *places), str(folder / "root"))
        root = folder / "root"
        return (
            (root / "who").read_text(),
            sorted(os.listdir(root)),
            bool(os.statvfs(root).f_flag & os.ST_NODEV),
        )

    expected = ("top,with:signs\\", ["bottom", "top,with:signs\\", "who"], True)
    with refused_before("6.8", errno.EINVAL):
        assert apart(partial(_with_tmpfs, tmp_path, look)) == expected


def test_overlay_refused_names_the_option(apart: Apart, tmp_path: Path) -> None:
    """The kernel's refusal of one option is told with that option, and leaves no descriptor."""

    def fail() -> None:
        before = len(os.listdir("/proc/self/fd"))
        try:
            syscalls.fsopen_overlay((("no_such_option", "1"),), str(tmp_path))
        finally:
            assert len(os.listdir("/proc/self/fd")) == before

    # Before Linux 6.5 overlayfs takes every option, and refuses the mount (fs/fs_context.c).
    with pytest.raises(OSError, match="fsconfig no_such_option=1" if since("6.5") else "fsconfig create"):
        apart(fail)


def test_tree_is_detached_and_attached(apart: Apart, tmp_path: Path) -> None:
    """A copy of a mount taken here shows there, and its descriptor is closed by the attaching."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").write_text("content")

    def move() -> tuple[str, bool]:
        tree = syscalls.open_tree(str(source))
        syscalls.attach_tree(tree, str(target))
        return (target / "file").read_text(), os.path.exists(f"/proc/self/fd/{tree}")

    assert apart(move) == ("content", False)
    assert list(target.iterdir()) == []


def test_tree_takes_mounts_below_along(apart: Apart, tmp_path: Path) -> None:
    """A recursive copy shows what is mounted below, another one does not."""
    source, deep, shallow = (tmp_path / name for name in ("source", "deep", "shallow"))
    for folder in (source / "inner", deep, shallow):
        folder.mkdir(parents=True)

    def move() -> tuple[list[str], list[str]]:
        syscalls.mount("none", str(source / "inner"), "tmpfs")
        (source / "inner" / "file").touch()
        syscalls.attach_tree(syscalls.open_tree(str(source), recursive=True), str(deep))
        syscalls.attach_tree(syscalls.open_tree(str(source)), str(shallow))
        return os.listdir(deep / "inner"), os.listdir(shallow / "inner")

    assert apart(move) == (["file"], [])


def test_tree_is_attached_where_a_link_leads(apart: Apart, tmp_path: Path) -> None:
    """A target that is a symbolic link is followed."""
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "source/file").touch()
    (tmp_path / "link").symlink_to("target")

    def move() -> list[str]:
        syscalls.attach_tree(syscalls.open_tree(str(tmp_path / "source")), str(tmp_path / "link"))
        return os.listdir(tmp_path / "target")

    assert apart(move) == ["file"]


def test_tree_is_restricted_with_all_that_is_below(apart: Apart, tmp_path: Path) -> None:
    """Flags are added to every mount of the tree; those that were there stay, and so does the source."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "inner").mkdir(parents=True)
    target.mkdir()

    def restrict() -> list[int]:
        syscalls.mount("none", str(source / "inner"), "tmpfs", syscalls.MS_NOEXEC)
        tree = syscalls.open_tree(str(source), recursive=True)
        syscalls.restrict_tree(tree, syscalls.MS_RDONLY | syscalls.MS_NODEV)
        syscalls.attach_tree(tree, str(target))
        places = (target, target / "inner", source / "inner")
        return [os.statvfs(place).f_flag & 0xF for place in places]

    added = os.ST_RDONLY | os.ST_NODEV
    with refused_before("5.12", errno.ENOSYS):
        assert apart(restrict) == [added, added | os.ST_NOEXEC, os.ST_NOEXEC]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("plain", "inside"),
        ("/plain", "inside"),
        ("../../plain", "inside"),
        ("absolute", "inside"),
        ("upwards", "inside"),
        ("folder/../plain", "inside"),
        ("root/plain", "inside"),
    ],
)
def test_openat2_stays_below_its_root(tmp_path: Path, path: str, expected: str) -> None:
    """Absolute links, ``..`` and a link to the root itself end inside of the folder."""
    (tmp_path / "plain").write_text("outside")
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "plain").write_text("inside")
    (root / "absolute").symlink_to("/plain")
    (root / "upwards").symlink_to("../../../plain")
    (root / "root").symlink_to("/")
    folder = os.open(root, os.O_PATH | os.O_CLOEXEC)
    try:
        with os.fdopen(syscalls.openat2_in_root(folder, path, os.O_RDONLY)) as file:
            assert not os.get_inheritable(file.fileno())
            assert file.read() == expected
    finally:
        os.close(folder)


def test_openat2_tries_again_when_something_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount or rename anywhere at the moment of a ".." is no error of the path (openat2(2), EAGAIN)."""
    (tmp_path / "file").touch()
    real = syscalls._libc

    class Busy:
        answers = 0

        def syscall(self, *arguments: object) -> int:
            self.answers += 1
            if self.answers < 3:
                ctypes.set_errno(errno.EAGAIN)
                return -1
            return int(real.syscall(*arguments))

    busy = Busy()
    monkeypatch.setattr(syscalls, "_libc", busy)
    folder = os.open(tmp_path, os.O_PATH)
    os.close(syscalls.openat2_in_root(folder, "../file", os.O_PATH))
    os.close(folder)
    assert busy.answers == 3


def test_openat2_makes_a_file_and_refuses_magic(tmp_path: Path) -> None:
    """A mode counts as in open(2); a magic link of /proc is not followed; what is missing is missing."""
    folder = os.open(tmp_path, os.O_PATH | os.O_CLOEXEC)
    proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
    try:
        os.close(syscalls.openat2_in_root(folder, "new", os.O_CREAT | os.O_WRONLY, 0o640))
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
        with pytest.raises(OSError, match="openat2") as caught:
            syscalls.openat2_in_root(proc, "self/exe", os.O_RDONLY)
        assert caught.value.errno == errno.ELOOP
        with pytest.raises(FileNotFoundError):
            syscalls.openat2_in_root(folder, "missing", os.O_RDONLY)
    finally:
        os.close(folder)
        os.close(proc)
