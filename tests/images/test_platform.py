"""Platforms: names, and which offer of an index runs here."""

from __future__ import annotations

import os

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.platform import Platform, choose


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("linux/amd64", "linux/amd64"),
        ("arm64", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("Linux/X86_64", "linux/amd64"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("armel", "linux/arm/v6"),
    ],
)
def test_platform_reads_the_usual_spellings(text: str, canonical: str) -> None:
    """Names of uname(2) and of Debian mean Go's."""
    assert str(Platform.parse(text)) == canonical


@pytest.mark.parametrize("text", ["", "linux/", "a/b/c/d", "linux/amd 64", "/amd64"])
def test_platform_refuses_other_texts(text: str) -> None:
    """A text that is no platform is refused with an example."""
    with pytest.raises(SpecInvalid, match="linux/amd64"):
        Platform.parse(text)


def test_platform_of_the_host_is_this_kernel() -> None:
    """The host's platform runs on the host: it is Linux, and not the kernel's own word for amd64."""
    host = Platform.host()
    assert host.os == "linux"
    assert host.distance(host) == 0
    if os.uname().machine == "x86_64":
        assert host.architecture == "amd64"


@pytest.mark.parametrize(
    ("wanted", "offer", "distance"),
    [
        ("linux/amd64", "linux/amd64", 0),
        ("linux/amd64", "linux/arm64", None),
        ("linux/amd64", "windows/amd64", None),
        ("linux/amd64", "linux/amd64/v2", None),
        ("linux/amd64/v3", "linux/amd64/v2", 1),
        ("linux/amd64/v3", "linux/amd64", 2),
        ("linux/arm64", "linux/arm64/v8", 0),
        ("linux/arm64/v8", "linux/arm64", 0),
        ("linux/arm/v7", "linux/arm/v6", 1),
        ("linux/arm/v6", "linux/arm/v7", None),
        ("linux/arm", "linux/arm/v7", 0),
        ("linux/arm64/v9", "linux/arm64/v8.2", 0.98),
        ("linux/arm64/v8", "linux/arm64/v8.2", None),
        ("linux/arm64/v8.2", "linux/arm64/v8.2", 0),
        ("linux/mips64le/hardfloat", "linux/mips64le/hardfloat", 0),
        ("linux/mips64le/hardfloat", "linux/mips64le/softfloat", None),
    ],
)
def test_platform_runs_its_own_and_earlier_variants(wanted: str, offer: str, distance: float | None) -> None:
    """A processor runs code for its own and for earlier variants, and for no others."""
    found = Platform.parse(wanted).distance(Platform.parse(offer))
    assert found == (distance if distance is None else pytest.approx(distance))


def test_choose_takes_the_nearest_variant() -> None:
    """Of several offers that run, the nearest variant wins whatever the order."""
    offers = [Platform.parse(text) for text in ("linux/arm/v5", "linux/amd64", "linux/arm/v6")]
    assert choose(Platform.parse("linux/arm/v7"), offers) == 2


def test_choose_takes_an_offer_without_platform_last() -> None:
    """An entry that names no platform is taken only where none that names one runs."""
    amd64 = Platform.parse("linux/amd64")
    assert choose(amd64, [None, amd64]) == 1
    assert choose(Platform.parse("linux/s390x"), [amd64, None]) == 1
    assert choose(Platform.parse("linux/s390x"), [amd64]) is None
