"""Files in and out of a container as tar streams, from inside its root (floor 1).

Both run in a child process that has already made the container's root its own (setns(2) or
chroot(2)), so every path and every symbolic link, however hostile, ends inside; the kernel, not a
check of ours, sees to it.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import BinaryIO, Final

from pytest_containers._tar import TarWriter, extract, segments
from pytest_containers.errors import EngineError, PathMissing, SpecInvalid
from pytest_containers.spec import FileKind, FileStat

__all__ = ["OVERLAY_XATTRS", "add", "names", "pack", "status", "unpack"]

OVERLAY_XATTRS: Final = ("trusted.overlay.", "user.overlay.")
_TYPES: Final[Mapping[int, bytes]] = {
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFSOCK: tarfile.FIFOTYPE,
}
_KINDS: Final[Mapping[int, FileKind]] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
_OWN_PROC: Final[Mapping[str, str]] = {"/proc/self": "1", "/proc/thread-self": "1/task/1"}
_LINKS: Final = 40  # as many as the kernel follows (path_resolution(7))
_PIECE_BYTES: Final = 1 << 18
_PSEUDO_LIMIT_BYTES: Final = 64 << 20
# What open(2) says of a path that has gone, and of a link, a socket and a device without a driver.
_SOMETHING_ELSE: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV))
_REFUSALS: Final = frozenset(
    (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM)
)


def pack(path: str, out: BinaryIO) -> None:
    """Write the file or folder at *path* as a tar to *out*, its names beginning with its last part.

    A symbolic link at *path* itself is followed, links below it are kept. Holes stay holes. Raises
    PathMissing, SpecInvalid for a socket, EngineError for a file that cannot be read.
    """
    real = _resolved(path)
    name = posixpath.basename(path.rstrip("/")) or "."
    with TarWriter(out) as tar:
        try:
            written = _pack(tar, real, name, os.lstat(real), {})
        except (RecursionError, OSError) as error:
            # A path of more than PATH_MAX bytes is made from within (path_resolution(7)).
            if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
                raise
            raise EngineError(
                f"{path} in the container cannot be copied",
                seen="its folders are too deep",
                mend="copy a part of it, or let exec() pack it with tar",
            ) from error
        if not written:
            raise SpecInvalid(
                f"{path} in the container is not a regular file",
                seen="it is a socket, or was replaced while it was read",
                mend="read a regular file; a socket, FIFO or device has no content to copy",
            )
    out.flush()


def status(path: str) -> FileStat:
    """Return what is at *path*; a symbolic link is followed. Raises PathMissing."""
    seen = os.lstat(_resolved(path))
    return FileStat(
        kind=_KINDS.get(stat.S_IFMT(seen.st_mode), "file"),
        size_bytes=seen.st_size,
        mode=stat.S_IMODE(seen.st_mode),
        uid=seen.st_uid,
        gid=seen.st_gid,
    )


def _resolved(path: str) -> str:
    """Return *path* without symbolic links. Raises PathMissing.

    /proc/self is the container's first process: the reader has no number in the container's process
    id namespace, so the kernel's own link leads nowhere (fs/proc/self.c, proc_self_get_link). Links of
    /proc that the kernel follows by itself, as /proc/1/root, are followed by their text.
    """
    todo, done, left = path.split("/")[::-1], "/", _LINKS
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = posixpath.dirname(done)
            continue
        one = posixpath.join(done, part)
        try:
            mode = os.lstat(one).st_mode
            if not stat.S_ISLNK(mode):
                if not stat.S_ISDIR(mode) and todo:
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), one)
                done = one
                continue
            target = _OWN_PROC[one] if one in _OWN_PROC else str(os.readlink(one))
        except OSError as error:
            raise _missing(path, one, error) from error
        left -= 1
        if not left:
            raise _missing(path, one, OSError(errno.ELOOP, os.strerror(errno.ELOOP)))
        todo.extend(target.split("/")[::-1])
        if target.startswith("/"):
            done = "/"
    return done


def _missing(path: str, at: str, error: OSError) -> PathMissing:
    reason = (error.strerror or str(error)).lower()
    seen = f"{at}: {reason}" if at != path else reason
    return PathMissing(f"no {path} in the container", seen=seen, mend="name a path that exists there")


def _pack(
    tar: TarWriter, path: str, name: str, seen: os.stat_result, links: dict[tuple[int, int], str]
) -> bool:
    """Write *path* and what is below it; return whether anything was written."""
    written = add(tar, path, name, seen, links, sparse=True)
    if written and stat.S_ISDIR(seen.st_mode):
        for below, found in names(path):
            _pack(tar, os.path.join(path, below), os.path.join(name, below), found, links)
    return written


def names(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the names in *folder*, sorted; a running container may take any of them away meanwhile."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in sorted(os.listdir(folder)):
            with suppress(FileNotFoundError, NotADirectoryError):
                yield name, os.lstat(os.path.join(folder, name))


def add(
    tar: TarWriter,
    path: str,
    name: str,
    seen: os.stat_result,
    links: dict[tuple[int, int], str],
    *,
    sparse: bool = False,
) -> bool:
    """Write one path to *tar* as *name*, with all but what makes overlayfs an overlay.

    *links* has the first name of each file that came before. With *sparse* the holes of a file are
    kept as such. Returns False and writes nothing for a socket, which tar(5) has no form for, and
    for what has gone away or became something else since it was seen. Owners stay numbers: to name
    them the C library would load what the image's /etc/nsswitch.conf says, with our rights
    (CVE-2019-14271). Raises EngineError for a file that cannot be read.
    """
    if stat.S_ISREG(seen.st_mode):
        return _add_file(tar, path, name, links, sparse=sparse)
    if stat.S_ISSOCK(seen.st_mode):
        return False
    try:
        entry = _described(path, name, seen)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.EINVAL:  # readlink(2) of what is no link any more
            raise
        return False
    tar.add(entry)
    return True


def _add_file(
    tar: TarWriter, path: str, name: str, links: dict[tuple[int, int], str], *, sparse: bool
) -> bool:
    """Write a regular file, as it is when it is opened; False where something else is at *path* then.

    A container may put a FIFO, a device or a link there after anybody looked: the open must not wait
    (O_NONBLOCK, fifo(7)) nor follow, and what was opened is looked at once more.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _SOMETHING_ELSE:
            return False
        raise _unreadable(path, error) from error
    try:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            return False
        entry = _described(descriptor, name, seen)
        inode = (seen.st_dev, seen.st_ino)
        if seen.st_nlink > 1 and inode in links:
            entry.type, entry.linkname = tarfile.LNKTYPE, links[inode]
            tar.add(entry)
            return True
        with open(descriptor, "rb", buffering=0, closefd=False) as content:
            _add_content(tar, entry, content, seen, sparse=sparse)
        links[inode] = name
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)
    return True


