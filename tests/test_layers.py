"""Stacks of real packages: what changes is built, pushed and pulled, and nothing that lies below it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from pytest_containers import port

if TYPE_CHECKING:
    from pytest_containers import Container, ContainerFactory
    from pytest_containers.progress import BuildEvent
    from pytest_containers.shelf import Shelf
from pytest_containers.spec import ImageRecord

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

_LISTS: Final = "--mount=type=tmpfs,target=/var/lib/apt/lists --mount=type=tmpfs,target=/var/cache/apt"
_INSTALL: Final = f"RUN {_LISTS} apt-get update && apt-get install -y --no-install-recommends"
# policy-rc.d of invoke-rc.d(8): a package's service is installed and not started.
_BASE: Final = """FROM debian:bookworm
COPY --chmod=755 policy-rc.d /usr/sbin/
COPY apt.conf /etc/apt/apt.conf.d/99small
"""
_APACHE: Final = f"""FROM layers-base
{_INSTALL} apache2
EXPOSE 80
CMD ["apachectl", "-D", "FOREGROUND"]
"""
_PHP: Final = f"""FROM layers-apache
{_INSTALL} libapache2-mod-php php-mysql
RUN echo '<?php echo "PHP ", PHP_VERSION;' > /var/www/html/version.php
"""
# The package alone: what it recommends and depends on, a database's client, is for its administrator.
_WORDPRESS: Final = f"""FROM layers-php
ARG SUITE
RUN {_LISTS} --mount=type=tmpfs,target=/tmp cd /tmp \\
 && sed -E "s/bookworm|trixie/$SUITE/" /etc/apt/sources.list > list \\
 && apt-get -o Dir::Etc::sourcelist=/tmp/list update \\
 && apt-get -o Dir::Etc::sourcelist=/tmp/list download wordpress \\
 && dpkg-deb -x wordpress_*.deb / \\
 && ln -s /usr/share/wordpress /var/www/html/blog
COPY config-default.php /etc/wordpress/
"""
# Nothing listens at that port, so that WordPress itself says that it misses its database.
_SETTINGS: Final = """<?php
require '/usr/share/wordpress/wp-includes/version.php';
header("X-WordPress: $wp_version");
define('DB_HOST', '127.0.0.1:1');
define('DB_PASSWORD', 'none');
define('AUTH_KEY', '{key}');
"""
_PYTHON: Final = f"""FROM layers-base
{_INSTALL} python3-yaml
CMD ["python3", "/srv/app.py"]
COPY app.py /srv/
"""
# CSafeLoader is the one of libyaml, which there is only where the compiled part is.
_APP: Final = """import yaml
print(yaml.load("answer: [{answer}]", Loader=yaml.CSafeLoader)["answer"])
"""
# What a user would write who has nothing but the registry.
_USERS_TEST: Final = """
import urllib.error
import urllib.request


def test_blog(container):
    blog = container("{image}")
    try:
        urllib.request.urlopen(blog.url(path="/blog/wp-admin/install.php"), timeout=30)
    except urllib.error.HTTPError as answer:
        assert b"Error establishing a database connection" in answer.read()
    else:
        raise AssertionError("WordPress has found a database")
"""
# Requests, their headers and a manifest; a layer of packages is hundreds of times that.
_TALK_BYTES: Final = 32 << 10
_STEPS: Final = ("RUN", "COPY")


class Traffic(NamedTuple):
    """The bytes that went to a server and those that came from it."""

    up: int
    down: int


@dataclass(slots=True)
class Relay:
    """A way to the server at *target* that counts what goes over it; *host* is where it begins."""

    target: tuple[str, int]
    host: str
    _up: int = 0
    _down: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> Traffic:
        """Return what has gone over it since the last time."""
        with self._lock:
            taken = Traffic(self._up, self._down)
            self._up = self._down = 0
            return taken

    def serve(self, listening: socket.socket) -> None:
        """Carry every connection until *listening* is shut down; return when all have ended."""
        threads: list[threading.Thread] = []
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                threads.append(threading.Thread(target=self._carry, args=(client,), daemon=True))
                threads[-1].start()
        for thread in threads:
            thread.join()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server:
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            self._pump(client, server, up=True)
            back.join()

    def _pump(self, source: socket.socket, target: socket.socket, *, up: bool = False) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                with self._lock:
                    self._up += len(piece) if up else 0
                    self._down += 0 if up else len(piece)
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@dataclass(slots=True)
class Site:
    """A folder of files and Dockerfiles to build from; *made* are the steps not from the cache."""

    images: Shelf
    folder: Path
    made: list[str] = field(default_factory=list)

    def build(self, dockerfile: str, tag: str, **args: str) -> ImageRecord:
        """Build *dockerfile*, note what had to be made, and return the image."""
        (self.folder / "Dockerfile").write_text(dockerfile)
        self.made = []
        return self.images.build(self.folder, tag, args=args, watch=self._hear)

    def _hear(self, event: BuildEvent) -> None:
        instruction = event.step.partition("] ")[2]
        if event.kind == "done" and instruction.startswith(_STEPS):
            self.made.append(instruction)

    def blog(self, suite: str, tag: str) -> ImageRecord:
        """Build the WordPress of a Debian *suite*, with keys of its own."""
        (self.folder / "config-default.php").write_text(_SETTINGS.format(key=os.urandom(16).hex()))
        return self.build(_WORDPRESS, tag, SUITE=suite)

    def lower(self) -> tuple[ImageRecord, ...]:
        """Build all that WordPress stands on, the lowest first; *made* is of all of them."""
        built, made = [], []
        for name, dockerfile in (("base", _BASE), ("apache", _APACHE), ("php", _PHP)):
            built.append(self.build(dockerfile, f"layers-{name}"))
            made += self.made
        self.made = made
        return tuple(built)


@pytest.fixture
def site(images: Shelf, debian_image: str, tmp_path: Path) -> Site:
    """Return a folder with the files that the lower images copy."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (folder / "apt.conf").write_text('Acquire::Languages "none";\nDpkg::Use-Pty "0";\n')
    return Site(images, folder)


