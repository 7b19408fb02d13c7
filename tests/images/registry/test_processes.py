"""Many processes on one store: what overlaps travels and is unpacked once, whoever dies."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pytest_containers.images.pull import pull
from pytest_containers.images.reference import Reference

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from pytest_containers.images.store import Store
    from pytest_containers.images.transport import Settings
    from tests.images.registry.conftest import Answer, Asked, Faulty, ImageMaker

PATIENCE_S: Final = 30
PULL: Final = """
import json, pathlib, sys
from pytest_containers.images.pull import pull
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.images.transport import Settings
unpacked = []
def watch(event):
    if event.phase == "unpack" and event.done_bytes == event.total_bytes:
        unpacked.append(event.subject)
store = Store.open(pathlib.Path(sys.argv[1]))
record = pull(store, Reference.parse(sys.argv[2]), settings=Settings(environ={}), watch=watch)
print(json.dumps([unpacked, [sorted(p.name for p in layer.iterdir()) for layer in store.layers(record)]]))
"""


def wait(condition: Callable[[], bool]) -> None:
    """Return when *condition* holds; fail where it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def test_overlapping_images_are_pulled_once_by_eight_processes_and_a_killed_one(
    faulty: Faulty,
    make_image: ImageMaker,
    store: Store,
    python: Callable[..., subprocess.Popen[str]],
) -> None:
    """Each blob travels once and each chain is unpacked once, also when the first process is killed."""
    images = [make_image(b"base" * 5000, b"middle", b"own %d" % number) for number in range(3)]
    for number, image in enumerate(images):
        faulty.hold(f"app-{number}", image)
    base = images[0].manifest.layers[0].digest
    paths = {f"/v2/app-{number}/blobs/{base}" for number in range(3)}
    go_on, begun = threading.Event(), threading.Event()
    whole = faulty.ranged(images[0].blobs[base])

    def held_once(asked: Asked) -> Answer:
        if begun.is_set():
            return whole(asked)
        begun.set()
        return replace(whole(asked), hold=go_on)

    for path in paths:
        faulty.on("GET", path, held_once)
    first = python(PULL, store.root, f"{faulty.host}/app-0")
    assert begun.wait(PATIENCE_S)
    # All but the held layer is here, and of that a part.
    wait(lambda: all(store.blobs.has(digest) for digest in images[0].blobs if digest != base))
    wait(lambda: any(path.stat().st_size for path in (store.root / "ingest").iterdir()))
    others = [python(PULL, store.root, f"{faulty.host}/app-{number % 3}") for number in range(8)]
    manifests = {f"/v2/app-{number}/manifests/latest" for number in range(3)}
    wait(lambda: sum(path in manifests for path in faulty.paths("GET")) == 9)
    assert not store.blobs.has(base)
    assert list(store.chains.all()) == []
    assert store.list() == ()
    first.kill()
    first.communicate()
    said = [other.communicate(timeout=PATIENCE_S) for other in others]
    go_on.set()
    told = [json.loads(out) for out, err in said if out or not err]
    assert len(told) == 8, said
    # The held layer came in two parts: what the killed process had, and the rest.
    travelled = Counter(path.rpartition("/")[2] for path in faulty.paths("GET") if "/blobs/" in path)
    blobs = {digest for image in images for digest in image.blobs}
    assert travelled == {str(digest): 1 + (digest == base) for digest in blobs}
    (rest,) = [asked for asked in faulty.asked if asked.path in paths and "range" in asked.headers]
    assert (
        0 < int(rest.headers["range"].removeprefix("bytes=").removesuffix("-")) < len(images[0].blobs[base])
    )
    unpacked = [digest for layers, _ in told for digest in layers]
    assert sorted(unpacked) == sorted({layer.digest for image in images for layer in image.manifest.layers})
    assert all(files == [["file-0"], ["file-1"], ["file-2"]] for _, files in told)
    assert [record.reference for record in store.list()] == [
        f"{faulty.host}/app-{n}:latest" for n in range(3)
    ]
    assert list((store.root / "ingest").iterdir()) == []


def test_pull_that_was_killed_is_not_seen_and_is_finished_by_the_next(
    faulty: Faulty,
    make_image: ImageMaker,
    store: Store,
    settings: Settings,
    python: Callable[..., subprocess.Popen[str]],
) -> None:
    """Layers that were unpacked before the kill stay, the image has no name before it is whole."""
    image = make_image(b"first", b"second")
    faulty.hold("app", image)
    last = image.manifest.layers[1].digest
    go_on = threading.Event()
    whole = faulty.ranged(image.blobs[last])
    path = f"/v2/app/blobs/{last}"
    faulty.on("GET", path, lambda asked: replace(whole(asked), hold=go_on), whole)
    killed = python(PULL, store.root, f"{faulty.host}/app")
    wait(lambda: len(list(store.chains.all())) == 1 and path in faulty.paths("GET"))
    killed.kill()
    killed.communicate()
    go_on.set()
    assert store.find(Reference.parse(f"{faulty.host}/app")) is None
    record = pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert [len(list(layer.iterdir())) for layer in store.layers(record)] == [1, 1]
    counted = Counter(path for path in faulty.paths("GET") if "/blobs/" in path)
    assert counted == {f"/v2/app/blobs/{digest}": 1 + (digest == last) for digest in image.blobs}