def _add_content(
    tar: TarWriter, entry: tarfile.TarInfo, content: io.FileIO, seen: os.stat_result, *, sparse: bool
) -> None:
    """Write a file's header and its content.

    The sizes that files of /proc (0) and /sys (a page) tell are not true, and a small file may have
    been cut meanwhile: what fits into the first piece is read to its end before the header is written.
    """
    entry.size = seen.st_size
    if entry.size <= _PIECE_BYTES:
        data = _whole(content, entry.size)
        entry.size = len(data)
        tar.add(entry, io.BytesIO(data))
    elif sparse and (found := segments(content.fileno(), seen)) is not None:
        tar.add_sparse(entry, content, found)
    else:
        tar.add(entry, content)


def _whole(content: io.FileIO, size: int) -> bytes:
    """Return a file's content to its end, or as much as its size says where it says anything.

    An ordinary file that was empty when it was seen and grows is left as it is now; endless files
    of /proc end at a limit.
    """
    found = bytearray()
    while size == 0 or len(found) < size:
        piece = content.read(size - len(found) if size else _PIECE_BYTES)
        if piece is None:
            raise BlockingIOError(errno.EAGAIN, "a read of it would wait for something to happen")
        found += piece
        if not piece or (size == 0 and os.fstat(content.fileno()).st_size):
            break
        if len(found) > _PSEUDO_LIMIT_BYTES:
            raise OSError(errno.EFBIG, f"it goes on after {_PSEUDO_LIMIT_BYTES} bytes and tells no size")
    return bytes(found)


