"""The probes themselves: one look at a container, one verdict (floor 3).

A probe is a frozen value. What a wait has to remember between two looks (how far the log was
read, how often it matched) lives in the `Target` of that wait, so one probe may serve any number
of containers. Every look is made from the test process or from the kernel's tables; only
`Command` and `Health` run something inside the container, because that is what they mean.
"""

from __future__ import annotations

import inspect
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Never, cast

from pytest_containers.engines.base import Handle
from pytest_containers.errors import NotRunning
from pytest_containers.output import PIECE_BYTES, Lines, RawLine, decoded, shown
from pytest_containers.spec import ExecSpec, Healthcheck, Port, Stream

__all__ = [
    "READY",
    "AllOf",
    "AnyOf",
    "Called",
    "Command",
    "Exited",
    "Exposed",
    "Health",
    "Listening",
    "LogProgress",
    "Logged",
    "PortProgress",
    "Probe",
    "Started",
    "Target",
    "Verdict",
    "in_words",
    "not_yet",
]

# One look may not take the whole wait: a connection to a server that died meanwhile gets no answer.
_LOOK_S = 3.0
# What is left for a look at the deadline.
_SHORTEST_S = 0.01
# Some of an image's ports are bound: the others may still come. How long the set has to stay the
# same is measured by how long the server took so far, within these bounds.
_STILL_S = 1.0
_LONGEST_STILL_S = 10.0
_STILL_FACTOR = 2.0
# Mistakes in a test's own callable: no amount of waiting mends them.
_PROGRAMMING = (NameError, AttributeError, TypeError, ImportError, SyntaxError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one look saw; *reason* says why the container is not ready, *mend* what to do about it."""

    ready: bool
    reason: str = ""
    mend: str = ""


# Characters of a command's output that a reason quotes.
_SAID = 200

READY = Verdict(ready=True)


def not_yet(reason: str, *, mend: str = "") -> Verdict:
    """Return the verdict of a look that has to be repeated."""
    return Verdict(ready=False, reason=reason, mend=mend)


def in_words(error: Exception) -> str:
    """Return an error's kind and text, as a reason."""
    text = getattr(error, "strerror", None) or str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class LogProgress:
    """How far one log probe has read, how many whole lines matched, and how many that have not ended."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.matches = 0
        self.open_matches = 0
        self.lines = Lines(limit_bytes=PIECE_BYTES)


class PortProgress:
    """The ports that were bound at the last look, and since when they are those."""

    def __init__(self, bound: frozenset[Port], since: float) -> None:
        self.bound = bound
        self.since = since


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The container of one wait.

    *deadline* is on `time.monotonic`'s clock, *timeout_s* what was left of it at the beginning;
    *log_from* is the log position of the last start;
    *container* is handed to callables as it is. What a probe remembers is kept by its `id`, since
    a callable's probe need not be hashable.
    """

    name: str
    handle: Handle
    container: object
    deadline: float
    timeout_s: float
    log_from: int = 0
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    progress: dict[Probe, LogProgress] = field(default_factory=dict)
    ports: dict[int, PortProgress] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)

    def look_s(self) -> float:
        """Return how long one look may block, in seconds."""
        return min(_LOOK_S, self.left_s())

    def left_s(self) -> float:
        """Return the time to the deadline in seconds, at least a moment."""
        return max(_SHORTEST_S, self.deadline - time.monotonic())

    def answered(self, probe: Probe, reason: str) -> Verdict:
        """Return the verdict of a look that saw something, and remember what."""
        self.answers[id(probe)] = reason
        return not_yet(reason)

    def unanswered(self, probe: Probe, reason: str) -> Verdict:
        """Return the verdict of a look that saw nothing, with what the last one saw that did."""
        before = self.answers.get(id(probe))
        return not_yet(f"{reason}; the last answer was: {before}" if before else reason)


