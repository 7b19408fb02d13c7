"""What stat(2) tells of the files of a source, as one digest: while it is the same, so are they.

A build from the cache asks of its context only whether it has changed. Times, size and inode answer
that at a tenth of what reading costs, as they do for git (gitformat-index(5)); whether they can be
believed, which they cannot of files that changed just now, is for `hashes.Hashes` to judge.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_containers.images.build import wildcard
from pytest_containers.images.build.ignore import Ignore

__all__ = ["Fingerprint", "fingerprint"]

# As deep as a source may be (`picking`); what is deeper is told there.
_DEPTH: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """*newest_ns* is the latest time that one of the files was changed, in ns since the epoch."""

    digest: str
    newest_ns: int


@dataclass(slots=True)
class _Found:
    """The files of a source while they are gone through."""

    root: str
    ignore: Ignore
    newest_ns: int = 0
    links: int = 0

    def line(self, name: str, seen: os.stat_result) -> bytes:
        """Return what stands for one file. Attributes count by the change time."""
        self.newest_ns = max(self.newest_ns, seen.st_mtime_ns, seen.st_ctime_ns)
        self.links += stat.S_ISLNK(seen.st_mode)
        numbers = (seen.st_mode, seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        return b"%d:%d:%d:%d:%d:%d:%d:%b\n" % (*numbers, seen.st_nlink > 1, os.fsencode(name))

    def below(self, folder: str) -> Iterator[bytes]:
        """Yield a line for all below *folder*, but for folders that the ignore file leaves out whole."""
        if folder.count("/") > _DEPTH:
            raise OSError
        with os.scandir(os.path.join(self.root, folder)) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            path = f"{folder}/{entry.name}" if folder else entry.name
            seen = entry.stat(follow_symlinks=False)
            if not stat.S_ISDIR(seen.st_mode):
                yield self.line(path, seen)
            elif not self.ignore.patterns or not self.ignore.prunes(path):
                yield self.line(path, seen)
                yield from self.below(path)


def fingerprint(root: Path, source: str, ignore: Ignore) -> Fingerprint | None:
    """Return what stands for the files that *source* names below *root*, None where it cannot be told.

    That is where a link may lead elsewhere, something is missing or unreadable, or a name has
    backslashes: reading them tells, or says what is wrong.
    """
    if "\\" in source or "\0" in source:
        return None
    static, pattern = wildcard.split("/" + source.replace("/./", "/"))
    found = _Found(str(root), ignore)
    hasher = hashlib.sha256()
    path, folder = "", True
    try:
        for name in static.strip("/").split("/"):
            path = posixpath.join(path, name)
            seen = os.lstat(root / path)
            # The folders on the way go along with --parents.
            hasher.update(found.line(path, seen))
            if stat.S_ISLNK(seen.st_mode):
                return None
            folder = stat.S_ISDIR(seen.st_mode)
        for line in found.below(path) if folder else ():
            hasher.update(line)
    except (OSError, UnicodeEncodeError):
        return None
    if pattern and found.links:
        return None  # a link that a wildcard matches is what it leads to
    return Fingerprint(digest=hasher.hexdigest(), newest_ns=found.newest_ns)
