"""Those who do the same work: this project's engine, and its peers."""

from __future__ import annotations

__all__: tuple[str, ...] = ()
