"""Who uses which container, what ends when, and what a failure shows (floor 4)."""

from __future__ import annotations

import contextlib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_containers.container import Container
from pytest_containers.engines.base import Network
from pytest_containers.errors import ContainersError
from pytest_containers.probe import (
    all_of,
    any_of,
    command,
    exchange,
    exited,
    healthcheck,
    http,
    log,
    port,
    started,
)
from pytest_containers.shelf import Shelf
from pytest_containers.spelling import similar

__all__ = ["Claim", "Ledger", "cut_at_the_test", "hint"]

_PROBES: Final = (all_of, any_of, command, exchange, exited, healthcheck, http, log, port, started)
# As CPython words it (Python/ceval.c, "got an unexpected keyword argument").
_UNEXPECTED: Final = re.compile(r"(?P<name>[\w.]+)\(\) got an unexpected keyword argument '(?P<keyword>\w+)'")
# What other tools call it, by function and keyword.
_FOREIGN: Final[Mapping[str, str]] = types.MappingProxyType(
    {
        "build.build_args": "args={...}",
        "build.buildargs": "args={...}",
        "build.nocache": "use_cache=False",
        "build.path": "the folder as the first argument",
        "build.tags": "tag=[...]",
        "exec.cmd": "the command as the first argument",
        "exec.command": "the command as the first argument",
        "exec.cwd": "workdir=",
        "exec.environment": "env={...}",
        "exec.input": "stdin=",
        "logs.follow": "log_lines(follow=True)",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A container in use, and the image as the test asked for it."""

    asked: str
    container: Container


class Ledger:
    """What the tests of one process hold."""

    def __init__(self) -> None:
        self._of_fixture: dict[str, list[Claim]] = {}
        self._of_test: list[Claim] = []
        self._retired: list[Container | Network] = []
        self._waits = False

    def begin_test(self) -> None:
        """Forget what the last test used by itself."""
        self._of_test = []

    def claim(self, claim: Claim, fixtures: Iterable[str]) -> None:
        """Note a use by the running test, made while *fixtures* were being set up."""
        self._of_test.append(claim)
        for name in fixtures:
            known = self._of_fixture.get(name, [])
            self._of_fixture[name] = [*(one for one in known if not one.container.removed), claim]

    def claims(self, fixtures: Iterable[str]) -> tuple[Claim, ...]:
        """Return what the running test uses: by the *fixtures* it asks for, then by its own calls."""
        found = [claim for name in fixtures for claim in self._of_fixture.get(name, ())]
        found += self._of_test
        unique = {claim.container.id: claim for claim in found if not claim.container.removed}
        return tuple(unique.values())

    def retire(self, thing: Container | Network) -> None:
        """Remove what has reached the end of its scope: now, or at the end of `teardown`."""
        if self._waits:
            self._retired.append(thing)
        else:
            thing.remove()

    def sections(self, fixtures: Iterable[str], lines: int) -> list[tuple[str, str]]:
        """Return for each container of the running test a title, its state and its last *lines* lines."""
        return [
            (f"Container {claim.container.name} ({claim.asked})", _report(claim.container, lines))
            for claim in self.claims(fixtures)
        ]

    @contextlib.contextmanager
    def teardown(self) -> Iterator[None]:
        """Let what retires meanwhile live until the end, in its order.

        So a test whose teardown fails still has its containers' output to show.
        """
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
            with contextlib.ExitStack() as first_to_last:
                for thing in reversed(self._retired):
                    first_to_last.callback(thing.remove)
                self._retired.clear()


def cut_at_the_test(error: BaseException) -> None:
    """Cut an error of ours where the test's own lines end: below stand only our frames.

    The hooks of plugin.py stand around a test's lines; they are pytest's to leave out. What an
    error was caused by is told in its text (`ContainersError.seen`).
    """
    if not isinstance(error, ContainersError):
        return
    folder = Path(__file__).parent
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None:
        below = Path(tb.tb_next.tb_frame.f_code.co_filename)
        if below.is_relative_to(folder) and below.name != "plugin.py":
            tb.tb_next = error.__cause__ = error.__context__ = None
            error.__suppress_context__ = True
        tb = tb.tb_next


def hint(error: BaseException) -> None:
    """Add to a TypeError of Python's, of a keyword that a public function does not have, what was meant."""
    match = _UNEXPECTED.search(str(error)) if type(error) is TypeError else None
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None:
        tb = tb.tb_next
    if match is None or tb is None:
        return
    # The call is in the last frame; what was called is found by its name among what a test can hold.
    owner, _, name = match["name"].rpartition(".")
    found = _public(owner, name)
    code = getattr(found, "__code__", None)
    if not isinstance(code, types.CodeType):
        return
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    known = [one for one in names if one not in ("self", "cls")]
    foreign = _FOREIGN.get(f"{name}.{match['keyword']}", "")
    meant = foreign or similar(match["keyword"], known)
    first = f"did you mean {meant}{'' if foreign else '='}? " if meant else ""
    error.add_note(f"{first}{name}() takes {', '.join(known)}")


def _public(owner: str, name: str) -> object:
    """Return a function that a test can call: a probe, or a method of what a fixture returns."""
    if not owner:
        return next((probe for probe in _PROBES if probe.__name__ == name), None)
    kind = next((one for one in (Container, Shelf) if one.__name__ == owner), None)
    return getattr(kind, name, None)


def _report(container: Container, lines: int) -> str:
    try:
        return container.report(lines)
    except ContainersError as error:
        return str(error)
