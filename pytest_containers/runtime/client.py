"""The pytest side of a run: starts it where it is not yet, and talks to its supervisor (floor 1).

A `Connection` may be used by several threads; one reader thread hands the answers out. A fork of
the process closes its copy, so that only the process that opened it keeps the run alive, and opens
a connection of its own when it asks for something: what it makes ends with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar, cast

from pytest_containers._files import holder, tell_waiting
from pytest_containers.errors import ContainersError, EngineError, HostError
from pytest_containers.runtime import folders, interpreter, messages, openfiles

__all__ = ["WHO", "Connection", "connect", "spawn", "wait_until_free"]

Answer = TypeVar("Answer")
WHO: Final = "the test process"
_BACKLOG: Final = 128
_LOOK_AGAIN_S: Final = 0.01
_TELL_AFTER_S: Final = 1.0
# The whole interpreter that a janitor starts: isolated, no site, and its path as we say (-I -S).
_START: Final = (
    "import os, sys; os.close(int(sys.argv[6])); sys.path += sys.argv[7:];"
    "from pytest_containers.runtime.janitor import main;"
    "a = sys.argv; main(a[1], int(a[2]), int(a[3]), int(a[4]), a[5])"
)


def spawn(folder: Path, owner_pid: int) -> subprocess.Popen[bytes] | None:
    """Start the run of *folder* in the background unless it is there; return its janitor's process.

    None where another process has started it. *owner_pid* is the process whose end is the run's.
    Sweeps what dead runs left. Raises HostError where the place for runs is somebody else's.
    """
    with folders.hold() as base:
        # A socket whose folder nobody holds is what a dead run left; a refusal is still to be read.
        if (folder / folders.SOCKET).exists() and not (
            folders.is_free(folder) and not folders.refusal(folder)
        ):
            return None
        folders.sweep(base)
        with contextlib.ExitStack() as ours:
            owner = os.pidfd_open(owner_pid)
            ours.callback(os.close, owner)
            lock = folders.make(folder)
            ours.callback(os.close, lock)
            listener = ours.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            listener.bind(str(folder / folders.SOCKET))
            listener.listen(_BACKLOG)
            return _start_janitor(folder, owner, listener, lock, lingers=owner_pid != os.getpid())


def _start_janitor(
    folder: Path, owner: int, listener: socket.socket, lock: int, *, lingers: bool
) -> subprocess.Popen[bytes]:
    descriptors = (owner, listener.fileno(), lock)
    view = interpreter.open_view()
    arguments = [
        str(folder),
        *map(str, descriptors),
        "lingers" if lingers else "ends",
        str(view),
        str(Path(__file__).resolve().parents[2]),
    ]
    begun = interpreter.invocation(view, "-I", "-S", "-X", "utf8", "-c", _START, *arguments)
    try:
        return subprocess.Popen(
            begun.arguments,
            executable=begun.executable,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(*descriptors, view),
            env={"PATH": os.defpath},
            cwd="/",
            start_new_session=True,  # a Ctrl-C on the terminal is pytest's to handle
        )
    finally:
        os.close(view)


def connect(folder: Path, *, guest: bool = False) -> Connection:
    """Return a connection to the run of *folder*.

    The end of a *guest* is never the end of the run. Raises EngineError where nobody answers, and
    what kept the run from beginning where that is known.
    """
    connection = Connection(_knock(folder), folder)
    try:
        connection.greet(guest=guest)
    except BaseException:
        connection.close()
        raise
    return connection


def _knock(folder: Path) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        channel.connect(str(folder / folders.SOCKET))
    except OSError as error:
        channel.close()
        raise folders.refusal(folder) or EngineError(
            f"no supervisor answers for the run in {folder}",
            seen=str(error),
            mend="start the test run again; `pytest-containers prune` removes what is left of this one",
        ) from error
    return channel


def wait_until_free(folder: Path, timeout_s: float) -> bool:
    """Return whether no process of a run holds *folder* within *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not folders.is_free(folder):
        if time.monotonic() > deadline:
            return False
        pause.wait(_LOOK_AGAIN_S)
    return True


class _Waiting(NamedTuple):
    request: messages.Request[object]
    future: Future[tuple[object, list[int]]]

    def answer(self, plain: object, descriptors: list[int]) -> None:
        try:
            if isinstance(plain, ContainersError):
                raise plain
            self.future.set_result((messages.decode(self.request.answer, plain), descriptors))
        except Exception as error:  # noqa: BLE001 - it is the asking thread's to handle
            _close(descriptors)
            self.future.set_exception(error)


