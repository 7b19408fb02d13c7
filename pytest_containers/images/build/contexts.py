"""The build context and the named ones: https://docs.docker.com/reference/cli/docker/buildx/build/#build-context."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.context import Context
from pytest_containers.images.build.hashes import Hashes
from pytest_containers.images.build.origins import Origin

__all__ = ["Contexts"]


class Contexts:
    """Opens the folders that files come from: *folder*, and those of *named*."""

    def __init__(
        self, folder: Path, dockerfile: str, named: Mapping[str, str], hashes: Hashes | None = None
    ) -> None:
        self._named = {name.lower(): Path(place) for name, place in named.items()}
        self._hashes = hashes
        self._main = Context.open(folder, dockerfile, hashes=hashes)

    def of(self, origin: Origin) -> Context:
        """Return the context that *origin* means, with the ignore file that lies in it.

        Raises SpecInvalid for a named one whose folder is not there.
        """
        if not origin.name:
            return self._main
        if origin.name not in self._named:
            raise SpecInvalid(f"there is no context named {origin.name}", mend="pass it in contexts=")
        return Context.open(self._named[origin.name], hashes=self._hashes)
