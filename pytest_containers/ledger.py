"""Who uses which container, what ends when, and what a failure shows (floor 4)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_containers.container import Container
from pytest_containers.engines.base import Network
from pytest_containers.errors import ContainersError

__all__ = ["Claim", "Ledger", "cut_at_the_test"]


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


def _report(container: Container, lines: int) -> str:
    try:
        return container.report(lines)
    except ContainersError as error:
        return str(error)
