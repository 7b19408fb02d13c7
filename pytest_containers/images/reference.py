"""Names of images, by the grammar of the distribution project.

::

    reference  = name [":" tag] ["@" digest]
    name       = [registry "/"] component {"/" component}
    component  = lower-case letters and digits, joined by "." "_" "__" or any number of "-"

A name without a registry is one of Docker Hub's: ``redis`` is ``docker.io/library/redis:latest``.
Source: github.com/distribution/reference, reference.go and normalize.go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_containers.errors import ReferenceInvalid
from pytest_containers.images.digest import Digest

__all__ = ["DEFAULT_REGISTRY", "DEFAULT_TAG", "Reference"]

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
_OFFICIAL = "library/"
_NAME_LIMIT = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_BARE_HEX = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image's full name; at least one of *tag* and *digest* is set."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a name as a person writes it; raise ReferenceInvalid with the part that is wrong."""
        rest, at, digest_text = text.partition("@")
        name, tag = _split_tag(rest)
        registry, repository = _split_registry(name)
        _check_name(text, registry, repository)
        if tag is not None and _TAG.fullmatch(tag) is None:
            raise _invalid(
                text, f"{tag[:140]!r} is not a tag", "letters, digits, _ . - and at most 128 of them"
            )
        digest = Digest.parse(digest_text) if at else None
        if tag is None and digest is None:
            tag = DEFAULT_TAG
        return cls(registry=registry, repository=repository, tag=tag, digest=digest)

    def __str__(self) -> str:
        return self.name + self._suffix()

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """The shortest text that reads back as this reference, tag included."""
        short = self.name
        if self.registry == DEFAULT_REGISTRY:
            # A repository may begin with what reads as a registry, docker.io itself among them.
            whole = (self.registry, self.repository)
            candidates = (self.repository.removeprefix(_OFFICIAL), self.repository)
            short = next((name for name in candidates if _split_registry(name) == whole), short)
        return short + self._suffix()

    @property
    def target(self) -> str:
        """What to ask a registry for: the digest where there is one, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    def pinned(self, digest: Digest) -> Reference:
        """Return the same name with *digest* on it."""
        return Reference(registry=self.registry, repository=self.repository, tag=self.tag, digest=digest)

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def _split_tag(rest: str) -> tuple[str, str | None]:
    """Cut the tag off; a colon before the last slash belongs to the registry's port."""
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        return rest, None
    return name, tag


def _split_registry(name: str) -> tuple[str, str]:
    """Tell a registry from the first component of a repository, as Docker does."""
    first, slash, rest = name.partition("/")
    # An upper-case letter cannot be part of a repository, so it marks a host name.
    is_host = bool(slash) and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    registry, repository = (first, rest) if is_host else (DEFAULT_REGISTRY, name)
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = _OFFICIAL + repository
    return registry, repository


def _check_name(text: str, registry: str, repository: str) -> None:
    if _REGISTRY.fullmatch(registry) is None:
        raise _invalid(
            text, f"{registry[:80]!r} is not a registry", "a host name or address, with :port if any"
        )
    if _BARE_HEX.fullmatch(repository.removeprefix(_OFFICIAL)):
        raise _invalid(text, "64 hexadecimal digits are an image's id, not its name", "a name")
    if len(repository) > _NAME_LIMIT:
        raise _invalid(text, f"a repository of {len(repository)} characters", f"{_NAME_LIMIT} at most")
    for component in repository.split("/"):
        if _COMPONENT.fullmatch(component):
            continue
        seen = f"{component[:80]!r} is not a part of a repository"
        if component != component.lower():
            raise _invalid(text, seen, "lower case: " + text[:200].lower())
        raise _invalid(text, seen, "lower-case letters and digits, joined by one of . _ -")


def _invalid(text: str, seen: str, mend: str) -> ReferenceInvalid:
    return ReferenceInvalid(f"{text[:200]!r} is not the name of an image", seen=seen, mend="write " + mend)
