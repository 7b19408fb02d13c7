"""From a name to one image's manifest: index, platform, manifest (distribution-spec, "Pulling manifests").

Nothing of the image but manifests is fetched here, and nothing kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pytest_containers.errors import ImageError, ImageNotFound, NotPortable
from pytest_containers.images.digest import Digest
from pytest_containers.images.lockfile import LockedImage
from pytest_containers.images.manifest import Descriptor, Index, Manifest, parse
from pytest_containers.images.platform import Platform, platform_of
from pytest_containers.images.reference import Reference
from pytest_containers.images.source import Source
from pytest_containers.spec import ImageConfig

__all__ = ["Resolved", "check_platform", "resolve", "resolve_all", "resolve_pinned"]

# An index of indexes is allowed (image-index.md) and seen with two levels; more is a trap.
_DEEPEST_INDEX = 4
_NO_REGISTRY = "check the name: what answers there may not be a registry of images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A manifest, its digest and exact bytes; *root* is the digest of what the name itself means."""

    root: Digest
    digest: Digest
    data: bytes
    manifest: Manifest


def resolve(source: Source, reference: Reference, platform: Platform) -> Resolved:
    """Return the manifest that *reference* means on *platform*."""
    return resolve_all(source, reference, (platform,))[0]


def resolve_all(
    source: Source, reference: Reference, platforms: tuple[Platform, ...]
) -> tuple[Resolved, ...]:
    """Return the manifest for each platform, all from one answer for the name.

    Raises ImageNotFound for an unknown image and for a platform it has not, NotPortable,
    ImageError for what is no image, and what the registry's answers raise.
    """
    named = source.named(reference)
    root = Digest.of(named[0])
    if reference.digest is not None and reference.digest.matches(named[0]):
        root = reference.digest
    return tuple(_descend(source, reference, platform, root, *named) for platform in platforms)


def resolve_pinned(source: Source, reference: Reference, pinned: LockedImage, platform: Platform) -> Resolved:
    """Return the manifest that a lock file names for *platform*, fetched by its digest.

    Raises ImageNotFound where the lock file has none for it.
    """
    locked = pinned.manifest(platform)
    if locked is None:
        has = ", ".join(str(each.platform) for each in pinned.manifests)
        raise ImageNotFound(
            f"{reference} is not locked for {platform}",
            seen=f"the lock file has it for {has or 'no platform'}",
            mend="lock it again with this platform",
        )
    data, content_type = source.child(Descriptor(media_type="", digest=locked.digest, size=locked.size))
    document = _read(reference, data, content_type)
    if not isinstance(document, Manifest):
        raise ImageError(f"{reference} is locked to an index for {platform}", mend="lock it again")
    _check_whole(document, reference)
    return Resolved(root=pinned.digest, digest=locked.digest, data=data, manifest=document)


def check_platform(config: ImageConfig, reference: Reference, platform: Platform) -> None:
    """Raise ImageNotFound where an image's config says that it is for another platform."""
    # Old builders left the architecture out; then nobody knows better than the user.
    offer = replace(platform_of(config), variant=config.variant or platform.variant)
    if config.architecture and platform.distance(offer) is None:
        raise ImageNotFound(
            f"{reference} has no image for {platform}",
            seen=f"its only image is for {offer}",
            mend="name another tag, or the platform where this machine can emulate it",
        )


def _descend(
    source: Source, reference: Reference, platform: Platform, root: Digest, data: bytes, content_type: str
) -> Resolved:
    for _ in range(_DEEPEST_INDEX):
        document = _read(reference, data, content_type)
        if isinstance(document, Manifest):
            _check_whole(document, reference)
            return Resolved(root=root, digest=Digest.of(data), data=data, manifest=document)
        data, content_type = source.child(_choose(document, reference, platform))
    raise ImageError(f"{reference} is an index of indexes without end", seen=f"{_DEEPEST_INDEX} levels")


def _read(reference: Reference, data: bytes, content_type: str) -> Manifest | Index:
    try:
        document = parse(data, content_type)
        if isinstance(document, Manifest):
            document.check_image()
    except ImageError as error:
        mend = error.mend or _NO_REGISTRY
        raise ImageError(f"{reference}: {error.what}", seen=error.seen, mend=mend) from error
    return document


def _check_whole(manifest: Manifest, reference: Reference) -> None:
    """Raise NotPortable for an image that would have its maker's files replaced by this machine's."""
    if manifest.base:
        raise NotPortable(
            f"{reference} stands on the files of the machine it was made on",
            seen=f"its manifest names the base {manifest.base!r}",
            mend="build it here, or on an image that a registry has",
        )


def _choose(index: Index, reference: Reference, platform: Platform) -> Descriptor:
    entry = index.choose(platform)
    if entry is None:
        offers = {str(e.platform) for e in index.manifests if e.platform and not e.attestation}
        raise ImageNotFound(
            f"{reference} has no image for {platform}",
            seen="it has " + (", ".join(sorted(offers)) or "none for any platform"),
            mend="name another tag, or another platform where this machine can emulate it",
        )
    return entry
