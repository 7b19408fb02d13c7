"""The session of a command: its settings, and the engine, opened when first asked for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pytest_containers.catalog import Catalog
from pytest_containers.engines.base import Engine
from pytest_containers.options import LOCK_NAME, SEVERAL, variable
from pytest_containers.session import Session, Settings, Telling, native_engine, run_place

__all__ = ["opened", "settings_of"]

_NAMES = ("store", "offline", "mirror", "insecure", "certificates")


@contextmanager
def opened(arguments: argparse.Namespace, telling: Telling | None = None) -> Iterator[Session]:
    """Yield a session with the settings of the command line; *telling* shows how far a pull is."""
    settings = settings_of(arguments)
    open_engine = arguments.open_engine or _native
    session = Session(
        settings=settings,
        catalog=Catalog.read(Path.cwd()),
        open_engine=lambda: open_engine(settings),
        telling=telling,
    )
    try:
        yield session
    finally:
        session.close()


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return the settings: command line over environment; a lock file in this folder is used."""
    options: Mapping[str, object] = vars(arguments)
    given: dict[str, str] = {}
    for name in _NAMES:
        value = options.get(name)
        words = " ".join(value) if name in SEVERAL and isinstance(value, list) else str(value or "")
        given[name] = words or os.environ.get(variable(name), "")
    given["lock"] = os.environ.get(variable("lock"), "") or (LOCK_NAME if Path(LOCK_NAME).is_file() else "")
    return Settings.of(given)


def _native(settings: Settings) -> Engine:
    return native_engine(settings, run_place(os.urandom(4).hex(), os.getpid()))
