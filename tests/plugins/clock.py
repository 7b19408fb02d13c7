"""Deadlines of tests, longer where the machine is slow by nature, as one that is emulated."""

from __future__ import annotations

import os

__all__ = ["scaled"]


def _factor() -> float:
    return float(os.environ.get("PYTEST_CONTAINERS_TEST_CLOCK") or "1")


def scaled(seconds: float) -> float:
    """Return *seconds* times ``PYTEST_CONTAINERS_TEST_CLOCK``, which is 1 where it is not set."""
    return seconds * _factor()


def pytest_configure() -> None:
    """Let Hypothesis take its time as well: to draw an example slowly is no fault there."""
    if _factor() > 1:
        from hypothesis import HealthCheck, settings

        settings.register_profile("slow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("slow")
