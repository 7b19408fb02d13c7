"""What tests of the runtime share: children for what must not happen here, an engine, containers."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import platform
import signal
import struct
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, Protocol, TypeVar

import pytest

from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.engines.native_container import NativeHandle
from pytest_containers.runtime import messages, syscalls
from pytest_containers.spec import ContainerSpec, ExecResult, ExecSpec, ImageConfig, ImageRecord
from tests.plugins.clock import scaled

Outcome = TypeVar("Outcome")
_PATIENCE_S: Final = round(scaled(20))
_HOST: Final = ("/",)


class Apart(Protocol):
    """Runs an action in a child, in namespaces of its own; its result or its exception is the caller's."""

    def __call__(self, action: Callable[[], Outcome], *, flags: int = 0) -> Outcome: ...


def _overdue(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"no end after {_PATIENCE_S} s")


def _tell(into: int, action: Callable[[], object]) -> NoReturn:
    try:
        signal.signal(signal.SIGALRM, _overdue)
        signal.alarm(_PATIENCE_S)
        # No mount of a test may show outside (mount_namespaces(7)).
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        found: tuple[bool, object] = (True, action())
    except BaseException as error:  # noqa: BLE001 - it is raised again in the test
        found = (False, error)
    try:
        content = pickle.dumps(found)
    except Exception as error:  # noqa: BLE001 - whatever an object's own pickling raises
        content = pickle.dumps((False, RuntimeError(f"{found[1]!r} cannot be handed over: {error}")))
    with os.fdopen(into, "wb") as out:
        out.write(content)
    os._exit(0)


def _fork() -> int:
    """Fork as a library does that knows of other threads: pytest has one that watches the clock."""
    with warnings.catch_warnings():
        # Python 3.12 warns of what may be locked in the child, which only goes on by itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _apart(action: Callable[[], Outcome], *, flags: int = 0) -> Outcome:
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    # Between us and the action is a process of one thread: `clone` is for such alone.
    between = _fork()
    if between == 0:
        os.close(ours)
        child = syscalls.clone(syscalls.CLONE_NEWNS | flags)
        if child.pid == 0:
            _tell(theirs, action)
        os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as source:
        content = source.read()
    os.waitpid(between, 0)
    assert content, "the child ended before it could tell"
    well, found = pickle.loads(content)
    if not well:
        raise found
    outcome: Outcome = found
    return outcome


@pytest.fixture
def apart() -> Apart:
    """Return a function that runs an action in a child with a private mount namespace."""
    return _apart


@pytest.fixture
def fork() -> Callable[[], int]:
    """Return os.fork for a process with threads."""
    return _fork


class Boxes:
    """Containers of one engine, removed together."""

    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine
        self._image = ImageRecord(reference="host", id="0" * 64, digest="", config=ImageConfig())
        self._made: list[NativeHandle] = []

    def create(
        self,
        spec: ContainerSpec,
        *,
        layers: tuple[str, ...] = _HOST,
        config: ImageConfig | None = None,
    ) -> NativeHandle:
        """Make a container over *layers*, oldest first; it does not run yet."""
        if layers == _HOST and config is None:
            made = self.engine.create(spec, self.engine.images.pull("host"))
            assert isinstance(made, NativeHandle)
            handle = made
        else:
            assert not spec.files, "files are for the base host"
            connection = self.engine._connected()
            request = messages.Create(spec=spec, config=config or ImageConfig(), layers=layers)
            created, (log,) = connection.ask(request)
            handle = NativeHandle(connection, created, log, self.engine._images, self._image)
        self._made.append(handle)
        return handle

    def start(
        self,
        spec: ContainerSpec,
        *,
        layers: tuple[str, ...] = _HOST,
        config: ImageConfig | None = None,
    ) -> NativeHandle:
        """Make a container and start it."""
        handle = self.create(spec, layers=layers, config=config)
        handle.start()
        return handle

    def said(self, spec: ContainerSpec, *, layers: tuple[str, ...] = _HOST) -> str:
        """Return what a container's first process wrote; it must end well."""
        handle = self.start(spec, layers=layers)
        state = handle.wait(_PATIENCE_S)
        output = b"".join(chunk.content for chunk in handle.logs()[0]).decode()
        assert state.exit is not None, f"it runs on, after: {output}"
        assert state.exit.code == 0, output
        handle.remove()
        return output

    def read(self, handle: NativeHandle, path: str) -> bytes:
        """Return the content of a container's file."""
        found = io.BytesIO()
        handle.tree.read(path, found)
        found.seek(0)
        with tarfile.open(fileobj=found) as tar:
            file = tar.extractfile(tar.getmembers()[0])
            assert file is not None, f"{path} is no file"
            return file.read()

    def remove(self) -> None:
        """Remove all that is left."""
        while self._made:
            self._made.pop().remove()


def execute(handle: NativeHandle, *argv: str, user: str | None = None) -> ExecResult:
    """Run one more process in a container."""
    return handle.exec(ExecSpec(argv=argv, user=user, timeout_s=_PATIENCE_S))


class Shell(Protocol):
    """Runs a line of shell in a container and returns what it wrote; it must end well."""

    def __call__(self, handle: NativeHandle, line: str, *, user: str | None = None) -> str: ...


@pytest.fixture
def sh() -> Shell:
    """Return a function that runs a line of shell in a container."""

    def run(handle: NativeHandle, line: str, *, user: str | None = None) -> str:
        result = execute(handle, "/bin/sh", "-c", line, user=user)
        assert result.exit_code == 0, result
        return result.stdout

    return run


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeEngine]:
    """Return an engine whose supervisor runs."""
    engine = NativeEngine(
        store=tmp_path_factory.mktemp("store"), run_folder=fresh_run_folder(), owner_pid=os.getpid()
    )
    with contextlib.closing(engine):
        engine._connected()
        yield engine


@pytest.fixture
def boxes(engine: NativeEngine) -> Iterator[Boxes]:
    """Return what makes containers that end with the test."""
    made = Boxes(engine)
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def idle(engine: NativeEngine) -> Iterator[NativeHandle]:
    """Return a container without options, to be looked at and not to be changed."""
    made = Boxes(engine)
    yield made.start(ContainerSpec(name="idle", command=("sleep", "1000")))
    made.remove()


# exit(42) in machine code: the number of the call, its argument, the call.
_EXIT_42: Final = {
    "x86_64": (62, bytes.fromhex("b83c000000 bf2a000000 0f05")),
    "aarch64": (183, bytes.fromhex("a80b80d2 400580d2 010000d4")),
}


class Program(Protocol):
    """Writes a program that needs no library and ends with 42, linked for a loader where one is named."""

    def __call__(self, path: Path, *, loader: str = "") -> None: ...


@pytest.fixture
def program() -> Program:
    """Return a function that writes the smallest of programs (elf(5))."""

    def write(path: Path, *, loader: str = "") -> None:
        machine, code = _EXIT_42[platform.machine()]
        base, text = 0x400000, loader.encode() + b"\0"
        headers = 2 if loader else 1
        start = 64 + 56 * headers
        size = start + len(text) + len(code)
        ident = b"\x7fELF\x02\x01\x01" + bytes(9)
        entry = base + start + len(text)
        head = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, entry, 64, 0, 0, 64, 56, headers, 0, 0, 0)
        interp = struct.pack("<IIQQQQQQ", 3, 4, start, base + start, 0, len(text), len(text), 1)
        load = struct.pack("<IIQQQQQQ", 1, 5, 0, base, 0, size, size, 0x1000)
        path.write_bytes(ident + head + (interp if loader else b"") + load + text + code)
        path.chmod(0o755)

    return write
