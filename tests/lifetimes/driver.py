"""Plays a pytest process: does what its standard input says with an engine of its own.

``driver.py FOLDER STORE MARK OWNER NETWORK``: the run folder; the store; the argument that all its
containers' ``sleep`` bears; the pid whose end is the run's (0: its own); and the network namespace
that is to be its host's (``own``: a fresh one, ``host``: the one it is in, or a path). Each command
is one line, and so is each answer: ``error CLASS: text`` where it failed. It ends with its input.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import unittest.mock
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from pytest_containers.engines.base import Handle
from pytest_containers.engines.native import NativeEngine
from pytest_containers.errors import ContainersError
from pytest_containers.runtime import client, syscalls
from pytest_containers.spec import ContainerSpec, ExecSpec, Limits

_LATE: Final = """
import os, sys
sys.path += sys.argv[7:]
from pytest_containers.runtime import syscalls
alive, death = os.pipe()
ask = syscalls.parent_death_signal
def late(number):
    os.close(death)
    os.read(alive, 1)
    ask(number)
syscalls.parent_death_signal = late
"""


class Driver:
    """An engine and the containers it has made, by name."""

    def __init__(self, engine: NativeEngine, folder: Path, mark: str) -> None:
        self._engine = engine
        self._folder = folder
        self._mark = mark
        self._handles: dict[str, Handle] = {}

    def start(self, name: str, lifetime: str = "owner") -> str:
        """Start a container that sleeps; answer with its name, address and id."""
        spec = ContainerSpec(
            name=name,
            command=("sleep", self._mark),
            lifetime="run" if lifetime == "run" else "owner",
        )
        handle = self._engine.create(spec, self._engine.images.pull("host"))
        self._handles[name] = handle
        handle.start()
        return f"{name} {handle.ip} {handle.id} {handle.state().started_at}"

    def pause(self, name: str) -> str:
        """Pause a container."""
        self._handles[name].pause()
        return name

    def limited(self, name: str) -> str:
        """Start a container with limits, which has control groups of its own; answer with its id."""
        spec = ContainerSpec(
            name=name,
            command=("sleep", self._mark),
            limits=Limits(memory_bytes=64 << 20, cpus=1.0, pids=100),
        )
        handle = self._engine.create(spec, self._engine.images.pull("host"))
        self._handles[name] = handle
        handle.start()
        return handle.id

    def many(self, count: str, prefix: str) -> str:
        """Start *count* containers one after the other, and say so after each."""
        say("begun")
        for number in range(int(count)):
            say(f"started {self.start(f'{prefix}{number}')}")
        return "all"

    def exec(self, name: str, *argv: str) -> str:
        """Answer with the exit code of a process inside a container."""
        return str(self._handles[name].exec(ExecSpec(argv=argv)).exit_code)

    def remove(self, name: str) -> str:
        """Remove a container."""
        self._handles.pop(name).remove()
        return name

    def prepare(self) -> str:
        """Start the run's supervisor in the background."""
        self._engine.prepare()
        return "prepared"

    def prepare_late(self) -> str:
        """Start a supervisor that asks for its parent-death signal only when the parent is dead."""
        with unittest.mock.patch.object(client, "_START", _LATE + "".join(client._START)):
            return self.prepare()

    def fork(self) -> str:
        """Fork a child as a test may; it closes its engine and ends when told; answer with its pid."""
        read, self._forked = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(self._forked)
            os.read(read, 1)
            self._engine.close()
            os._exit(0)
        os.close(read)
        return str(child)

    def unfork(self) -> str:
        """Let the forked child end in the ordinary way; answer with its exit status."""
        os.close(self._forked)
        return str(os.wait()[1])

    def cycle(self, count: str) -> str:
        """Start and remove a container that often."""
        for _ in range(int(count)):
            self.start("cycle")
            self.remove("cycle")
        return "cycled"

    def execs(self, count: str, name: str) -> str:
        """Run a process inside a container that often."""
        codes = {self.exec(name, "true") for _ in range(int(count))}
        return " ".join(codes)

    def race(self, rival: str, count: str) -> str:
        """Remove a container while it is started, asked or executed into, that often."""
        for number in range(int(count)):
            spec = ContainerSpec(name="raced", command=("sleep", self._mark))
            handle = self._engine.create(spec, self._engine.images.pull("host"))
            actions: dict[str, Callable[[], object]] = {
                "start": handle.start,
                "exec": lambda handle=handle: handle.exec(ExecSpec(argv=("sleep", self._mark))),  # type: ignore[misc]
                "state": handle.state,
            }
            if rival != "start":
                handle.start()
            threads = [threading.Thread(target=_quietly, args=(actions[rival],)) for _ in range(3)]
            for thread in threads:
                thread.start()
            threading.Event().wait(number % 10 / 1000)
            handle.remove()
            for thread in threads:
                thread.join()
        return "raced"

    def busy(self, name: str) -> str:
        """Execute into a container from several threads until the end."""

        def work() -> None:
            while True:
                _quietly(lambda: self._handles[name].exec(ExecSpec(argv=("sleep", "0.001"))))

        for _ in range(4):
            threading.Thread(target=work, daemon=True).start()
        return "busy"

    def fail(self, count: str) -> str:
        """Start that often what is not there."""
        spec = ContainerSpec(name="fails", command=("no-such-command",))
        kinds: set[str] = set()
        for _ in range(int(count)):
            handle = self._engine.create(spec, self._engine.images.pull("host"))
            try:
                handle.start()
            except ContainersError as error:
                kinds.add(type(error).__name__)
            handle.remove()
        return " ".join(kinds)

    def connect(self, count: str) -> str:
        """Connect to the run, create a container, and go away, that often."""
        for number in range(int(count)):
            engine = NativeEngine(
                store=self._folder / "store", run_folder=self._folder, owner_pid=os.getppid()
            )
            spec = ContainerSpec(name=f"visitor{number}", command=("sleep", self._mark))
            handle = engine.create(spec, engine.images.pull("host"))
            handle.start()
            engine.close()
            # Its process has ended, so its network is free for the next visitor.
            _quietly(partial(handle.wait, 10))
        return "connected"

    def counts(self) -> str:
        """Answer with the numbers of open descriptors and of threads of this process."""
        return f"{len(os.listdir('/proc/self/fd'))} {threading.active_count()}"

    def close(self) -> str:
        """Close the engine."""
        self._engine.close()
        return "closed"


def _quietly(action: Callable[[], object]) -> None:
    with contextlib.suppress(ContainersError):
        action()


def say(line: str) -> None:
    """Write one line for the test to read."""
    os.write(1, line.encode() + b"\n")


def main(folder: str, store: str, mark: str, owner: str, network: str) -> None:
    """Obey until the input ends, then close."""
    if network == "own":
        syscalls.unshare(syscalls.CLONE_NEWNET)
    elif network != "host":
        with open(network, "rb") as namespace:
            syscalls.setns(namespace.fileno(), syscalls.CLONE_NEWNET)
    pid = int(owner) or os.getpid()
    engine = NativeEngine(store=Path(store), run_folder=Path(folder), owner_pid=pid)
    driver = Driver(engine, Path(folder), mark)
    say("ready")
    for line in sys.stdin:
        verb, *arguments = line.split()
        call: Callable[..., str] = getattr(driver, verb)
        try:
            say(call(*arguments))
        except ContainersError as error:
            say(f"error {type(error).__name__}: " + str(error).replace("\n", " | "))
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
