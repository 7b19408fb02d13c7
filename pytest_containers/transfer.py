"""Files into a container and out of it, by tar, with the rules of ``docker cp`` (floor 3).

=============  ==================  ===========================================================
source         target              result
=============  ==================  ===========================================================
file           missing             the file under the target's name, in a folder made where missing
file           file                its content is replaced
file           folder, or ``x/``   the file inside it, under its own name
folder         missing             a new folder with the source's content
folder         folder              the source inside it; with ``/.`` behind it, only its content
folder         file                refused
=============  ==================  ===========================================================

(docker container cp, "Description".) Copies into a container belong to root, copies out of it to
whoever runs the test; modes and times are kept.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import posixpath
import stat
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, Literal

from pytest_containers._tar import TarWriter, extract, segments
from pytest_containers.engines.base import Tree
from pytest_containers.errors import EngineError, PathMissing, SpecInvalid

__all__ = ["READ_LIMIT_BYTES", "InsidePath", "copy_in", "copy_out", "inside", "read_file", "write_file"]

# The most that `read_file` holds in memory.
READ_LIMIT_BYTES: Final = 256 << 20
# How long a copy that failed waits for its other half to notice.
_PARTING_S: Final = 5.0

InsidePath = str | PurePosixPath
_Kind = Literal["missing", "file", "folder"]
_SPECIAL_MODES = 0o7000


def inside(path: InsidePath) -> str:
    """Return a path inside a container as an absolute string; a relative one begins at the root.

    Raises SpecInvalid for an empty path and for one with a NUL byte.
    """
    text = str(path)
    if not text or "\0" in text:
        raise SpecInvalid(f"{text!r} is not a path inside a container", mend='write it as "/etc/hosts"')
    return text if text.startswith("/") else f"/{text}"


def read_file(tree: Tree, path: InsidePath) -> bytes:
    """Return a file's content.

    Raises PathMissing, and SpecInvalid for what is no regular file or is larger than `READ_LIMIT_BYTES`.
    """
    with _reading(tree, inside(path)) as tar:
        first = tar.next()
        if first is None or not first.isreg():
            kind = "nothing" if first is None else _kind_of(first)
            raise SpecInvalid(
                f"{path} is not a file", seen=f"it is a {kind}", mend="copy a folder with copy_out()"
            )
        if first.size > READ_LIMIT_BYTES:
            raise SpecInvalid(
                f"{path} is too large to be held in memory",
                seen=f"it has {first.size} bytes, and a read takes {READ_LIMIT_BYTES}",
                mend="copy_out() it to this machine and read it there piece by piece",
            )
        content = io.BytesIO()
        extract(tar, first, content)
        content.seek(0, os.SEEK_END)
        content.write(bytes(first.size - content.tell()))  # a hole at the end
    return content.getvalue()


def write_file(tree: Tree, path: InsidePath, content: bytes, *, mode: int = 0o644) -> None:
    """Put a file of root's at *path*, with the folders above it."""
    folder, name = _parted(inside(path))
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), mode, int(time.time())

    def send(out: BinaryIO) -> None:
        with TarWriter(out) as tar:
            tar.add(entry, io.BytesIO(content))

    with _writing(send) as stream:
        tree.write(folder, stream)


def copy_in(tree: Tree, source: str | os.PathLike[str], target: InsidePath) -> None:
    """Copy a file or folder of the host into a container.

    Raises SpecInvalid for a source that does not exist or is neither file nor folder, and for a folder
    meant for a file's place.
    """
    path, wanted = Path(source), inside(target)
    if not path.exists():
        raise SpecInvalid(f"{path} does not exist on this machine", mend="copy_in(source, target)")
    if not path.is_file() and not path.is_dir():
        raise SpecInvalid(f"{path} is neither a file nor a folder", mend="copy a file or a folder")
    name = path.resolve().name if path.name in ("", "..") else path.name
    kind = "folder" if wanted.endswith("/") and not path.is_dir() else _kind(tree, wanted)
    if not path.is_dir():
        _send(tree, path, *((wanted, name) if kind == "folder" else _parted(wanted)))
    elif kind == "file":
        raise SpecInvalid(f"{path} is a folder and {wanted} a file", mend="name a folder as the target")
    elif kind == "folder" and not os.fspath(source).endswith("/."):
        _send(tree, path, posixpath.join(wanted, name))
    else:
        _send(tree, path, wanted)


def copy_out(tree: Tree, source: InsidePath, target: str | os.PathLike[str]) -> Path:
    """Copy a file or folder out of a container; return where it is now.

    Raises PathMissing; SpecInvalid for a folder meant for a file's place, or a target whose
    folder does not exist.
    """
    wanted, place = inside(source), Path(target)
    with _reading(tree, wanted.removesuffix("/.").rstrip("/") or "/") as tar:
        first = tar.next()
        if first is None:
            raise EngineError(f"{wanted} came out as an empty archive")
        if not (first.isreg() or first.isdir()):
            raise SpecInvalid(
                f"{wanted} in the container cannot be copied",
                seen=f"it is a {_kind_of(first)}, which means nothing outside its container",
                mend="copy files and folders; exec() reads from a device or a FIFO",
            )
        _receive(tar, first, place := _place(first, wanted, place, os.fspath(target).endswith("/")))
    return place


def _kind_of(entry: tarfile.TarInfo) -> str:
    return "folder" if entry.isdir() else "FIFO" if entry.isfifo() else "device"


@contextlib.contextmanager
def _reading(tree: Tree, path: str) -> Iterator[tarfile.TarFile]:
    """Hand out the archive of *path* while the engine still writes it: nothing lies in between."""
    with _apart(lambda out: tree.read(path, out)) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        yield tar


