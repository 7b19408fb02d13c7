"""A ceiling that is shared by several owners, so that one of them cannot use all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Quota"]

Owner = TypeVar("Owner", bound=Hashable)


class Quota(Generic[Owner]):
    """Counts what each owner has of *limit* things.

    An owner may have one more as long as it has fewer than are free: one owner gets half of the
    limit, two get a third each, and something is always left for the next one. This is the dynamic
    threshold of shared-memory switches with the factor 1 (Choudhury and Hahne, "Dynamic Queue
    Length Thresholds", IEEE/ACM Transactions on Networking 6(2), 1998).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: Counter[Owner] = Counter()
        self._total = 0

    def room(self, owner: Owner) -> bool:
        """Return whether *owner* may take one more."""
        return self._taken[owner] < self._limit - self._total

    def take(self, owner: Owner) -> bool:
        """Count one more for *owner*; return False, and count nothing, where it may not have it."""
        if not self.room(owner):
            return False
        self._taken[owner] += 1
        self._total += 1
        return True

    def give_back(self, owner: Owner) -> None:
        """Count one less for *owner*, which has taken one."""
        self._taken[owner] -= 1
        self._total -= 1
        if not self._taken[owner]:
            del self._taken[owner]
