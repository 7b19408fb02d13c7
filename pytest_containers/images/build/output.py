"""The last lines that a step wrote, for the error that says why it failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["Tail"]

_KEPT_BYTES: Final = 1 << 14
_LINES: Final = 20


class Tail:
    """Hands pieces of output on and keeps the last of them."""

    def __init__(self, onward: Callable[[bytes], None]) -> None:
        self._onward = onward
        self._kept = b""

    def add(self, piece: bytes) -> None:
        """Take a piece as it was written."""
        self._onward(piece)
        self._kept = (self._kept + piece)[-_KEPT_BYTES:]

    def text(self) -> str:
        """Return the last twenty lines."""
        return "\n".join(self._kept.decode("utf-8", "replace").splitlines()[-_LINES:])
