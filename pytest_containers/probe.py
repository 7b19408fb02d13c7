"""Readiness: the probes a test names, and the wait for one of them (floor 3, the door to tenacity).

The wait looks at once, then again after 2 ms, 4 ms, ... up to every 100 ms. Between two looks it
waits for the container's end, so a container that exits ends the wait in that moment.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import AnyStr, Never

from pytest_containers.checks import (
    AllOf,
    AnyOf,
    Called,
    Command,
    Exited,
    Exposed,
    Health,
    Listening,
    Logged,
    Probe,
    Started,
    Target,
    Verdict,
)
from pytest_containers.engines.base import Handle
from pytest_containers.errors import ContainerExited, NotReady, SpecInvalid
from pytest_containers.exchanges import Exchange, Http
from pytest_containers.exits import describe_state
from pytest_containers.output import last_lines, shown
from pytest_containers.spec import ContainerState, Healthcheck, Port, Stream

__all__ = [
    "Probe",
    "ProbeLike",
    "all_of",
    "any_of",
    "as_probe",
    "command",
    "default_probe",
    "exchange",
    "exited",
    "healthcheck",
    "http",
    "log",
    "outcome",
    "port",
    "split",
    "started",
    "wait_until",
    "warm",
]

# Any callable of one argument, the container: this floor does not name what it is called with.
ProbeLike = Probe | Callable[[Never], object]

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.1
_SHOWN_LINES = 20
# A look that ends so long after the deadline was a slow one.
_LATE_S = 0.5


def port(*ports: int | str) -> Probe:
    """Return the probe that holds when every port is bound inside the container.

    Read from the container's own socket tables, where TCP has to be in LISTEN: no connection is
    made, no tool is needed in the image. A listener on loopback, or for IPv6, alone does not count.
    """
    if not ports:
        raise SpecInvalid("port() without a port", mend="name one: port(6379)")
    return Listening(ports=tuple(map(Port.parse, ports)))


def http(
    port: int | str,
    path: str = "/",
    *,
    status: int | Collection[int] = 200,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    expect: bytes | None = None,
    tls: bool = False,
) -> Probe:
    """Return the probe that holds when an HTTP request is answered with *status*.

    *expect* is a regular expression that has to be found in the body. With *tls* the server's
    certificate is not verified.
    """
    return Http(
        port=Port.parse(port),
        path=path if path.startswith("/") else f"/{path}",
        statuses=frozenset({status} if isinstance(status, int) else status),
        method=method,
        headers=tuple((headers or {}).items()),
        expect=None if expect is None else _compiled(expect),
        tls=tls,
    )


def log(pattern: str, *, times: int = 1, stream: Stream | None = None) -> Probe:
    """Return the probe that holds when *times* lines of the output match a regular expression.

    Only output since the container's last start counts.
    """
    return Logged(pattern=_compiled(pattern), times=times, stream=stream)


def command(argv: str | Sequence[str], *, exit_code: int = 0, user: str | None = None) -> Probe:
    """Return the probe that holds when a command inside the container ends with *exit_code*."""
    return Command(argv=split(argv), exit_code=exit_code, user=user)


def exchange(port: int | str, *, send: bytes = b"", expect: bytes | None = None) -> Probe:
    """Return the probe that holds when a socket connects and the answer to *send* matches.

    *expect* is a regular expression over bytes; without one, the connection is enough.
    """
    pattern = None if expect is None else _compiled(expect)
    return Exchange(port=Port.parse(port), send=send, expect=pattern)


def healthcheck() -> Probe:
    """Return the probe that holds when the image's own HEALTHCHECK succeeds."""
    return Health()


def started() -> Probe:
    """Return the probe that holds as soon as the first process runs: nothing else is waited for."""
    return Started()


def exited(code: int | None = None) -> Probe:
    """Return the probe that holds when the container has ended, with *code* where one is given."""
    return Exited(code=code)


def all_of(*probes: ProbeLike) -> Probe:
    """Return the probe that holds when all hold in the same look."""
    return AllOf(probes=tuple(map(as_probe, probes)))


def any_of(*probes: ProbeLike) -> Probe:
    """Return the probe that holds when one of them holds."""
    if not probes:
        raise SpecInvalid("any_of() without a probe can never hold", mend="name one or more probes")
    return AnyOf(probes=tuple(map(as_probe, probes)))


def as_probe(probe: ProbeLike) -> Probe:
    """Return a probe as it is, and a callable as the probe that calls it with the container."""
    if isinstance(probe, Probe):
        return probe
    if not callable(probe):
        raise SpecInvalid(
            f"{probe!r} is not a probe",
            mend="use port(), http(), log() and their kin, or a callable; started() waits for nothing else",
        )
    return Called(function=probe)


