"""What an image of any size costs in memory: the same little."""

from __future__ import annotations

import hashlib
import itertools
import json
import zlib
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import OCI_CONFIG, OCI_LAYER_GZIP, Descriptor, Manifest, write_config
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference
from pytest_containers.spec import ImageConfig
from tests.images.conftest import TarBuilder, header

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_containers.images.store import Store
    from tests.plugins.registries import RegistryStarter

LAYER_BYTES: Final = 256 << 20
LIMIT_BYTES: Final = 150 << 20
# VmHWM and not getrusage(2): the latter begins with what the process had before execve(2), which in a
# child of pytest is the size of pytest.
MEASURE: Final = """
import json, pathlib, sys
from pytest_containers.images.load import load
from pytest_containers.images.pull import pull
from pytest_containers.images.push import push
from pytest_containers.images.reference import Reference
from pytest_containers.images.save import save
from pytest_containers.images.store import Store
from pytest_containers.images.transport import Settings
what, root, name, archive = sys.argv[1:]
store, reference, settings = Store.open(pathlib.Path(root)), Reference.parse(name), Settings(environ={})
if what == "push": push(store, reference, settings=settings)
if what == "pull": store.layers(pull(store, reference, settings=settings))
if what == "save": save(store, [reference], pathlib.Path(archive))
if what == "load": store.layers(load(store, pathlib.Path(archive))[0])
status = pathlib.Path("/proc/self/status").read_text().splitlines()
print(json.dumps([int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:")]))
"""


def large_layer() -> Iterator[bytes]:
    """Yield the tar of one large file; what is in it packs well, so that little travels."""
    block = hashlib.shake_256(b"block").digest(4 << 10) * 256
    yield header(b"large", b"0", LAYER_BYTES)
    yield from itertools.repeat(block, LAYER_BYTES >> 20)
    yield bytes(1024)


def write_plain_archive(path: Path, reference: str, config: bytes) -> None:
    """Write a docker archive whose layer is not packed, as podman and skopeo do."""
    entry = {"Config": "config", "RepoTags": [reference], "Layers": ["layer"]}
    files = TarBuilder().file("manifest.json", json.dumps([entry]).encode()).file("config", config)
    with path.open("wb") as archive:
        archive.write(files.bytes(end=False))
        archive.write(header(b"layer", b"0", 512 + LAYER_BYTES + 1024))
        archive.writelines(large_layer())
        archive.write(bytes(1024))


def put_large(store: Store, reference: str) -> bytes:
    """Put an image of one large layer into a store; return its config."""
    packer, plain = zlib.compressobj(1, wbits=31), hashlib.sha256()
    with store.blobs.create() as blob:
        for piece in large_layer():
            plain.update(piece)
            blob.write(packer.compress(piece))
        blob.write(packer.flush())
        digest, size = blob.commit()
    settings = ImageConfig(architecture=Platform.host().architecture)
    config = write_config(settings, [Digest(f"sha256:{plain.hexdigest()}")])
    manifest = Manifest(
        config=Descriptor(media_type=OCI_CONFIG, digest=store.blobs.add(config), size=len(config)),
        layers=(Descriptor(media_type=OCI_LAYER_GZIP, digest=digest, size=size),),
    )
    store.tag(Reference.parse(reference), manifest.encode())
    return config


@pytest.mark.kernel
def test_memory_is_bounded_whatever_the_size_of_a_layer(
    start_registry: RegistryStarter,
    store: Store,
    python: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    """Push, pull, save and load of 256 MiB, packed or not, stay below 150 MiB each, Python and all."""
    name = f"{start_registry()}/large:1"
    write_plain_archive(tmp_path / "plain", name, put_large(store, name))
    peaks: dict[str, int] = {}
    for what, root, archive in (
        ("push", store.root, ""),
        ("pull", tmp_path / "b", ""),
        ("save", store.root, tmp_path / "archive"),
        ("load", tmp_path / "c", tmp_path / "archive"),
        ("load", tmp_path / "d", tmp_path / "plain"),
    ):
        out, err = python(MEASURE, what, root, name, archive).communicate(timeout=120)
        assert out, f"{what}\n{err}"
        (peaks[f"{what} {archive}"],) = json.loads(out)
    assert max(peaks.values()) <= LIMIT_BYTES, peaks
