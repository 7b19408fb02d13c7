"""Which files of a context the ignore file leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.ignore import Ignore, ignore_names
from tests.images.build.patterns import IGNORED, IGNORED_BY_LISTS, WILDCARDS

BUILDING = Path(__file__).parents[3] / "docs" / "build.md"


@pytest.mark.parametrize(("pattern", "path", "ignored"), IGNORED)
def test_ignore_matches_one_pattern(pattern: str, path: str, ignored: bool) -> None:
    """A pattern matches a path, or a folder it is in; two stars are any number of folders."""
    assert Ignore.parse(pattern.encode()).ignores(path) is ignored


@pytest.mark.parametrize(("patterns", "path", "ignored"), IGNORED_BY_LISTS)
def test_ignore_obeys_the_last_match(patterns: tuple[str, ...], path: str, ignored: bool) -> None:
    """Of the patterns that match, the last one says whether the file stays."""
    found = Ignore.parse("\n".join(patterns).encode())
    assert found.ignores(path) is ignored


def test_tables_of_patterns_have_the_rows_that_the_documentation_names() -> None:
    """The tables repeat no row, and their sizes are those in docs/build.md."""
    for table in (WILDCARDS, IGNORED, IGNORED_BY_LISTS):
        assert len({row[:2] for row in table}) == len(table)
    documentation = BUILDING.read_text()
    assert f"{len(WILDCARDS)} of paths" in documentation
    assert f"{len(IGNORED)} patterns of ignore files" in documentation
    assert f"{len(IGNORED_BY_LISTS)} lists of them" in documentation


def test_ignore_reads_any_line_end() -> None:
    """A BOM and carriage returns are not parts of a pattern."""
    found = Ignore.parse(b"\xef\xbb\xbfa\r\n#c\r\n!b\r\n")
    assert [(pattern.text, pattern.exception) for pattern in found.patterns] == [("a", False), ("b", True)]


def test_ignore_never_drops_the_context() -> None:
    """The context itself is not ignored, whatever matches."""
    assert Ignore.parse(b"**\n.\n").ignores(".") is False


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        ("a\n!\n", 2, "excepts nothing"),
        ("[\n", 1, "malformed"),
        ("a\nb\n[a-\n", 3, "malformed"),
        ("a\\\n", 1, "backslash"),
    ],
)
def test_ignore_refuses_malformed_patterns(content: str, line: int, word: str) -> None:
    """A malformed pattern is refused with file and line."""
    with pytest.raises(SpecInvalid) as caught:
        Ignore.parse(content.encode(), "D.dockerignore")
    assert caught.value.what.startswith(f"D.dockerignore:{line}: ")
    assert word in caught.value.what


@pytest.mark.parametrize(
    ("patterns", "folder", "pruned"),
    [
        (["a"], "a", True),
        (["a"], "b", False),
        (["*"], "a/b", True),
        (["a", "!a/b/c"], "a", False),
        (["a", "!a/b/c"], "a/b", False),
        (["a", "!a/b/c"], "a/x", True),
        (["a", "!ab/c"], "a", True),
        (["a", "!*/b"], "a", False),
        (["a", "!**/b"], "a/x/y", False),
        (["!a/b", "a"], "a", False),
    ],
)
def test_ignore_prunes_folders(patterns: list[str], folder: str, pruned: bool) -> None:
    """A folder need not be looked into where no exception could bring anything in it back."""
    assert Ignore.parse("\n".join(patterns).encode()).prunes(folder) is pruned


def test_ignore_serves_excludes() -> None:
    """The patterns of --exclude are read the same way, a hash being nothing special."""
    found = Ignore.of(["*.txt", "!keep.txt", "#x", ""])
    assert [found.ignores(path) for path in ("a.txt", "keep.txt", "#x", "a")] == [True, False, True, False]


def test_ignore_file_of_the_dockerfile_comes_first() -> None:
    """A Dockerfile's own ignore file is looked for before the context's."""
    assert ignore_names("sub/app.Dockerfile") == ("sub/app.Dockerfile.dockerignore", ".dockerignore")


@given(
    st.lists(st.text(alphabet="ab/*?[]!^-\\. #", max_size=12), max_size=4),
    st.text(alphabet="ab/.", min_size=1, max_size=12),
)
@settings(max_examples=300, deadline=None)
def test_ignore_raises_nothing_else(patterns: list[str], path: str) -> None:
    """Whatever the patterns, a path is ignored or not, or the file is refused; what is pruned is ignored."""
    try:
        found = Ignore.parse("\n".join(patterns).encode())
    except SpecInvalid:
        return
    if found.prunes(path):
        assert found.ignores(path)
        assert found.ignores(f"{path}/below")


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a*a*a*a*a*a*a*a*a*a*a*a*b", "a" * 60),
        ("**/a/" * 20 + "b", "a/" * 60 + "c"),
        ("**/*a" * 12 + "b", "a/a" * 40),
    ],
)
def test_pattern_that_has_many_ways_to_fail_ends(pattern: str, path: str) -> None:
    """The time that a pattern takes does not grow with the ways it could be laid over a path."""
    assert Ignore.of([pattern]).ignores(path) is False
