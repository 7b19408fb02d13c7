"""Measures the budgets, beside docker, podman and testcontainers where they are installed.

``python -m benchmarks`` measures all in one run, in turns, because a figure without its neighbour on
the same machine in the same minute cannot be judged. docs/performance.md says what is measured.
"""

from __future__ import annotations

__all__: tuple[str, ...] = ()
