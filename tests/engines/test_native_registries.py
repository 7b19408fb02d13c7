"""The native engine's registries: mirrors, plain http, lock files, and what is told offline."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers import Container, ImageNotFound, RegistryError
from pytest_containers.catalog import Catalog
from pytest_containers.session import RunPlace, Session, Settings, native_engine

if TYPE_CHECKING:
    from pytest_containers import ContainerFactory
    from tests.plugins.authority import Authority
    from tests.plugins.registries import RegistryStarter

pytestmark = pytest.mark.kernel


def _session(tmp_path: Path, store: str, given: Mapping[str, str] | None = None) -> Session:
    settings = Settings.of({"store": str(tmp_path / store), **(given or {})})
    place = RunPlace(folder=tmp_path / "run", owner_pid=os.getpid())
    return Session(
        settings=settings, catalog=Catalog.read(), open_engine=lambda: native_engine(settings, place)
    )


def _publish(tmp_path: Path, name: str, *contents: bytes, given: Mapping[str, str] | None = None) -> str:
    """Push an image of one file, the last content the last to be pushed; return its digest."""
    maker = _session(tmp_path, "maker", given).images
    for content in contents:
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as writer:
            entry = tarfile.TarInfo("etc/motd")
            entry.size = len(content)
            writer.addfile(entry, io.BytesIO(content))
        tar.seek(0)
        maker.import_tar(tar, name)
    return maker.push(name)


def test_locked_name_is_its_digest_wherever_the_tag_went(tmp_path: Path, registry: str) -> None:
    """A moved tag does not matter, and with warm blobs not even a registry is wanted."""
    name, lock = f"{registry}/locked:1", str(tmp_path / "containers.lock")
    first = _publish(tmp_path, name, b"first")
    lines = _session(tmp_path, "maker").engine.registries.lock((name,), file=lock)
    assert lines == (f"{name}@{first}",)
    second = _publish(tmp_path, name, b"second")
    assert _session(tmp_path, "store").images.pull(name).digest == second
    assert _session(tmp_path, "store", {"lock": lock}).images.pull(name).digest == first
    # Untagged as it is now, the first one is still named by the lock file.
    _session(tmp_path, "store").images.pull(name, policy="always")
    offline = _session(tmp_path, "store", {"lock": lock, "offline": "true"}).images
    assert offline.pull(name, policy="always").digest == first


def test_lock_without_names_renews_those_in_the_file(tmp_path: Path, registry: str) -> None:
    """What the tags mean now is written, for the platforms that were there."""
    name, lock = f"{registry}/renewed:1", str(tmp_path / "containers.lock")
    first = _publish(tmp_path, name, b"first")
    registries = _session(tmp_path, "store").engine.registries
    registries.lock((name,), file=lock)
    assert first in Path(lock).read_text()
    second = _publish(tmp_path, name, b"second")
    assert registries.lock((), file=lock) == (f"{name}@{second}",)
    assert first not in Path(lock).read_text()
    assert registries.verify(file=lock)[0].what == "not in the store"
    assert [record.digest for record in registries.pull_locked(file=lock)] == [second]
    assert registries.verify(file=lock) == ()


def test_offline_lists_all_that_the_lock_file_misses(tmp_path: Path, registry: str) -> None:
    """The first need tells every locked image that is not whole, with its blobs and their size."""
    names = tuple(f"{registry}/{name}:1" for name in ("one", "two", "three"))
    lock = str(tmp_path / "containers.lock")
    for name in names:
        _publish(tmp_path, name, name.encode())
    _session(tmp_path, "maker").engine.registries.lock(names, file=lock)
    _session(tmp_path, "store").images.pull(names[1])
    with pytest.raises(ImageNotFound) as caught:
        _session(tmp_path, "store", {"lock": lock, "offline": "true"}).images.pull(names[0])
    assert "the run is offline" in caught.value.seen
    missing = [line for line in caught.value.seen.splitlines() if "3 blobs" in line]
    assert [line.split(": 3")[0] for line in missing] == [names[0], names[2]]
    assert "pull --lock" in caught.value.mend


def test_offline_names_the_blobs_an_image_lost(tmp_path: Path, registry: str) -> None:
    """An image that is there in part is told by what is missing."""
    name = f"{registry}/lost:1"
    _publish(tmp_path, name, b"lost")
    layer = _session(tmp_path, "maker").images.inspect(name).layers[0]
    root = tmp_path / "maker"
    (root / "blobs" / "sha256" / layer.digest.partition(":")[2]).unlink()
    for folder in (root / "chains").glob("*/*/diff"):
        folder.rename(folder.with_name("gone"))
    with pytest.raises(ImageNotFound, match=f"1 blobs, .*{layer.digest[:19]}"):
        _session(tmp_path, "maker", {"offline": "true"}).images.pull(name)


def test_mirror_is_asked_before_the_registry(tmp_path: Path, registry: str) -> None:
    """A name of Docker Hub comes from a mirror, below its prefix, and keeps its name."""
    pushed = _publish(tmp_path, f"{registry}/hub/library/mirrored:1", b"hub")
    images = _session(tmp_path, "store", {"mirror": f"{registry}/hub"}).images
    record = images.pull("mirrored:1")
    assert (record.reference, record.digest) == ("docker.io/library/mirrored:1", pushed)


@pytest.fixture
def plain(container: ContainerFactory, registry_image: str) -> Container:
    """Return a registry with an address of its own, that speaks no TLS."""
    return container(registry_image)


def test_plain_http_is_for_whom_it_was_allowed(tmp_path: Path, plain: Container) -> None:
    """A registry beyond loopback is spoken to by http only where it is named insecure."""
    host = f"{plain.ip}:5000"
    pushed = _publish(tmp_path, f"{host}/app:1", b"plain", given={"insecure": host})
    with pytest.raises(RegistryError) as caught:
        _session(tmp_path, "store").images.pull(f"{host}/app:1")
    assert f"--containers-insecure={host}" in caught.value.mend
    assert _session(tmp_path, "store", {"insecure": host}).images.pull(f"{host}/app:1").digest == pushed


def test_certificates_are_taken_from_the_folder_that_is_named(
    tmp_path: Path, start_registry: RegistryStarter, authority: Authority
) -> None:
    """A registry of one's own authority is trusted where its certificate lies below its name."""
    host = start_registry(tls=authority)
    (tmp_path / "certs" / host).mkdir(parents=True)
    (tmp_path / "certs" / host / "ca.crt").write_bytes(authority.pem())
    given = {"certificates": str(tmp_path / "certs")}
    pushed = _publish(tmp_path, f"{host}/app:1", b"secured", given=given)
    with pytest.raises(RegistryError, match="certificate"):
        _session(tmp_path, "store").images.pull(f"{host}/app:1")
    assert _session(tmp_path, "store", given).images.pull(f"{host}/app:1").digest == pushed