class Probe(ABC):
    """Something that can be asked whether a container is ready."""

    __slots__ = ()

    @abstractmethod
    def describe(self) -> str:
        """Return what is waited for, in a few words."""

    @abstractmethod
    def check(self, target: Target) -> Verdict:
        """Look once and return what was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Probe):
    """Holds as soon as the first process was executed, also when it has ended since."""

    def describe(self) -> str:
        """Return what is waited for."""
        return "the process to run"

    def check(self, target: Target) -> Verdict:  # noqa: ARG002
        """Return ready: `Handle.start` has seen the exec."""
        return READY


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(Probe):
    """Holds when every port is bound, by the kernel's tables: TCP in LISTEN (proc_pid_net(5))."""

    ports: tuple[Port, ...]

    def describe(self) -> str:
        """Return what is waited for."""
        return "a listener on " + ", ".join(map(str, self.ports))

    def check(self, target: Target) -> Verdict:
        """Compare the bound ports with those that are wanted."""
        bound = target.handle.listening()
        missing = [port for port in self.ports if port not in bound]
        return _missing(missing, bound, target) if missing else READY


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposed(Probe):
    """Holds when ports that an image exposes are bound: all of them, or some and no other for a while.

    EXPOSE is documentation (image-spec, config.md): many images expose ports at which nothing
    listens unless it is configured, such as the second port of a cluster.
    """

    ports: tuple[Port, ...]

    def describe(self) -> str:
        """Return what is waited for."""
        listed = ", ".join(map(str, self.ports))
        return f"a listener on {listed}" + (" (one or more)" if len(self.ports) > 1 else "")

    def check(self, target: Target) -> Verdict:
        """Compare the bound ports with those that are exposed, and with those of the look before."""
        everything = target.handle.listening()
        bound = everything.intersection(self.ports)
        missing = [port for port in self.ports if port not in bound]
        if not missing:
            return READY
        now = time.monotonic()
        progress = target.ports.get(id(self))
        if progress is None or progress.bound != bound:
            progress = target.ports[id(self)] = PortProgress(bound, now)
        if not bound:
            return _missing(missing, everything, target)
        took_s = progress.since - (target.deadline - target.timeout_s)
        still_s = min(_LONGEST_STILL_S, max(_STILL_S, _STILL_FACTOR * took_s))
        if now - progress.since >= still_s:
            return READY
        return not_yet(
            f"{_listed(bound)} bound for {now - progress.since:.1f} s,"
            f" no listener on {_listed(missing)}, which may still come",
            mend="name the port that counts: ready=port(...); or raise timeout=",
        )


def _listed(ports: Iterable[Port]) -> str:
    return ", ".join(map(str, sorted(ports)))


