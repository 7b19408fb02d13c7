"""Runs the steps of a build in containers of the native engine (floor 2)."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

from pytest_containers.engines.native_container import NativeHandle
from pytest_containers.runtime import client, messages
from pytest_containers.spec import Bind, ContainerSpec, ExitStatus, ImageConfig, ImageRecord

if TYPE_CHECKING:
    from pytest_containers.engines.native_images import NativeImages
    from pytest_containers.images.build.runner import Command, Workspace

__all__ = ["NativeRunner"]

_POLL_S: Final = 0.02
_INTERFACES: Final[Mapping[str, Literal["switch", "host", "none"]]] = {
    "default": "switch",
    "host": "host",
    "none": "none",
}
_NAME_BYTES: Final = 6


class NativeRunner:
    """Opens workspaces as containers of the run that *connect* leads to."""

    def __init__(self, connect: Callable[[], client.Connection], images: NativeImages) -> None:
        self._connect = connect
        self._images = images

    @contextlib.contextmanager
    def open(
        self,
        layers: tuple[str, ...],
        command: Command | None,
        *,
        storage: Literal["memory", "disk"] = "disk",
    ) -> Iterator[Workspace]:
        """Open a workspace over the folders *layers*, oldest first; all of it is gone at its end."""
        connection = self._connect()
        handle = self._create(connection, layers, command, storage)
        try:
            yield _NativeWorkspace(connection, handle)
        finally:
            handle.remove()

    def _create(
        self,
        connection: client.Connection,
        layers: tuple[str, ...],
        command: Command | None,
        storage: Literal["memory", "disk"],
    ) -> NativeHandle:
        """Create the container; what has secrets in it stays with this call, out of later tracebacks."""
        # On disk unless asked: what a step installs may be large, and is read once more as a layer.
        spec = replace(self._spec(command), storage=storage)
        request = messages.Create(
            spec=spec,
            config=ImageConfig(),
            layers=layers,
            bare=command is None,
            interfaces=_INTERFACES[command.network] if command is not None else "switch",
        )
        created, (log,) = connection.ask(request)
        image = ImageRecord(reference="", id="", digest="", config=ImageConfig())
        return NativeHandle(connection, created, log, self._images, image)

    @contextlib.contextmanager
    def sockets(self) -> Iterator[Path]:
        """Open a folder in the run's own."""
        with tempfile.TemporaryDirectory(dir=self._connect().folder) as folder:
            yield Path(folder)

    def _spec(self, command: Command | None) -> ContainerSpec:
        name = f"build-{os.urandom(_NAME_BYTES).hex()}"
        if command is None:
            return ContainerSpec(name=name, command=("/",))
        return ContainerSpec(
            name=name,
            hostname="buildkitsandbox",
            command=command.argv,
            env=command.env,
            user=command.user,
            workdir=command.workdir,
            binds=command.binds,
            tmpfs=command.tmpfs,
            build_step=True,
            privileged=command.privileged,
        )


class _NativeWorkspace:
    def __init__(self, connection: client.Connection, handle: NativeHandle) -> None:
        self._connection = connection
        self._handle = handle
        self._stopped = threading.Event()

    def run(self, output: Callable[[bytes], None]) -> ExitStatus:
        self._handle.start()
        position = 0
        while True:
            if self._stopped.is_set():
                self._handle.signal(signal.SIGKILL)
            state = self._handle.wait(_POLL_S)
            chunks, position = self._handle.logs(position)
            for chunk in chunks:
                output(chunk.content)
            if state.exit is not None:
                return state.exit

    def stop(self) -> None:
        self._stopped.set()

    def read(self, path: str, into: BinaryIO) -> None:
        self._handle.tree.read(path, into)

    def write(self, folder: str, tar: BinaryIO) -> None:
        self._handle.tree.write(folder, tar)

    def bind(self, source: str, target: str, *, read_only: bool) -> Bind:
        return Bind(source=source, target=target, read_only=read_only, container=self._handle.id)

    def layer(self, into: BinaryIO) -> None:
        self._connection.tell(messages.Layer(id=self._handle.id), (into.fileno(),))
        into.seek(0, os.SEEK_END)
