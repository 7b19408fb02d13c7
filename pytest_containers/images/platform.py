"""Which of an index's images runs here: operating system, architecture, variant.

Names are those of Go (GOOS, GOARCH), as image-spec's image-index.md asks; variants compare as in
containerd's platforms package (github.com/containerd/platforms, compare.go).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_containers.errors import SpecInvalid
from pytest_containers.spec import ImageConfig

__all__ = ["Platform", "choose", "normalized", "platform_of"]

# uname(2) machine names to Go's; Linux only, as the runtime is.
_MACHINES: Mapping[str, tuple[str, str]] = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "arm64": ("arm64", ""),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v7"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
    "mips64": ("mips64le", ""),
}
_ALIASES: Mapping[str, str] = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
    "i386": "386",
}
# The variant an architecture means when it names none.
_BASELINE: Mapping[str, int] = {"amd64": 1, "arm64": 8, "arm": 7}
_PART = re.compile(r"[a-z0-9_.-]+")
_VARIANT = re.compile(r"v([0-9]{1,2})(?:\.([0-9]{1,2}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """An operating system and a processor; *variant* is empty for the architecture's baseline."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @classmethod
    def host(cls) -> Platform:
        """Return the platform of the running kernel (uname(2))."""
        machine = os.uname().machine
        architecture, variant = _MACHINES.get(machine, (machine, ""))
        return cls(os="linux", architecture=architecture, variant=variant)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read ``linux/arm64/v8``, or ``arm64`` alone; raise SpecInvalid for anything else."""
        parts = text.strip().lower().split("/")
        if not 1 <= len(parts) <= 3 or not all(_PART.fullmatch(part) for part in parts):
            raise SpecInvalid(
                f"{text[:80]!r} is not a platform", mend="write it as linux/amd64 or linux/arm/v7"
            )
        if len(parts) == 1:
            parts = ["linux", *parts]
        return normalized(*(*parts, "")[:3])

    def distance(self, offer: Platform) -> float | None:
        """Return how far below this platform *offer* is: 0 is the same, None does not run here.

        A processor runs the code of its own and of earlier variants: arm/v7 runs arm/v6. The distance
        counts variants; v8.2 is 0.02 above v8.
        """
        if (self.os, self.architecture) != (offer.os, offer.architecture):
            return None
        mine, theirs = self._level(), offer._level()
        if mine is None or theirs is None:
            return 0 if self.variant == offer.variant else None
        return mine - theirs if mine >= theirs else None

    def runs(self, program: Platform) -> bool:
        """Return whether a machine of this platform runs code for *program*."""
        return self.distance(program) is not None

    def _level(self) -> float | None:
        """Return the variant as a number that grows with it: v8 is below v8.2, and v8.2 below v9."""
        if not self.variant:
            return _BASELINE.get(self.architecture, 0)
        match = _VARIANT.fullmatch(self.variant)
        return int(match[1]) + int(match[2] or 0) / 100 if match else None


def normalized(system: str, architecture: str, variant: str) -> Platform:
    """Return the platform in Go's names: an index may say x86_64 for amd64 (containerd's Normalize)."""
    known = _ALIASES.get(architecture.lower(), architecture)
    if architecture.lower() == "armel" and not variant:
        variant = "v6"
    return Platform(os=system, architecture=known, variant=variant)


def platform_of(config: ImageConfig) -> Platform:
    """Return the platform that an image config says it is for; its architecture may be empty."""
    return Platform(os=config.os, architecture=config.architecture, variant=config.variant)


def choose(wanted: Platform, offers: Sequence[Platform | None]) -> int | None:
    """Return the position of the offer that suits *wanted* best, None where none does.

    The nearest variant wins, then the first. An offer without a platform is taken where nothing
    better is there: image-index.md makes the field optional, and its config says what it is.
    """
    ranked = [(wanted.distance(offer), at) for at, offer in enumerate(offers) if offer is not None]
    suiting = [(distance, at) for distance, at in ranked if distance is not None]
    if suiting:
        return min(suiting)[1]
    return next((at for at, offer in enumerate(offers) if offer is None), None)
