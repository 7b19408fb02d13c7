"""The supervisor at work: connections, and an answer to each request (floor 1).

A connection owns what it created. Its end, by close or by death, tears that down; containers with
lifetime ``run`` belong to the run.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_containers.errors import ContainersError, EngineError
from pytest_containers.runtime import messages, syscalls
from pytest_containers.runtime.loop import Recipe, Task
from pytest_containers.runtime.requests import Answered, Owner, Requests
from pytest_containers.runtime.sandbox import Run

__all__ = ["Service"]


@dataclass(eq=False, slots=True, kw_only=True)
class _Connection:
    """One client: its socket, the pidfd of its process, what it owns and what it waits for."""

    channel: socket.socket
    pidfd: int = -1
    owner: Owner
    tasks: set[Task[Answered]] = field(default_factory=set)
    watches: list[tuple[int, Callable[[], None]]] = field(default_factory=list)


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

    def serve(self) -> None:
        """Serve until the run's end."""
        self._run.loop.watch(self._listener.fileno(), self._accept)
        # The run has one fate: without the gateway nobody gets out, so nobody stays in.
        self._run.loop.watch(self._gateway.pidfd, self._run.loop.end)
        self._run.loop.spin()

    def _accept(self) -> None:
        channel, _ = self._listener.accept()
        self._accepted += 1
        connection = _Connection(channel=channel, owner=Owner(self._accepted))
        self._connections.add(connection)
        self._watch(connection, channel.fileno(), lambda: self._receive(connection))

    def _watch(self, connection: _Connection, descriptor: int, callback: Callable[[], None]) -> None:
        connection.watches.append((descriptor, callback))
        self._run.loop.watch(descriptor, callback)

    def _receive(self, connection: _Connection) -> None:
        try:
            content, descriptors = messages.receive(connection.channel)
        except OSError:
            content, descriptors = b"", []
        if not content:
            self._drop(connection)
            return
        try:
            number, request = messages.parse(content)
            if not isinstance(request, messages.Request):
                raise EngineError("an answer came where a request belongs")
        except ContainersError:
            self._drop(connection)
            return
        self._begin(connection, number, request, descriptors)

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
        if descriptors:
            connection.pidfd = os.dup(descriptors[0])
            self._watch(connection, connection.pidfd, lambda: self._drop(connection))

    def _answer(self, connection: _Connection, content: bytes, descriptors: tuple[int, ...]) -> None:
        # A client that is gone, or that never reads, is noticed by its end, not by its answer.
        with contextlib.suppress(OSError):
            messages.send(connection.channel, content, descriptors)

    def _drop(self, connection: _Connection) -> None:
        """Tear down what a connection owns; the last one ends the run."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        for descriptor, callback in connection.watches:
            self._run.loop.forget(descriptor, callback)
        for task in tuple(connection.tasks):
            task.cancel()
        connection.channel.close()
        if connection.pidfd >= 0:
            os.close(connection.pidfd)
        if not self._connections and not self._lingers:
            self._run.loop.end()
            return
        # Nobody is left to be told of a failure; the run's end takes what this leaves.
        self._run.loop.begin(self._requests.release(connection.owner), lambda _: None, lambda _: None)


def _told(request: messages.Request[object], error: Exception) -> ContainersError:
    """Return *error* in the words of the tree; what is none of ours is named with its request."""
    if isinstance(error, ContainersError):
        return error
    if isinstance(error, TimeoutError):
        return EngineError("timeout", seen="timeout")
    return EngineError(
        f"the engine failed at {type(request).__name__}",
        seen=f"{type(error).__name__}: {error}",
        mend="this is a fault of the engine; please report it with these lines",
    )
