"""A container of the native engine, as the floors above hold it (floor 2)."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Final, Self, TypeVar

from pytest_containers.engines.base import Handle, Tree
from pytest_containers.engines.native_images import NativeImages
from pytest_containers.errors import EngineError, SpecInvalid, Unsupported
from pytest_containers.runtime import client, logs, messages, openfiles
from pytest_containers.spec import (
    Address,
    Change,
    ContainerState,
    ExecResult,
    ExecSpec,
    FileStat,
    ImageConfig,
    ImageRecord,
    LogChunk,
    LogTail,
    Port,
    ProcessEntry,
    Stats,
)

if TYPE_CHECKING:
    from pytest_containers.images.leases import Lease

__all__ = ["NativeHandle"]

_Answer = TypeVar("_Answer")
# Where a container on this machine's own network is reached.
_LOOPBACK: Final = "127.0.0.1"
_BACKLOG: Final = 128
_LONGEST_S: Final = 3600.0
_CHUNK_BYTES: Final = 1 << 16
# More than the largest pipe holds (1 MiB, pipe(7)); what floods a pipe in the background has no end.
_READS_PER_TURN: Final = 17


class _Held:
    """A handle's descriptors: its log, the pidfd of the first process or -1, the lease of its layers."""

    def __init__(self, log: int, lease: Lease | None) -> None:
        self.log = log
        self._lease = lease
        self.pidfd = -1

    def forget_pidfd(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pidfd = -1

    def close(self) -> None:
        self.forget_pidfd()
        if self.log >= 0:
            os.close(self.log)
        self.log = -1
        if self._lease is not None:
            self._lease.close()


class NativeHandle(Handle):
    """One container of the run's supervisor."""

    def __init__(
        self,
        connection: client.Connection,
        created: messages.Created,
        log: int,
        images: NativeImages,
        image: ImageRecord,
        lease: Lease | None = None,
    ) -> None:
        self._connection = connection
        self._created = created
        self._held = _Held(log, lease)
        # A handle that is dropped without a removal must not keep its descriptors.
        weakref.finalize(self, self._held.close)
        self._tree = _NativeTree(connection, created.id, images, image)
        self._lock = threading.Lock()
        self._maker_pid = os.getpid()
        self._published: dict[int, Address] = {}

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self._created.id

    @property
    def lost(self) -> bool:
        """Whether the supervisor is gone, and the container with it."""
        return self._connection.lost

    @property
    def ip(self) -> str:
        """The address of eth0, which the test process is routed to as well."""
        return self._created.ip

    @property
    def tree(self) -> Tree:
        """The container's files."""
        return self._tree

    def start(self) -> None:
        """Run the first process; return when its exec has happened."""
        _, pidfds = self._connection.ask(messages.Start(id=self.id))
        self._adopt(pidfds)

    def state(self) -> ContainerState:
        """Return the state as it is now."""
        return self._connection.tell(messages.State(id=self.id))

    def wait(self, timeout_s: float | None = None) -> ContainerState:
        """Return the state when the first process has ended, or as it is after *timeout_s*."""
        deadline = None if timeout_s is None else time.monotonic() + max(0.0, timeout_s)
        while True:
            if not self._poll(deadline):
                return self.state()
            # Its process has ended, or is one that another process of the run has started.
            state, pidfds = self._connection.ask(messages.State(id=self.id, pidfd=True))
            self._adopt(pidfds)
            if state.status != "running" or (deadline is not None and time.monotonic() >= deadline):
                return state

    def _poll(self, deadline: float | None) -> bool:
        """Wait until the process that we know has ended; return whether it has, or we know none."""
        with self._lock:
            pidfd = os.dup(self._held.pidfd) if self._held.pidfd >= 0 else -1
        if pidfd < 0:
            return True
        try:
            # The pidfd is the process itself: no supervisor is asked until it has ended.
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            while True:
                # poll(2) counts milliseconds in an int.
                left_s = _LONGEST_S if deadline is None else max(0.0, deadline - time.monotonic())
                if poll.poll(min(left_s, _LONGEST_S) * 1000):
                    return True
                if left_s < _LONGEST_S:
                    return False
        finally:
            os.close(pidfd)

    def _adopt(self, pidfds: list[int]) -> None:
        with self._lock:
            self._held.forget_pidfd()
            self._held.pidfd = pidfds[0] if pidfds else -1

    def signal(self, number: int) -> None:
        """Send a signal to the first process."""
        self._connection.tell(messages.Signal(id=self.id, number=number))

    def pause(self) -> None:
        """Stop all processes where they are."""
        self._connection.tell(messages.Pause(id=self.id))

    def unpause(self) -> None:
        """Let paused processes go on."""
        self._connection.tell(messages.Unpause(id=self.id))

    def stats(self) -> Stats:
        """Return what the container uses at this moment."""
        return self._connection.tell(messages.Measure(id=self.id))

    def top(self) -> tuple[ProcessEntry, ...]:
        """Return the processes; a user is told by its number."""
        return self._connection.tell(messages.Top(id=self.id)).processes

    def exec(self, spec: ExecSpec) -> ExecResult:
        """Run one more process and return how it ended."""
        request = messages.ExecRequest(
            id=self.id,
            argv=spec.argv,
            user=spec.user,
            workdir=spec.workdir,
            env=spec.env,
            timeout_s=spec.timeout_s,
        )
        with openfiles.explained(client.WHO), _Feed(spec.stdin) as feed, _Capture() as captured:
            future = self._connection.post(request, (feed.theirs, *captured.theirs))
            feed.give()
            exited, _ = captured.until(future, feed)
            stdout, stderr = captured.contents
        if exited.exit_code < 0:
            raise TimeoutError(f"{list(spec.argv)} did not end within {spec.timeout_s:g} s")
        reason = f"{exited.reason}\n".encode() if exited.reason else b""
        return ExecResult(
            argv=spec.argv, exit_code=exited.exit_code, stdout_bytes=stdout, stderr_bytes=stderr + reason
        )

    def logs(self, since: int = 0, *, limit_bytes: int | None = None) -> tuple[tuple[LogChunk, ...], int]:
        """Return the output after *since*, read from the log itself."""
        with self._lock:
            if self._held.log < 0:
                return (), since
            return logs.read_log(self._held.log, since, limit_bytes=limit_bytes)

    def log_tail(self, limit_bytes: int) -> LogTail:
        """Return the last of the output, read from the end of the log itself."""
        with self._lock:
            if self._held.log < 0:
                return LogTail(chunks=(), is_cut=False, position=0)
            return logs.read_tail(self._held.log, limit_bytes)

    def listening(self) -> frozenset[Port]:
        """Return the ports bound in the container's network namespace."""
        ports = self._connection.tell(messages.Listening(id=self.id)).ports
        return frozenset(Port.parse(port) for port in ports)

    def unreachable(self) -> Mapping[Port, str]:
        """Return the ports bound to loopback, or for IPv6, alone."""
        aside = self._connection.tell(messages.Listening(id=self.id)).aside
        return {Port.parse(port): address for port, address in aside}

    def address(self, port: Port, *, published: bool = False) -> Address:
        """Return the container's own address, to which the host is routed, or a port of 127.0.0.1."""
        if not self.ip:
            raise SpecInvalid(
                f"{port} of this container has no address",
                seen='it is on network="none", where only its own processes reach it',
                mend="leave network= out, or ask it by exec()",
            )
        if not published or self.ip == _LOOPBACK:
            return Address(self.ip, port.number)
        if port.transport != "tcp":
            raise Unsupported.of("native", f"publishing {port}", mend="use address(): it is routed")
        with self._lock:
            if port.number not in self._published:
                self._published[port.number] = self._publish(port.number)
            return self._published[port.number]

    def _publish(self, number: int) -> Address:
        """Bind a port of ours and let the gateway serve it: it is never anybody else's meanwhile."""
        with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listener:
            self._connection.tell(messages.Publish(id=self.id, port=number), (listener.fileno(),))
            return Address(*listener.getsockname())

    def remove(self) -> None:
        """Kill what runs and drop the files, and the log with them.

        A fork of the process that made it gives up its copies alone: the container is not the fork's.
        Where the supervisor is gone there is nothing else to give up.
        """
        try:
            if os.getpid() == self._maker_pid:
                self._connection.tell(messages.Remove(id=self.id))
        except EngineError:
            if not self.lost:
                raise
        finally:
            with self._lock:
                self._held.close()


class _Wake:
    """A descriptor that becomes readable when a future has ended."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC)
        self._lock = threading.Lock()

    def at_end_of(self, future: Future[_Answer]) -> None:
        """Become readable when *future* is done."""
        future.add_done_callback(lambda _: self._ring())

    def _ring(self) -> None:
        # The future may end long after an interrupt has closed us: the number is another's then.
        with self._lock:
            if self.descriptor >= 0:
                os.eventfd_write(self.descriptor, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            os.close(self.descriptor)
            self.descriptor = -1


def _drain(pipe: int, take: Callable[[bytes], object]) -> bool:
    """Hand over what *pipe*, which does not block, holds now; return whether it was anything."""
    moved = False
    with contextlib.suppress(BlockingIOError):
        for _ in range(_READS_PER_TURN):
            if not (piece := os.read(pipe, _CHUNK_BYTES)):
                break
            take(piece)
            moved = True
    return moved


class _Feed:
    """A pipe with what a process is to read: a file would be the host's, which the process could fill.

    A memory file has a file system as well, which open_by_handle_at(2) looks into; a pipe has none.
    """

    def __init__(self, content: bytes) -> None:
        self._left = memoryview(content)
        self.theirs, self.ours = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.ours, False)

    def give(self) -> None:
        """Keep the writing end alone, which is the descriptor `ours` until all is written, then -1."""
        os.close(self.theirs)
        self.theirs = -1
        self.feed()

    def feed(self) -> None:
        """Write what the pipe takes now, and close it after the last of it or when nobody reads any more."""
        with contextlib.suppress(BlockingIOError):
            try:
                while self._left:
                    self._left = self._left[os.write(self.ours, self._left[:_CHUNK_BYTES]) :]
            except BrokenPipeError:
                self._left = self._left[:0]
            os.close(self.ours)
            self.ours = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in (self.theirs, self.ours):
            if descriptor >= 0:
                os.close(descriptor)


class _Capture:
    """Two pipes that a process writes into while we wait for something else."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as undo:
            made: list[tuple[int, int]] = []
            for _ in range(2):
                made.append(os.pipe2(os.O_CLOEXEC))
                for descriptor in made[-1]:
                    undo.callback(os.close, descriptor)
            self._pipes = (made[0], made[1])
            self._wake = undo.enter_context(_Wake())
            self._found = (bytearray(), bytearray())
            for ours, _ in self._pipes:
                os.set_blocking(ours, False)
            self._closing = undo.pop_all()

    @property
    def theirs(self) -> tuple[int, int]:
        """The ends to write into."""
        return self._pipes[0][1], self._pipes[1][1]

    @property
    def contents(self) -> tuple[bytes, bytes]:
        """What has come."""
        return bytes(self._found[0]), bytes(self._found[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def until(self, future: Future[_Answer], feed: _Feed) -> _Answer:
        """Read both pipes, and feed the third, until *future* is there; then read what they hold.

        Not until their ends: a process left in the background may keep them open for ever.
        """
        self._wake.at_end_of(future)
        poll = select.poll()
        for descriptor in (self._pipes[0][0], self._pipes[1][0], self._wake.descriptor):
            poll.register(descriptor, select.POLLIN)
        writing = feed.ours
        if writing >= 0:
            poll.register(writing, select.POLLOUT)
        while not future.done():
            if writing in {ready for ready, _ in poll.poll()}:
                feed.feed()
                if feed.ours < 0:
                    poll.unregister(writing)
                    writing = -1
            self._drain()
        self._drain()
        return future.result()

    def _drain(self) -> None:
        for (ours, _), found in zip(self._pipes, self._found, strict=True):
            _drain(ours, found.extend)


class _NativeTree(Tree):
    def __init__(
        self, connection: client.Connection, container_id: str, images: NativeImages, image: ImageRecord
    ) -> None:
        self._connection = connection
        self._id = container_id
        self._images = images
        self._image = image

    def read(self, path: str, into: BinaryIO) -> None:
        with openfiles.explained(client.WHO), contextlib.ExitStack() as scope, _Wake() as wake:
            ours, theirs = os.pipe2(os.O_CLOEXEC)
            scope.callback(os.close, ours)
            try:
                future = self._connection.post(messages.Read(id=self._id, path=path), (theirs,))
            finally:
                os.close(theirs)
            os.set_blocking(ours, False)
            wake.at_end_of(future)
            poll = select.poll()
            poll.register(ours, select.POLLIN)
            poll.register(wake.descriptor, select.POLLIN)
            # Not to the pipe's end: another child of the supervisor may hold it open a while longer.
            while not future.done():
                poll.poll()
                _drain(ours, into.write)
            future.result()
            while _drain(ours, into.write):
                pass

    def stat(self, path: str) -> FileStat:
        return self._connection.tell(messages.Stat(id=self._id, path=path))

    def write(self, folder: str, tar: BinaryIO) -> None:
        # A socket, since its end can be told to the other side while a fork of ours has it open too.
        with openfiles.explained(client.WHO), contextlib.ExitStack() as scope:
            ours, theirs = socket.socketpair()
            scope.enter_context(ours)
            with theirs:
                wake = scope.enter_context(_Wake())
                future = self._connection.post(messages.Write(id=self._id, folder=folder), (theirs.fileno(),))
            wake.at_end_of(future)
            ours.setblocking(False)
            poll = select.poll()
            poll.register(ours, select.POLLOUT)
            poll.register(wake.descriptor, select.POLLIN)
            while not future.done() and (piece := memoryview(tar.read(_CHUNK_BYTES))):
                while piece and not future.done():
                    poll.poll()
                    with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                        piece = piece[ours.send(piece) :]
            with contextlib.suppress(OSError):  # whoever read it has ended, which is told below
                ours.shutdown(socket.SHUT_WR)
            future.result()

    def changes(self) -> tuple[Change, ...]:
        changed = self._connection.tell(messages.Changes(id=self._id)).changes
        return tuple(Change(kind=kind, path=PurePosixPath(path)) for kind, path in changed)

    def commit(self, reference: str, config: ImageConfig) -> ImageRecord:
        with openfiles.explained(client.WHO), tempfile.TemporaryFile() as layer:
            self._connection.tell(messages.Layer(id=self._id), (layer.fileno(),))
            layer.seek(0)
            return self._images.commit(self._image, layer, reference, config)
