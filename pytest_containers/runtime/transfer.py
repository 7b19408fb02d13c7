"""Files in and out of a container as tar streams, from inside its root (floor 1).

Both run in a child process that has already made the container's root its own (setns(2) or
chroot(2)), so every path and every symbolic link, however hostile, ends inside; the kernel, not a
check of ours, sees to it.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import BinaryIO, Final

from pytest_containers._tar import TarWriter
from pytest_containers.errors import PathMissing

__all__ = ["OVERLAY_XATTRS", "add", "names", "pack", "unpack"]

OVERLAY_XATTRS: Final = ("trusted.overlay.", "user.overlay.")
_TYPES: Final[Mapping[int, bytes]] = {
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFSOCK: tarfile.FIFOTYPE,
}


def pack(path: str, out: BinaryIO) -> None:
    """Write the file or folder at *path* as a tar to *out*, its names beginning with its last part.

    A symbolic link at *path* itself is followed, links below it are kept. Raises PathMissing.
    """
    real = os.path.realpath(path)
    if not os.path.exists(real):
        seen = f"it leads to {real}, which is not there" if real != path else "no such file or folder"
        raise PathMissing(f"no {path} in the container", seen=seen, mend="name a path that exists there")
    name = os.path.basename(path.rstrip("/")) or "."
    with TarWriter(out) as tar:
        _pack(tar, real, name, os.lstat(real), {})
    out.flush()


def _pack(
    tar: TarWriter, path: str, name: str, seen: os.stat_result, links: dict[tuple[int, int], str]
) -> None:
    add(tar, path, name, seen, links)
    if stat.S_ISDIR(seen.st_mode):
        for below, found in names(path):
            _pack(tar, os.path.join(path, below), os.path.join(name, below), found, links)


def names(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the names in *folder*, sorted; a running container may take any of them away meanwhile."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in sorted(os.listdir(folder)):
            with suppress(FileNotFoundError, NotADirectoryError):
                yield name, os.lstat(os.path.join(folder, name))


def add(
    tar: TarWriter, path: str, name: str, seen: os.stat_result, links: dict[tuple[int, int], str]
) -> None:
    """Write one path to *tar* as *name*, with all but what makes overlayfs an overlay.

    *links* has the first name of each file that came before. Nothing is written for a socket,
    which tar(5) has no form for, nor for what has gone away since it was seen. Owners stay
    numbers: to name them the C library would load what the image's /etc/nsswitch.conf says,
    with our rights (CVE-2019-14271).
    """
    with suppress(FileNotFoundError):
        entry = _described(path, name, seen)
        inode = (seen.st_dev, seen.st_ino)
        if entry.isreg() and seen.st_nlink > 1 and inode in links:
            entry.type, entry.linkname = tarfile.LNKTYPE, links[inode]
        if entry.isreg():
            entry.size = seen.st_size
            with open(path, "rb", buffering=0) as content:
                tar.add(entry, content)
            links[inode] = name
        elif not stat.S_ISSOCK(seen.st_mode):
            tar.add(entry)


def _described(path: str, name: str, seen: os.stat_result) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    extended: dict[str, str] = {}
    entry.pax_headers = extended
    entry.mode, entry.uid, entry.gid = stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid
    entry.mtime = seen.st_mtime_ns // 10**9
    if seen.st_mtime_ns % 10**9:
        extended["mtime"] = f"{seen.st_mtime_ns // 10**9}.{seen.st_mtime_ns % 10**9:09d}"
    for key in os.listxattr(path, follow_symlinks=False):
        if not key.startswith(OVERLAY_XATTRS):
            value = os.getxattr(path, key, follow_symlinks=False)
            extended[f"SCHILY.xattr.{key}"] = value.decode("utf-8", "surrogateescape")
    entry.type = _TYPES.get(stat.S_IFMT(seen.st_mode), tarfile.REGTYPE)
    if entry.issym():
        entry.linkname = os.readlink(path)
    elif entry.ischr() or entry.isblk():
        entry.devmajor, entry.devminor = os.major(seen.st_rdev), os.minor(seen.st_rdev)
    return entry


def unpack(folder: str, source: BinaryIO) -> None:
    """Put the entries of a tar below *folder*, which is made where missing.

    Owners, modes and times are the entries'. A file replaces a file or a link, never a folder.
    Raises PathMissing where *folder*, or a part of it, is a file.
    """
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise PathMissing(
            f"{folder} in the container is not a folder",
            seen=str(error),
            mend="copy into a folder, or name the file itself",
        ) from error
    with tarfile.open(fileobj=source, mode="r|*", bufsize=1 << 16) as tar:
        # The root is the container's own, so the filters against escapes have nothing to add, and
        # would clear the set-user-ID bits a user may want (PEP 706, "fully_trusted").
        tar.extraction_filter = _as_it_is
        touched = [entry for entry in tar if _extract(tar, entry, folder)]
    for entry in reversed(touched):  # what came into a folder after it has changed its time
        os.utime(os.path.join(folder, entry.name), (entry.mtime, entry.mtime))


def _as_it_is(entry: tarfile.TarInfo, _folder: str) -> tarfile.TarInfo:
    return entry


def _extract(tar: tarfile.TarFile, entry: tarfile.TarInfo, folder: str) -> bool:
    """Put one entry in its place; return whether it is a folder whose time is to be set at the end."""
    target = os.path.join(folder, entry.name)
    if entry.isdir() and os.path.islink(target) and os.path.isdir(target):
        return False
    if not entry.isdir():
        with suppress(OSError):  # a mount over a file stays and is written into (unlink(2), EBUSY)
            os.unlink(target)
    tar.extract(entry, folder, numeric_owner=True)
    if entry.issym():
        os.utime(target, (entry.mtime, entry.mtime), follow_symlinks=False)  # tarfile leaves it out
    if not entry.issym() and stat.S_IMODE(entry.mode) & 0o7000:
        os.chmod(target, entry.mode)  # chown(2) has cleared these bits
    return entry.isdir()
