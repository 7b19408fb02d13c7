"""The engines that the contract suite runs against, and a bench to try them on."""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_containers.engines.base import Engine, Handle, Network
from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.spec import ContainerSpec, ImageRecord
from tests.engines.memory import MemoryEngine, MemoryRun
from tests.engines.sites import Site
from tests.plugins.clock import scaled

JoinRun = Callable[[bool], Engine]

_PATIENCE_S = scaled(20.0)


class Bench:
    """One engine under test; what is made on it is removed after the test."""

    def __init__(self, engine: Engine, join: Callable[[], Engine]) -> None:
        self.engine = engine
        self._join = join
        self._handles: list[Handle] = []
        self._networks: list[Network] = []
        self._engines: list[Engine] = []

    def join(self) -> Engine:
        """Return another engine of the same run, as another process has it."""
        self._engines.append(self._join())
        return self._engines[-1]

    def create(self, spec: ContainerSpec, image: ImageRecord | None = None) -> Handle:
        """Create a container, of ``host`` where no image is given."""
        handle = self.engine.create(spec, image or self.engine.images.pull("host"))
        self._handles.append(handle)
        return handle

    def start(self, spec: ContainerSpec, image: ImageRecord | None = None) -> Handle:
        """Create and start a container."""
        handle = self.create(spec, image)
        handle.start()
        return handle

    def put(self, handle: Handle, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Write a file by a tar of one entry."""
        entry = tarfile.TarInfo(posixpath.basename(path))
        entry.size, entry.mode = len(content), mode
        self._write(handle, posixpath.dirname(path), entry, content)

    def link(self, handle: Handle, path: str, target: str) -> None:
        """Make a symbolic link."""
        entry = tarfile.TarInfo(posixpath.basename(path))
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._write(handle, posixpath.dirname(path), entry, b"")

    def _write(self, handle: Handle, folder: str, entry: tarfile.TarInfo, content: bytes) -> None:
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as writer:
            writer.addfile(entry, io.BytesIO(content))
        tar.seek(0)
        handle.tree.write(folder, tar)

    def network(self, name: str, *, internal: bool = False) -> Network:
        """Make a network."""
        self._networks.append(self.engine.network(name, internal=internal))
        return self._networks[-1]

    def until(self, handle: Handle, condition: Callable[[], bool]) -> None:
        """Return when *condition* holds while the container lives on, or fail."""
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, handle.logs()
            assert handle.wait(timeout_s=0.01).status == "running", handle.logs()

    def clear(self) -> None:
        """Remove everything that was made."""
        for engine in self._engines:
            engine.close()
        for handle in self._handles:
            handle.remove()
        for network in self._networks:
            network.remove()
        self._handles.clear()


@pytest.fixture(scope="session", params=["memory", pytest.param("native", marks=pytest.mark.kernel)])
def joins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JoinRun]:
    """Return how one joins a run of the engine, by whether one is its owner."""
    if request.param == "memory":
        run = MemoryRun()
        yield lambda _: MemoryEngine(run)
        return
    from pytest_containers.engines.native import NativeEngine, fresh_run_folder

    store, folder = tmp_path_factory.mktemp("store"), fresh_run_folder()

    def join(owner: bool) -> Engine:
        pid = os.getpid() if owner else os.getppid()
        return NativeEngine(store=store, run_folder=folder, owner_pid=pid)

    yield join


@pytest.fixture(scope="session")
def engine(joins: JoinRun) -> Iterator[Engine]:
    """Return the engine under test, running."""
    engine = joins(True)
    engine.prepare()
    # The first call waits for the engine's processes, so that no test is blamed for them.
    engine.network("warm").remove()
    yield engine
    engine.close()


@pytest.fixture
def bench(engine: Engine, joins: JoinRun) -> Iterator[Bench]:
    """Return a bench with the engine under test."""
    bench = Bench(engine, lambda: joins(False))
    yield bench
    bench.clear()


@pytest.fixture(scope="module")
def engine_and_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NativeEngine, Path]]:
    """Return an engine and the folder of its store."""
    store = tmp_path_factory.mktemp("store")
    engine = NativeEngine(store=store, run_folder=fresh_run_folder(), owner_pid=os.getpid())
    with contextlib.closing(engine):
        engine.images.pull("host")
        engine.network("warm").remove()
        yield engine, store


@pytest.fixture
def site(engine_and_store: tuple[NativeEngine, Path], tmp_path: Path) -> Site:
    """Return a folder to build from."""
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(*engine_and_store, folder)
