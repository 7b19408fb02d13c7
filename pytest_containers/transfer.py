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

import io
import os
import posixpath
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from pytest_containers.engines.base import Tree
from pytest_containers.errors import EngineError, PathMissing, SpecInvalid

__all__ = ["InsidePath", "copy_in", "copy_out", "inside", "read_file", "write_file"]

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
    """Return a file's content. Raises PathMissing, and SpecInvalid for what is no file."""
    stream = io.BytesIO()
    tree.read(inside(path), stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None and "/" not in member.name.strip("/"):
                return content.read()
            break
    raise SpecInvalid(f"{path} is not a file", mend="copy a folder with copy_out()")


def write_file(tree: Tree, path: InsidePath, content: bytes, *, mode: int = 0o644) -> None:
    """Put a file of root's at *path*, with the folders above it."""
    folder, name = _parted(inside(path))
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), mode, int(time.time())
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(entry, io.BytesIO(content))
    stream.seek(0)
    tree.write(folder, stream)


def copy_in(tree: Tree, source: str | os.PathLike[str], target: InsidePath) -> None:
    """Copy a file or folder of the host into a container.

    Raises SpecInvalid for a source that does not exist, or a folder meant for a file's place.
    """
    path, wanted = Path(source), inside(target)
    if not path.exists():
        raise SpecInvalid(f"{path} does not exist on this machine", mend="copy_in(source, target)")
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
    with tempfile.TemporaryFile() as stream:
        tree.read(wanted.removesuffix("/.").rstrip("/") or "/", stream)
        stream.seek(0)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            first = tar.next()
            if first is None:
                raise EngineError(f"{wanted} came out as an empty archive")
            _receive(tar, first, place := _place(first, wanted, place, os.fspath(target).endswith("/")))
    return place


def _parted(path: str) -> tuple[str, str]:
    folder, name = posixpath.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise SpecInvalid(f"{path} does not name a file", mend="end the path with the file's name")
    return folder or "/", name


class _Head(io.BytesIO):
    """Takes the first headers of a stream and then breaks it, as a reader that has gone does."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        if self.enough:
            raise BrokenPipeError("only the first entry was wanted")
        return super().write(data)

    @property
    def enough(self) -> bool:
        """Return whether the first entry can be told; long names stand in headers before it (tar(5))."""
        return self.tell() >= 16 * tarfile.BLOCKSIZE


def _kind(tree: Tree, path: str) -> _Kind:
    head = _Head()
    try:
        tree.read(path.rstrip("/") or "/", head)
    except PathMissing:
        return "missing"
    except (BrokenPipeError, EngineError):
        if not head.enough:
            raise
    head.seek(0)
    with tarfile.open(fileobj=head, mode="r:") as tar:
        first = tar.next()
    return "folder" if first is not None and first.isdir() else "file"


def _send(tree: Tree, source: Path, folder: str, name: str = ".") -> None:
    def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry

    with tempfile.TemporaryFile() as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.add(source.resolve(), arcname=name, filter=owned)
        stream.seek(0)
        tree.write(folder, stream)


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
    for member in (first, *_following(tar)):
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
    content = tar.extractfile(member)
    if content is None:
        return  # A device, socket or pipe means nothing outside its container.
    with path.open("xb") as file:
        while piece := content.read(1 << 20):
            file.write(piece)
    path.chmod(member.mode & ~_SPECIAL_MODES)
    os.utime(path, (member.mtime, member.mtime))
