"""What a bare name means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_containers import SpecInvalid, all_of, exchange, http, log, port
from pytest_containers.catalog import Catalog
from pytest_containers.exchanges import Exchange
from pytest_containers.spec import Port

PROJECT = """
[tool.pytest-containers.services.shop]
image = "registry.example:5000/team/shop:2"
command = ["serve", "--fast"]
ports = [8080, "53/udp"]
env = { MODE = "test", WORKERS = 2 }
[tool.pytest-containers.services.shop.ready]
http = { port = 8080, path = "/up", status = 204 }
log = { pattern = "up", times = 2, stream = "stderr" }

[tool.pytest-containers.services.redis]
image = "mirror.example/redis:6"
ready = { port = { ports = [6379] } }
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the folder of a project with services of its own."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    return tmp_path


def test_every_service_has_an_image_ports_and_a_probe() -> None:
    """What the package brings is complete: a name is enough to start it."""
    catalog = Catalog.read()
    assert "redis" in catalog.names
    for name in catalog.names:
        service, image = catalog.find(name)
        assert service is not None
        assert re.fullmatch(r"[a-z0-9./-]+:[A-Za-z0-9._-]+", image)
        assert service.ports
        assert service.ready is not None


@pytest.mark.parametrize(
    ("asked", "image"),
    [
        ("valkey", "valkey/valkey:8"),
        ("valkey:7.2", "valkey/valkey:7.2"),
        ("valkey/valkey", "valkey/valkey:8"),
        ("valkey/valkey:7", "valkey/valkey:7"),
        ("redis@sha256:0123", "redis@sha256:0123"),
    ],
)
def test_name_and_repository_find_the_service(asked: str, image: str) -> None:
    """A service is found by its name and by its image, and keeps the tag that was asked for."""
    service, found = Catalog.read().find(asked)
    assert service is not None
    assert found == image


@pytest.mark.parametrize(
    "asked", ["host", "redis-test", "127.0.0.1:5000/redis:7", "localhost:5000/x", "team/redis"]
)
def test_other_images_are_no_service(asked: str) -> None:
    """What only looks like a service is an image as it is written."""
    assert Catalog.read().find(asked) == (None, asked)


def test_project_brings_services_of_its_own(project: Path) -> None:
    """An entry of the project is read whole, and takes the place of the package's."""
    catalog = Catalog.read(project)
    shop, image = catalog.find("shop")
    assert shop is not None
    assert (image, shop.command) == ("registry.example:5000/team/shop:2", ("serve", "--fast"))
    assert (shop.ports, shop.env) == ((Port(8080), Port(53, "udp")), {"MODE": "test", "WORKERS": "2"})
    assert shop.ready == all_of(http(8080, "/up", status=204), log("up", times=2, stream="stderr"))
    assert shop.repository == "registry.example:5000/team/shop"
    redis, image = catalog.find("redis")
    assert redis is not None
    assert (image, redis.ready) == ("mirror.example/redis:6", port(6379))


