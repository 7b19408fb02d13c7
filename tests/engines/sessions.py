"""A session on the in-memory engine, for the tests of the floors above the seam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from pytest_containers.catalog import Catalog
from pytest_containers.container import Container
from pytest_containers.engines.base import Engine
from pytest_containers.order import Options, Order
from pytest_containers.session import Session, Settings
from tests.engines.memory import MemoryEngine

__all__ = ["launch", "open_session"]


def open_session(engine: Engine | None = None, *, given: Mapping[str, str] | None = None) -> Session:
    """Return a session of *engine*, or of a new one, under the options *given*."""
    chosen = engine or MemoryEngine()
    settings = Settings.of(given or {})
    return Session(settings=settings, catalog=Catalog.read(), open_engine=lambda: chosen)


def launch(session: Session, image: str = "host", **options: Unpack[Options]) -> Container:
    """Start a container as a test orders it."""
    return session.launch(Order.of(image, **options))
