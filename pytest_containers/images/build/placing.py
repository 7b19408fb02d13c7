"""Where COPY and ADD put what they selected, and whose it is.

The rules are those of https://docs.docker.com/reference/dockerfile/#destination: a target with a
slash at its end, several sources, or a folder that is there, take files by their own names;
otherwise the target is the one file's new name.
"""

from __future__ import annotations

import posixpath
import tarfile
import tempfile
from typing import Final

from pytest_containers.errors import PathMissing, SpecInvalid
from pytest_containers.images.build.instruction import Transfer
from pytest_containers.images.build.mode import Mode
from pytest_containers.images.build.runner import Workspace
from pytest_containers.images.build.selection import Selection

__all__ = ["owner_of", "place"]

_LIMIT_BYTES: Final = 1 << 20


def _is_folder(workspace: Workspace, path: str) -> bool:
    if posixpath.normpath(path) == "/":
        return True
    with tempfile.TemporaryFile() as found:
        try:
            workspace.read(path, found)
        except PathMissing:
            return False
        found.seek(0)
        with tarfile.open(fileobj=found, mode="r|") as tar:
            entry = tar.next()
            return entry is not None and entry.isdir()


def place(
    workspace: Workspace, transfer: Transfer, selection: Selection, workdir: str, mtime_s: int | None
) -> None:
    """Write *selection* to where *transfer* says, relative to *workdir*."""
    target = posixpath.join("/", workdir, transfer.target)
    owner = owner_of(workspace, transfer.owner)
    mode = Mode.parse(transfer.mode) if transfer.mode else None
    into = transfer.target.endswith("/") or transfer.target in {".", ""} or not selection.one_file
    if not into and len(transfer.sources) + len(transfer.contents) > 1:
        raise SpecInvalid("several sources need a folder", mend=f"write {transfer.target}/")
    if not into:
        into = _is_folder(workspace, target)
    name = None if into else posixpath.basename(target)
    folder = target if into else posixpath.dirname(target)
    with tempfile.TemporaryFile() as tar:
        selection.write(
            tar, name=name, owner=owner, mode=mode, mtime_s=mtime_s, owner_given=bool(transfer.owner)
        )
        tar.seek(0)
        workspace.write(posixpath.normpath(folder), tar)


def owner_of(workspace: Workspace, owner: str) -> tuple[int, int]:
    """Return the ids that ``--chown`` names, looked up in the stage's own files.

    A user alone gives the group the same number; names need /etc/passwd and /etc/group there.
    Raises SpecInvalid for a name they do not know.
    """
    if not owner:
        return 0, 0
    user, _, group = owner.partition(":")
    uid = _id(workspace, user or "0", "/etc/passwd")
    return uid, _id(workspace, group, "/etc/group") if group else uid


def _id(workspace: Workspace, name: str, path: str) -> int:
    if name.isascii() and name.isdecimal():
        return int(name)
    for line in _text(workspace, path).splitlines():
        row = line.split(":")
        if len(row) > 2 and row[0] == name and row[2].isdecimal():
            return int(row[2])
    raise SpecInvalid(f"--chown names {name}, which {path} of this stage does not know", mend="use a number")


def _text(workspace: Workspace, path: str) -> str:
    with tempfile.TemporaryFile() as found:
        try:
            workspace.read(path, found)
        except PathMissing:
            return ""
        found.seek(0)
        with tarfile.open(fileobj=found) as tar:
            entry = tar.next()
            file = tar.extractfile(entry) if entry is not None and entry.isreg() else None
            return file.read(_LIMIT_BYTES).decode("utf-8", "replace") if file else ""
