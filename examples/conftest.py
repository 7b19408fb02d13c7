"""What the examples share: a Redis that is made by this machine's own package manager, once."""

from __future__ import annotations

import pytest

from pytest_containers import Container, container_fixture

# Debian starts a service when its package is installed, unless this program says 101: not allowed
# (invoke-rc.d(8), policy-rc.d).
_NO_SERVICES = b"#!/bin/sh\nexit 101\n"

workshop = container_fixture("host", scope="session", name="workshop", command=["sleep", "infinity"])


@pytest.fixture(scope="session")
def redis_image(workshop: Container) -> str:
    """Install Redis inside a container, and make an image of what that changed."""
    workshop.write_bytes("/usr/sbin/policy-rc.d", _NO_SERVICES, mode=0o755)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    workshop.exec(["apt-get", "update"], check=True)
    workshop.exec("apt-get install -y --no-install-recommends redis-server", env=quiet, check=True)
    server = "redis-server --bind 0.0.0.0 --protected-mode no --save ''"
    workshop.commit("redis-example", command=server, ports=[6379])
    return "redis-example"
