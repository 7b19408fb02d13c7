"""The native engine: the images wing and the runtime wing, joined (floor 2).

The pytest process pulls and unpacks images; the supervisor, a process of its own, owns all kernel
objects. What crosses between them are plain nouns, and descriptors for whatever is long.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
import tempfile
import threading
import time
import types
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Literal

from pytest_containers.engines.base import Engine, Handle, Images, Network, Registries
from pytest_containers.engines.native_container import NativeHandle
from pytest_containers.engines.native_images import NativeImages
from pytest_containers.engines.native_registries import NativeRegistries
from pytest_containers.engines.native_store import StorePlace
from pytest_containers.errors import EngineError, HostError, SpecInvalid, Unsupported
from pytest_containers.inventory import RegistryAccess
from pytest_containers.runtime import client, folders, messages, openfiles, reaper
from pytest_containers.spec import ContainerSpec, FileEntry, ImageRecord

__all__ = ["NativeEngine", "fresh_run_folder", "preflight"]

_FEATURES: Final = frozenset(
    (
        "binds",
        "init",
        "limits",
        "tmpfs",
        "run-lifetime",
        "internal-networks",
        "host-access",
        "host-network",
        "no-network",
    )
)
_TYPES: Final[Mapping[str, bytes]] = types.MappingProxyType(
    {"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}
)
_INTERFACES: Final[Mapping[str, Literal["switch", "host", "none"]]] = types.MappingProxyType(
    {"host": "host", "none": "none"}
)
_END_S: Final = 10.0
_ATTEMPTS: Final = 3


def fresh_run_folder() -> Path:
    """Return the path of a run folder that no run has; nothing is made."""
    return folders.fresh()


def preflight() -> tuple[tuple[str, bool, str], ...]:
    """Return what a sandbox needs of this machine, tried out: step, whether it works, what was seen.

    What was seen of a step that fails ends with its mend.
    """
    from pytest_containers.runtime.preflight import checks

    return tuple(
        (check.step, check.ok, f"{check.seen}; mend: {check.mend}" if check.mend else check.seen)
        for check in checks()
    )


class NativeEngine(Engine):
    """Runs containers by the kernel alone.

    *store* is the image store's folder. *run_folder* names the run: processes that give the same
    share one supervisor. *owner_pid* is the process whose end is the end of the run. *access* is how
    registries are reached, *lock* the path of a lock file, empty for none.
    """

    def __init__(
        self,
        *,
        store: Path,
        run_folder: Path,
        owner_pid: int,
        access: RegistryAccess | None = None,
        lock: str = "",
    ) -> None:
        self._folder = run_folder
        self._owner_pid = owner_pid
        place = StorePlace(store, access or RegistryAccess(), lock)
        self._images = NativeImages(place, self._connected)
        self._registries = NativeRegistries(place)
        self._lock = threading.Lock()
        self._janitor: subprocess.Popen[bytes] | None = None
        self._connection: client.Connection | None = None
        self._spawned = False
        self._closed = False
        os.register_at_fork(after_in_child=partial(_forget_parent, weakref.ref(self)))

    @property
    def name(self) -> str:
        """``native``."""
        return "native"

    @property
    def features(self) -> frozenset[str]:
        """What is built in beyond the contract."""
        return _FEATURES

    @property
    def images(self) -> Images:
        """The images of the store."""
        return self._images

    @property
    def registries(self) -> Registries:
        """The registries that the images come from."""
        return self._registries

    def prepare(self) -> None:
        """Start the supervisor in the background."""
        with self._lock:
            self._spawn()

    def _spawn(self) -> None:
        if self._spawned:
            return
        if os.geteuid() != 0:
            raise HostError(
                "the native engine needs root on this machine",
                seen=f"pytest runs as user {os.geteuid()}",
                mend='run it as root: sudo -E env "PATH=$PATH" pytest',
            )
        self._janitor = client.spawn(self._folder, self._owner_pid)
        self._spawned = True

    def _connected(self) -> client.Connection:
        """Return the connection to the run; where that has died, to a fresh one."""
        with self._lock, openfiles.explained(client.WHO):
            if self._closed:
                raise EngineError(
                    f"no supervisor answers for the run in {self._folder}",
                    seen="this engine is closed",
                    mend="use containers before the end of the test session",
                )
            if self._connection is not None and self._connection.lost:
                self._connection.close()
                self._connection = None
                self._forget_run()
            if self._connection is None:
                self._connection = self._connect()
                if self._janitor is not None and self._owner_pid != os.getpid():
                    # What we started has made a janitor that outlives us, and has ended.
                    self._await_janitor()
            return self._connection

    def _connect(self) -> client.Connection:
        """Connect to the run, and start it where it is not there, or not any more."""
        attempts = _ATTEMPTS
        while True:
            self._spawn()
            try:
                return client.connect(self._folder, guest=self._owner_pid != os.getpid())
            except EngineError:
                attempts -= 1
                # It died before it answered: its janitor removes what is left, and then there is room.
                if not attempts or not client.wait_until_free(self._folder, _END_S):
                    raise
                self._forget_run()

    def _forget_run(self) -> None:
        self._await_janitor()
        self._spawned = False

    def _await_janitor(self) -> None:
        """Reap the janitor we started. One that takes long removes files, for which it needs nobody."""
        janitor, self._janitor = self._janitor, None
        if janitor is None:
            return
        try:
            janitor.wait(_END_S)
        except subprocess.TimeoutExpired:
            threading.Thread(target=janitor.wait, name="containers-janitor", daemon=True).start()

    def forget_parent(self) -> None:
        """Make a fork's copy of this engine the fork's own; for the fork alone."""
        self._lock = threading.Lock()
        self._janitor = None

    def create(self, spec: ContainerSpec, image: ImageRecord) -> Handle:
        """Make a container: its files, its address, nothing running."""
        self._refuse_what_is_missing(spec)
        connection = self._connected()
        with openfiles.explained(client.WHO):
            return self._create(connection, spec, image)

    def _create(self, connection: client.Connection, spec: ContainerSpec, image: ImageRecord) -> Handle:
        lease = self._images.lease(image)
        with contextlib.ExitStack() as undo, tempfile.TemporaryFile() as tar:
            if lease is not None:
                undo.callback(lease.close)
            interfaces = _INTERFACES.get(spec.network, "switch")
            network = spec.network if interfaces == "switch" else "default"
            request = messages.Create(
                spec=replace(spec, files={}, network=network),
                config=image.config,
                layers=self._images.layers(image),
                leased=lease is not None,
                interfaces=interfaces,
            )
            if spec.files:
                _pack(spec.files, tar)
            # The supervisor's copy holds the lease, too: a container of the run may outlive us.
            given = [one.fileno() for one in (lease, tar if spec.files else None) if one is not None]
            created, (log,) = connection.ask(request, given)
            undo.pop_all()
        return NativeHandle(connection, created, log, self._images, image, lease)

    def _refuse_what_is_missing(self, spec: ContainerSpec) -> None:
        if spec.init and not reaper.is_supported():
            raise Unsupported.of(
                self.name,
                "init",
                seen=f"a machine of the kind {os.uname().machine}",
                mend="leave init= out, or run an init that the image has",
            )

    def network(self, name: str, *, internal: bool = False) -> Network:
        """Make a network."""
        connection = self._connected()
        created = connection.tell(messages.CreateNetwork(name=name, internal=internal))
        return _NativeNetwork(connection, name, created.subnet)

    def reclaim(self) -> Iterable[str]:
        """Remove what dead runs left on disk; return the paths."""
        with folders.hold() as base:
            return folders.sweep(base)

    def close(self) -> None:
        """End the connection and with it all this process made; as the run's owner, the run."""
        owner = self._owner_pid == os.getpid()
        with self._lock:
            if owner:
                self._end_run()
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            self._closed = True
            self._await_janitor()
        if owner and os.path.exists(self._folder):  # its janitor was killed, or refused
            with contextlib.suppress(HostError):
                folders.withdraw(self._folder)
                self.reclaim()

    def _end_run(self) -> None:
        """Tell the supervisor to end, also one that other processes of this run have started."""
        with contextlib.suppress(EngineError, HostError):
            if self._connection is None and os.path.exists(self._folder / folders.SOCKET):
                self._connection = client.connect(self._folder)
            if self._connection is not None:
                self._connection.tell(messages.Shutdown())


