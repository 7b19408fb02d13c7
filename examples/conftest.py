"""What the examples share: images that their Dockerfiles make, once; later runs find them cached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_containers.shelf import Shelf

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def redis_image(images: Shelf) -> str:
    """Return the image that redis/Dockerfile makes."""
    return images.build(HERE / "redis", "redis-example").reference


@pytest.fixture(scope="session")
def application_image(images: Shelf) -> str:
    """Return the image that application/Dockerfile makes."""
    return images.build(HERE / "application", "application-example").reference