@contextlib.contextmanager
def _writing(write: Callable[[BinaryIO], None]) -> Iterator[BinaryIO]:
    """Hand out what *write* writes, while it writes."""
    with _apart(write) as stream:
        yield stream


@contextlib.contextmanager
def _apart(write: Callable[[BinaryIO], None]) -> Iterator[BinaryIO]:
    """Hand out a stream of what *write*, in a thread of its own, writes into a pipe.

    What it raises is raised here, before what follows from it; a reader that stops early is no error.
    """
    failed: list[BaseException] = []
    ours, theirs = os.pipe2(os.O_CLOEXEC)

    def work() -> None:
        try:
            with os.fdopen(theirs, "wb") as out:
                write(out)
        except BrokenPipeError:
            return  # the reader has stopped, and knows why
        except BaseException as error:  # noqa: BLE001 - it is raised by whoever waits for us
            failed.append(error)

    writer = threading.Thread(target=work, name="containers-copy", daemon=True)
    try:
        with os.fdopen(ours, "rb") as stream:
            writer.start()
            yield stream
    except Exception:
        writer.join(_PARTING_S)
        if failed:
            raise failed[0] from None
        raise
    writer.join()
    if failed:
        raise failed[0]


def _parted(path: str) -> tuple[str, str]:
    folder, name = posixpath.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise SpecInvalid(f"{path} does not name a file", mend="end the path with the file's name")
    return folder or "/", name


def _kind(tree: Tree, path: str) -> _Kind:
    try:
        return "folder" if tree.stat(path.rstrip("/") or "/").kind == "folder" else "file"
    except PathMissing:
        return "missing"


def _send(tree: Tree, source: Path, folder: str, name: str = ".") -> None:
    """Write *source*, and what is below it, as *name* into *folder*; all of it becomes root's."""

    def send(out: BinaryIO) -> None:
        # It knows how to describe a file, and which ones it has seen under another name.
        with TarWriter(out) as tar, tarfile.open(fileobj=io.BytesIO(), mode="w") as described:
            _add(tar, described, source.resolve(), name)

    with _writing(send) as stream:
        tree.write(folder, stream)


def _add(tar: TarWriter, described: tarfile.TarFile, path: Path, name: str) -> None:
    if path.is_socket():
        return  # tar(5) has no form for one
    entry = described.gettarinfo(path, name)
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    if not entry.isreg():
        tar.add(entry)
        for below in sorted(os.listdir(path)) if entry.isdir() else ():
            _add(tar, described, path / below, f"{name}/{below}")
        return
    with path.open("rb", buffering=0) as content:
        seen = os.fstat(content.fileno())
        if not stat.S_ISREG(seen.st_mode):
            return  # replaced since it was described
        entry.size = seen.st_size
        found = segments(content.fileno(), seen)
        try:
            if found is None:
                tar.add(entry, content)
            else:
                tar.add_sparse(entry, content, found)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SpecInvalid(
                f"{path} cannot be copied whole", seen=str(error), mend="copy it when nothing writes it"
            ) from error


def _place(first: tarfile.TarInfo, source: str, target: Path, wants_folder: bool) -> Path:
    """Return what the first entry of a copy will be called on the host."""
    name = PurePosixPath(source).name
    if target.is_dir():
        content_only = first.isdir() and (source.endswith("/.") or not name)
        return target if content_only else target / name
    if first.isdir():
        if target.exists():
            raise SpecInvalid(f"{source} is a folder and {target} a file", mend="name a folder as the target")
        return target
    if wants_folder or not target.parent.is_dir():
        missing = target if wants_folder else target.parent
        raise SpecInvalid(f"no folder {missing} on this machine", mend="make it first")
    return target


def _receive(tar: tarfile.TarFile, first: tarfile.TarInfo, place: Path) -> None:
    """Unpack what a container gave, believing nothing: no entry leaves *place*.

    `tarfile.data_filter` would do, but Debian 12's Python 3.11.2 does not have it (PEP 706).
    """
    folders: list[tuple[Path, tarfile.TarInfo]] = []
    depth = len(_parts(first.name))
    for member in itertools.chain((first,), _following(tar)):
        path = place.joinpath(*_parts(member.name)[depth:])
        if member is not first:
            _refuse_escape(place, path)
        if path.exists() and path.is_dir() != member.isdir():
            raise SpecInvalid(f"{path} is in the way: file here, folder there, or the other way round")
        if member.isdir():
            path.mkdir(exist_ok=True, parents=member is first)
            folders.append((path, member))
            continue
        path.unlink(missing_ok=True)
        if member.islnk():
            twin = place.joinpath(*_parts(member.linkname)[depth:])
            _refuse_escape(place, twin)
            os.link(twin, path, follow_symlinks=False)
        else:
            _make(tar, member, path)
    # A folder's time changes with every entry made in it, and a read-only one takes none: last.
    for path, member in reversed(folders):
        path.chmod(member.mode & ~_SPECIAL_MODES)
        os.utime(path, (member.mtime, member.mtime))


def _following(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        yield member


def _parts(name: str) -> tuple[str, ...]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise EngineError(f"the archive of a container names {name!r}", mend="copy a part of the folder")
    return tuple(parts)


def _refuse_escape(place: Path, path: Path) -> None:
    for folder in path.relative_to(place).parents:
        if (place / folder).is_symlink():
            raise EngineError(f"the archive of a container writes through the link {folder}")


def _make(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.issym():
        path.symlink_to(member.linkname)
        return
    if not member.isreg():
        return  # A device, socket or pipe means nothing outside its container.
    with path.open("xb", buffering=0) as file:
        extract(tar, member, file)
    path.chmod(member.mode & ~_SPECIAL_MODES)
    os.utime(path, (member.mtime, member.mtime))
