"""Digests: what is one, and what it says about bytes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.errors import ReferenceInvalid
from pytest_containers.images.digest import Digest

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_digest_of_nothing_is_the_known_one() -> None:
    """The digest of no bytes is the constant of FIPS 180-4's test vectors."""
    assert Digest.of(b"") == EMPTY


@given(st.binary(max_size=200))
def test_digest_matches_only_its_own_bytes(data: bytes) -> None:
    """A digest matches the bytes it was made of and no others."""
    digest = Digest.of(data)
    assert digest.matches(data)
    assert not digest.matches(data + b"\0")


def test_digest_of_sha512_is_verified_by_sha512() -> None:
    """The algorithm in front of the colon is the one that verifies."""
    digest = Digest.parse("sha512:" + hashlib.sha512(b"x").hexdigest())
    assert digest.matches(b"x")
    assert not digest.matches(b"y")
    assert digest.algorithm == "sha512"
    assert len(digest.hex) == 128


def test_digest_taken_from_a_hasher_is_that_of_the_whole() -> None:
    """Bytes taken in pieces give the digest of all of them."""
    hasher = Digest(EMPTY).hasher()
    hasher.update(b"ab")
    hasher.update(b"c")
    assert Digest.taken(hasher) == Digest.of(b"abc")


def test_digest_short_is_what_people_read() -> None:
    """A message shows twelve digits, as docker does."""
    assert Digest(EMPTY).short == "e3b0c44298fc"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "sha512:" + "a" * 64,
        "md5:" + "a" * 32,
        "../x:" + "a" * 64,
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "/" * 64,
    ],
)
def test_digest_refuses_what_nobody_can_verify(text: str) -> None:
    """A malformed digest, or one of an unknown algorithm, is refused when it is made."""
    with pytest.raises(ReferenceInvalid):
        Digest.parse(text)
