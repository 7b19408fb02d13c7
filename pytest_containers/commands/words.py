"""Arguments that several commands read alike."""

from __future__ import annotations

import os
from collections.abc import Sequence

__all__ = ["variables"]


def variables(given: Sequence[str]) -> dict[str, str]:
    """Read NAME=VALUE; a bare NAME takes this process's value, and is left out where it has none.

    Source: ``docker run --env``, ``docker build --build-arg``.
    """
    pairs = (entry.partition("=") for entry in given)
    found = ((name, value if equals else os.environ.get(name)) for name, equals, value in pairs)
    return {name: value for name, value in found if value is not None}