def _forget_parent(engine: weakref.ref[NativeEngine]) -> None:
    if (known := engine()) is not None:
        known.forget_parent()


class _NativeNetwork(Network):
    def __init__(self, connection: client.Connection, name: str, subnet: str) -> None:
        self._maker_pid = os.getpid()
        self._connection = connection
        self._name = name
        self._subnet = subnet

    @property
    def name(self) -> str:
        return self._name

    @property
    def subnet(self) -> str:
        return self._subnet

    def remove(self) -> None:
        # A fork's own connection does not have it, and a run that has died took it along.
        if os.getpid() == self._maker_pid and not self._connection.lost:
            self._connection.tell(messages.RemoveNetwork(name=self._name))


def _pack(files: Mapping[str, bytes | FileEntry], into: BinaryIO) -> None:
    with tarfile.open(fileobj=into, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, put in files.items():
            if not path.startswith("/"):
                raise SpecInvalid(f"files= has {path!r}", mend="name an absolute path inside the container")
            made = put if isinstance(put, FileEntry) else FileEntry(content=put)
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.linkname = _TYPES[made.kind], made.target
            entry.size, entry.mode, entry.mtime = len(made.content), made.mode, int(time.time())
            tar.addfile(entry, io.BytesIO(made.content))
    into.flush()
