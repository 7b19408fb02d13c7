"""Deadlines of tests, longer where the machine is slow by nature, as one that is emulated."""

from __future__ import annotations

import os

__all__ = ["scaled"]


def scaled(seconds: float) -> float:
    """Return *seconds* times ``PYTEST_CONTAINERS_TEST_CLOCK``, which is 1 where it is not set."""
    return seconds * float(os.environ.get("PYTEST_CONTAINERS_TEST_CLOCK") or "1")
