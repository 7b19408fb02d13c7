"""The seam between a build and whatever runs its commands: the runtime wing is not seen from here.

A step that makes files gets a `Workspace`: the layers so far with an empty one on top, as a
container has them. What lies in that one at the end is the step's layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from pytest_containers.spec import Bind, ExitStatus

__all__ = ["Command", "Runner", "Workspace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a RUN starts, and the world around it.

    *tmpfs* maps a path to a size in bytes, 0 for no limit. A *privileged* one is ``--security=insecure``.
    """

    argv: tuple[str, ...]
    # Build arguments and secrets may be among it.
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    user: str = ""
    workdir: str = "/"
    network: Literal["default", "none", "host"] = "default"
    privileged: bool = False
    binds: tuple[Bind, ...] = ()
    tmpfs: Mapping[str, int] = field(default_factory=dict)


class Workspace(Protocol):
    """The files of one step, and its command."""

    def run(self, output: Callable[[bytes], None]) -> ExitStatus:
        """Run the command the workspace was opened with; hand on its output, return how it ended.

        Raises CommandNotFound and its kin where it cannot be executed.
        """

    def stop(self) -> None:
        """Kill the command, now or as soon as it begins; called from another thread than `run`."""

    def read(self, path: str, into: BinaryIO) -> None:
        """Write *path* as a tar whose names begin with its last part. Raises PathMissing."""

    def write(self, folder: str, tar: BinaryIO) -> None:
        """Unpack a tar below *folder*, which is made where missing."""

    def bind(self, source: str, target: str, *, read_only: bool) -> Bind:
        """Return what shows *source* of these files to another workspace's command, at *target*."""

    def layer(self, into: BinaryIO) -> None:
        """Write what the step changed as a plain layer tar (image-spec, layer.md)."""


class Runner(Protocol):
    """Opens workspaces."""

    def open(
        self,
        layers: tuple[str, ...],
        command: Command | None,
        *,
        storage: Literal["memory", "disk"] = "disk",
    ) -> AbstractContextManager[Workspace]:
        """Open a workspace over the folders *layers*, oldest first; all of it is gone at its end."""

    def sockets(self) -> AbstractContextManager[Path]:
        """Open a folder for sockets, which goes at its end, or with the run where that is killed."""