def _unreadable(path: str, error: OSError) -> EngineError:
    return EngineError(
        f"{path} in the container cannot be read",
        seen=error.strerror or str(error),
        mend="copy it when nothing changes it, or read it by exec(), as the container's own process",
    )


def _described(path: str | int, name: str, seen: os.stat_result) -> tarfile.TarInfo:
    """Return the entry of a path, or of an open file, without its size."""
    entry = tarfile.TarInfo(name)
    extended: dict[str, str] = {}
    entry.pax_headers = extended
    entry.mode, entry.uid, entry.gid = stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid
    entry.mtime = seen.st_mtime_ns // 10**9
    if seen.st_mtime_ns % 10**9:
        extended["mtime"] = f"{seen.st_mtime_ns // 10**9}.{seen.st_mtime_ns % 10**9:09d}"
    follow = isinstance(path, int)  # what is open is no link, and the call takes no other word for it
    for key in os.listxattr(path, follow_symlinks=follow):
        if not key.startswith(OVERLAY_XATTRS):
            value = os.getxattr(path, key, follow_symlinks=follow)
            extended[f"SCHILY.xattr.{key}"] = value.decode("utf-8", "surrogateescape")
    entry.type = _TYPES.get(stat.S_IFMT(seen.st_mode), tarfile.REGTYPE)
    if entry.issym() and not isinstance(path, int):
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
        try:
            os.makedirs(folder, mode=0o755, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise PathMissing(
                f"{folder} in the container is not a folder",
                seen=str(error),
                mend="copy into a folder, or name the file itself",
            ) from error
        _unpack(folder, source)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise EngineError(
            f"{folder} in the container cannot be written",
            seen=str(error),
            mend="write to a place that is not mounted read-only and has room",
        ) from error


def _unpack(folder: str, source: BinaryIO) -> None:
    with _Archive.open(fileobj=source, mode="r|*", bufsize=1 << 16) as tar:
        # The root is the container's own, so the filters against escapes have nothing to add, and
        # would clear the set-user-ID bits a user may want (PEP 706, "fully_trusted").
        tar.extraction_filter = _as_it_is
        touched = [entry for entry in tar if _extract(tar, entry, folder)]
    for entry in reversed(touched):  # what came into a folder after it has changed its time
        os.utime(os.path.join(folder, entry.name), (entry.mtime, entry.mtime))


class _Archive(tarfile.TarFile):
    """Writes regular files as new ones, or into the regular files that are mounted in their places."""

    def makefile(  # type: ignore[override]  # our paths are never bytes
        self, tarinfo: tarfile.TarInfo, targetpath: str
    ) -> None:
        """Write the content of one regular file; holes stay holes."""
        with _for_writing(targetpath) as target:
            extract(self, tarinfo, target)


def _for_writing(path: str) -> io.FileIO:
    """Open a regular file to write it anew; never wait, never write into anything else.

    What was at *path* has been removed, unless it is a mount. Raises SpecInvalid for a FIFO, a device
    or a socket that is mounted there.
    """
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return open(os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0)
    except FileExistsError:
        kind = _KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "link")
    if kind == "folder":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if kind == "file":
        descriptor = os.open(path, flags)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.ftruncate(descriptor, 0)
            return open(descriptor, "wb", buffering=0)
        os.close(descriptor)
        kind = "other kind of file"
    raise SpecInvalid(
        f"{path} in the container is a {kind}, not a regular file",
        seen="it is mounted there, or came there while it was written",
        mend="write to another path; exec() can write into a FIFO or a device",
    )


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
