"""Hashes that are remembered, and those that must not be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_containers.images.build.hashes import Hashes
from tests.images.build.plain import Site

_SECOND = 10**9
_NOW = 1_000 * _SECOND


@pytest.fixture
def hashes(tmp_path: Path) -> Callable[[], Hashes]:
    """Return a function that opens the hashes of one file, as another process would."""
    return lambda: Hashes(tmp_path / "hashes", now_ns=lambda: _NOW)


def _fail() -> str:
    raise AssertionError("it was read again")


def test_hash_of_a_settled_file_is_remembered(hashes: Callable[[], Hashes]) -> None:
    """A file that was read long after its last change is not read again, in later processes neither."""
    first = hashes()
    assert first.of((1, 2), _NOW - 10 * _SECOND, lambda: "abc") == "abc"
    assert first.of((1, 2), _NOW - 10 * _SECOND, _fail) == "abc"
    first.save()
    assert hashes().of((1, 2), _NOW - 10 * _SECOND, _fail) == "abc"


@pytest.mark.parametrize("changed_ns", [_NOW, _NOW - _SECOND, _NOW + 100 * _SECOND])
def test_hash_of_a_file_just_changed_is_not_remembered(hashes: Callable[[], Hashes], changed_ns: int) -> None:
    """Where another change could hide behind the same time, the file is read each time."""
    found = hashes()
    assert found.of((1, 2), changed_ns, lambda: "abc") == "abc"
    assert found.of((1, 2), changed_ns, lambda: "other") == "other"


def test_hashes_that_are_damaged_are_none(hashes: Callable[[], Hashes], tmp_path: Path) -> None:
    """A file that holds something else is as if it were not there."""
    (tmp_path / "hashes").write_bytes(b"[1")
    assert hashes().of((1, 2), 0, lambda: "abc") == "abc"


def test_large_file_changed_with_its_old_time_is_noticed(site: Site) -> None:
    """Same size, same modification time, other bytes: the step is made anew."""
    (site.context / "large").write_bytes(b"1" * 200_000)
    os.utime(site.context / "large", (1000, 1000))
    before = site.top("FROM base", "COPY large /")
    with (site.context / "large").open("r+b") as file:
        file.write(b"2")
    os.utime(site.context / "large", (1000, 1000))
    assert site.top("FROM base", "COPY large /") != before
