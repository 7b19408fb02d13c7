"""Images that are made once, out of Debian's packages, by way of our own containers.

They are kept between runs in a store of their own: ``PYTEST_CONTAINERS_TEST_STORE``, else
``pytest-containers-tests`` in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from pytest_containers import Container, ContainerFactory
    from pytest_containers.shelf import Shelf

_NO_SERVICES: Final = b"#!/bin/sh\nexit 101\n"  # policy-rc.d of invoke-rc.d(8): install, do not start
_QUIET: Final = {"DEBIAN_FRONTEND": "noninteractive"}
_REDIS: Final = ("redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "")
_REGISTRY: Final = ("docker-registry", "serve", "/etc/registry.yml")
_REGISTRY_SETTINGS: Final = """
version: 0.1
storage: {filesystem: {rootdirectory: /srv/registry}, delete: {enabled: true}}
http: {addr: ":5000"}
"""
_MIRRORS: Final = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
_BOOTSTRAP: Final = (
    "mmdebstrap",
    "--variant=apt",
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")),
    "",  # the suite: what standard input names
    "/root/base.tar",
    "-",
)


@contextlib.contextmanager
def workshop(container: ContainerFactory, image: str, *packages: str) -> Iterator[Container]:
    """Lend a container of *image* in which Debian's *packages* are installed and not started."""
    # What apt fetches goes to memory, of which no image is made.
    caches = ["/var/cache/apt", "/var/lib/apt/lists"]
    box = container(image, command=["sleep", "infinity"], privileged="mmdebstrap" in packages, tmpfs=caches)
    try:
        box.write_bytes("/usr/sbin/policy-rc.d", _NO_SERVICES, mode=0o755)
        box.exec(["apt-get", "update"], check=True)
        install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
        box.exec(install, env=_QUIET, check=True)
        yield box
    finally:
        box.remove()


def made_once(images: Shelf, reference: str, make: Callable[[], None]) -> str:
    """Return *reference*, made now where no run and no other worker has made it before."""
    from pytest_containers._files import locked
    from pytest_containers.errors import ImageNotFound

    store = Path(os.environ["PYTEST_CONTAINERS_STORE"])
    store.mkdir(parents=True, exist_ok=True)
    with locked(store / f"{reference.replace(':', '-')}.lock"):
        try:
            images.pull(reference, policy="never")
        except ImageNotFound:
            make()
    return reference


@pytest.fixture(scope="session")
def redis_image(container: ContainerFactory, images: Shelf) -> str:
    """Return an image of Redis that stands on this machine's files."""

    def make() -> None:
        with workshop(container, "host", "redis-server") as box:
            box.commit("redis-host", command=_REDIS, ports=[6379])

    return made_once(images, "redis-host", make)


@pytest.fixture(scope="session")
def debian_image(container: ContainerFactory, images: Shelf, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a portable Debian, bootstrapped from the mirrors that this machine uses."""
    from pytest_containers.spec import ImageConfig

    def make() -> None:
        with workshop(container, "host", "mmdebstrap") as box:
            ask = ["apt-get", "indextargets", "Identifier: Packages", "Origin: Debian", "--format", _MIRRORS]
            box.exec(_BOOTSTRAP, stdin=box.exec(ask, check=True).stdout, check=True)
            tar = box.copy_out("/root/base.tar", tmp_path_factory.mktemp("debian"))
        images.import_tar(tar, "debian:bookworm", config=ImageConfig(command=("/bin/bash",)))

    return made_once(images, "debian:bookworm", make)


@pytest.fixture(scope="session")
def portable_redis_image(container: ContainerFactory, images: Shelf, debian_image: str) -> str:
    """Return an image of Redis that any machine of this architecture can run."""

    def make() -> None:
        with workshop(container, debian_image, "redis-server") as box:
            box.commit("redis:7-debian", command=_REDIS, ports=[6379])

    return made_once(images, "redis:7-debian", make)


@pytest.fixture(scope="session")
def registry_image(container: ContainerFactory, images: Shelf, debian_image: str) -> str:
    """Return an image of Debian's docker-registry, which reads ``/etc/registry.yml``."""

    def make() -> None:
        with workshop(container, debian_image, "docker-registry") as box:
            box.write_text("/etc/registry.yml", _REGISTRY_SETTINGS)
            box.commit("registry:debian", command=_REGISTRY, ports=[5000])

    return made_once(images, "registry:debian", make)


@pytest.fixture(scope="session")
def registry(container: ContainerFactory, registry_image: str) -> str:
    """Return ``127.0.0.1:port`` of Debian's docker-registry, empty and for this worker alone."""
    # Plain HTTP is for loopback alone, so the registry is given a port there.
    return str(container(registry_image).address(5000, published=True))


def pytest_configure() -> None:
    """Keep the suite's images apart from the user's."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    store = os.environ.get("PYTEST_CONTAINERS_TEST_STORE") or f"{cache}/pytest-containers-tests"
    os.environ["PYTEST_CONTAINERS_STORE"] = store
