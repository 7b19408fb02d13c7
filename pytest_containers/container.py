"""What a test holds: one container, started and ready (floor 3).

Everything here is said in terms of `Handle` and `Tree`, so it is the same for every engine.
Commands are lists of words, or a string that is split as a shell does and never given to one.
Exit codes are Docker's (docker run, "Exit status"). Text is UTF-8.
"""

from __future__ import annotations

import datetime
import os
import signal as signals
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_containers.checks import Target
from pytest_containers.engines.base import Handle, Tree
from pytest_containers.errors import ContainersError, ExecFailed, NotReady, NotRunning, SpecInvalid
from pytest_containers.exits import describe_state, signal_name, signal_number
from pytest_containers.output import PIECE_BYTES, Lines, as_line, excerpt, joined, through, transcript
from pytest_containers.probe import Probe, ProbeLike, as_probe, outcome, split, wait_until
from pytest_containers.spec import (
    Address,
    Change,
    ContainerSpec,
    ExecResult,
    ExecSpec,
    ImageConfig,
    ImageRecord,
    LogLine,
    Port,
    ProcessEntry,
    Stats,
    Status,
    Stream,
    Transport,
)
from pytest_containers.transfer import InsidePath, copy_in, copy_out, read_file, write_file
from pytest_containers.variables import Environment, environment

__all__ = ["Container", "laid_over"]

# How long a reader that follows the log sleeps at most; the end of the container wakes it.
_FOLLOW_S = 0.05
_KILL_S = 10.0


