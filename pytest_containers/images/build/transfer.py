"""The arguments of ADD and COPY: what is copied, from where, and to where.

Forms: https://docs.docker.com/reference/dockerfile/#copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import heredoc
from pytest_containers.images.build.heredoc import Heredoc
from pytest_containers.images.build.instruction import InlineFile
from pytest_containers.images.build.values import json_words, split_blanks
from pytest_containers.images.build.words import expand

__all__ = ["Paths", "check_origin", "read_paths"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """The sources, the files written in the Dockerfile itself, and the target."""

    sources: tuple[str, ...]
    contents: tuple[InlineFile, ...]
    target: str


def read_paths(rest: str, keyword: str, heredocs: Sequence[Heredoc]) -> Paths:
    """Return the paths of the rest of an ADD or COPY line, in its JSON or its blank-separated form.

    Raises SpecInvalid for less than a source and a target, and for a heredoc as the target.
    """
    array = json_words(rest)
    words = split_blanks(rest) if array is None else list(array)
    if len(words) < 2:
        raise SpecInvalid(
            f"{keyword} needs a source and a target", seen=rest, mend=f"write {keyword} SOURCE TARGET"
        )
    if array is not None:
        return Paths(sources=tuple(words[:-1]), contents=(), target=words[-1])
    if _heredoc(words[-1]) is not None:
        raise SpecInvalid(
            f"{keyword} cannot have a heredoc as its target", mend="name a path behind the heredocs"
        )
    bodies = {doc.name: doc for doc in heredocs}
    sources: list[str] = []
    contents: list[InlineFile] = []
    for word in words[:-1]:
        doc = _heredoc(word)
        if doc is not None:
            contents.append(_inline_file(bodies.get(doc.name), word, keyword))
        elif word in {"<<", "<<-"} and heredocs:
            raise SpecInvalid(f"{keyword} has a blank behind {word}", mend=f"write {word}{heredocs[0].name}")
        else:
            sources.append(word)
    return Paths(sources=tuple(sources), contents=tuple(contents), target=words[-1])


def check_origin(origin: str) -> str:
    """Return the value of ``--from``; raise SpecInvalid where it would need expansion."""
    if origin and ("$" in origin or expand(origin, {}).text != origin):
        raise SpecInvalid(
            f"--from cannot have a variable: {origin}",
            mend="begin a stage with FROM and that variable, and name the stage in --from",
        )
    return origin


def _heredoc(word: str) -> Heredoc | None:
    try:
        return heredoc.parse(word)
    except SpecInvalid:
        return None


def _inline_file(doc: Heredoc | None, word: str, keyword: str) -> InlineFile:
    """Return the file; its name is one path component, for it is written inside the target."""
    if doc is None:
        raise SpecInvalid(f"the heredoc {word} has no body", mend="a quote on this line does not end")
    name = doc.name.removeprefix("/")
    if not name or "/" in name or name in {".", ".."}:
        raise SpecInvalid(
            f"{keyword} cannot write a file named {doc.name}", mend="name a file, without /: <<file.txt"
        )
    return InlineFile(name=name, content=doc.body, expand=doc.expand)
