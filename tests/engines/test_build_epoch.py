"""SOURCE_DATE_EPOCH: the same Dockerfile is the same image, wherever and whenever it is built."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import Manifest
from pytest_containers.images.store import Store
from pytest_containers.spec import ImageRecord
from tests.engines.sites import Site

pytestmark = pytest.mark.kernel

_EPOCH = 1_600_000_000
_DOCKERFILE = (
    "FROM host\n"
    "ENV GREETING=hello\n"
    "RUN mkdir -p /srv/made/deep && echo $GREETING > /srv/made/b && echo a > /srv/made/a"
    " && ln /srv/made/a /srv/made/hard && ln -s a /srv/made/soft && touch -d @1000 /srv/made/old"
    " && chown 3:4 /srv/made/deep\n"
    "COPY Dockerfile /srv/\n"
    "WORKDIR /srv/work\n"
)


@contextlib.contextmanager
def _site(folder: Path) -> Iterator[Site]:
    (folder / "site").mkdir(parents=True)
    engine = NativeEngine(store=folder / "store", run_folder=fresh_run_folder(), owner_pid=os.getpid())
    with contextlib.closing(engine):
        yield Site(engine, folder / "store", folder / "site")


def _times(site: Site, image: ImageRecord) -> Iterator[float]:
    store = Store.open(site.store)
    for layer in Manifest.parse(store.blobs.read(Digest.parse(image.digest))).layers:
        with (
            store.blobs.open(layer.digest) as blob,
            tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob.read()))) as tar,
        ):
            yield from (entry.mtime for entry in tar)


def test_build_with_an_epoch_is_one_manifest_on_two_stores(tmp_path: Path) -> None:
    """Two builds without a cache give the same bytes, and no file in them is younger than the epoch."""
    images = []
    for name in ("one", "two"):
        with _site(tmp_path / name) as site:
            image = site.build(_DOCKERFILE, args={"SOURCE_DATE_EPOCH": str(_EPOCH)}, use_cache=False)
            times = set(_times(site, image))
            assert max(times) == _EPOCH
            assert 1000 in times
            images.append(image)
    assert images[0].digest == images[1].digest
