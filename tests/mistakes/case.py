"""A mistake of a user's, by the words of docs/errors.md, with the test that makes it and what it is told.

The body of a test knows ``FAULTS`` (the registry of plugins/faults.py), ``DIGEST`` (what its
``wrong-manifest`` should be) and, where test_bad_input.py says so, ``REGISTRY``, a real one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A mistake by the words of the page, the body of a test that makes it, and what must be said."""

    mistake: str
    body: str
    kind: str
    words: tuple[str, ...]

    @property
    def fixtures(self) -> str:
        """What the test asks for."""
        return ", ".join(name for name in ("container", "images") if re.search(rf"\b{name}\b[.(]", self.body))


def case(mistake: str, body: str, kind: str, *words: str) -> Case:
    """Return a case."""
    return Case(mistake=mistake, body=body, kind=kind, words=words)


def starts(arguments: str) -> str:
    """Return the body that starts one container."""
    return f"container({arguments})"