class Connection:
    """One client's way to the supervisor. Made by `connect`; what it creates ends with it.

    *folder* is the run's: what lies there is swept, whoever dies.
    """

    def __init__(self, channel: socket.socket, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._begin(channel)
        os.register_at_fork(after_in_child=partial(_forget, weakref.ref(self)))

    def _begin(self, channel: socket.socket) -> None:
        self._channel = channel
        self._number = 0
        self._waiting: dict[int, _Waiting] = {}
        self._ended = False
        self._forked = False
        self._reader = threading.Thread(target=self._read, name="containers", daemon=True)
        self._reader.start()

    def forget(self) -> None:
        """Close the copy that a fork has of this connection; the next request opens one of its own."""
        self._channel.close()
        # Another thread of the parent may have held the lock in the moment of the fork.
        self._lock = threading.RLock()
        self._waiting = {}
        self._forked = not self._ended
        self._ended = True

    def _reopen(self) -> None:
        try:
            self._begin(_knock(self.folder))
            self.greet(guest=True)
        except (ContainersError, OSError) as error:
            self._ended = True
            raise EngineError(
                "this fork of the test process has no connection to the run",
                seen=getattr(error, "what", str(error)),
                mend="use the container in the process that started it, or while that one runs",
            ) from error

    @property
    def lost(self) -> bool:
        """Whether the supervisor is gone, or `close` was called."""
        return self._ended and not self._forked

    def greet(self, *, guest: bool) -> None:
        """Say who we are. Raises what kept the run from beginning."""
        me = os.pidfd_open(os.getpid())
        try:
            answered = self.post(messages.Hello(version=messages.VERSION, guest=guest), (me,))
            if not wait([answered], timeout=_TELL_AFTER_S).done:
                # Its janitor, or the supervisor itself, holds the lock of the run folder.
                with contextlib.suppress(OSError):
                    tell_waiting(f"the run in {self.folder} to start", holder(self.folder.stat()))
            _close(answered.result()[1])
        except EngineError as error:
            raise folders.refusal(self.folder) or error from None
        finally:
            os.close(me)

    def post(
        self, request: messages.Request[Answer], descriptors: Sequence[int] = ()
    ) -> Future[tuple[Answer, list[int]]]:
        """Send *request*; the future brings the answer and the descriptors, then the caller's.

        It raises the error that the supervisor answers, EngineError where it is gone.
        """
        future: Future[tuple[Answer, list[int]]] = Future()
        with self._lock:
            if self._forked:
                self._reopen()
            if self._ended:
                raise _gone()
            self._number += 1
            self._waiting[self._number] = _Waiting(
                cast(messages.Request[object], request), cast("Future[tuple[object, list[int]]]", future)
            )
            try:
                messages.send(self._channel, messages.message(self._number, request), descriptors)
            except OSError as error:
                del self._waiting[self._number]
                raise openfiles.running_out(error, WHO) or _gone() from error
        return future

    def ask(
        self, request: messages.Request[Answer], descriptors: Sequence[int] = ()
    ) -> tuple[Answer, list[int]]:
        """Return what `post` promises, when it is there."""
        return self.post(request, descriptors).result()

    def tell(self, request: messages.Request[Answer], descriptors: Sequence[int] = ()) -> Answer:
        """Return the answer to *request*, for those that bring no descriptors."""
        answer, received = self.ask(request, descriptors)
        _close(received)
        return answer

    def _read(self) -> None:
        while True:
            descriptors: list[int] = []
            try:
                content, descriptors, lost_some = messages.receive(self._channel)
                if not content:
                    break
                number, plain = messages.parse(content, lost=lost_some)
            except (OSError, ContainersError):
                _close(descriptors)
                break
            waiting = self._waiting.pop(number, None)
            if waiting is None:
                _close(descriptors)
            elif lost_some:
                self._lose(waiting, plain)
            else:
                waiting.answer(plain, descriptors)
        with self._lock:
            self._ended = True
            lost, self._waiting = self._waiting, {}
        for waiting in lost.values():
            waiting.future.set_exception(_gone())

    def _lose(self, waiting: _Waiting, plain: object) -> None:
        """Answer with an error where our limit of open files has kept an answer's descriptors out."""
        match waiting.request, plain:
            case messages.Create(), {"id": str(container_id), "found": False}:
                # Nobody will hold it, so nobody could remove it.
                with contextlib.suppress(EngineError):
                    self.post(messages.Remove(id=container_id))
        try:
            openfiles.require_room(WHO)
        except HostError as error:
            waiting.future.set_exception(error)
        else:
            waiting.future.set_exception(EngineError("an answer's descriptors were lost", seen="MSG_CTRUNC"))

    def close(self) -> None:
        """End the connection, and with it what it owns; doing so twice is allowed."""
        self._ended, self._forked = True, False
        with contextlib.suppress(OSError):  # closed already, or the other side is gone
            self._channel.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._channel.close()


def _forget(connection: weakref.ref[Connection]) -> None:
    if (known := connection()) is not None:
        known.forget()


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _gone() -> EngineError:
    return EngineError(
        "the run's supervisor is gone, and all its containers with it",
        seen="its socket is closed",
        mend="look for a kill or an out-of-memory end in the system's log; its own last words are on stderr. "
        "The next container starts in a fresh run",
    )
