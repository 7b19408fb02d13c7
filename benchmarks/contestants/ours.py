"""This project's own engine, at the seam that the fixtures use."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.contestants.base import BASE, CHANGES, JANITOR, Address, ImageContestant, resident_bytes
from benchmarks.materials import REDIS, SLEEP
from benchmarks.report import OURS
from pytest_containers.engines.base import Handle
from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.images.load import load
from pytest_containers.images.reference import Reference
from pytest_containers.images.save import save
from pytest_containers.images.store import Store
from pytest_containers.spec import BuildSpec, ContainerSpec, ExecSpec, ImageConfig, ImageRecord, Port

__all__ = ["Ours", "prepare"]


def prepare(store: Path, root: Path) -> None:
    """Make `BASE` of the tar *root* in *store*: unpacked, as a machine has it after the first run."""
    engine = _engine(store)
    with root.open("rb") as tar:
        engine.images.import_tar(tar, BASE, ImageConfig(command=SLEEP))


def _engine(store: Path) -> NativeEngine:
    return NativeEngine(store=store, run_folder=fresh_run_folder(), owner_pid=os.getpid())


class Ours(ImageContestant):
    """One engine, as one pytest run has it, on the images of *store*."""

    name = OURS

    def __init__(self, store: Path) -> None:
        try:
            self.version = version(OURS)
        except PackageNotFoundError:
            self.version = "from its sources"
        self._engine = _engine(store)
        self._store = Store(store)
        self._image: ImageRecord | None = None
        self._handles: dict[str, Handle] = {}

    def start(self, name: str) -> None:
        """Create and start, by the seam's two calls."""
        self._start(name, SLEEP)

    def serve(self, name: str) -> None:
        """Start Redis."""
        self._start(name, REDIS)

    def _start(self, name: str, command: tuple[str, ...]) -> None:
        if self._image is None:
            self._image = self._engine.images.pull(BASE)
        handle = self._engine.create(ContainerSpec(name=name, command=command), self._image)
        handle.start()
        self._handles[name] = handle

    def exec(self, name: str) -> None:
        """Run ``true``."""
        self._run(name, ("/bin/true",))

    def _run(self, name: str, argv: tuple[str, ...]) -> None:
        result = self._handles[name].exec(ExecSpec(argv=argv))
        if result.exit_code != 0:
            raise RuntimeError(f"{argv}: {result.stderr}")

    def kill(self, name: str) -> None:
        """Kill the first process; return when it has ended. Nothing is removed."""
        self._handles[name].signal(signal.SIGKILL)
        self._handles[name].wait()

    def remove(self, names: Sequence[str]) -> None:
        """Remove, one by one."""
        for name in names:
            self._handles.pop(name).remove()

    def addresses(self, names: Sequence[str]) -> list[Address]:
        """Return the containers' own addresses."""
        return [self._handles[name].address(Port(6379)) for name in names]

    def memory_bytes(self) -> int:
        """Weigh janitor, supervisor and gateway."""
        return resident_bytes(lambda argv: any(JANITOR in word for word in argv))

    def change(self, name: str) -> None:
        """Write files."""
        self._run(name, CHANGES)

    def commit(self, name: str, image: str) -> None:
        """Make an image, its layer unpacked beside its blob."""
        self._handles[name].tree.commit(image, ImageConfig())

    def pull(self, reference: str) -> None:
        """Pull and unpack."""
        self._engine.images.pull(reference)

    def tag(self, source: str, target: str) -> None:
        """Name it once more."""
        self._engine.images.tag(source, target)

    def push(self, reference: str) -> None:
        """Push."""
        self._engine.images.push(reference)

    def build(self, folder: Path, reference: str) -> None:
        """Build, its steps in containers of this run."""
        self._engine.images.build(BuildSpec(folder=str(folder), tags=(reference,)), lambda _: None)

    def save(self, reference: str, archive: Path) -> None:
        """Save in both forms at once, docker's and OCI's, layers as they were pulled."""
        save(self._store, [Reference.parse(reference)], archive)

    def load(self, archive: Path) -> None:
        """Load and unpack."""
        load(self._store, archive)

    def close(self) -> None:
        """End the run."""
        self._engine.close()
