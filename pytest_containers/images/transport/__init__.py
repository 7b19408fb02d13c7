"""HTTP for registries: the one door to urllib3, and to tenacity in this wing.

`Settings` say how, `Transport` makes the requests, a `Reply` is one answer, a `Sink` takes a
download. Nothing here knows what a registry is.
"""

from __future__ import annotations

from pytest_containers.images.transport.client import Body, Transport
from pytest_containers.images.transport.reply import Reply
from pytest_containers.images.transport.settings import Settings
from pytest_containers.images.transport.sink import Sink

__all__ = ["Body", "Reply", "Settings", "Sink", "Transport"]
