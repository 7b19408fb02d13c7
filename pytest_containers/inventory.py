"""What a store of images holds, as nouns that cross the seam (floor 0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_containers.spec import ImageRecord

__all__ = [
    "ArchiveFormat",
    "HistoryStep",
    "ImageDetails",
    "LayerDetails",
    "Problem",
    "Pruned",
    "RegistryAccess",
]

ArchiveFormat = Literal["docker", "oci", "oci-dir"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAccess:
    """How registries are reached.

    *mirrors* are pairs of a registry and what is asked before it, ``host[:port][/prefix]``, in their
    order. *insecure* names hosts, with or without a port, that are spoken to by plain http; loopback
    always is. *certificates* are folders laid out as Docker's certs.d. *offline* asks nobody.
    """

    mirrors: tuple[tuple[str, str], ...] = ()
    insecure: frozenset[str] = frozenset()
    certificates: tuple[str, ...] = ()
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDetails:
    """One layer: *digest* and *size_bytes* are those of its blob as it travels."""

    digest: str
    diff_id: str
    media_type: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryStep:
    """One step of how an image came to be; *created* is an RFC 3339 time or empty."""

    created: str
    created_by: str
    comment: str
    empty_layer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDetails:
    """All that is known of an image; layers and history begin with the oldest."""

    record: ImageRecord
    created: str
    layers: tuple[LayerDetails, ...] = ()
    history: tuple[HistoryStep, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed, or would be: names of images, digests of blobs and layers, and the room they took.

    *caches* are folders that a RUN had mounted with ``type=cache``.
    """

    names: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Where a store is not what a lock file says: which image, and what about it."""

    reference: str
    what: str

    def __str__(self) -> str:
        return f"{self.reference}: {self.what}"
