"""What attack tests share: the engine, containers and shell of the runtime's own tests."""

from __future__ import annotations

from tests.runtime.conftest import apart, boxes, engine, fork, idle, program, sh

__all__ = ["apart", "boxes", "engine", "fork", "idle", "program", "sh"]
