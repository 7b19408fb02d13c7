"""Everything that can go wrong, as one tree (floor 0).

::

    ContainersError
    ├── SpecInvalid                 an argument of the test that cannot be meant
    │   └── UnknownKeyword          a keyword that does not exist; a TypeError too
    ├── HostError                   this machine cannot do what a sandbox needs
    ├── EngineError                 the engine broke, or is gone
    │   └── Unsupported             this engine does not have that feature
    ├── ImageError
    │   ├── ReferenceInvalid        not a name of an image
    │   ├── ImageNotFound           nobody has it
    │   ├── RegistryError           a registry is down, refuses, or talks nonsense
    │   │   └── Unauthorized        it wants credentials, or others
    │   ├── DigestMismatch          bytes are not what their name says
    │   ├── LayerCorrupt            a layer that cannot be read to its end
    │   ├── LayerEscape             a layer that reaches outside its own tree
    │   ├── LayerTooLarge           a layer past its limit
    │   ├── StoreFull               no room left for layers
    │   ├── NotPortable             an image that only this machine can run
    │   └── BuildFailed             a step of a Dockerfile that failed
    ├── StartError                  the first process (or an exec) did not come to run: 125
    │   ├── CommandNotFound         127
    │   ├── CommandNotExecutable    126
    │   └── InterpreterMissing      127: the file is there, its loader or ``#!`` line is not
    ├── NotReady                    a probe did not hold in time
    │   └── ContainerExited         ... and never will: the first process has ended
    ├── NotRunning                  asked of a container whose process has ended
    ├── PathMissing                 no such file inside the container
    └── ExecFailed                  exec(check=True) and an exit code other than 0

An error is made of sentences, once: what failed with which object, what was seen, the mend, and
where to read more. It travels between processes as its class name and those four strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

__all__ = [
    "BuildFailed",
    "CommandNotExecutable",
    "CommandNotFound",
    "ContainerExited",
    "ContainersError",
    "DigestMismatch",
    "DockerfileWarning",
    "EngineError",
    "ExecFailed",
    "HostError",
    "ImageError",
    "ImageNotFound",
    "InterpreterMissing",
    "LayerCorrupt",
    "LayerEscape",
    "LayerTooLarge",
    "NotPortable",
    "NotReady",
    "NotRunning",
    "PathMissing",
    "ReferenceInvalid",
    "RegistryError",
    "SpecInvalid",
    "StartError",
    "StoreFull",
    "Unauthorized",
    "UnknownKeyword",
    "Unsupported",
    "from_wire",
    "to_wire",
]


class DockerfileWarning(UserWarning):
    """A Dockerfile says what is legal and probably not meant: a build argument that no ARG takes."""


class ContainersError(Exception):
    """Base of every error of this project.

    *what* names the object that failed, *seen* what was observed, *mend* what to do about it and
    *more* a place in the documentation; empty strings are left out of the text.
    """

    exit_code: ClassVar[int] = 125

    def __init__(self, what: str, *, seen: str = "", mend: str = "", more: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.seen = seen
        self.mend = mend
        self.more = more

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("seen", self.seen), ("mend", self.mend), ("more", self.more)):
            if text:
                lines.append(f"  {label}: " + text.replace("\n", "\n        "))
        return "\n".join(lines)


class SpecInvalid(ContainersError):
    """An argument that cannot be meant."""


class UnknownKeyword(SpecInvalid, TypeError):
    """A keyword that a function does not have; a TypeError as well, as Python's own is."""


class HostError(ContainersError):
    """The machine lacks something a sandbox needs."""


class EngineError(ContainersError):
    """The engine broke, or is gone."""


class Unsupported(EngineError):
    """The chosen engine does not have a feature; raised before anything starts."""

    @classmethod
    def of(cls, engine: str, feature: str, *, seen: str = "", mend: str = "") -> Unsupported:
        """Return the error for *feature* of *engine*."""
        return cls(f"the {engine} engine does not support {feature}", seen=seen, mend=mend)


class ImageError(ContainersError):
    """Something about an image."""


class ReferenceInvalid(ImageError):
    """A string that is no name of an image."""


class ImageNotFound(ImageError):
    """An image that neither the store nor a registry has."""


class RegistryError(ImageError):
    """A registry is out of reach, refuses, or answers what it must not."""


class Unauthorized(RegistryError):
    """A registry wants credentials, or other ones."""


class DigestMismatch(ImageError):
    """Bytes that are not what their digest or size says."""


class LayerCorrupt(ImageError):
    """A layer that cannot be read to its end."""


class LayerEscape(ImageError):
    """A layer entry that would be written outside the layer's tree."""


class LayerTooLarge(ImageError):
    """A layer that unpacks past its limit."""


class StoreFull(ImageError):
    """No room in the image store."""


class NotPortable(ImageError):
    """An image that stands on this machine's own files and cannot leave it."""


class BuildFailed(ImageError):
    """A step of a Dockerfile that ended with an exit code other than 0."""


class StartError(ContainersError):
    """A process that did not come to run inside a container."""


class CommandNotFound(StartError):
    """The command is in no folder of the container's PATH (exit code 127)."""

    exit_code = 127


class CommandNotExecutable(StartError):
    """The command is there and may not or cannot be executed (exit code 126)."""

    exit_code = 126


class InterpreterMissing(StartError):
    """The command is there; its ELF loader or ``#!`` interpreter is not (exit code 127)."""

    exit_code = 127


class NotReady(ContainersError):
    """A probe that did not hold within its time."""


class ContainerExited(NotReady):
    """A probe that cannot hold any more: the first process has ended."""


class NotRunning(ContainersError):
    """An operation that needs a running container."""


class PathMissing(ContainersError):
    """A path that does not exist inside the container."""


class ExecFailed(ContainersError):
    """An exec with ``check=True`` whose exit code was not 0."""


def _tree(root: type[ContainersError]) -> Iterator[type[ContainersError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def to_wire(error: ContainersError) -> dict[str, str]:
    """Return *error* as the plain strings that cross a process border."""
    return {
        "kind": type(error).__name__,
        "what": error.what,
        "seen": error.seen,
        "mend": error.mend,
        "more": error.more,
    }


def from_wire(fields: Mapping[str, str]) -> ContainersError:
    """Return the error that `to_wire` described; an unknown kind becomes an EngineError."""
    known = {kind.__name__: kind for kind in _tree(ContainersError)}
    kind = known.get(fields.get("kind", ""), EngineError)
    return kind(
        fields.get("what", "the engine reported an error without words"),
        seen=fields.get("seen", ""),
        mend=fields.get("mend", ""),
        more=fields.get("more", ""),
    )