def _missing(missing: Sequence[Port], bound: frozenset[Port], target: Target) -> Verdict:
    """Return the verdict on ports without a listener; one that nobody can reach is told with its address."""
    aside = target.handle.unreachable()
    closed = [str(port) for port in missing if port not in aside]
    reasons = [f"no listener on {', '.join(closed)} ({_listed(bound) or 'nothing'} bound)"] if closed else []
    for port in missing:
        if address := aside.get(port):
            only = "for IPv6 " if ":" in address and address != "::1" else ""
            reasons.append(f"{port} is bound to {address} {only}alone")
    mend = "" if len(closed) == len(missing) else "let the server listen on 0.0.0.0: nobody else reaches it"
    return not_yet("; ".join(reasons), mend=mend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged(Probe):
    """Holds when *times* lines of the output match; a line that has not ended yet counts too.

    Of a line longer than 1 MiB the beginning is looked at.
    """

    pattern: re.Pattern[str]
    times: int = 1
    stream: Stream | None = None

    def describe(self) -> str:
        """Return what is waited for."""
        where = self.stream or "the log"
        often = "" if self.times == 1 else f" {self.times} times"
        return f"{self.pattern.pattern!r} in {where}{often}"

    def check(self, target: Target) -> Verdict:
        """Read what was written since the last look, and count."""
        progress = target.progress.get(self)
        if progress is None:
            progress = target.progress[self] = LogProgress(target.log_from)
        while progress.matches < self.times:
            chunks, progress.position = target.handle.logs(progress.position, limit_bytes=PIECE_BYTES)
            if not chunks:
                break
            progress.matches += sum(map(self._hit, progress.lines.cut(chunks)))
            open_ones = progress.lines.rest()
            progress.open_matches = sum(self._matches(line.stream, line.text) for line in open_ones)
            if time.monotonic() >= target.deadline:
                break
        found = progress.matches + progress.open_matches
        return READY if found >= self.times else not_yet(f"{found} of {self.times} lines matched")

    def _hit(self, line: RawLine) -> bool:
        _, stream, content = line
        return self._matches(stream, decoded(content))

    def _matches(self, stream: Stream, text: str) -> bool:
        return self.stream in (None, stream) and self.pattern.search(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Probe):
    """Holds when a command run inside the container ends with *exit_code*."""

    argv: tuple[str, ...]
    exit_code: int = 0
    user: str | None = None

    def describe(self) -> str:
        """Return what is waited for."""
        return f"{' '.join(self.argv)} to end with {self.exit_code}"

    def check(self, target: Target) -> Verdict:
        """Run the command once."""
        # As long as the wait: a slow command is still one command, and no second one runs beside it.
        spec = ExecSpec(argv=self.argv, user=self.user, timeout_s=target.left_s())
        return _run(self, target, spec, self.exit_code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health(Probe):
    """Holds when the image's HEALTHCHECK succeeds; looked at in our own rhythm, not its interval."""

    def describe(self) -> str:
        """Return what is waited for."""
        return "the image's HEALTHCHECK"

    def check(self, target: Target) -> Verdict:
        """Run the test of the image once, within its own timeout."""
        healthcheck = target.healthcheck
        match healthcheck.test if healthcheck else ():
            case ("CMD", *argv):
                command = tuple(argv)
            case ("CMD-SHELL", line):
                command = (*target.shell, line)
            case _:
                return not_yet("the image has no HEALTHCHECK")
        left_s = target.left_s()
        timeout_s = min(healthcheck.timeout_s, left_s) if healthcheck else left_s
        return _run(self, target, ExecSpec(argv=command, timeout_s=timeout_s), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited(Probe):
    """Holds when the first process has ended, with *code* where one is given."""

    code: int | None = None

    def describe(self) -> str:
        """Return what is waited for."""
        return "the end of the process" if self.code is None else f"exit code {self.code}"

    def check(self, target: Target) -> Verdict:
        """Look at the state."""
        state = target.handle.state()
        if state.exit is None:
            return not_yet(f"the process is {state.status}")
        if self.code is None or state.exit.code == self.code:
            return READY
        return not_yet(f"exit code {state.exit.code}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllOf(Probe):
    """Holds when every probe holds in one and the same look."""

    probes: tuple[Probe, ...]

    def describe(self) -> str:
        """Return what is waited for."""
        return " and ".join(probe.describe() for probe in self.probes)

    def check(self, target: Target) -> Verdict:
        """Ask each in order and stop at the first that does not hold."""
        for probe in self.probes:
            verdict = probe.check(target)
            if not verdict.ready:
                return verdict
        return READY


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf(Probe):
    """Holds when one of the probes holds."""

    probes: tuple[Probe, ...]

    def describe(self) -> str:
        """Return what is waited for."""
        return " or ".join(probe.describe() for probe in self.probes)

    def check(self, target: Target) -> Verdict:
        """Ask each in order and stop at the first that holds."""
        reasons = []
        for probe in self.probes:
            verdict = probe.check(target)
            if verdict.ready:
                return verdict
            reasons.append(verdict.reason)
        return not_yet("; ".join(reasons))


@dataclass(frozen=True, slots=True, kw_only=True)
class Called(Probe):
    """Holds when a test's own callable returns something true for the container.

    What it raises is a reason to look again: every client library has errors of its own for a
    server that is not there yet. A mistake in the callable itself is raised at once. What a
    coroutine function returns is awaited, on an event loop of its own, until the deadline.
    """

    function: Callable[[Never], object]

    def describe(self) -> str:
        """Return what is waited for."""
        return f"{getattr(self.function, '__qualname__', None) or repr(self.function)}() to be true"

    def check(self, target: Target) -> Verdict:
        """Call it once."""
        function = cast("Callable[[object], object]", self.function)
        try:
            answer = function(target.container)
            if inspect.isawaitable(answer):
                left_s = target.left_s()
                has_ended, answer = _awaited(answer, left_s)
                if not has_ended:
                    return target.unanswered(self, f"it was cut off by the deadline after {left_s:.2f} s")
        except _PROGRAMMING:
            raise
        except Exception as error:  # noqa: BLE001
            return target.answered(self, f"it raised {in_words(error)}")
        return READY if answer else target.answered(self, f"it returned {answer!r}")


def _awaited(answer: Awaitable[object], left_s: float) -> tuple[bool, object]:
    """Return whether *answer* came within *left_s* seconds, and what it is.

    It is awaited on a thread of its own: the caller's may run an event loop already.
    """
    # Late, as tenacity's: a run without such a probe needs no event loop.
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    async def ended() -> tuple[bool, object]:
        task = asyncio.ensure_future(answer)
        done, _ = await asyncio.wait((task,), timeout=left_s)
        if done:
            return True, task.result()
        task.cancel()
        return False, None

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, ended()).result()


def _run(probe: Probe, target: Target, spec: ExecSpec, wanted: int) -> Verdict:
    left_s = target.left_s()
    try:
        result = target.handle.exec(spec)
    except NotRunning:
        return target.unanswered(probe, "the container does not run")
    except TimeoutError:
        given_s = spec.timeout_s or 0.0
        if given_s < left_s - _SHORTEST_S:
            return target.answered(probe, f"{spec.argv[0]} did not end within its {given_s:g} s")
        return target.unanswered(probe, f"{spec.argv[0]} was cut off by the deadline after {given_s:.2f} s")
    if result.exit_code == wanted:
        return READY
    said = (result.stderr.strip() or result.stdout.strip())[-_SAID:]
    return target.answered(
        probe, f"{spec.argv[0]} ended with {result.exit_code}" + (f": {shown(said)}" if said else "")
    )