class Container:
    """A running container. Made by the ``container`` fixture, gone when its scope ends."""

    def __init__(
        self, *, handle: Handle, spec: ContainerSpec, image: ImageRecord, ready: Probe, timeout_s: float
    ) -> None:
        self._handle = handle
        self._spec = spec
        self._image = image
        self._config = laid_over(spec, image.config)
        self._ready = ready
        self._timeout_s = timeout_s
        self._log_from = 0
        self._removed = False

    def __repr__(self) -> str:
        return f"<Container {self.name} {self._image.reference} {self.ip}>"

    @property
    def id(self) -> str:
        """64 hexadecimal digits, never used again."""
        return self._handle.id

    @property
    def name(self) -> str:
        """Its name, which peers on its network resolve."""
        return self._spec.name

    @property
    def image(self) -> ImageRecord:
        """The image it was made from."""
        return self._image

    @property
    def ip(self) -> str:
        """Its address on its network, as its peers use it."""
        return self._handle.ip

    @property
    def hostname(self) -> str:
        """What ``hostname`` says inside: as the test asked, else the id's first twelve digits."""
        return self._spec.hostname or self.id[:12]

    @property
    def state(self) -> Status:
        """``created``, ``running``, ``paused`` or ``exited``, as it is now."""
        state = self._handle.state()
        return "paused" if state.paused else state.status

    @property
    def exit_code(self) -> int | None:
        """The first process's exit code, 128 + n for an end by signal n; None while it runs."""
        end = self._handle.state().exit
        return None if end is None else end.code

    @property
    def oom_killed(self) -> bool:
        """Whether it has ended and the kernel had killed a process of it for want of memory."""
        end = self._handle.state().exit
        return end is not None and end.oom_killed

    @property
    def ports(self) -> tuple[Port, ...]:
        """The exposed ports: the image's and those the test named."""
        return self._config.ports

    @property
    def labels(self) -> Mapping[str, str]:
        """The image's labels with the test's over them."""
        return self._config.labels

    @property
    def env(self) -> Mapping[str, str]:
        """The image's environment with the test's over it."""
        return dict(entry.partition("=")[::2] for entry in self._config.env)

    @property
    def command(self) -> tuple[str, ...]:
        """What is run, without the entrypoint."""
        return self._config.command

    @property
    def entrypoint(self) -> tuple[str, ...]:
        """What stands before the command."""
        return self._config.entrypoint

    @property
    def user(self) -> str:
        """``user``, ``uid``, ``user:group``, or empty for root, as image or test say it."""
        return self._config.user

    @property
    def workdir(self) -> str:
        """The folder in which the first process begins."""
        return self._config.workdir or "/"

    def address(
        self, port: int | str | None = None, protocol: Transport | None = None, *, published: bool = False
    ) -> Address:
        """Return host and port at which the test reaches *port*; without one, the only exposed port.

        *published* is for a client that may only speak to 127.0.0.1: TCP alone.
        """
        return self._handle.address(self._port(port, protocol), published=published)

    def url(self, scheme: str = "http", port: int | str | None = None, path: str = "") -> str:
        """Return ``scheme://host:port/path``."""
        address = self.address(port)
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"{scheme}://{host}:{address.port}" + (f"/{path.lstrip('/')}" if path else "")

    def exec(
        self,
        argv: str | Sequence[str],
        *,
        user: str | None = None,
        workdir: InsidePath | None = None,
        env: Environment | None = None,
        stdin: bytes | str = b"",
        check: bool = False,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run one more process and return how it ended.

        *env* is laid over the container's own, and None in it takes a variable away. Exit code 126
        or 127 is a command that cannot be executed or found. With *check*, another exit code than 0
        raises ExecFailed. Raises NotRunning, and TimeoutError after *timeout* seconds, with the
        process killed.
        """
        spec = ExecSpec(
            argv=split(argv),
            user=user,
            workdir=None if workdir is None else str(workdir),
            env=environment(env),
            stdin=stdin.encode() if isinstance(stdin, str) else stdin,
            timeout_s=timeout,
        )
        try:
            result = self._handle.exec(spec)
        except NotRunning as error:
            raise self._not_running("exec") from error
        if check and result.exit_code != 0:
            raise ExecFailed(
                f"{list(spec.argv)} in {self.name} ended with exit code {result.exit_code}",
                seen="\n".join(filter(None, map(excerpt, (result.stdout, result.stderr)))) or "no output",
            )
        return result

    def logs(
        self,
        *,
        since: datetime.datetime | None = None,
        stream: Stream | None = None,
        tail: int | None = None,
    ) -> str:
        """Return the output up to now: of one stream, or of both in the order it was written.

        With *tail* the last so many lines of it, for which no more is read than is returned. A log ends at
        256 MiB, and all of it that is asked for is held in memory.
        """
        if tail is None:
            return joined(through(self._handle), stream=stream, since=since)
        if tail < 0:
            raise SpecInvalid(f"tail={tail} is no number of lines", mend="give a number, 0 or more")
        limit_bytes = PIECE_BYTES
        while True:
            end = self._handle.log_tail(limit_bytes)
            lines = joined(end.chunks, stream=stream, since=since).split("\n")
            ended = not lines[-1]
            if not end.is_cut or len(lines) - ended > tail:
                return "\n".join(lines[max(0, len(lines) - ended - tail) :]) if tail else ""
            limit_bytes *= 4

    def log_lines(self, *, follow: bool = False) -> Iterator[LogLine]:
        """Yield the output line by line; with *follow* also what is still to come, until the exit."""
        lines, position = Lines(), 0
        while True:
            going_on = follow and self._handle.state().exit is None
            chunks, position = self._handle.logs(position, limit_bytes=PIECE_BYTES)
            for line in lines.cut(chunks):
                yield as_line(*line)
            if chunks:
                continue
            if not going_on:
                break
            self._handle.wait(timeout_s=_FOLLOW_S)
        yield from lines.rest()

    def wait_for(self, probe: ProbeLike, *, timeout: float | None = None) -> None:
        """Return when *probe* holds, or a callable given the container returns something true.

        Raises ContainerExited as soon as the container has ended without, NotReady after
        *timeout* seconds (the container's own where None).
        """
        limit_s = self._timeout_s if timeout is None else timeout
        target = Target(
            name=self.name,
            handle=self._handle,
            container=self,
            deadline=time.monotonic() + limit_s,
            timeout_s=limit_s,
            log_from=self._log_from,
            healthcheck=self._config.healthcheck,
            shell=self._config.shell or ("/bin/sh", "-c"),
        )
        wait_until(as_probe(probe), target)

    def wait(self, *, timeout: float | None = None) -> int:
        """Return the exit code when the first process has ended. Raises NotReady after *timeout* seconds."""
        state = self._handle.wait(timeout)
        if state.exit is not None:
            return state.exit.code
        if state.status == "created":
            raise self._not_running("wait for the end")
        raise NotReady(
            f"{self.name} did not exit within {timeout or 0:g} s",
            seen=outcome(self._handle, state),
            mend="raise timeout=, or end it with stop()",
        )

    def start(self) -> None:
        """Run the first process and wait until the container is ready.

        A container that has exited is started on the files it left. Raises StartError and its
        kin, ContainerExited, NotReady.
        """
        if self._handle.state().status == "exited":
            self._log_from = self._handle.log_tail(0).position
        self._handle.start()
        self.wait_for(self._ready)

    def stop(self, *, timeout: float | None = None) -> None:
        """Ask the first process to end, and kill it after *timeout* seconds.

        The signal is the test's ``stop_signal``, else the image's, else SIGTERM; the time is the
        test's ``stop_timeout`` where None. One that is paused goes on first, so that it can end by
        itself. Files and logs stay readable.
        """
        if self._handle.state().paused:
            self._handle.unpause()
        name = self._spec.stop_signal or self._config.stop_signal or "SIGTERM"
        grace_s = self._spec.stop_timeout_s if timeout is None else timeout
        self._handle.signal(signal_number(name))
        if self._handle.wait(grace_s).status == "running":
            # Not `kill`: an end of its own in this very moment is what was asked for.
            self._handle.signal(signals.SIGKILL)
            self._require_end()

    def kill(self, signal: int | str = signals.SIGKILL) -> None:
        """Send a signal; return after SIGKILL when the process is gone. Raises NotRunning."""
        number = signal_number(signal)
        self.signal(number)
        if number == signals.SIGKILL:
            self._require_end()

    def _require_end(self) -> None:
        """Return when the process is gone after a SIGKILL. Raises NotReady."""
        if self._handle.wait(_KILL_S).status == "running":
            raise NotReady(
                f"{self.name} still runs {_KILL_S:g} s after SIGKILL",
                mend="a process in an uninterruptible wait ends when its disk or network answers",
            )

    def signal(self, signal: int | str) -> None:
        """Send a signal, by number or name, to the first process. Raises NotRunning."""
        number = signal_number(signal)
        if self._handle.state().status != "running":
            raise self._not_running(f"send {signal_name(number)}")
        self._handle.signal(number)

    def pause(self) -> None:
        """Stop all processes where they are, until `unpause`. Raises NotRunning.

        Connections stay open and nobody answers. An exec raises NotRunning meanwhile; `stop`, `kill`,
        `restart` and `remove` end the container.
        """
        self._handle.pause()

    def unpause(self) -> None:
        """Let paused processes go on; nothing happens where none are paused."""
        self._handle.unpause()

    def stats(self) -> Stats:
        """Return what the container uses at this moment: memory, processor time, processes, traffic.

        Raises NotRunning.
        """
        try:
            return self._handle.stats()
        except NotRunning as error:
            raise self._not_running("measure it") from error

    def top(self) -> tuple[ProcessEntry, ...]:
        """Return the processes, those of execs too, by their ids inside. Raises NotRunning.

        A user has the name that the container's /etc/passwd gives to its number, where it gives one.
        """
        try:
            found = self._handle.top()
        except NotRunning as error:
            raise self._not_running("list its processes") from error
        names = _user_names(self._handle.tree)
        return tuple(replace(entry, user=names.get(entry.user, entry.user)) for entry in found)

    def restart(self, *, timeout: float | None = None) -> None:
        """Stop, start again on the same files and address, and wait until ready."""
        self.stop(timeout=timeout)
        self.start()

    def remove(self) -> None:
        """End the container now and drop its files; nothing happens where it is gone already."""
        self._removed = True
        self._handle.remove()

    @property
    def lost(self) -> bool:
        """Whether the run that it lived in has died, and the container with it."""
        return self._handle.lost

    @property
    def removed(self) -> bool:
        """Whether `remove` was called, by a test or at the end of its scope."""
        return self._removed

    def read_bytes(self, path: InsidePath) -> bytes:
        """Return a file's content. Raises PathMissing."""
        return read_file(self._handle.tree, path)

    def read_text(self, path: InsidePath) -> str:
        """Return a file's content as UTF-8. Raises PathMissing."""
        return self.read_bytes(path).decode("utf-8")

    def write_bytes(self, path: InsidePath, content: bytes, *, mode: int = 0o644) -> None:
        """Put a file of root's at *path*, making the folders above it."""
        write_file(self._handle.tree, path, content, mode=mode)

    def write_text(self, path: InsidePath, content: str, *, mode: int = 0o644) -> None:
        """Put a file of root's at *path* as UTF-8, making the folders above it."""
        self.write_bytes(path, content.encode(), mode=mode)

    def copy_in(self, source: str | os.PathLike[str], target: InsidePath) -> None:
        """Copy a file or folder of this machine into the container, as ``docker cp`` does."""
        copy_in(self._handle.tree, source, target)

    def copy_out(self, source: InsidePath, target: str | os.PathLike[str]) -> Path:
        """Copy a file or folder to this machine, as ``docker cp`` does; return where it is."""
        return copy_out(self._handle.tree, source, target)

    def diff(self) -> tuple[Change, ...]:
        """Return what differs from the image, sorted by path."""
        return self._handle.tree.changes()

    def commit(
        self,
        reference: str,
        *,
        command: str | Sequence[str] | None = None,
        entrypoint: str | Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        workdir: InsidePath | None = None,
        ports: Sequence[int | str] = (),
        labels: Mapping[str, str] | None = None,
        stop_signal: str | None = None,
    ) -> ImageRecord:
        """Make an image named *reference* of the files as they are now, and return it.

        Its configuration is this container's (docker container commit), with the arguments over
        it; an empty command or entrypoint clears that of the container.
        """
        over = ContainerSpec(
            name=self.name,
            command=_cleared(command),
            entrypoint=_cleared(entrypoint),
            env=env or {},
            user=user,
            workdir=None if workdir is None else str(workdir),
            ports=tuple(map(Port.parse, ports)),
            labels=labels or {},
        )
        config = laid_over(over, self._config, keep_command=True)
        if stop_signal is not None:
            config = replace(config, stop_signal=signal_name(signal_number(stop_signal)))
        return self._handle.tree.commit(reference, config)

    def report(self, lines: int) -> str:
        """Return the state and the last *lines* lines of output with their times (UTC)."""
        return transcript(self._handle, lines)

    def _port(self, port: int | str | None, protocol: Transport | None) -> Port:
        if port is not None:
            parsed = Port.parse(port)
            return parsed if protocol is None else Port(parsed.number, protocol)
        exposed = [known for known in self.ports if known.transport == (protocol or "tcp")]
        if not exposed and protocol is None:
            exposed = list(self.ports)
        if len(exposed) != 1:
            raise SpecInvalid(
                f"{self.name} exposes {', '.join(map(str, exposed)) or 'no port'}",
                mend="name the port: address(6379)",
            )
        return exposed[0]

    def _not_running(self, action: str) -> NotRunning:
        state = self._handle.state()
        if state.paused:
            return NotRunning(
                f"cannot {action}: {self.name} is paused",
                seen=describe_state(state),
                mend="let it go on with unpause()",
            )
        return NotRunning(
            f"cannot {action}: {self.name} does not run",
            seen=outcome(self._handle, state),
            mend="start it again with start(); its files and logs can be read as it is",
        )


def _user_names(tree: Tree) -> dict[str, str]:
    """Return the users of a container by their numbers (passwd(5)); none without that file."""
    try:
        content = read_file(tree, "/etc/passwd")
    except ContainersError:
        return {}
    rows = [line.split(":") for line in content.decode("utf-8", "replace").splitlines()]
    # Of several names of one number the first counts.
    return {row[2]: row[0] for row in reversed(rows) if len(row) > 2}


def _cleared(argv: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return None if argv is None else split(argv) if argv else ()


def laid_over(spec: ContainerSpec, config: ImageConfig, *, keep_command: bool = False) -> ImageConfig:
    """Return an image's configuration with what a test asked for over it.

    A new entrypoint drops the image's command, as ``docker run --entrypoint`` does
    (image-spec, config.md, "Entrypoint"), unless *keep_command*.
    """
    env = {entry.partition("=")[0]: entry for entry in config.env}
    for name, value in spec.env.items():
        env.pop(name, None) if value is None else env.update({name: f"{name}={value}"})
    dropped = spec.entrypoint is not None and not keep_command
    return replace(
        config,
        entrypoint=config.entrypoint if spec.entrypoint is None else spec.entrypoint,
        command=spec.command if spec.command is not None else () if dropped else config.command,
        env=tuple(env.values()),
        user=config.user if spec.user is None else spec.user,
        workdir=config.workdir if spec.workdir is None else spec.workdir,
        ports=tuple(dict.fromkeys((*config.ports, *spec.ports))),
        labels={**config.labels, **spec.labels},
        stop_signal=spec.stop_signal or config.stop_signal,
    )
