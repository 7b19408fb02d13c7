"""Arguments that several commands read alike."""

from __future__ import annotations

import os
from collections.abc import Sequence

__all__ = ["variables"]


def variables(given: Sequence[str]) -> dict[str, str]:
    """Read NAME=VALUE; a bare NAME takes this process's value (docker run --env)."""
    pairs = (entry.partition("=") for entry in given)
    return {name: value if equals else os.environ.get(name, "") for name, equals, value in pairs}
