"""The probes themselves: one look at a container, one verdict (floor 3).

A probe is a frozen value. What a wait has to remember between two looks (how far the log was
read, how often it matched) lives in the `Target` of that wait, so one probe may serve any number
of containers. Every look is made from the test process or from the kernel's tables; only
`Command` and `Health` run something inside the container, because that is what they mean.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Never, cast

from pytest_containers.engines.base import Handle
from pytest_containers.errors import NotRunning
from pytest_containers.output import Lines
from pytest_containers.spec import ExecSpec, Healthcheck, LogLine, Port, Stream

__all__ = [
    "READY",
    "AllOf",
    "AnyOf",
    "Called",
    "Command",
    "Exited",
    "Health",
    "Listening",
    "LogProgress",
    "Logged",
    "Probe",
    "Started",
    "Target",
    "Verdict",
    "in_words",
    "not_yet",
]

# One look may not take the whole wait: a connection to a server that died meanwhile gets no answer.
_LOOK_S = 3.0
# Mistakes in a test's own callable: no amount of waiting mends them.
_PROGRAMMING = (NameError, AttributeError, TypeError, ImportError, SyntaxError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one look saw; *reason* says why the container is not ready."""

    ready: bool
    reason: str = ""


READY = Verdict(ready=True)


def not_yet(reason: str) -> Verdict:
    """Return the verdict of a look that has to be repeated."""
    return Verdict(ready=False, reason=reason)


def in_words(error: Exception) -> str:
    """Return an error's kind and text, as a reason."""
    text = getattr(error, "strerror", None) or str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class LogProgress:
    """How far one log probe has read, and how many whole lines matched."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.matches = 0
        self.lines = Lines()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The container of one wait.

    *deadline* is on `time.monotonic`'s clock, *timeout_s* what was left of it at the beginning;
    *log_from* is the log position of the last start;
    *container* is handed to callables as it is.
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

    def look_s(self) -> float:
        """Return how long one look may block, in seconds."""
        return min(_LOOK_S, max(0.01, self.deadline - time.monotonic()))


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
        missing = [str(port) for port in self.ports if port not in bound]
        if not missing:
            return READY
        others = ", ".join(map(str, sorted(bound))) or "nothing"
        return not_yet(f"no listener on {', '.join(missing)} ({others} bound; loopback does not count)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged(Probe):
    """Holds when *times* lines of the output match; a line that has not ended yet counts too."""

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
        chunks, progress.position = target.handle.logs(progress.position)
        progress.matches += sum(map(self._hit, progress.lines.feed(chunks)))
        found = progress.matches + sum(map(self._hit, progress.lines.rest()))
        return READY if found >= self.times else not_yet(f"{found} of {self.times} lines matched")

    def _hit(self, line: LogLine) -> bool:
        return self.stream in (None, line.stream) and self.pattern.search(line.text) is not None


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
        left_s = max(0.01, target.deadline - time.monotonic())
        spec = ExecSpec(argv=self.argv, user=self.user, timeout_s=left_s)
        return _run(target, spec, self.exit_code)


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
        left_s = max(0.01, target.deadline - time.monotonic())
        timeout_s = min(healthcheck.timeout_s, left_s) if healthcheck else left_s
        return _run(target, ExecSpec(argv=command, timeout_s=timeout_s), 0)


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
    server that is not there yet. A mistake in the callable itself is raised at once.
    """

    function: Callable[[Never], object]

    def describe(self) -> str:
        """Return what is waited for."""
        return f"{getattr(self.function, '__qualname__', None) or repr(self.function)}() to be true"

    def check(self, target: Target) -> Verdict:
        """Call it once."""
        try:
            answer = cast("Callable[[object], object]", self.function)(target.container)
        except _PROGRAMMING:
            raise
        except Exception as error:  # noqa: BLE001
            return not_yet(f"it raised {in_words(error)}")
        return READY if answer else not_yet(f"it returned {answer!r}")


def _run(target: Target, spec: ExecSpec, wanted: int) -> Verdict:
    try:
        result = target.handle.exec(spec)
    except NotRunning:
        return not_yet("the container does not run")
    except TimeoutError:
        return not_yet(f"{spec.argv[0]} did not end within {spec.timeout_s:.1f} s")
    if result.exit_code == wanted:
        return READY
    said = (result.stderr.strip() or result.stdout.strip())[-200:]
    return not_yet(f"{spec.argv[0]} ended with {result.exit_code}" + (f": {said}" if said else ""))
