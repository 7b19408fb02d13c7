"""Progress of pull and push: every blob to its end, from several threads."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_containers.images.pull import pull
from pytest_containers.images.push import push
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_containers.images.transport import Settings
    from tests.images.registry.conftest import Faulty, ImageMaker
    from tests.plugins.registries import RegistryStarter


def ends(seen: list[Progress], phase: str) -> dict[str, int]:
    """Return which subjects came to their end in a phase, and with how many bytes."""
    return {e.subject: e.done_bytes for e in seen if e.phase == phase and e.done_bytes == e.total_bytes}


@pytest.mark.kernel
def test_push_and_pull_tell_every_blob_to_its_end(
    start_registry: RegistryStarter, make_image: ImageMaker, store: Store, settings: Settings, tmp_path: Path
) -> None:
    """Uploads, downloads and unpacks end with the blob's size; what is there already ends at once."""
    image = make_image(b"one" * 100_000, b"two")
    sizes = {digest: len(blob) for digest, blob in image.blobs.items()}
    layers = {layer.digest: layer.size for layer in image.manifest.layers}
    name = image.put(store, f"{start_registry()}/app:1")
    seen: list[Progress] = []
    push(store, name, settings=replace(settings, upload_chunk_bytes=100), watch=seen.append)
    assert ends(seen, "upload") == sizes
    seen.clear()
    push(store, name, settings=settings, watch=seen.append)
    assert ends(seen, "upload") == sizes
    seen.clear()
    pull(Store.open(tmp_path / "other"), name, settings=settings, watch=seen.append)
    assert ends(seen, "download") == sizes
    assert ends(seen, "unpack") == layers
    assert len([event for event in seen if event.done_bytes == event.total_bytes]) == len(sizes) + len(layers)


def test_broken_download_tells_what_is_there(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """A connection that breaks is no end; the bytes go on where they were."""
    image = make_image(bytes(range(256)) * 4000)
    faulty.hold("app", image)
    layer = image.manifest.layers[0]
    blob = image.blobs[layer.digest]
    cut = faulty.answer(body=blob, cut=len(blob) // 2)
    faulty.on("GET", f"/v2/app/blobs/{layer.digest}", cut, faulty.ranged(blob))
    seen: list[Progress] = []
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings, watch=seen.append)
    told = [event.done_bytes for event in seen if (event.subject, event.phase) == (layer.digest, "download")]
    assert told == sorted(told)
    assert told.count(layer.size) == 1


def test_pull_can_be_stopped_by_who_watches(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """What the callback raises in a thread of the pull comes out of it, and nothing is named."""
    image = make_image(b"one", b"two")
    faulty.hold("app", image)
    threads: set[str] = set()

    def stop(event: Progress) -> None:
        threads.add(threading.current_thread().name)
        if event.phase == "download":
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings, watch=stop)
    assert store.list() == ()
    assert threads
