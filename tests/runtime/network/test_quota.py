"""Ceilings that several owners share."""

from __future__ import annotations

import pytest

from pytest_containers.runtime.network.quota import Quota


@pytest.mark.parametrize(("owners", "share"), [(1, 50), (2, 33), (3, 25), (9, 10)])
def test_quota_leaves_as_much_free_as_each_owner_has(owners: int, share: int) -> None:
    """However greedy its owners are, each gets the same, and so does the one that comes last."""
    quota: Quota[int] = Quota(100)
    had = dict.fromkeys(range(owners), 0)
    for owner in [*range(owners)] * 100:
        had[owner] += quota.take(owner)
    assert min(had.values()) >= share
    assert sum(quota.take(-1) for _ in range(100)) >= share // 2 > 0


def test_quota_counts_what_is_given_back() -> None:
    """An owner that gives one back may take one again, and never two."""
    quota: Quota[str] = Quota(10)
    assert [quota.take("a") for _ in range(6)] == [True] * 5 + [False]
    quota.give_back("a")
    assert [quota.take("a") for _ in range(2)] == [True, False]


def test_quota_of_nothing_gives_nothing() -> None:
    """With a limit of zero nobody gets anything."""
    assert not Quota[str](0).take("a")
