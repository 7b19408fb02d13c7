"""Owners and extended attributes: what is set, what is left out, what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_containers.errors import LayerCorrupt
from pytest_containers.images.attributes import copy_xattrs, is_opaque, mark_opaque, set_owner, set_xattrs


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY)


def test_xattr_is_set_with_every_byte(tmp_path: Path) -> None:
    """The value is bytes and arrives as it is."""
    value = bytes(range(256))
    set_xattrs(os.fsencode(tmp_path), {b"user.k": value})
    assert os.getxattr(tmp_path, "user.k") == value


def test_label_of_another_machine_is_left_out(tmp_path: Path) -> None:
    """An SELinux label of the image's maker is no attribute here."""
    set_xattrs(os.fsencode(tmp_path), {b"security.selinux": b"x"})
    assert "security.selinux" not in os.listxattr(tmp_path)


def test_attribute_the_file_cannot_have_is_left_out(tmp_path: Path) -> None:
    """A user attribute on a symbolic link, which no file system has, is no error."""
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    set_xattrs(os.fsencode(link), {b"user.k": b"v"})
    assert os.listxattr(link, follow_symlinks=False) == []


def test_attribute_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """A name longer than 255 bytes is corrupt."""
    with pytest.raises(LayerCorrupt, match="extended attribute"):
        set_xattrs(os.fsencode(tmp_path), {b"user." + b"k" * 300: b"v"})


@pytest.mark.kernel
def test_copy_leaves_overlay_attributes_out(tmp_path: Path) -> None:
    """What overlayfs reads as an order is not carried to another folder."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    source, target = _open(tmp_path / "a"), _open(tmp_path / "b")
    try:
        os.setxattr(source, "user.k", b"v")
        os.setxattr(source, "trusted.k", b"v")
        mark_opaque(source)
        copy_xattrs(source, target)
        assert sorted(os.listxattr(target)) == ["trusted.k", "user.k"]
        assert (is_opaque(source), is_opaque(target)) == (True, False)
    finally:
        os.close(source)
        os.close(target)


@pytest.mark.kernel
def test_owner_is_set_without_following(tmp_path: Path) -> None:
    """The owner of a link is changed and not that of its target."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    folder = _open(tmp_path)
    try:
        set_owner(b"link", 12, 34, folder=folder)
    finally:
        os.close(folder)
    assert (tmp_path / "link").lstat().st_uid == 12
    assert (tmp_path / "file").stat().st_uid == os.getuid()
