"""What every test may ask for, by subject."""

from __future__ import annotations

pytest_plugins = (
    "pytester",
    "tests.plugins.authority",
    "tests.plugins.clock",
    "tests.plugins.images",
    "tests.plugins.oracles",
    "tests.plugins.registries",
    "tests.plugins.sources",
    "tests.plugins.traces",
)
