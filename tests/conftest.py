"""What every test may ask for, by subject."""

from __future__ import annotations

pytest_plugins = ("pytester", "tests.plugins.images", "tests.plugins.sources", "tests.plugins.traces")
