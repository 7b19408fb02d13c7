"""Servers that send a trickle: each try has an end, and the pull goes on or says so.

The clock is the test's own: each piece of a body takes a second by it, whatever it took.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import ImageNotFound, RegistryError
from pytest_containers.images.pull import pull
from pytest_containers.images.reference import Reference
from pytest_containers.images.transport import Transport

if TYPE_CHECKING:
    from pytest_containers.images.store import Store
    from pytest_containers.images.transport import Settings
    from tests.images.registry.conftest import Answer, Asked, Faulty, Image, ImageMaker


@pytest.fixture
def slow(settings: Settings) -> Settings:
    """Settings by whose clock everything comes slowly."""
    ticks = itertools.count()
    return replace(settings, floor_bytes_per_s=1 << 20, floor_window_s=1.0, clock=lambda: float(next(ticks)))


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """What a server waits for in the middle of a body, until the test ends."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def image(faulty: Faulty, make_image: ImageMaker) -> Image:
    """An image of one layer that the fault server holds as ``app``."""
    made = make_image(bytes(range(256)) * 16)
    faulty.hold("app", made)
    return made


def trickle(faulty: Faulty, image: Image, held: threading.Event, *then: Answer) -> str:
    """Let the layer come as one half of what is asked for, then nothing; return its path."""
    layer = image.manifest.layers[0].digest
    whole = faulty.ranged(image.blobs[layer])

    def half(asked: Asked) -> Answer:
        return replace(whole(asked), hold=held)

    path = f"/v2/app/blobs/{layer}"
    faulty.on("GET", path, half, *([whole] if then else []))
    return path


def test_slow_download_goes_on_where_it_broke(
    faulty: Faulty, image: Image, held: threading.Event, store: Store, slow: Settings
) -> None:
    """A body that comes too slowly has broken off: the rest is asked for again."""
    path = trickle(faulty, image, held, faulty.answer())
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=slow)
    first, second = [asked for asked in faulty.asked if asked.path == path]
    assert "range" not in first.headers
    assert second.headers["range"] == f"bytes={image.manifest.layers[0].size // 2}-"


def test_slow_download_is_given_up_although_it_goes_on(
    faulty: Faulty, image: Image, held: threading.Event, store: Store, slow: Settings
) -> None:
    """A trickle is no progress: after the settings' number of tries the error says how slow it was."""
    path = trickle(faulty, image, held)
    with pytest.raises(RegistryError, match="is too slow") as caught:
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=slow)
    assert faulty.paths("GET").count(path) == slow.attempts
    assert re.fullmatch(
        r"only [0-9]+ bytes in [0-9.]+ s; the floor is 1048576 bytes/s \(4 tries\)", caught.value.seen
    )
    assert "mirror" in caught.value.mend


def test_slow_mirror_is_left_for_the_next_place(
    faulty: Faulty, other: Faulty, image: Image, held: threading.Event, store: Store, slow: Settings
) -> None:
    """What a slow mirror gave is kept, and the next place gives the rest."""
    path = trickle(faulty, image, held)
    other.hold("app", image)
    mirrored = replace(slow, mirrors={other.host: (faulty.host,)})
    pull(store, Reference.parse(f"{other.host}/app"), settings=mirrored)
    assert faulty.paths("GET").count(path) == slow.attempts
    (asked,) = [asked for asked in other.asked if asked.path == path]
    assert asked.headers["range"].startswith("bytes=")


def test_slow_manifest_is_told(
    faulty: Faulty, image: Image, held: threading.Event, store: Store, slow: Settings
) -> None:
    """The floor holds for everything that has a body."""
    faulty.on("GET", "/v2/app/manifests/latest", faulty.answer(body=image.data, hold=held))
    with pytest.raises(RegistryError, match="is too slow"):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=slow)


def test_slow_words_of_a_refusal_are_left_out(
    faulty: Faulty, held: threading.Event, store: Store, slow: Settings
) -> None:
    """A refusal is known by its status; that its text does not come holds nothing up."""
    faulty.on("GET", "/v2/app/manifests/latest", replace(faulty.refusal(404, "UNKNOWN"), hold=held))
    with pytest.raises(ImageNotFound, match="does not exist"):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=slow)


def test_slow_body_that_nobody_reads_holds_nothing_up(
    faulty: Faulty, held: threading.Event, slow: Settings
) -> None:
    """To keep a connection, what is left of a small body is read, but not for longer than the floor."""
    faulty.on("GET", "/x", faulty.answer(body=b"x" * 1000, hold=held))
    with Transport(slow) as transport:
        transport.send("GET", f"{faulty.url}/x").close()
        faulty.on("GET", "/x", faulty.answer(body=b"y"))
        with transport.send("GET", f"{faulty.url}/x") as reply:
            assert reply.read(10) == b"y"


@pytest.mark.parametrize("head", [b"HTTP/1.1 2", b"HTTP/1.1 200 Told\r\nX-Long: "])
def test_slow_head_is_no_reply(
    faulty: Faulty, held: threading.Event, store: Store, settings: Settings, head: bytes
) -> None:
    """A status line or header that trickles is given up, though a byte comes before each timeout."""
    faulty.on("GET", "/v2/app/manifests/latest", faulty.answer(raw=head, hold=held))
    short = replace(settings, floor_window_s=0.1, attempts=2)
    with pytest.raises(RegistryError, match="broke off") as caught:
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=short)
    assert caught.value.seen == "the head of the reply comes too slowly (2 tries)"
