"""Where files come from: what the name behind FROM, ``--from`` or a mount's ``from`` means.

Source: https://docs.docker.com/build/building/multi-stage/ and, for named contexts,
https://docs.docker.com/reference/cli/docker/buildx/build/#build-context.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.dockerfile import Stage

__all__ = ["Names", "Origin"]

_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,9}")
_IMAGE: Final = "docker-image://"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where files come from.

    *kind* ``"context"`` is the build context, or the named one called *name*; ``"stage"`` is the
    stage of that *number*; ``"image"`` has its reference in *name*; ``"scratch"`` is empty, and
    ``"host"`` this machine's own root.
    """

    kind: Literal["context", "stage", "image", "scratch", "host"]
    name: str = ""
    number: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What names may mean in one Dockerfile.

    *stages* are the names of its stages, empty for one without; *contexts* the named contexts
    with what each is, which hide stages and images of the same name.
    """

    stages: tuple[str, ...]
    contexts: Mapping[str, Origin] = field(default_factory=dict)

    @classmethod
    def of(cls, stages: Sequence[Stage], contexts: Mapping[str, str]) -> Names:
        """Return the names of *stages* and *contexts*; ``scratch`` and ``context`` cannot be redefined.

        A context is a folder, by a path that leads to one or looks like a path, or an image.
        """
        wanted = {
            name.lower(): _context(name.lower(), place)
            for name, place in contexts.items()
            if name.lower() not in {"scratch", "context", ""}
        }
        return cls(stages=tuple(stage.begin.name for stage in stages), contexts=wanted)

    def base(self, name: str, number: int) -> Origin:
        """Return what the FROM of stage *number* means: the nearest stage before it, or an image."""
        if name.lower() in self.contexts:
            return self.contexts[name.lower()]
        earlier = {before: at for at, before in enumerate(self.stages[:number])}
        if name in earlier:
            return Origin(kind="stage", name=name, number=earlier[name])
        if name.lower() in earlier:
            raise SpecInvalid(
                f"FROM {name} is no image", mend=f"write the stage's name in lower case: {name.lower()}"
            )
        return _beyond(name)

    def copied(self, name: str) -> Origin:
        """Return what ``COPY --from`` means: a stage's number or name, or an image.

        Of two stages with one name the later one is meant.
        """
        if _NUMBER.fullmatch(name) is None:
            return self._named(name)
        number = int(name)
        if not 0 <= number < len(self.stages):
            raise SpecInvalid(
                f"there is no stage number {number}",
                mend=f"stages count from 0, the last is {len(self.stages) - 1}",
            )
        return Origin(kind="stage", name=name, number=number)

    def mounted(self, name: str) -> Origin:
        """Return what a mount's ``from`` means: a stage's name or an image, the build context for nothing."""
        if not name:
            return Origin(kind="context")
        if _NUMBER.fullmatch(name) is not None and name not in self.contexts:
            raise SpecInvalid(
                f"a mount cannot come from stage number {name}", mend="name the stage: FROM IMAGE AS NAME"
            )
        return self._named(name)

    def _named(self, name: str) -> Origin:
        lowered = name.lower()
        if lowered in self.contexts:
            return self.contexts[lowered]
        if lowered in self.stages:
            number = max(at for at, stage in enumerate(self.stages) if stage == lowered)
            return Origin(kind="stage", name=lowered, number=number)
        return _beyond(name)


def _context(name: str, place: str) -> Origin:
    """Return what the named context *name* is, the folder *place* or the image of that reference."""
    if place.startswith(_IMAGE):
        return _beyond(place.removeprefix(_IMAGE))
    if place.startswith((".", "/")) or os.path.isdir(place):
        return Origin(kind="context", name=name)
    return _beyond(place)


def _beyond(name: str) -> Origin:
    """Return what *name* means outside the Dockerfile."""
    if name == "scratch":
        return Origin(kind="scratch")
    if name == "host":
        return Origin(kind="host")
    return Origin(kind="image", name=name)
