"""Mirrors: asked in order, never trusted, and named when nothing helped."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import DigestMismatch, ImageNotFound, RegistryError
from pytest_containers.images.pull import pull
from pytest_containers.images.reference import Reference

if TYPE_CHECKING:
    from pytest_containers.images.store import Store
    from pytest_containers.images.transport import Settings
    from tests.images.registry.conftest import Faulty, ImageMaker


def mirrored(settings: Settings, faulty: Faulty, *mirrors: str) -> Settings:
    """Return settings under which *mirrors* are asked before *faulty*."""
    return replace(settings, mirrors={faulty.host: mirrors})


def test_mirror_is_asked_first(
    faulty: Faulty, other: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """An image that a mirror has is pulled without a request to the registry."""
    image = make_image(b"x")
    other.hold("app", image)
    record = pull(
        store, Reference.parse(f"{faulty.host}/app"), settings=mirrored(settings, faulty, other.host)
    )
    assert record.digest == image.digest
    assert record.reference == f"{faulty.host}/app:latest"
    assert faulty.asked == []


def test_mirror_prefix_goes_in_front_of_the_repository(
    faulty: Faulty, other: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """A mirror below a path, as GitLab's dependency proxy is, keeps that path."""
    other.hold("group/proxy/app", make_image(b"x"))
    mirror = f"{other.host}/group/proxy"
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=mirrored(settings, faulty, mirror))
    assert "/v2/group/proxy/app/manifests/latest" in other.paths("GET")


@pytest.mark.parametrize("status", [404, 429, 500, 403])
def test_mirror_that_fails_is_passed_over(
    faulty: Faulty, other: Faulty, make_image: ImageMaker, store: Store, settings: Settings, status: int
) -> None:
    """Whatever a mirror answers, the next place is asked."""
    image = make_image(b"x")
    faulty.hold("app", image)
    other.on("GET", "/v2/app/manifests/latest", other.refusal(status, "NO"))
    record = pull(
        store, Reference.parse(f"{faulty.host}/app"), settings=mirrored(settings, faulty, other.host)
    )
    assert record.digest == image.digest


def test_mirror_that_alters_a_blob_is_passed_over(
    faulty: Faulty, other: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """A blob that a mirror damaged is taken from the registry."""
    image = make_image(b"x")
    faulty.hold("app", image)
    other.hold("app", image)
    digest = image.manifest.layers[0].digest
    other.on("GET", f"/v2/app/blobs/{digest}", other.answer(body=image.blobs[digest][::-1]))
    record = pull(
        store, Reference.parse(f"{faulty.host}/app"), settings=mirrored(settings, faulty, other.host)
    )
    assert record.digest == image.digest
    assert faulty.paths("GET") == ["/v2/", f"/v2/app/blobs/{digest}"]


def test_mirror_is_asked_by_tag_and_checked_by_digest(
    faulty: Faulty, other: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """A pinned image is found by its tag on a mirror that knows no digests."""
    image = make_image(b"x")
    other.hold("app", image, "7")
    other.on("GET", f"/v2/app/manifests/{image.digest}", other.refusal(404, "MANIFEST_UNKNOWN"))
    reference = Reference.parse(f"{faulty.host}/app:7@{image.digest}")
    assert pull(store, reference, settings=mirrored(settings, faulty, other.host)).digest == image.digest


def test_mirror_with_a_moved_tag_is_asked_by_digest(
    faulty: Faulty, other: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """Where the tag has moved on, the pinned image is asked for by its digest."""
    image, newer = make_image(b"x"), make_image(b"y")
    other.hold("app", newer, "7")
    other.hold("app", image, "6")
    reference = Reference.parse(f"{faulty.host}/app:7@{image.digest}")
    assert pull(store, reference, settings=mirrored(settings, faulty, other.host)).digest == image.digest


def test_mirror_cannot_replace_a_pinned_image(
    faulty: Faulty, other: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """A mirror that answers a digest with other bytes is an error when nobody else helps."""
    image, fake = make_image(b"x"), make_image(b"y")
    for server in (faulty, other):
        server.hold("app", image, data=fake.data)
    reference = Reference.parse(f"{faulty.host}/app@{image.digest}")
    with pytest.raises(DigestMismatch):
        pull(store, reference, settings=mirrored(settings, faulty, other.host))


def test_mirrors_that_failed_are_all_named(
    faulty: Faulty, other: Faulty, store: Store, settings: Settings
) -> None:
    """The error of several places is the registry's own, with what each of them said."""
    other.on("GET", "/v2/app/manifests/latest", other.refusal(500, "BROKEN", "disk gone"))
    with pytest.raises(ImageNotFound, match="tried 2 places") as caught:
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=mirrored(settings, faulty, other.host))
    assert other.host in str(caught.value)
    assert "disk gone" in str(caught.value)


def test_mirror_beyond_loopback_is_not_asked_by_plain_http(
    faulty: Faulty, other: Faulty, store: Store, settings: Settings
) -> None:
    """Being named as a mirror does not allow plain http: all that is asked for is a TLS tunnel."""
    proxied = replace(settings, environ={"http_proxy": other.url, "https_proxy": other.url})
    with pytest.raises(ImageNotFound, match="through the proxy"):
        pull(
            store, Reference.parse(f"{faulty.host}/app"), settings=mirrored(proxied, faulty, "192.0.2.1:5000")
        )
    assert {(asked.method, asked.path) for asked in other.asked} == {("CONNECT", "192.0.2.1:5000")}


def test_registry_error_is_kept_where_mirrors_had_nothing(
    faulty: Faulty, other: Faulty, store: Store, settings: Settings
) -> None:
    """A registry that broke is not told as an image that does not exist."""
    faulty.on("GET", "/v2/app/manifests/latest", faulty.refusal(500, "BROKEN"))
    with pytest.raises(RegistryError, match="BROKEN"):
        pull(store, Reference.parse(f"{faulty.host}/app"), settings=mirrored(settings, faulty, other.host))
