"""The remote sources of ADD: URLs and repositories."""

from __future__ import annotations

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.remote import GitSource, HttpSource, read_remote


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://example.org/a/b.tar.gz", "b.tar.gz"),
        ("http://example.org/a%20b?q=1#f", "a b"),
        ("https://example.org/", "__unnamed__"),
        ("https://example.org", "__unnamed__"),
        ("https://example.org/a/", "a"),
        ("https://example.org/..", "__unnamed__"),
        ("https://example.org/a/%2e%2e", "__unnamed__"),
        ("HTTPS://example.org/x", "x"),
        ("https://example.org/a%2Fb", "b"),
    ],
)
def test_remote_file_is_named_by_its_path(source: str, name: str) -> None:
    """A file behind a URL has the last name of the path, and never one that leaves its folder."""
    assert read_remote(source) == HttpSource(url=source, name=name)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://g.org/a/b.git", GitSource(remote="https://g.org/a/b.git")),
        ("https://g.org/b.git#v1", GitSource(remote="https://g.org/b.git", ref="v1")),
        (
            "https://g.org/b.git#v1:sub/dir",
            GitSource(remote="https://g.org/b.git", ref="v1", subdir="sub/dir"),
        ),
        ("https://g.org/b.git#:sub", GitSource(remote="https://g.org/b.git", subdir="sub")),
        ("git@g.org:a/b.git#main", GitSource(remote="git@g.org:a/b.git", ref="main")),
        ("ssh://git@g.org/b", GitSource(remote="ssh://git@g.org/b")),
        ("git://g.org/b#x", GitSource(remote="git://g.org/b", ref="x")),
        (
            "https://g.org/b.git?ref=v1&subdir=s",
            GitSource(remote="https://g.org/b.git", ref="v1", subdir="s"),
        ),
        ("https://g.org/b.git?tag=v1", GitSource(remote="https://g.org/b.git", ref="refs/tags/v1")),
        ("https://g.org/b.git?branch=m", GitSource(remote="https://g.org/b.git", ref="refs/heads/m")),
        (
            "https://g.org/b.git?checksum=abcd",
            GitSource(remote="https://g.org/b.git", ref="abcd", checksum="abcd"),
        ),
        (
            "https://g.org/b.git?keep-git-dir&submodules=false",
            GitSource(remote="https://g.org/b.git", keep_git_dir=True, submodules=False),
        ),
    ],
)
def test_remote_repository_has_a_ref_and_a_folder(source: str, expected: GitSource) -> None:
    """A git source says what is fetched, behind # or as a query."""
    assert read_remote(source) == expected


@pytest.mark.parametrize(
    "source",
    ["a", "./a.git", "../x", "a/b.git", "github.com/a/b", "*.tar", "C:/x", "host:path", "ftp://x/y", "/a"],
)
def test_remote_is_not_every_path(source: str) -> None:
    """What is no URL is a path of the context."""
    assert read_remote(source) is None


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("https://g.org/b.git?x=1", "unknown member x"),
        ("https://g.org/b.git?ref=a&ref=b", "one value of ref"),
        ("https://g.org/b.git?ref=", "one value of ref"),
        ("https://g.org/b.git?ref=a#b", "two values of ref"),
        ("https://g.org/b.git?branch=a&tag=b", "two values of ref"),
        ("https://g.org/b.git?submodules=maybe", "submodules cannot be"),
        ("https://[g.org/b", "no URL"),
        ("https://g.org/b.git?" + "ref=a&" * 40, "cannot be read"),
    ],
)
def test_remote_refuses_contradictions(source: str, word: str) -> None:
    """A query that says nothing known, or two things, is refused."""
    with pytest.raises(SpecInvalid) as caught:
        read_remote(source)
    assert word in caught.value.what
