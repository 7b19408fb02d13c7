"""Where a download goes."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Sink"]


class Sink(Protocol):
    """Bytes that grow at the end; the store's blob writer is one."""

    @property
    def offset(self) -> int:
        """The number of bytes that are there."""

    def write(self, data: bytes, /) -> object:
        """Add bytes to the end."""

    def restart(self) -> object:
        """Forget what is there."""
