"""The processes of the in-memory engine: a handful of programs and a very small shell."""

from __future__ import annotations

import contextlib
import posixpath
import re
import shlex
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from pytest_containers.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainersError,
    InterpreterMissing,
    PathMissing,
)
from pytest_containers.spec import ExitStatus, Port, Stream
from tests.engines.memory_files import Entry, Files
from tests.engines.programs import SERVER

__all__ = ["Process", "World", "find_program"]

_KILL: Final = 9
_TERM: Final = 15
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


class _Ended(Exception):
    """A process's own way out: by exit or by a signal."""

    def __init__(self, code: int, signal: int = 0) -> None:
        super().__init__(code)
        self.status = ExitStatus(code=code, signal=signal)


class Served(NamedTuple):
    """A port that a process has bound, and the real socket behind it."""

    host: str
    port: Port
    real: socket.socket


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a process sees: *virtual* are files that are not the container's own; *lookup* resolves names."""

    files: Files
    virtual: Mapping[str, bytes]
    env: Mapping[str, str]
    uid: int
    gid: int
    workdir: str
    stdin: bytes
    write: Callable[[Stream, bytes], None]
    lookup: Callable[[str], str | None]

    def content(self, path: str) -> bytes:
        """Return a file's content."""
        place = posixpath.join(self.workdir, path)
        return self.virtual[place] if place in self.virtual else self.files.content(place)


class Program(NamedTuple):
    """A program's name, and its text where it is a script."""

    name: str
    script: str


def find_program(world: World, argv: tuple[str, ...]) -> Program:
    """Return the program to run; raise as exec and its shell do (execve(2), "ERRORS")."""
    name = argv[0]
    folders = [""] if "/" in name else world.env.get("PATH", _PATH).split(":")
    for folder in folders:
        entry = world.files.find(posixpath.join(world.workdir, folder, name))
        if entry is None:
            continue
        if entry.kind != "file" or not entry.mode & 0o111:
            raise CommandNotExecutable(f"{name} cannot be executed", seen="permission denied")
        if entry.content.startswith(b"#!"):
            interpreter, _, text = entry.content[2:].decode().partition("\n")
            if world.files.find(interpreter.strip()) is None:
                raise InterpreterMissing(f"{name} is there, its interpreter {interpreter} is not")
            return Program(posixpath.basename(name), ";".join(text.splitlines()))
        return Program(posixpath.basename(name), "")
    raise CommandNotFound(f"no command {name} in the container", seen=f"PATH={':'.join(folders)}")


