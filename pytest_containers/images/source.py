"""Where an image may come from: a registry's mirrors in their order, then the registry itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pytest_containers.errors import DigestMismatch, ImageError, RegistryError
from pytest_containers.images.credentials import Keychain
from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.reference import Reference
from pytest_containers.images.registry import Registry, check_digest
from pytest_containers.images.transport import Sink, Transport

__all__ = ["Source"]

T = TypeVar("T")


class Source:
    """The places to ask for one repository. What one does not have, or damages, the next may give."""

    def __init__(self, reference: Reference, *, transport: Transport, keychain: Keychain) -> None:
        mirrors = transport.settings.mirrors.get(reference.registry, ())
        self._repository = reference.repository
        self.places = tuple(
            Registry(place, transport=transport, keychain=keychain)
            for place in (*mirrors, reference.registry)
        )

    def named(self, reference: Reference) -> tuple[bytes, str]:
        """Return the manifest that *reference* names, and its Content-Type.

        A mirror is asked by tag where there is one, since some know no digests (GitLab's dependency
        proxy); the digest is checked here in any case.
        """
        registry = self.places[-1]

        def ask(place: Registry) -> tuple[bytes, str]:
            digest = reference.digest
            if digest is None or reference.tag is None or place is registry:
                return place.manifest(self._repository, reference.target)
            try:
                found = place.manifest(self._repository, reference.tag)
                check_digest(found[0], digest, f"{place}/{self._repository}:{reference.tag}")
            except DigestMismatch:
                # The tag has moved on since; the pinned image may be there still.
                return place.manifest(self._repository, digest)
            return found

        return self.first(ask)

    def child(self, descriptor: Descriptor) -> tuple[bytes, str]:
        """Return a manifest that an index names, checked, and its Content-Type."""
        return self.first(lambda place: self._child(place, descriptor))

    def fetch(self, place: Registry, descriptor: Descriptor, sink: Sink) -> None:
        """Download a blob from *place*, or from a foreign layer's own addresses."""
        try:
            place.fetch(self._repository, descriptor, sink)
        except RegistryError:
            raise
        except ImageError:
            if not (descriptor.foreign and descriptor.urls):
                raise
            place.fetch_foreign(descriptor, sink)

    def first(self, ask: Callable[[Registry], T]) -> T:
        """Return what the first place that can answers; raise one error for all of them."""
        errors: list[ImageError] = []
        for place in self.places:
            try:
                return ask(place)
            except ImageError as error:
                errors.append(error)
        raise _joined(errors)

    def _child(self, place: Registry, descriptor: Descriptor) -> tuple[bytes, str]:
        digest: Digest = descriptor.digest
        data, content_type = place.manifest(self._repository, digest)
        if len(data) != descriptor.size:
            raise DigestMismatch(
                f"{place}/{self._repository}@{digest} is of the wrong size",
                seen=f"{len(data)} bytes; the index says {descriptor.size}",
            )
        return data, content_type


def _joined(errors: list[ImageError]) -> ImageError:
    """Return the registry's own error, with what the mirrors said before it."""
    last = errors[-1]
    if len(errors) == 1:
        return last
    tried = "\n".join(error.what + (f" ({error.seen})" if error.seen else "") for error in errors)
    joined = type(last)(last.what, seen=f"tried {len(errors)} places:\n{tried}", mend=last.mend)
    joined.__cause__ = last
    return joined
