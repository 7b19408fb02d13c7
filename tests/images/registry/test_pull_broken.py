"""Pull from a registry, or over a network, that breaks: what is mended, what is one clear error."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import DigestMismatch, ImageError, ImageNotFound, RegistryError
from pytest_containers.images.pull import pull
from pytest_containers.images.reference import Reference

if TYPE_CHECKING:
    from pytest_containers.images.store import Store
    from pytest_containers.images.transport import Settings
    from tests.images.registry.conftest import Answer, Asked, Faulty, Image, ImageMaker

NOISE = bytes(range(256)) * 20


@pytest.fixture
def image(make_image: ImageMaker, faulty: Faulty) -> Image:
    """An image of one layer that the fault server holds as ``app``."""
    made = make_image(NOISE)
    faulty.hold("app", made)
    return made


def blob_path(image: Image) -> str:
    """Return where the layer is asked for."""
    return f"/v2/app/blobs/{image.manifest.layers[0].digest}"


def layer(image: Image) -> bytes:
    """Return the layer's bytes."""
    return image.blobs[image.manifest.layers[0].digest]


def ranges(faulty: Faulty, image: Image) -> list[str]:
    """Return the Range of each request for the layer."""
    return [asked.headers.get("range", "") for asked in faulty.asked if asked.path == blob_path(image)]


