"""``.dockerignore``: which files of the context are left out.

Rules: https://docs.docker.com/build/concepts/context/#dockerignore-files, and where that is silent
https://github.com/moby/patternmatcher. The same patterns serve ``COPY --exclude`` and ``--parents``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import wildcard
from pytest_containers.images.build.values import SPACES

__all__ = ["Ignore", "Pattern", "ignore_names"]

_BOM: Final = "\ufeff"


def ignore_names(dockerfile: str) -> tuple[str, str]:
    """Return the names of the ignore files of a Dockerfile's path in the context; the first there wins."""
    return f"{dockerfile}.dockerignore", ".dockerignore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """One cleaned pattern; *text* is without the ``!`` of *exception*."""

    text: str
    exception: bool
    matcher: wildcard.Matcher

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read one pattern, ``!`` in front for an exception; raise SpecInvalid where it is malformed."""
        exception = text.startswith("!")
        body = text.removeprefix("!") if exception else text
        if not body:
            raise SpecInvalid("the pattern ! excepts nothing", mend="write a path behind the !")
        wildcard.check(body)
        return cls(text=body, exception=exception, matcher=wildcard.matcher(_translate(body)))

    def matches(self, path: str) -> bool:
        """Return whether *path* itself matches."""
        return self.matcher.matches(path)

    def may_match_below(self, folder: str) -> bool:
        """Return whether something inside *folder* may match."""
        if wildcard.has_wildcard(self.text) or "\\" in self.text:
            return True
        return self.text.startswith(f"{folder}/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignore:
    """Patterns in their order: the last one that matches a path, or a folder it is in, decides."""

    patterns: tuple[Pattern, ...] = ()

    @classmethod
    def parse(cls, content: bytes, name: str = ".dockerignore") -> Ignore:
        """Read an ignore file; raise SpecInvalid, with file and line, for a malformed pattern.

        A line with ``#`` in its first column is a comment. A leading slash means nothing.
        """
        patterns: list[Pattern] = []
        lines = content.decode("utf-8", "surrogateescape").removeprefix(_BOM).split("\n")
        for number, line in enumerate(lines, 1):
            cleaned = "" if line.startswith("#") else _clean(line)
            if not cleaned:
                continue
            try:
                patterns.append(Pattern.parse(cleaned))
            except SpecInvalid as error:
                raise SpecInvalid(
                    f"{name}:{number}: {error.what}", seen=error.seen, mend=error.mend
                ) from error
        return cls(patterns=tuple(patterns))

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Ignore:
        """Read the patterns of ``--exclude``; raise SpecInvalid for a malformed one."""
        return cls(patterns=tuple(Pattern.parse(cleaned) for text in patterns if (cleaned := _clean(text))))

    def ignores(self, path: str) -> bool:
        """Return whether the file or folder at *path* is left out.

        *path* is relative to the context, with slashes, and clean. The context itself never is.
        """
        if path == ".":
            return False
        ignored = False
        lineage = (path, *_parents(path))
        for pattern in self.patterns:
            if pattern.exception == ignored and any(pattern.matches(member) for member in lineage):
                ignored = not pattern.exception
        return ignored

    def prunes(self, folder: str) -> bool:
        """Return whether nothing inside *folder* can be kept, so that it need not be looked into."""
        if not self.ignores(folder):
            return False
        return not any(pattern.exception and pattern.may_match_below(folder) for pattern in self.patterns)


def _parents(path: str) -> Iterator[str]:
    """Yield the folders *path* is in, the outermost first."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def _clean(line: str) -> str:
    text = line.strip(SPACES)
    exception = text.startswith("!")
    body = text.removeprefix("!").strip(SPACES) if exception else text
    if body:
        body = wildcard.clean(body)
        if len(body) > 1:
            body = body.removeprefix("/")
    return ("!" if exception else "") + body


def _translate(pattern: str) -> list[str]:
    """Return the pieces of a pattern with ``**``: any number of folders, none included.

    At the start ``**`` needs no slash behind it, at the end it stands for everything.
    """
    if pattern == "**":
        return [wildcard.WHATEVER]
    pieces: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*" and pattern.startswith("*", at):
            at += 1
            first = at == 2
            at += pattern.startswith("/", at)
            plain = first and not wildcard.has_wildcard(pattern[at:]) and "\\" not in pattern[at:]
            if at == len(pattern) or (plain and not pattern.startswith("**/")):
                pieces.append(wildcard.WHATEVER)
            elif not pieces or pieces[-1] != wildcard.FOLDERS:
                pieces.append(wildcard.FOLDERS)
        elif char == "*":
            if not pieces or pieces[-1] != wildcard.STAR:
                pieces.append(wildcard.STAR)
        elif char == "?":
            pieces.append("[^/]")
        elif char == "[":
            piece, at = wildcard.bracket(pattern, at - 1)
            pieces.append(piece)
        else:
            if char == "\\":
                char = pattern[at : at + 1]
                at += 1
            pieces.append(wildcard.plain(char))
    return pieces