@pytest.fixture
def relay(registry: str) -> Iterator[Relay]:
    """Yield a counted way to the registry, on loopback."""
    host, _, number = registry.partition(":")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        carried = Relay((host, int(number)), f"127.0.0.1:{listening.getsockname()[1]}")
        thread = threading.Thread(target=carried.serve, args=(listening,))
        thread.start()
        yield carried
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def empty_store(tmp_path: Path) -> Iterator[Path]:
    """Yield the folder of a store that nobody has used; what is in it later is large, so it goes."""
    yield tmp_path / "store"
    shutil.rmtree(tmp_path / "store")


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Three images under names of the registry: two WordPress, and the PHP below both."""

    old: str
    new: str
    php: str


@pytest.fixture
def names(site: Site, relay: Relay) -> Iterator[Names]:
    """Yield the names of images that are built and not pushed, in repositories that are empty."""
    mark = os.urandom(6).hex()
    given = Names(
        old=f"{relay.host}/blog-{mark}:old", new=f"{relay.host}/blog-{mark}:new", php=f"{relay.host}/{mark}"
    )
    site.lower()
    site.images.tag("layers-php", given.php)
    site.blog("bookworm", given.old)
    site.blog("trixie", given.new)
    yield given
    for name in (given.old, given.new, given.php):
        site.images.remove(name)


def blobs(registry: str, reference: str) -> dict[str, int]:
    """Return what an image in the registry is made of, digests to sizes, as the registry has it."""
    repository, _, tag = reference.partition("/")[2].partition(":")
    request = urllib.request.Request(
        f"http://{registry}/v2/{repository}/manifests/{tag}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        manifest = json.load(answer)
    return {blob["digest"]: blob["size"] for blob in (manifest["config"], *manifest["layers"])}


def page(container: Container, path: str) -> tuple[str, str]:
    """Return the X-WordPress of a page, and its text."""
    with contextlib.closing(HTTPConnection(*container.address(80), timeout=30)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.headers.get("X-WordPress", ""), answer.read().decode()


def test_stack_answers_and_a_newer_top_is_all_that_is_built(container: ContainerFactory, site: Site) -> None:
    """Apache serves, PHP runs on it, WordPress on that; a newer WordPress reuses every lower layer."""
    lower = site.lower()
    versions = []
    for suite in ("bookworm", "trixie"):
        top = site.blog(suite, f"layers-{suite}")
        assert site.made[-1].startswith("COPY config-default.php")
        assert top.diff_ids[:-2] == lower[-1].diff_ids
        box = container(f"layers-{suite}", ready=port(80))
        assert page(box, "/version.php")[1].startswith("PHP 8.")
        version, text = page(box, "/blog/wp-admin/install.php")
        assert "Error establishing a database connection" in text
        versions.append([int(part) for part in version.split(".")])
        assert [image.diff_ids for image in site.lower()] == [image.diff_ids for image in lower]
        assert site.made == []
    assert versions[0] < versions[1]


def test_push_sends_only_what_the_registry_has_not(
    images: Shelf, relay: Relay, registry: str, names: Names
) -> None:
    """The first image travels whole, the second its own blobs, and the one below them none of its layers."""
    images.push(names.old)
    old = blobs(registry, names.old)
    assert sum(old.values()) <= relay.take().up < sum(old.values()) + _TALK_BYTES
    images.push(names.new)
    top = {digest: size for digest, size in blobs(registry, names.new).items() if digest not in old}
    assert len(top) == 3  # a config, the package, its settings
    assert sum(top.values()) <= relay.take().up < sum(top.values()) + _TALK_BYTES
    images.push(names.php)
    assert len(blobs(registry, f"{names.php}:latest").keys() & old.keys()) == len(old) - 3
    assert relay.take().up < _TALK_BYTES


def test_pull_fetches_only_what_the_store_has_not(
    images: Shelf, relay: Relay, registry: str, names: Names, pytester: pytest.Pytester, empty_store: Path
) -> None:
    """On an empty store one WordPress costs all its blobs, the next its own, and both answer."""
    pytester.makeini("[pytest]\naddopts = -q -p no:cacheprovider\n")
    there: dict[str, int] = {}
    for name in (names.old, names.new):
        images.push(name)
        missing = sum(size for digest, size in blobs(registry, name).items() if digest not in there)
        relay.take()
        pytester.makepyfile(_USERS_TEST.format(image=name))
        pytester.runpytest_subprocess(f"--containers-store={empty_store}").assert_outcomes(passed=1)
        assert missing <= relay.take().down < missing + _TALK_BYTES
        there |= blobs(registry, name)


def test_application_changes_on_a_stack_that_stays(container: ContainerFactory, site: Site) -> None:
    """New code on Python and a compiled package makes one layer, and it is the new code that runs."""
    site.lower()
    stacks = set()
    for number in range(3):
        answer = f"{number}, {os.urandom(6).hex()}x"
        (site.folder / "app.py").write_text(_APP.format(answer=answer))
        image = site.build(_PYTHON, "layers-python")
        assert site.made[-1] == "COPY app.py /srv/"
        assert number == 0 or len(site.made) == 1
        stacks.add(image.diff_ids[:-1])
        box = container("layers-python")
        assert box.wait(timeout=20) == 0
        assert box.logs() == f"[{number}, '{answer.split()[1]}']\n"
    assert len(stacks) == 1