def test_broken_download_goes_on_where_it_broke(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """A connection that is cut is followed by one that asks for the rest only."""
    faulty.on("GET", blob_path(image), faulty.answer(body=layer(image), cut=100), faulty.ranged(layer(image)))
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert ranges(faulty, image) == ["", "bytes=100-"]


def test_broken_download_goes_on_in_the_next_pull(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """What a failed pull got is not fetched again by the next one."""
    faulty.on(
        "GET", blob_path(image), faulty.answer(body=layer(image), cut=100), faulty.refusal(403, "DENIED")
    )
    with pytest.raises(ImageError):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    faulty.on("GET", blob_path(image), faulty.ranged(layer(image)))
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert ranges(faulty, image)[-1] == "bytes=100-"


def test_broken_download_begins_again_where_range_is_ignored(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """A registry that answers 200 to a Range sends the whole blob, and it is taken as that."""
    whole = faulty.answer(body=layer(image))
    faulty.on("GET", blob_path(image), faulty.answer(body=layer(image), cut=100), whole)
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert ranges(faulty, image) == ["", "bytes=100-"]


@pytest.mark.parametrize("status", [416, 206])
def test_broken_download_begins_again_where_range_is_refused(
    faulty: Faulty, image: Image, store: Store, settings: Settings, status: int
) -> None:
    """A Range that the registry cannot or does not serve as asked is not asked for twice."""
    wrong = faulty.answer(status=status, headers={"Content-Range": "bytes 7-9/10"}, body=b"abc")
    cut = faulty.answer(body=layer(image), cut=100)
    faulty.on("GET", blob_path(image), cut, wrong, faulty.answer(body=layer(image)))
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert ranges(faulty, image) == ["", "bytes=100-", ""]


def test_broken_manifest_is_asked_for_again(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """A manifest whose body breaks off is fetched anew, a bounded number of times."""
    path = "/v2/app/manifests/latest"
    whole = faulty.answer(body=image.data)
    faulty.on("GET", path, replace(whole, cut=20), replace(whole, cut=0), whole)
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert faulty.paths("GET").count(path) == 3
    faulty.on("GET", path, replace(whole, cut=20))
    with pytest.raises(RegistryError, match="broke off"):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert faulty.paths("GET").count(path) == 3 + settings.attempts


def test_broken_download_is_given_up_without_progress(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """Connections that bring nothing are tried a bounded number of times."""
    faulty.on("GET", blob_path(image), faulty.answer(body=layer(image), cut=0))
    with pytest.raises(RegistryError, match="broke off"):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert len(ranges(faulty, image)) == settings.attempts
    assert store.list() == ()


def test_slow_progress_is_progress(faulty: Faulty, image: Image, store: Store, settings: Settings) -> None:
    """A download that gains a little with each connection comes to its end, beyond the attempts."""
    data = layer(image)
    step = len(data) // 10

    def little(asked: Asked) -> Answer:
        served = faulty.ranged(data)(asked)
        return replace(served, cut=step) if len(served.body) > step else served

    faulty.on("GET", blob_path(image), little)
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert len(ranges(faulty, image)) > settings.attempts


def test_wrong_bytes_are_refused_and_not_kept(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """Bytes of the right number and another digest are refused; nothing of them stays."""
    faulty.on("GET", blob_path(image), faulty.answer(body=layer(image)[::-1]))
    with pytest.raises(DigestMismatch):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert store.list() == ()
    assert not store.blobs.has(image.manifest.layers[0].digest)
    faulty.on("GET", blob_path(image), faulty.ranged(layer(image)))
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert ranges(faulty, image)[-1] == ""


def test_wrong_bytes_of_an_earlier_pull_are_overcome(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """A part that turns out wrong at the end costs one more download, not an error."""
    digest = image.manifest.layers[0].digest
    with store.blobs.receive(digest, len(layer(image))) as writer:
        writer.write(b"\0" * 50)
    faulty.on("GET", blob_path(image), faulty.ranged(layer(image)))
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert ranges(faulty, image) == ["bytes=50-", ""]


@pytest.mark.parametrize("change", [b"", b"x"])
def test_wrong_length_is_refused_before_it_is_read(
    faulty: Faulty, image: Image, store: Store, settings: Settings, change: bytes
) -> None:
    """A blob that is announced shorter or longer than its descriptor says is refused at once."""
    data = layer(image) + change if change else layer(image)[:-1]
    faulty.on("GET", blob_path(image), faulty.answer(body=data))
    with pytest.raises(DigestMismatch, match="wrong size") as caught:
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)
    assert str(len(layer(image))) in str(caught.value)
    assert len(ranges(faulty, image)) == 1


def test_wrong_length_is_refused_where_no_length_is_announced(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """A body without end is not read beyond the size that is due."""
    faulty.on("GET", blob_path(image), faulty.answer(body=layer(image) * 3, length=False))
    with pytest.raises(DigestMismatch, match="wrong size"):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)


def test_chunked_body_that_is_too_short_is_refused(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """A chunked body that ended in order and lacks bytes is wrong, not broken."""
    body = b"5\r\nhello\r\n0\r\n\r\n"
    faulty.on("GET", blob_path(image), faulty.answer(headers={"Transfer-Encoding": "chunked"}, body=body))
    with pytest.raises(DigestMismatch, match="wrong size"):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)


def test_missing_blob_ends_the_other_downloads(
    faulty: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """The first thing that goes wrong is the error, and what else is on its way ends soon."""
    image = make_image(b"first", b"second", b"third")
    faulty.hold("app", image)
    for digest, answer in (
        # Endless as far as the attempts go: it ends because the other one failed.
        (image.manifest.layers[0].digest, faulty.refusal(503, "BUSY")),
        (image.manifest.layers[2].digest, faulty.refusal(404, "BLOB_UNKNOWN")),
    ):
        faulty.on("GET", f"/v2/app/blobs/{digest}", answer)
    patient = replace(settings, attempts=1000, backoff_s=0.5)
    with pytest.raises(ImageNotFound, match="BLOB_UNKNOWN"):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=patient)
    assert store.list() == ()


def test_manifest_larger_than_any_is_not_read(faulty: Faulty, store: Store, settings: Settings) -> None:
    """A manifest of endless size is given up at the specification's limit."""
    faulty.on("GET", "/v2/app/manifests/latest", faulty.answer(body=b" " * (5 << 20)))
    with pytest.raises(RegistryError, match="too much"):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings)


def test_range_that_comes_in_parts_is_asked_for_until_it_is_whole(
    faulty: Faulty, image: Image, store: Store, settings: Settings
) -> None:
    """A server may send less of a range than was asked for (RFC 9110, 15.3.7)."""
    content = layer(image)

    def part(asked: Asked) -> Answer:
        start = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-"))
        end = min(start + 40, len(content))
        where = {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
        return faulty.answer(status=206, headers=where, body=content[start:end])

    faulty.on("GET", blob_path(image), faulty.answer(body=content, cut=30), part)
    assert pull(store, Reference.parse(f"{faulty.host}/app"), settings=settings).digest == image.digest
    assert len(ranges(faulty, image)) > 3
