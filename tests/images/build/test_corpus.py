"""Dockerfiles built here, against what a real BuildKit made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from pytest_containers.errors import SpecInvalid
from tests.images.build.corpus import CASES, OBSERVED, Case, base_tar, described, write_context
from tests.images.build.plain import PlainBuilds

# Where we mean to differ from what was observed, and why.
_DIFFERENT: Final = {
    "chown-unknown": "an unknown name is a mistake here; BuildKit takes root for it",
    "chmod-special": "the set-user-ID bit is set, as newer BuildKits do",
}
_EQUAL: Final = tuple(case for case in CASES if case.name not in _DIFFERENT)


@pytest.fixture(scope="module")
def observed() -> Mapping[str, dict[str, object]]:
    """Return what BuildKit made, by the names of the cases."""
    found: Mapping[str, dict[str, object]] = json.loads(OBSERVED.read_text())["cases"]
    return found


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> PlainBuilds:
    """Return a store that has the image ``base``."""
    found = PlainBuilds(tmp_path_factory.mktemp("store"))
    found.load("base", base_tar())
    return found


def test_corpus_is_observed_as_a_whole(observed: Mapping[str, dict[str, object]]) -> None:
    """Every case has its observation, and every observation its case."""
    assert observed.keys() == {case.name for case in CASES}


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name not in _DIFFERENT], ids=lambda case: case.name
)
def test_build_is_what_buildkit_makes(
    case: Case, builds: PlainBuilds, observed: Mapping[str, dict[str, object]], tmp_path: Path
) -> None:
    """Paths, kinds, modes, owners, links, content and config are those that BuildKit has made."""
    write_context(tmp_path, case)
    if "error" in observed[case.name]:
        with pytest.raises(SpecInvalid):
            builds.build(tmp_path)
        return
    record = builds.build(tmp_path)
    assert described(builds.layers(record), builds.config(record)) == observed[case.name]
