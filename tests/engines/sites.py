"""A folder to build from, on an engine of its own: for tests of builds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytest_containers.engines.native import NativeEngine
from pytest_containers.progress import BuildEvent
from pytest_containers.spec import BuildSpec, ContainerSpec, ImageRecord

__all__ = ["Site"]


class Site:
    """A folder to build from, an engine, and what the last build told."""

    def __init__(self, engine: NativeEngine, store: Path, folder: Path) -> None:
        self.engine = engine
        self.store = store
        self.folder = folder
        self.told: list[BuildEvent] = []
        self.output = b""

    def write(self, files: Mapping[str, str]) -> None:
        """Put files into the folder."""
        for name, content in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(content)

    def build(self, dockerfile: str, **more: object) -> ImageRecord:
        """Build *dockerfile* with the fields of a BuildSpec in *more*."""
        self.write({"Dockerfile": dockerfile})
        self.told, self.output = [], b""
        spec = BuildSpec(folder=str(self.folder), tags=("made",), **more)  # type: ignore[arg-type]
        return self.engine.images.build(spec, self._hear)

    def _hear(self, event: BuildEvent) -> None:
        self.told.append(event)
        self.output += event.output

    @property
    def cached(self) -> int:
        """How many steps of the last build came from the cache."""
        return sum(event.kind == "cached" for event in self.told)

    def run(self, image: ImageRecord, *command: str) -> str:
        """Return what a container of *image* writes; it must end well."""
        spec = ContainerSpec(name="box", command=command or None)
        handle = self.engine.create(spec, image)
        try:
            handle.start()
            state = handle.wait(20)
            output = b"".join(chunk.content for chunk in handle.logs()[0]).decode()
            assert state.exit is not None, output
            assert state.exit.code == 0, output
            return output
        finally:
            handle.remove()
