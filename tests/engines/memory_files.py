"""The file system of the in-memory engine: a dictionary of absolute paths."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import BinaryIO, Literal

from pytest_containers.errors import PathMissing
from pytest_containers.spec import Change, FileStat

__all__ = ["HOST", "Entry", "Files"]

_LINKS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file, folder or symbolic link (*content* is then where it leads)."""

    kind: Literal["file", "folder", "link"]
    content: bytes = b""
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0


_FOLDER = Entry(kind="folder")
_PROGRAM = Entry(kind="file", content=b"\x7fELF")
_PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"


class Files:
    """A tree of files. Symbolic links are followed inside of it, ``..`` ends at its root."""

    def __init__(self, entries: Mapping[str, Entry] | None = None) -> None:
        self.entries: dict[str, Entry] = {"/": _FOLDER, **(entries or {})}

    def copy(self) -> Files:
        """Return a tree that changes by itself."""
        return Files(self.entries)

    def resolve(self, path: str, *, last: bool = True) -> str:
        """Return where *path* leads; with *last* false, a link at its end is not followed."""
        todo, done, budget = path.split("/"), "/", _LINKS
        while todo:
            part = todo.pop(0)
            if part in ("", "."):
                continue
            done = posixpath.dirname(done) if part == ".." else posixpath.join(done, part)
            entry = self.entries.get(done)
            if entry is not None and entry.kind == "link" and (todo or last):
                budget -= 1
                if not budget:
                    raise PathMissing(f"{path} is a ring of symbolic links")
                target = entry.content.decode()
                done = "/" if target.startswith("/") else posixpath.dirname(done)
                todo = target.split("/") + todo
        return done

    def find(self, path: str) -> Entry | None:
        """Return what *path* leads to, if anything."""
        return self.entries.get(self.resolve(path))

    def stat(self, path: str) -> FileStat:
        """Return what *path* leads to. Raises PathMissing."""
        entry = self.find(path)
        if entry is None:
            raise PathMissing(f"no {path} in the container", mend="name a path that exists there")
        return FileStat(
            kind="folder" if entry.kind == "folder" else "file",
            size_bytes=len(entry.content),
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
        )

    def content(self, path: str) -> bytes:
        """Return a file's content. Raises PathMissing."""
        entry = self.find(path)
        if entry is None or entry.kind != "file":
            raise PathMissing(f"no file {path} in the container")
        return entry.content

    def put(self, path: str, entry: Entry) -> None:
        """Place an entry; folders above it are made. Raises PathMissing where one of them is a file."""
        place = self.resolve(path, last=entry.kind == "folder")
        above = posixpath.dirname(place)
        if above not in self.entries:
            self.put(above, _FOLDER)
        if self.entries[above].kind == "file":
            raise PathMissing(f"{above} is a file in the container")
        self.entries[place] = entry

    def remove(self, path: str) -> None:
        """Remove a path and all below it."""
        place = self.resolve(path, last=False)
        for known in list(self.below(place)):
            del self.entries[known]

    def below(self, place: str) -> Iterator[str]:
        """Yield *place*, if it exists, and every path under it."""
        prefix = place.rstrip("/") + "/"
        return (path for path in sorted(self.entries) if path == place or path.startswith(prefix))

    def names(self, path: str) -> list[str]:
        """Return the names in a folder."""
        place = self.resolve(path)
        return [
            posixpath.basename(one) for one in self.below(place) if posixpath.dirname(one) == place != one
        ]

    def pack(self, path: str, into: BinaryIO) -> None:
        """Write a path as a tar stream. Raises PathMissing."""
        place = self.resolve(path)
        if place not in self.entries:
            raise PathMissing(f"no {path} in the container", mend="name a path that exists there")
        first = posixpath.basename(path.rstrip("/")) or "."
        with tarfile.open(fileobj=into, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for known in self.below(place):
                rest = known[len(place) :].lstrip("/")
                _add(tar, posixpath.join(first, rest) if rest else first, self.entries[known])

    def unpack(self, folder: str, stream: BinaryIO) -> None:
        """Put a tar's entries below *folder*. Raises PathMissing where that is a file."""
        entry = self.find(folder)
        if entry is not None and entry.kind == "file":
            raise PathMissing(f"{folder} in the container is not a folder")
        if entry is None:
            self.put(folder, _FOLDER)
        with tarfile.open(fileobj=stream, mode="r|*") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                kind: Literal["file", "folder", "link"] = "folder" if member.isdir() else "file"
                data = b"" if content is None else content.read()
                if member.issym():
                    kind, data = "link", member.linkname.encode()
                made = Entry(kind=kind, content=data, mode=member.mode, uid=member.uid, gid=member.gid)
                self.put(posixpath.join(folder, member.name), replace(made, mtime=int(member.mtime)))

    def changes(self, image: Files) -> tuple[Change, ...]:
        """Return what differs from *image*; a folder with changes in it has changed itself."""
        kinds: dict[str, Literal["A", "C", "D"]] = {}
        for path in self.entries.keys() | image.entries.keys():
            now, then = self.entries.get(path), image.entries.get(path)
            if now != then:
                kinds[path] = "A" if then is None else "D" if now is None else "C"
        for path in list(kinds):
            above = posixpath.dirname(path)
            while above != "/":
                kinds.setdefault(above, "C")
                above = posixpath.dirname(above)
        return tuple(Change(kind=kinds[path], path=PurePosixPath(path)) for path in sorted(kinds))


def _add(tar: tarfile.TarFile, name: str, entry: Entry) -> None:
    member = tarfile.TarInfo(name)
    member.mode, member.uid, member.gid, member.mtime = entry.mode, entry.uid, entry.gid, entry.mtime
    if entry.kind == "file":
        member.size = len(entry.content)
    else:
        member.type = tarfile.DIRTYPE if entry.kind == "folder" else tarfile.SYMTYPE
        member.linkname = entry.content.decode()
    tar.addfile(member, io.BytesIO(entry.content))


def _host() -> Files:
    files = Files()
    programs = "cat echo env false getent head id ls mkdir pwd python3 rm sh sleep touch true"
    for name in programs.split():
        files.put(f"/usr/bin/{name}", _PROGRAM)
    files.put("/bin", Entry(kind="link", content=b"usr/bin"))
    for folder in ("/dev", "/etc", "/home", "/proc", "/root", "/srv", "/sys", "/tmp", "/var/log"):
        files.put(folder, _FOLDER)
    files.put("/etc/passwd", Entry(kind="file", content=_PASSWD, mode=0o644))
    files.put("/etc/group", Entry(kind="file", content=b"root:x:0:\nnogroup:x:65534:\n", mode=0o644))
    return files


HOST = _host()
