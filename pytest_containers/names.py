"""The names that a shell completes, read without what a run needs (floor 4).

Whoever presses a key waits for this, so it imports neither the image wing nor the catalog's probes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

__all__ = ["image_names", "service_names"]

_REF_NAME: Final = "org.opencontainers.image.ref.name"


def image_names(store: Path) -> tuple[str, ...]:
    """Return the names in a store's index, by image-layout.md of the image-spec."""
    try:
        entries = json.loads((store / "index.json").read_bytes())["manifests"]
        return tuple(sorted(entry["annotations"][_REF_NAME] for entry in entries))
    except (OSError, ValueError, LookupError, TypeError):
        return ()


def service_names(project: Path) -> tuple[str, ...]:
    """Return the services of the catalog and of the project in that folder."""
    import tomllib

    found = {"host"}
    try:
        found |= tomllib.loads((Path(__file__).parent / "catalog.toml").read_text("utf-8")).keys()
        own = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
        found |= own["tool"]["pytest-containers"]["services"].keys()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        # A broken file is told by the command itself, not while somebody types its name.
        return tuple(sorted(found))
    return tuple(sorted(found))