class Process:
    """One process, as a thread. *first* is the first of its container: unhandled signals pass it by."""

    def __init__(self, world: World, argv: tuple[str, ...], *, first: bool) -> None:
        self._world = world
        self._argv = self.argv = argv
        self._first = first
        self._trap: str | None = None
        self._woken = threading.Condition()
        self._signals: list[int] = []
        self.served: list[Served] = []
        self.status: ExitStatus | None = None
        find_program(world, argv)
        self._thread = threading.Thread(target=self._live, daemon=True)

    def start(self, ended: Callable[[ExitStatus], None]) -> None:
        """Begin; *ended* is called when the process is over and has written all."""
        self._ended = ended
        self._thread.start()

    def signal(self, number: int) -> None:
        """Deliver a signal; it acts where the process waits."""
        with self._woken:
            handled = number == _KILL or (number == _TERM and self._trap is not None) or not self._first
            if handled:
                self._signals.append(number)
                self._woken.notify_all()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the end, at most *timeout_s* seconds."""
        self._thread.join(timeout_s)

    def _live(self) -> None:
        try:
            status = ExitStatus(code=self._run(self._world, self._argv))
        except _Ended as end:
            status = end.status
        for served in self.served:
            # Closing alone does not wake a thread that accepts (accept(2) holds the socket).
            with contextlib.suppress(OSError):
                served.real.shutdown(socket.SHUT_RDWR)
            served.real.close()
        self.status = status
        self._ended(status)

    def _pause(self, seconds: float | None) -> None:
        with self._woken:
            self._woken.wait_for(lambda: self._signals, seconds)
            if not self._signals:
                return
            number = self._signals.pop(0)
        if number == _TERM and self._trap is not None:
            self._script(self._world, self._trap)
        raise _Ended(128 + number, number)

    def _run(self, world: World, argv: tuple[str, ...]) -> int:
        name, script = find_program(world, argv)
        try:
            return self._script(world, script) if script else self._program(world, name, argv[1:])
        except ContainersError as error:
            world.write("stderr", f"{name}: {error.what}\n".encode())
            return 1

    def _program(self, world: World, name: str, words: tuple[str, ...]) -> int:
        match (name, *words):
            case ("true",):
                return 0
            case ("echo", *rest):
                world.write("stdout", f"{' '.join(rest)}\n".encode())
            case ("cat", *paths):
                world.write("stdout", b"".join(map(world.content, paths)) if paths else world.stdin)
            case ("env",):
                world.write("stdout", "".join(f"{key}={val}\n" for key, val in world.env.items()).encode())
            case ("pwd",):
                world.write("stdout", f"{world.workdir}\n".encode())
            case ("id", "-u" | "-g" as which):
                world.write("stdout", f"{world.uid if which == '-u' else world.gid}\n".encode())
            case ("ls", path):
                if world.files.find(path) is None:
                    raise PathMissing(f"cannot access {path}")
                world.write("stdout", "".join(f"{name}\n" for name in world.files.names(path)).encode())
            case ("head", "-c", count, "/dev/zero"):
                world.write("stdout", bytes(int(count)))
            case ("rm", "-rf", path):
                world.files.remove(path)
            case ("mkdir", "-p", path):
                world.files.put(path, Entry(kind="folder"))
            case ("touch", path):
                world.files.put(path, Entry(kind="file", mode=0o644, uid=world.uid, gid=world.gid))
            case ("getent", "hosts", peer):
                return self._getent(world, peer)
            case ("sleep", seconds):
                self._pause(None if seconds == "infinity" else float(seconds))
            case ("sh", "-c", script):
                return self._script(world, script)
            case ("python3", "-c", source, host, port, kind) if source == SERVER:
                self._serve(world, host, Port.parse(f"{port}/{kind}"))
            case _:
                return 1
        return 0

    def _getent(self, world: World, peer: str) -> int:
        ip = world.lookup(peer)
        if ip is None:
            return 2
        world.write("stdout", f"{ip}  {peer}\n".encode())
        return 0

    def _script(self, world: World, script: str) -> int:
        code: int = 0
        for statement in _statements(script):
            code = self._statement(world, statement)
        return code

    def _statement(self, world: World, statement: str) -> int:
        text = re.sub(r"\$([A-Z_]+)", lambda found: world.env.get(found[1], ""), statement)
        text, to_stderr = re.subn(r">&2", "", text)
        text, target, append = _redirection(text)
        words = tuple(shlex.split(text.removesuffix("& wait")))
        match words:
            case ("exit", number):
                raise _Ended(int(number))
            case ("trap", handler, "TERM"):
                self._trap = handler
                return 0
            case ("kill", number, "$$"):
                raise _Ended(128 + abs(int(number)), abs(int(number)))
        collected: list[bytes] = []

        def write(stream: Stream, content: bytes) -> None:
            if target and stream == "stdout":
                collected.append(content)
            else:
                world.write("stderr" if to_stderr else stream, content)

        code = self._run(replace(world, write=write), words)
        if target:
            old = world.content(target) if append and world.files.find(target) else b""
            made = Entry(kind="file", content=old + b"".join(collected), mode=0o644, uid=world.uid)
            world.files.put(posixpath.join(world.workdir, target), made)
        return code

    def _serve(self, world: World, host: str, port: Port) -> None:
        kind = socket.SOCK_DGRAM if port.transport == "udp" else socket.SOCK_STREAM
        real = socket.socket(socket.AF_INET, kind)
        real.bind(("127.0.0.1", 0))
        if port.transport == "tcp":
            real.listen()
            threading.Thread(target=_answer, args=(real,), daemon=True).start()
        self.served.append(Served(host, port, real))
        world.write("stdout", b"listening\n")
        self._pause(None)


def _answer(listener: socket.socket) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            client.sendall(b"+" + client.recv(100))


def _statements(script: str) -> list[str]:
    """Split at semicolons outside of quotes."""
    return [part.strip() for part in re.findall(r"(?:'[^']*'|[^;'])+", script) if part.strip()]


def _redirection(text: str) -> tuple[str, str, bool]:
    found = re.search(r"(>>?)\s*(\S+)\s*$", text)
    return (text[: found.start()], found[2], found[1] == ">>") if found else (text, "", False)
