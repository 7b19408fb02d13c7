"""Progress: few events, one end, and nothing where nobody watches."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pytest_containers.images.archive import import_tar
from pytest_containers.images.commit import commit
from pytest_containers.images.progress import Meter
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.progress import Progress
from pytest_containers.spec import ImageConfig

if TYPE_CHECKING:
    from tests.images.conftest import TarBuilder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what sets the clock that the module reads."""
    now = [100.0]
    monkeypatch.setattr("pytest_containers.images.progress.time.monotonic", lambda: now[0])

    def to(seconds: float) -> None:
        now[0] = 100.0 + seconds

    return to


def test_events_come_at_most_every_fifty_milliseconds(clock: Callable[[float], None]) -> None:
    """What happens in between is told with the next one, and the end is always told."""
    seen: list[Progress] = []
    with Meter(seen.append, "x", "download", 100) as meter:
        for done, seconds in ((10, 0.0), (20, 0.01), (30, 0.049), (40, 0.05), (50, 0.06), (60, 0.11)):
            clock(seconds)
            meter.at(done)
    assert [event.done_bytes for event in seen] == [10, 40, 60, 100]
    assert {(event.subject, event.phase, event.total_bytes) for event in seen} == {("x", "download", 100)}


def test_end_is_told_once(clock: Callable[[float], None]) -> None:
    """The last byte is not told before everything about it is done."""
    seen: list[Progress] = []
    with Meter(seen.append, "x", "unpack", 10) as meter:
        meter.at(10)
        assert seen == []
    assert [(event.done_bytes, event.total_bytes) for event in seen] == [(10, 10)]


def test_unknown_total_is_known_at_the_end(clock: Callable[[float], None]) -> None:
    """A stream without a length has the total that came of it."""
    seen: list[Progress] = []
    with Meter(seen.append, "x", "commit") as meter:
        assert b"".join(meter.counted(iter([b"ab", b"c"]))) == b"abc"
    assert [(event.done_bytes, event.total_bytes) for event in seen] == [(2, None), (3, 3)]


def test_failure_has_no_end() -> None:
    """An operation that failed is not said to be done."""
    seen: list[Progress] = []
    with pytest.raises(OSError, match="broken"), Meter(seen.append, "x", "load", 10):
        raise OSError("broken")
    assert seen == []


def test_watch_that_raises_ends_the_operation(store: Store, tar: Callable[[], TarBuilder]) -> None:
    """Whoever watches can stop it; nothing is named then."""

    def stop(_: Progress) -> None:
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        import_tar(
            store, io.BytesIO(tar().file("a").bytes()), Reference.parse("a"), ImageConfig(), watch=stop
        )
    assert store.list() == ()


def test_import_and_commit_tell_how_far_they_are(store: Store, tar: Callable[[], TarBuilder]) -> None:
    """A layer is unpacked while it is read, so the reading tells of both; it ends once."""
    seen: list[Progress] = []
    layer = tar().file("a", os.urandom(2_000_000)).bytes()
    record = import_tar(store, io.BytesIO(layer), Reference.parse("a"), ImageConfig(), watch=seen.append)
    commit(store, record, io.BytesIO(layer), Reference.parse("b"), ImageConfig(), watch=seen.append)
    ends = [(event.phase, event.done_bytes) for event in seen if event.done_bytes == event.total_bytes]
    assert ends == [("load", len(layer)), ("commit", len(layer))]
    assert all(event.done_bytes <= (event.total_bytes or len(layer)) for event in seen)
