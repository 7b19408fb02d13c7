"""Notices of a build: what is legal and probably not meant is told, unless the file says otherwise."""

from __future__ import annotations

import warnings

import pytest

from pytest_containers.errors import DockerfileWarning, SpecInvalid
from pytest_containers.progress import BuildEvent
from pytest_containers.shelf import warn
from tests.images.build.plain import Site

LINES = ("ARG VERSION=1", "FROM base", "ENV legacy form", "ARG VERSION", "COPY file /")


@pytest.fixture
def filled(site: Site) -> Site:
    """A context with one file."""
    site.write(file="content")
    return site


def _notices(site: Site, *lines: str, **more: object) -> list[str]:
    site.tree(*lines, **more)
    return site.notices


def test_unknown_argument_is_told_first_with_what_was_meant(filled: Site) -> None:
    """A misspelled build argument is told before all else, with the nearest ARG."""
    first, second = _notices(filled, *LINES, args={"VERISON": "3"})
    assert "no ARG takes the build argument VERISON" in first
    assert "VERSION" in first
    assert second.startswith("Dockerfile:3: ")
    assert "LegacyKeyValueFormat" in second


def test_right_file_has_no_notices(filled: Site) -> None:
    """Where everything is as it should be nothing is told."""
    assert _notices(filled, "FROM base", "ARG VERSION", "COPY file /", args={"VERSION": "3"}) == []


@pytest.mark.parametrize(
    ("check", "rules"),
    [
        ("skip=LegacyKeyValueFormat", ["UnusedBuildArgument"]),
        ("skip=legacykeyvalueformat, UnusedBuildArgument", []),
        ("skip=all", []),
        ("error=false", ["UnusedBuildArgument", "LegacyKeyValueFormat"]),
        ("skip=UnusedBuildArgument;error=false", ["LegacyKeyValueFormat"]),
    ],
)
def test_file_says_which_notices_it_wants(filled: Site, check: str, rules: list[str]) -> None:
    """# check=skip= leaves rules out, by their names in any case."""
    found = _notices(filled, f"# check={check}", *LINES, args={"OTHER": "3"})
    assert [text.rpartition("(")[2].rstrip(")") for text in found] == rules


def test_file_says_that_notices_are_errors(filled: Site) -> None:
    """# check=error=true refuses the build at its first notice, and takes one without any."""
    with pytest.raises(SpecInvalid, match=r"(?s)^Dockerfile:4: write ENV NAME=VALUE.*check=skip=Legacy"):
        filled.tree("# check=error=true", *LINES)
    filled.tree("# check=error=true;skip=LegacyKeyValueFormat", *LINES)


def test_notice_is_a_warning_where_nobody_else_hears_of_it() -> None:
    """In a test a notice is a warning of pytest's; other events of a build are none."""
    with pytest.warns(DockerfileWarning, match="no ARG takes"):
        warn(BuildEvent(step="Dockerfile:1: no ARG takes it", kind="notice"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn(BuildEvent(step="[a 1/1] RUN x", kind="begin"))


def test_heredoc_of_a_file_with_carriage_returns_is_told(filled: Site) -> None:
    """The CR of each line is part of a heredoc's body: a file's name would end in it."""
    lines = ("FROM base", "COPY <<EOF /greeting", "hello", "EOF")
    (notice,) = _notices(filled, "\r\n".join(lines) + "\r")
    assert notice.startswith("Dockerfile:2: the heredoc's lines end in CR LF")
    assert _notices(filled, *lines) == []