def test_project_without_services_is_fine(tmp_path: Path) -> None:
    """No file, or one without our table, leaves the package's services."""
    names = Catalog.read().names
    assert Catalog.read(tmp_path).names == names
    (tmp_path / "pyproject.toml").write_text("[tool.other]\n")
    assert Catalog.read(tmp_path).names == names


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = [", "is not TOML"),
        ("[tool.pytest-containers]\nservices = 1", "has to be a table"),
        ("[tool.pytest-containers.services.a]\nports = [1]", "no image"),
        ('[tool.pytest-containers.services.a]\nimage = "a"\nimages = 1', "unknown: images"),
        ('[tool.pytest-containers.services.a]\nimage = "a"\ncommand = "ls"', "has to be a list"),
        ('[tool.pytest-containers.services.a]\nimage = "a"\nports = [0]', "is not a port"),
        ('[tool.pytest-containers.services.a]\nimage = "a"\nready.magic = {}', "no probe 'magic'"),
        ('[tool.pytest-containers.services.a]\nimage = "a"\nready.http.path = "/"', "is no probe"),
        ('[tool.pytest-containers.services.a]\nimage = "a"\nready.log.pattern = "("', "regular expression"),
    ],
)
def test_entry_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """A slip of the pen in a project's table is named with its place."""
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(SpecInvalid) as caught:
        Catalog.read(tmp_path)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("redis", b"+PONG\r\n"),
        ("redis", b"-NOAUTH Authentication required.\r\n"),
        ("postgres", b"R\x00\x00\x00\x17\x00\x00\x00\nSCRAM-SHA-256\x00\x00"),
        ("postgres", b"E\x00\x00\x00\x50SFATAL\x00VFATAL\x00C28000\x00Mno entry\x00\x00"),
        ("mysql", b"\x4a\x00\x00\x00\x0a8.4.0\x00"),
        ("rabbitmq", b"\x01\x00\x00\x00\x00\x02\x00"),
        ("zookeeper", b"Zookeeper version: 3.9\nMode: standalone\n"),
        ("nats", b'INFO {"server_id":"N"}\r\n'),
        ("memcached", b"VERSION 1.6.18\r\n"),
    ],
)
def test_probe_knows_the_service_s_answer(name: str, answer: bytes) -> None:
    """An answer of the service's protocol is ready; see each protocol's own documentation."""
    service, _ = Catalog.read().find(name)
    assert service is not None
    assert isinstance(service.ready, Exchange)
    assert service.ready.expect is not None
    assert service.ready.expect.search(answer)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("redis", b"-LOADING Redis is loading the dataset in memory\r\n"),
        (
            "postgres",
            b"E\x00\x00\x00\x50SFATAL\x00VFATAL\x00C57P03\x00Mthe database system is starting up\x00\x00",
        ),
        ("mysql", b"\x10\x00\x00\x00\xffj\x04Host is not allowed"),
        ("zookeeper", b"This ZooKeeper instance is not currently serving requests\n"),
    ],
)
def test_probe_knows_a_service_that_still_starts(name: str, answer: bytes) -> None:
    """The refusal of a server that still starts up is not ready yet."""
    service, _ = Catalog.read().find(name)
    assert service is not None
    assert isinstance(service.ready, Exchange)
    assert service.ready.expect is not None
    assert not service.ready.expect.search(answer)


def test_startup_message_has_its_own_length() -> None:
    """The PostgreSQL message begins with its length in four bytes (PostgreSQL, "Message Formats")."""
    service, _ = Catalog.read().find("postgres")
    assert service is not None
    assert isinstance(service.ready, Exchange)
    sent = service.ready.send
    assert int.from_bytes(sent[:4], "big") == len(sent)
    assert service.ready == exchange(5432, send=sent, expect=b"^R|C28")


def test_folder_is_looked_for_in_the_project_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project's folder comes first, wherever pytest runs; a service has its name for itself."""
    project, here = tmp_path / "project", tmp_path / "project" / "tests"
    for folder in (project / "app", here / "app", here / "only-here", project / "redis"):
        folder.mkdir(parents=True)
        (folder / "Dockerfile").touch()
    (project / "empty").mkdir()
    (project / "pyproject.toml").write_text('[tool.pytest-containers.services.web]\nimage = "./app"\n')
    monkeypatch.chdir(here)
    catalog = Catalog.read(project)
    found = {
        name: catalog.folder(name)
        for name in ("app", "./app", "only-here", "./only-here", "./redis", "./no", str(here), "web")
    }
    assert found == {
        "app": project / "app",
        "./app": project / "app",
        "only-here": here / "only-here",
        "./only-here": here / "only-here",
        "./redis": project / "redis",
        "./no": project / "no",
        str(here): here,
        "web": project / "app",
    }
    assert [catalog.folder(name) for name in ("redis", "redis:7", "empty", "team/app", "host")] == [None] * 5
