"""Content digests: the name of a blob is the hash of its bytes (image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Protocol, Self

from pytest_containers.errors import ReferenceInvalid

__all__ = ["Digest", "Hasher"]

# The two algorithms image-spec registers. Others may be well-formed, but nobody could verify them.
_HEX_LENGTHS: Mapping[str, int] = {"sha256": 64, "sha512": 128}
_FORM = re.compile(r"(?P<algorithm>[a-z0-9]+(?:[+._-][a-z0-9]+)*):(?P<encoded>[a-zA-Z0-9=_-]+)")
_HEX = re.compile(r"[0-9a-f]+")


class Hasher(Protocol):
    """The part of a ``hashlib`` object that the images wing uses."""

    def update(self, data: bytes, /) -> None:
        """Take in *data* after what came before."""

    def hexdigest(self) -> str:
        """Return the hash of all that was taken in."""


class Digest(str):
    """``algorithm:hex``, checked when made; a plain string everywhere else.

    Raises ReferenceInvalid for a text that is no digest, and for an algorithm other than sha256
    and sha512.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        match = _FORM.fullmatch(text)
        if match is None:
            raise ReferenceInvalid(
                f"{text[:200]!r} is not a digest", mend="write it as sha256: and 64 hexadecimal digits"
            )
        algorithm, encoded = match["algorithm"], match["encoded"]
        length = _HEX_LENGTHS.get(algorithm)
        if length is None:
            raise ReferenceInvalid(
                f"the digest {text[:200]!r} is of an unknown algorithm",
                seen=algorithm,
                mend="use sha256 or sha512",
            )
        if len(encoded) != length or _HEX.fullmatch(encoded) is None:
            raise ReferenceInvalid(
                f"{text[:200]!r} is not a {algorithm} digest",
                seen=f"{len(encoded)} characters behind the colon",
                mend=f"write {length} lower-case hexadecimal digits",
            )
        return super().__new__(cls, text)

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return *text* as a digest; raise ReferenceInvalid where it is none."""
        return cls(text)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """Return the sha256 digest of *data*."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @classmethod
    def taken(cls, hasher: Hasher) -> Digest:
        """Return the digest of what a sha256 *hasher* took in."""
        return cls("sha256:" + hasher.hexdigest())

    @property
    def algorithm(self) -> str:
        """``sha256`` or ``sha512``."""
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        """The digits behind the colon; a safe file name."""
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """The first twelve digits, for messages."""
        return self.hex[:12]

    def hasher(self) -> Hasher:
        """Return an empty hasher of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, data: bytes) -> bool:
        """Tell whether *data* is what this digest names."""
        hasher = self.hasher()
        hasher.update(data)
        return hasher.hexdigest() == self.hex
