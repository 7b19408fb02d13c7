"""Go's path patterns, as COPY sources have them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import wildcard
from tests.images.build.patterns import WILDCARDS


@pytest.mark.parametrize(("pattern", "path", "matches"), WILDCARDS)
def test_wildcard_matches_as_in_go(pattern: str, path: str, matches: bool | None) -> None:
    """Stars and question marks stop at slashes, brackets are sets, and malformed patterns are refused."""
    if matches is None:
        with pytest.raises(SpecInvalid, match="the pattern"):
            wildcard.match(pattern, path)
    else:
        assert wildcard.match(pattern, path) is matches


@pytest.mark.parametrize(
    ("path", "wild"),
    [
        ("a", False),
        ("a*", True),
        ("a?b", True),
        ("a[b", True),
        ("a\\*", False),
        ("a\\\\*", True),
        ("a]", False),
    ],
)
def test_wildcard_is_noticed(path: str, wild: bool) -> None:
    """An escaped wildcard is a character of the name."""
    assert wildcard.has_wildcard(path) is wild


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("a/b", ("a/b", "")),
        ("a/b*/c", ("a", "b*/c")),
        ("*", ("", "*")),
        ("/a/*", ("/a", "*")),
        ("/*", ("/", "*")),
        ("./a//b/?", ("a/b", "?")),
        ("a/\\*/b", ("a/\\*/b", "")),
    ],
)
def test_wildcard_splits_the_folder_off(path: str, parts: tuple[str, str]) -> None:
    """What stands before the first wildcard is a folder that can be opened."""
    assert wildcard.split(path) == parts


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("", "."),
        (".", "."),
        ("a//b", "a/b"),
        ("//a", "/a"),
        ("a/", "a"),
        ("./a/../b", "b"),
        ("../a", "../a"),
        ("/..", "/"),
    ],
)
def test_path_is_cleaned_as_in_go(path: str, cleaned: str) -> None:
    """The shortest path is the one Go would give."""
    assert wildcard.clean(path) == cleaned


_PIECES = st.lists(
    st.sampled_from(
        [wildcard.STAR, wildcard.WHATEVER, wildcard.FOLDERS, "a", "b", "/", "[^/]", "[^a]", "(?!)"]
    ),
    max_size=8,
)


@given(pieces=_PIECES, path=st.text(alphabet="ab/\n", max_size=8))
def test_pattern_of_many_loops_means_what_its_expression_means(pieces: list[str], path: str) -> None:
    """Patterns that are followed all ways at once match the same paths as the regular expression."""
    expected = re.fullmatch("".join(pieces), path, re.DOTALL) is not None
    assert wildcard.matcher(pieces).matches(path) is expected
    assert wildcard._Automaton(pieces).matches(path) is expected


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 30 + "b", "a" * 200),
        ("a" + "*[a-z]" * 30 + "!", "a" * 200),
        ("*[^b]" * 25 + "b", "a/" * 100),
    ],
)
def test_pattern_that_has_many_ways_to_fail_ends(pattern: str, path: str) -> None:
    """What a backtracking engine would need longer than a life for is refused at once."""
    assert wildcard.match(pattern, path) is False
