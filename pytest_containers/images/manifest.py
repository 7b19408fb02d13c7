"""What a registry and a store hold about an image: descriptors, manifests, indexes.

Image-spec's descriptor.md, manifest.md and image-index.md, and Docker's schema 2 of the same
things (distribution: docs/content/spec/manifest-v2-2.md). The bytes as received are what a digest
names, so whoever keeps a manifest keeps those, never what `Manifest.encode` would make of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_containers.errors import ImageError, ReferenceInvalid
from pytest_containers.images.config import History, read_config, read_history, write_config
from pytest_containers.images.digest import Digest
from pytest_containers.images.document import Fields, encode
from pytest_containers.images.platform import Platform, choose, normalized

__all__ = [
    "ACCEPTED",
    "BASE_ANNOTATION",
    "BASE_KEY_ANNOTATION",
    "DOCKER_CONFIG",
    "DOCKER_INDEX",
    "DOCKER_LAYER",
    "DOCKER_LAYER_GZIP",
    "DOCKER_MANIFEST",
    "EMPTY",
    "MANIFEST_LIMIT_BYTES",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_LAYER_GZIP",
    "OCI_LAYER_ZSTD",
    "OCI_MANIFEST",
    "Descriptor",
    "History",
    "Index",
    "Manifest",
    "parse",
    "read_config",
    "read_history",
    "write_config",
]

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
_SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
# Schema 1 is asked for last, so that a registry with nothing newer says so by name.
ACCEPTED = (OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST, *_SCHEMA1)

# A manifest on this machine's own files says so; its layers continue the host's root.
BASE_ANNOTATION = "org.pytest-containers.base"
BASE_KEY_ANNOTATION = "org.pytest-containers.base.key"

# distribution-spec, "Pushing Manifests": registries should take up to 4 MiB, so none is larger.
MANIFEST_LIMIT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A blob by type, digest and size in bytes; *urls* are where a foreign layer also is."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()

    @classmethod
    def read(cls, fields: Fields) -> Descriptor:
        """Read a descriptor; raise ImageError where digest or size are wrong or missing."""
        if not fields.has("size"):
            raise ImageError(f"{fields.place} has no size")
        try:
            digest = Digest.parse(fields.text("digest"))
        except ReferenceInvalid as error:
            raise ImageError(f"{fields.place} has no valid digest", seen=error.what) from error
        return cls(
            media_type=_plain(fields.text("mediaType")),
            digest=digest,
            size=fields.whole("size"),
            annotations=fields.table("annotations"),
            platform=_platform(fields.fields("platform")),
            urls=fields.texts("urls"),
        )

    @property
    def foreign(self) -> bool:
        """Whether the blob may not be pushed to other registries (image-spec, layer.md)."""
        return ".foreign." in self.media_type or ".nondistributable." in self.media_type

    @property
    def attestation(self) -> bool:
        """Whether this is provenance and nothing to run (moby/buildkit, attestation-storage.md)."""
        unknown = self.platform is not None and self.platform.os == self.platform.architecture == "unknown"
        return unknown or "vnd.docker.reference.type" in self.annotations

    def values(self) -> dict[str, object]:
        """Return what JSON writes of it."""
        values: dict[str, object] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.urls:
            values["urls"] = list(self.urls)
        if self.annotations:
            values["annotations"] = dict(self.annotations)
        if self.platform is not None:
            values["platform"] = _platform_values(self.platform)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One image: its config and its layers, oldest first."""

    media_type: str = OCI_MANIFEST
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read a manifest; raise ImageError for an index and whatever else is none."""
        document = parse(data)
        if not isinstance(document, Manifest):
            raise ImageError("an index stands where a manifest was expected", seen=document.media_type)
        return document

    def encode(self) -> bytes:
        """Return the JSON of a manifest of our own making."""
        values: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": self.config.values(),
            "layers": [layer.values() for layer in self.layers],
        }
        if self.annotations:
            values["annotations"] = dict(self.annotations)
        return encode(values)

    @property
    def base(self) -> str:
        """What the image stands on outside itself: ``host``, or empty for a whole image."""
        return self.annotations.get(BASE_ANNOTATION, "")

    @property
    def size_bytes(self) -> int:
        """What a pull of everything moves: config and compressed layers."""
        return self.config.size + sum(layer.size for layer in self.layers)

    def check_image(self) -> None:
        """Raise ImageError where this is an artifact (a chart, a signature) and no image to run."""
        if self.config.media_type not in (OCI_CONFIG, DOCKER_CONFIG, ""):
            raise ImageError(
                "this is an artifact and not a container image",
                seen=f"its config is of type {self.config.media_type}",
                mend="name an image; artifacts have no file system to run",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """One name for the manifests of several platforms; entries may be indexes again."""

    media_type: str = OCI_INDEX
    manifests: tuple[Descriptor, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Index:
        """Read an index; raise ImageError for a manifest and whatever else is none."""
        document = parse(data)
        if not isinstance(document, Index):
            raise ImageError("a manifest stands where an index was expected", seen=document.media_type)
        return document

    def encode(self) -> bytes:
        """Return the JSON of an index of our own making."""
        values: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [entry.values() for entry in self.manifests],
        }
        if self.annotations:
            values["annotations"] = dict(self.annotations)
        return encode(values)

    def choose(self, platform: Platform) -> Descriptor | None:
        """Return the entry for *platform*, attestations left aside; None where there is none."""
        images = [entry for entry in self.manifests if not entry.attestation]
        at = choose(platform, [entry.platform for entry in images])
        return None if at is None else images[at]


def parse(data: bytes, content_type: str = "") -> Manifest | Index:
    """Read a manifest or an index from its bytes.

    *content_type* is the registry's word for it, parameters ignored; the body's own ``mediaType``
    must say the same where both speak (image-spec, manifest.md: they MUST match). Raises
    ImageError, by name for the retired schema 1.
    """
    if len(data) > MANIFEST_LIMIT_BYTES:
        raise ImageError(
            "the manifest is too large", seen=f"{len(data)} bytes of at most {MANIFEST_LIMIT_BYTES}"
        )
    fields = Fields.parse(data, "the manifest")
    media_type = _media_type(fields, _plain(content_type))
    if media_type in (OCI_INDEX, DOCKER_INDEX):
        entries = tuple(Descriptor.read(entry) for entry in fields.each("manifests"))
        return Index(media_type=media_type, manifests=entries, annotations=fields.table("annotations"))
    return Manifest(
        media_type=media_type,
        config=Descriptor.read(fields.fields("config")),
        layers=tuple(Descriptor.read(layer) for layer in fields.each("layers")),
        annotations=fields.table("annotations"),
    )


def _media_type(fields: Fields, announced: str) -> str:
    version = fields.whole("schemaVersion")
    inside = _plain(fields.text("mediaType"))
    if version == 1 or inside in _SCHEMA1 or announced in _SCHEMA1:
        raise ImageError(
            "the manifest is of Docker's schema 1, which went out of use in 2017",
            mend="pull the image with an old docker and push it again, or name a newer tag",
        )
    known = (OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST)
    # A generic Content-Type says nothing: registries on plain file servers answer with one.
    if inside and announced in known and inside != announced:
        raise ImageError(
            "the manifest is not of the type the registry says", seen=f"{announced} outside, {inside} inside"
        )
    media_type = inside or (announced if announced in known else "")
    if not media_type:
        # OCI allows a body without mediaType; the two kinds have different members, and a
        # document with both is refused (CVE-2021-41190).
        if fields.has("manifests") == (fields.has("layers") or fields.has("config")):
            raise ImageError("the manifest says neither what it is nor what it holds", seen=_members(fields))
        media_type = OCI_INDEX if fields.has("manifests") else OCI_MANIFEST
    if media_type not in known or version != 2:
        raise ImageError("the manifest is of an unknown type", seen=f"{media_type}, schemaVersion {version}")
    if fields.has("manifests") and fields.has("layers"):
        raise ImageError("the manifest is an image and an index at once", seen=_members(fields))
    return media_type


def _members(fields: Fields) -> str:
    return "members " + ", ".join(sorted(fields.values))[:200]


def _plain(media_type: str) -> str:
    """Return a media type without parameters, in lower case (RFC 9110, 8.3.1)."""
    return media_type.partition(";")[0].strip().lower()


def _platform(fields: Fields) -> Platform | None:
    if not fields.values:
        return None
    return normalized(fields.text("os"), fields.text("architecture"), fields.text("variant"))


def _platform_values(platform: Platform) -> dict[str, str]:
    values = {"architecture": platform.architecture, "os": platform.os}
    return {**values, "variant": platform.variant} if platform.variant else values
