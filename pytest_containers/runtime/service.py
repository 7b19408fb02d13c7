"""The supervisor at work: connections, and an answer to each request (floor 1).

A connection owns what it created. Its end, by close or by death, tears that down; containers with
lifetime ``run`` belong to the run.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pytest_containers.errors import ContainersError, EngineError, HostError
from pytest_containers.runtime import messages, openfiles, orphans, syscalls
from pytest_containers.runtime.loop import Recipe, Task, Wait, report
from pytest_containers.runtime.outbox import Outbox
from pytest_containers.runtime.requests import Answered, Owner, Requests
from pytest_containers.runtime.sandbox import Run

__all__ = ["Service"]


_WHO: Final = "the run's supervisor"
# While no descriptor is free, a client that connects waits this long between two looks.
_ACCEPT_AGAIN_S: Final = 0.05


@dataclass(eq=False, slots=True, kw_only=True)
class _Connection:
    """One client: its socket, the pidfd of its process, what it owns and what it waits for."""

    channel: socket.socket
    outbox: Outbox
    pidfd: int = -1
    guest: bool = False
    owner: Owner
    tasks: set[Task[Answered]] = field(default_factory=set)
    watches: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    flush: Callable[[], None] | None = None


class Service:
    """Serves the connections of one run."""

    def __init__(
        self,
        run: Run,
        listener: socket.socket,
        gateway: syscalls.Child,
        *,
        lingers: bool,
    ) -> None:
        self._run = run
        self._listener = listener
        self._gateway = gateway
        self._lingers = lingers
        self._requests = Requests(run)
        self._connections: set[_Connection] = set()
        self._accepted = 0
        # Whether a client that was more than a guest has left: then the last of all ends the run.
        self._hosted = False

    def serve(self) -> None:
        """Serve until the run's end."""
        self._listener.setblocking(False)
        self._run.loop.watch(self._listener.fileno(), self._accept)
        self._run.loop.begin(orphans.reap_for_ever(), lambda _: None, report)
        # The run has one fate: without the gateway nobody gets out, so nobody stays in.
        self._run.loop.watch(self._gateway.pidfd, self._run.loop.end)
        self._run.loop.spin()

    def _accept(self) -> None:
        if not openfiles.has_room():
            self._pause_accepting()
            return
        try:
            channel, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # EMFILE, ENFILE, ENOBUFS, ENOMEM (accept(2)): the client stays in the queue
            self._pause_accepting()
            return
        self._accepted += 1
        channel.setblocking(False)
        connection = _Connection(channel=channel, outbox=Outbox(channel), owner=Owner(self._accepted))
        self._connections.add(connection)
        self._watch(connection, channel.fileno(), lambda: self._receive(connection))

    def _pause_accepting(self) -> None:
        """Leave new clients in the listener's queue for a moment; it would be readable all the time."""
        self._run.loop.forget(self._listener.fileno(), self._accept)

        def pause() -> Recipe[None]:
            yield Wait(-1, time.monotonic() + _ACCEPT_AGAIN_S)

        def again(_: object) -> None:
            self._run.loop.watch(self._listener.fileno(), self._accept)

        self._run.loop.begin(pause(), again, again)

    def _watch(self, connection: _Connection, descriptor: int, callback: Callable[[], None]) -> None:
        self._run.loop.watch(descriptor, callback)
        connection.watches.append((descriptor, callback))

    def _receive(self, connection: _Connection) -> None:
        try:
            received = messages.receive(connection.channel)
        except BlockingIOError:
            return
        except (OSError, ContainersError):
            self._drop(connection)
            return
        if not received.content:
            _close(received.descriptors)
            self._drop(connection)
            return
        try:
            number, request = messages.parse(received.content, lost=received.lost)
            if not isinstance(request, messages.Request) and not received.lost:
                raise EngineError("an answer came where a request belongs")
        except ContainersError:
            _close(received.descriptors)
            self._drop(connection)
            return
        if received.lost or not isinstance(request, messages.Request):
            self._answer(connection, messages.error_message(number, _lost()), ())
            return
        self._begin(connection, number, request, received.descriptors)

    def _begin(
        self,
        connection: _Connection,
        number: int,
        request: messages.Request[object],
        descriptors: list[int],
    ) -> None:
        current: list[Task[Answered]] = []

        def done(answered: Answered) -> None:
            connection.tasks.difference_update(current)
            self._answer(connection, messages.message(number, answered.noun), answered.descriptors)

        def failed(error: Exception) -> None:
            connection.tasks.difference_update(current)
            self._answer(connection, messages.error_message(number, _told(request, error)), ())

        task = self._run.loop.begin(self._handle(connection, request, descriptors), done, failed)
        current.append(task)
        if task.pending:
            connection.tasks.add(task)

    def _handle(
        self, connection: _Connection, request: messages.Request[object], descriptors: list[int]
    ) -> Recipe[Answered]:
        with contextlib.ExitStack() as undo:
            for descriptor in descriptors:
                undo.callback(os.close, descriptor)
            if isinstance(request, messages.Hello):
                self._greet(connection, request, descriptors)
                return Answered(noun=messages.Greeting(version=messages.VERSION))
            if isinstance(request, messages.Shutdown):
                self._run.loop.end()
                return Answered(noun=messages.Done())
            answered = yield from self._requests.answer(request, descriptors, connection.owner)
            return answered

    def _greet(self, connection: _Connection, request: messages.Hello, descriptors: list[int]) -> None:
        if request.version != messages.VERSION:
            raise EngineError(
                "client and supervisor are of different versions",
                seen=f"{request.version} asks, {messages.VERSION} answers",
                mend="end the older run, then start again",
            )
        connection.guest = request.guest
        if descriptors and connection.pidfd < 0:
            pidfd = os.dup(descriptors[0])
            try:
                self._watch(connection, pidfd, lambda: self._drop(connection))
            except (OSError, ValueError) as error:
                os.close(pidfd)
                raise EngineError("what came with Hello is no pidfd", seen=str(error)) from error
            connection.pidfd = pidfd

    def _answer(self, connection: _Connection, content: bytes, descriptors: tuple[int, ...]) -> None:
        """Send an answer, now or when the client reads; one that leaves too much unread is dropped."""
        if connection not in self._connections:
            return
        try:
            connection.outbox.post(content, descriptors)
        except OSError:
            self._drop(connection)
            return
        if connection.outbox.pending and connection.flush is None:

            def flush() -> None:
                self._flush(connection)

            connection.flush = flush
            self._run.loop.watch(connection.channel.fileno(), flush, write=True)

    def _flush(self, connection: _Connection) -> None:
        try:
            connection.outbox.flush()
        except OSError:
            self._drop(connection)
            return
        if not connection.outbox.pending:
            self._stop_flushing(connection)

    def _stop_flushing(self, connection: _Connection) -> None:
        flush, connection.flush = connection.flush, None
        if flush is not None:
            self._run.loop.forget(connection.channel.fileno(), flush, write=True)

    def _drop(self, connection: _Connection) -> None:
        """Tear down what a connection owns; the last one ends the run."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._stop_flushing(connection)
        for descriptor, callback in connection.watches:
            self._run.loop.forget(descriptor, callback)
        for task in tuple(connection.tasks):
            task.cancel()
        connection.outbox.close()
        connection.channel.close()
        if connection.pidfd >= 0:
            os.close(connection.pidfd)
        self._hosted = self._hosted or not connection.guest
        if not self._connections and not self._lingers and self._hosted:
            self._run.loop.end()
            return
        # Nobody is left to be told of a failure; the run's end takes what this leaves.
        self._run.loop.begin(self._requests.release(connection.owner), lambda _: None, report)


def _told(request: messages.Request[object], error: Exception) -> ContainersError:
    """Return *error* in the words of the tree; what is none of ours is named with its request."""
    if isinstance(error, ContainersError):
        return error
    if isinstance(error, ExceptionGroup):
        return EngineError(
            error.message,
            seen="\n".join(str(one) for one in _leaves(error)),
            mend="what is left goes with the end of the run",
        )
    if isinstance(error, TimeoutError):
        return EngineError("timeout", seen="timeout")
    if (told := openfiles.running_out(error, _WHO)) is not None:
        return told
    return EngineError(
        f"the engine failed at {type(request).__name__}",
        seen=f"{type(error).__name__}: {error}",
        mend="this is a fault of the engine; please report it with these lines",
    )


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _lost() -> ContainersError:
    """Return why the descriptors of a request did not come with it."""
    try:
        openfiles.require_room(_WHO)
    except HostError as error:
        return error
    return EngineError("a request brought more descriptors than any needs", seen="MSG_CTRUNC")


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