def default_probe(check: Healthcheck | None, ports: Sequence[Port], named: Sequence[Port] = ()) -> Probe:
    """Return what a container without a probe of its own waits for.

    The image's HEALTHCHECK; else the ports; else nothing but the process. Of the *ports*, those that
    the test has *named* have to be bound, all of them. Where none of these is the image's, one or more
    of the image's TCP ports have to be, and those of UDP where it has no other.
    """
    if check is not None and check.test[:1] in (("CMD",), ("CMD-SHELL",)):
        return Health()
    probes: list[Probe] = [Listening(ports=tuple(named))] if named else []
    if not set(named).intersection(ports):
        tcp = tuple(sorted(port for port in ports if port.transport == "tcp"))
        if exposed := tcp or tuple(sorted(ports)):
            probes.append(Exposed(ports=exposed))
    if not probes:
        return Started()
    return probes[0] if len(probes) == 1 else AllOf(probes=tuple(probes))


def split(argv: str | Sequence[str]) -> tuple[str, ...]:
    """Return a command as its words; a string is cut as a shell does, and never given to one."""
    import shlex

    try:
        words = tuple(shlex.split(argv)) if isinstance(argv, str) else tuple(argv)
    except ValueError as error:
        raise SpecInvalid(
            f"{argv!r} cannot be split into words", seen=str(error), mend='write a list: ["ls", "-l"]'
        ) from error
    except TypeError:
        words = ()
    if not words or not all(map(_is_word, words)):
        raise SpecInvalid(f"{argv!r} is not a command", mend='write ["ls", "-l"] or "ls -l"')
    return words


def _is_word(word: object) -> bool:
    return isinstance(word, str) and "\0" not in word  # which would end it (execve(2))


def wait_until(probe: Probe, target: Target) -> None:
    """Return when *probe* holds.

    Raises ContainerExited as soon as the container has ended and the probe still does not hold,
    and NotReady at the target's deadline; both tell the last reason and the last log lines.
    """
    verdict = _look(probe, target)
    if not verdict.ready and time.monotonic() < target.deadline:
        verdict = _look_again(probe, target)
    state = target.handle.state()
    if not verdict.ready and state.exit is not None and time.monotonic() < target.deadline + _LATE_S:
        # It ended after the last look. One that took longer than the wait is not made again.
        verdict = _look(probe, target)
    if not verdict.ready:
        late_s = time.monotonic() - target.deadline
        late = f"; the last look ended {late_s:.1f} s after the deadline" if late_s > _LATE_S else ""
        raise _failed(state)(
            f"{target.name} was not ready within {target.timeout_s:g} s",
            seen=outcome(target.handle, state, f"waited for {probe.describe()}: {verdict.reason}{late}"),
            mend=verdict.mend or "raise timeout=, or say with ready= what tells that this service is up",
        )


def _failed(state: ContainerState) -> type[NotReady]:
    return NotReady if state.exit is None else ContainerExited


def warm() -> None:
    """Load what a wait needs, while something else starts in the background."""
    import tenacity  # noqa: F401


def outcome(handle: Handle, state: ContainerState, *facts: str) -> str:
    """Return what a person wants to see of a container that failed: state, facts, last lines."""
    lines = last_lines(handle, _SHOWN_LINES)
    last = "last line of output:" if len(lines) == 1 else f"last {len(lines)} lines of output:"
    said = [last if lines else "no output"]
    said.extend(f"  {line.stream} | {shown(line.text)}" for line in lines)
    return "\n".join([describe_state(state), *facts, *said])


def _look(probe: Probe, target: Target) -> Verdict:
    # The state first: what the container wrote before its end is then in the log that a probe reads.
    state = target.handle.state()
    verdict = probe.check(target)
    if not verdict.ready and state.exit is not None:
        raise ContainerExited(
            f"{target.name} exited before it was ready",
            seen=outcome(target.handle, state, f"waited for {probe.describe()}: {verdict.reason}"),
            mend="the last lines of output usually say why",
        )
    return verdict


def _look_again(probe: Probe, target: Target) -> Verdict:
    # Late: tenacity brings asyncio along, and most containers of a run never get here.
    import tenacity

    def pause(seconds: float) -> None:
        left = target.deadline - time.monotonic()
        target.handle.wait(timeout_s=max(0.0, min(seconds, left)))

    def last(state: tenacity.RetryCallState) -> Verdict:
        if state.outcome is None:
            return Verdict(ready=False, reason="never looked")
        verdict: Verdict = state.outcome.result()
        return verdict

    looks = tenacity.Retrying(
        sleep=pause,
        wait=tenacity.wait_exponential(multiplier=_FIRST_PAUSE_S, max=_LONGEST_PAUSE_S),
        stop=lambda _: time.monotonic() >= target.deadline,
        retry=tenacity.retry_if_result(lambda verdict: not verdict.ready),
        retry_error_callback=last,
    )
    pause(_FIRST_PAUSE_S)
    return looks(_look, probe, target)


def _compiled(pattern: AnyStr) -> re.Pattern[AnyStr]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise SpecInvalid(
            f"{pattern!r} is not a regular expression",
            seen=str(error),
            mend="put a backslash before a character that is meant as it stands, or use re.escape()",
        ) from error
