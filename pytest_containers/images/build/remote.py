"""The sources of ADD that are no files of the context: URLs and git repositories.

Forms: https://docs.docker.com/reference/dockerfile/#add, and for the part behind ``#`` or ``?``
https://docs.docker.com/build/concepts/context/#url-fragments.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.values import boolean
from pytest_containers.images.origin import printable

__all__ = ["GitSource", "HttpSource", "read_remote"]

_URL: Final = re.compile(r"(https?|ssh|git)://", re.IGNORECASE)
_SCP: Final = re.compile(r"([a-zA-Z0-9_.-]+@[a-zA-Z0-9.-]+:[^?#]*)(?:\?([^#]*))?(?:#(.*))?")
_UNNAMED: Final = "__unnamed__"
_QUERY_KEYS: Final = frozenset(
    {"ref", "tag", "branch", "subdir", "checksum", "commit", "keep-git-dir", "submodules"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSource:
    """A file behind a URL; *name* is what it is called in a target folder."""

    url: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GitSource:
    """A git repository. *ref* is a branch, tag or commit, empty for the default branch.

    *checksum* is the start of the commit's name that must be met. None is for "not said".
    """

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None


def read_remote(source: str) -> HttpSource | GitSource | None:
    """Return the URL or repository that *source* names, or None for a path of the context.

    ``https://host/x.git`` is a repository, as are ``git@host:x`` and the schemes ssh and git.
    Raises SpecInvalid for a URL that cannot be read and for query members that mean nothing.
    """
    if source.startswith(("./", "../")):
        return None
    if not _URL.match(source):
        match = _SCP.fullmatch(source)
        return _git(match[1], match[2] or "", match[3] or "") if match else None
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise SpecInvalid(f"{source!r} is no URL", seen=str(error)) from error
    _check_user(parts)
    if parts.scheme in {"http", "https"} and not parts.path.endswith(".git"):
        return HttpSource(url=source, name=_file_name(parts))
    return _git(parts._replace(query="", fragment="").geturl(), parts.query, unquote(parts.fragment))


def _check_user(parts: SplitResult) -> None:
    """Raise SpecInvalid for a password in a source: it would stand in every history."""
    try:
        hides = parts.password is not None or (parts.username and parts.scheme in {"http", "https"})
    except ValueError:
        return
    if hides:
        raise SpecInvalid(
            f"{printable(parts.geturl())} has a user or password in it",
            seen="it would stand in the image's history",
            mend="fetch it in a RUN with --mount=type=secret",
        )


def _file_name(parts: SplitResult) -> str:
    name = posixpath.basename(unquote(parts.path).rstrip("/"))
    return name if name not in {"", ".", ".."} else _UNNAMED


def _git(remote: str, query: str, fragment: str) -> GitSource:
    ref, _, subdir = fragment.partition(":")
    members = _members(query, remote)
    found = GitSource(remote=remote, ref=ref, subdir=subdir)
    for key, value in members.items():
        match key:
            case "ref":
                found = replace(found, ref=_agreed(found.ref, value, "ref"))
            case "tag":
                found = replace(found, ref=_agreed(found.ref, _qualified(value, "refs/tags/"), "ref"))
            case "branch":
                found = replace(found, ref=_agreed(found.ref, _qualified(value, "refs/heads/"), "ref"))
            case "subdir":
                found = replace(found, subdir=_agreed(found.subdir, value, "subdir"))
            case "checksum" | "commit":
                found = replace(found, checksum=_agreed(found.checksum, value, "checksum"))
            case "keep-git-dir":
                found = replace(found, keep_git_dir=boolean(value or "true", key))
            case _:
                found = replace(found, submodules=boolean(value or "true", key))
    return replace(found, ref=found.ref or found.checksum)


def _members(query: str, remote: str) -> Mapping[str, str]:
    try:
        members = parse_qs(query, keep_blank_values=True, max_num_fields=20)
    except ValueError as error:
        raise SpecInvalid(f"the query of {remote} cannot be read", seen=query) from error
    for key, values in members.items():
        if key not in _QUERY_KEYS:
            raise SpecInvalid(f"the query of {remote} has an unknown member {key}")
        if len(values) > 1 or (not values[0] and key not in {"keep-git-dir", "submodules"}):
            raise SpecInvalid(f"the query of {remote} needs one value of {key}")
    return {key: values[0] for key, values in members.items()}


def _qualified(name: str, prefix: str) -> str:
    return name if name.startswith(prefix) else prefix + name


def _agreed(before: str, now: str, what: str) -> str:
    if before and before != now:
        raise SpecInvalid(f"a git source has two values of {what}", seen=f"{before}, {now}")
    return now
