"""Laws of the loop: recipes wait, go on, fail and undo themselves."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from pytest_containers.runtime.loop import Loop, Recipe, Task, Wait

_LONG_S: Final = 60.0


class Scene:
    """A loop, pipes to wait for, and what the recipes of the test came to."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.results: list[object] = []
        self.errors: list[Exception] = []
        self._open: list[int] = []

    def pipe(self) -> tuple[int, int]:
        """Return a pipe that the scene closes at its end."""
        ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._open += ends
        return ends

    def begin(self, recipe: Recipe[object]) -> Task[object]:
        """Begin a recipe whose end the scene remembers."""
        return self.loop.begin(recipe, self.results.append, self.errors.append)

    def spin(self) -> None:
        """Spin until a recipe calls for the end; fail where none ever does."""

        def watchdog() -> Recipe[object]:
            quiet, _ = self.pipe()
            yield Wait(quiet, time.monotonic() + _LONG_S)
            self.loop.end()
            raise AssertionError("the loop did not end by itself")

        dog = self.begin(watchdog())
        self.loop.spin()
        dog.cancel()
        assert not [error for error in self.errors if isinstance(error, AssertionError)]

    def close(self) -> None:
        """Close the pipes."""
        for descriptor in self._open:
            os.close(descriptor)


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Return an empty scene."""
    made = Scene()
    yield made
    made.close()


def _reads(
    scene: Scene, descriptor: int, *, ends: bool = False, deadline: float | None = None
) -> Recipe[object]:
    """Wait for a descriptor; return what is in it, or "late"."""
    readable = yield Wait(descriptor, deadline)
    if ends:
        scene.loop.end()
    return os.read(descriptor, 100) if readable else "late"


def test_recipe_that_never_waits_is_done_at_once(scene: Scene) -> None:
    """A recipe without a wait has called back when `begin` returns."""

    def recipe() -> Recipe[object]:
        yield from ()
        return "result"

    task = scene.begin(recipe())
    assert (scene.results, task.pending, task.deadline) == (["result"], False, None)


def test_recipe_that_fails_is_told(scene: Scene) -> None:
    """An exception, before or after a wait, is handed to the second callback alone."""
    ours, theirs = scene.pipe()

    def at_once() -> Recipe[object]:
        yield from ()
        raise ValueError("at once")

    def later() -> Recipe[object]:
        yield Wait(ours)
        scene.loop.end()
        raise ValueError("later")

    scene.begin(at_once())
    scene.begin(later())
    os.write(theirs, b"x")
    scene.spin()
    assert [str(error) for error in scene.errors] == ["at once", "later"]
    assert scene.results == []


def test_recipe_goes_on_when_its_descriptor_is_readable(scene: Scene) -> None:
    """True comes back from a wait whose descriptor has something, or is at its end."""
    ours, theirs = scene.pipe()
    other, others = scene.pipe()
    scene.begin(_reads(scene, ours))
    task = scene.begin(_reads(scene, other, ends=True))
    assert task.pending
    os.write(theirs, b"first")
    os.write(others, b"second")
    scene.spin()
    assert scene.results == [b"first", b"second"]
    assert not task.pending


def test_recipe_waits_many_times(scene: Scene) -> None:
    """A recipe may wait for one descriptor and then for another, and again."""
    ours, theirs = scene.pipe()
    other, others = scene.pipe()

    def recipe() -> Recipe[object]:
        found = b""
        for _ in range(3):
            yield Wait(ours)
            found += os.read(ours, 1)
            os.write(others, b"-")
            yield Wait(other)
            found += os.read(other, 1)
        scene.loop.end()
        return found

    scene.begin(recipe())
    os.write(theirs, b"abc")
    scene.spin()
    assert scene.results == [b"a-b-c-"]


def test_recipe_goes_on_at_its_deadline(scene: Scene) -> None:
    """False comes back when the deadline is first, and never before it."""
    ours, _ = scene.pipe()
    now = time.monotonic()

    def recipe(deadline: float, name: str) -> Recipe[object]:
        readable = yield Wait(ours, deadline)
        if name == "third":
            scene.loop.end()
        return name, readable, time.monotonic() >= deadline

    scene.begin(recipe(now + 0.03, "third"))
    scene.begin(recipe(now + 0.02, "second"))
    scene.begin(recipe(now - 1, "first"))
    scene.spin()
    expected = [("first", False, True), ("second", False, True), ("third", False, True)]
    assert sorted(scene.results, key=str) == expected


def test_recipe_readable_counts_when_the_deadline_has_passed_too(scene: Scene) -> None:
    """What came in time is not lost to a loop that was late."""
    ours, theirs = scene.pipe()
    os.write(theirs, b"in time")
    scene.begin(_reads(scene, ours, ends=True, deadline=time.monotonic() - 1))
    scene.spin()
    assert scene.results == [b"in time"]


def test_recipe_deadline_is_gone_when_it_went_on(scene: Scene) -> None:
    """A wait that ended by its descriptor does not end once more by its deadline."""
    ours, theirs = scene.pipe()
    other, _ = scene.pipe()

    def recipe() -> Recipe[object]:
        first = yield Wait(ours, time.monotonic() + _LONG_S)
        second = yield Wait(other, time.monotonic() + 0.01)
        scene.loop.end()
        return first, second

    task = scene.begin(recipe())
    assert task.deadline is not None
    os.write(theirs, b"x")
    scene.spin()
    assert scene.results == [(True, False)]
    assert task.deadline is None


def test_recipe_cancelled_undoes_itself(scene: Scene) -> None:
    """Cancelling runs the recipe's own `with` blocks, calls nobody back and watches nothing more."""
    ours, theirs = scene.pipe()
    undone: list[str] = []

    @contextmanager
    def held() -> Iterator[None]:
        try:
            yield
        finally:
            undone.append("held")

    def recipe() -> Recipe[object]:
        with held():
            yield Wait(ours, time.monotonic())
        return "never"

    task = scene.begin(recipe())
    task.cancel()
    assert (undone, task.pending, task.deadline) == (["held"], False, None)
    os.write(theirs, b"x")
    scene.begin(_reads(scene, ours, ends=True))
    scene.spin()
    assert (scene.results, scene.errors) == ([b"x"], [])
    task.cancel()


def test_recipe_cancelled_by_another_of_the_same_turn_does_not_go_on(scene: Scene) -> None:
    """Of two that become readable at once, the one that the other cancels has seen its last wait."""
    tasks: list[Task[object]] = []
    ends = [scene.pipe(), scene.pipe()]

    def recipe(mine: int) -> Recipe[object]:
        yield Wait(ends[mine][0])
        tasks[1 - mine].cancel()
        scene.loop.end()
        return mine

    tasks += [scene.begin(recipe(0)), scene.begin(recipe(1))]
    for _, theirs in ends:
        os.write(theirs, b"x")
    scene.spin()
    assert len(scene.results) == 1


def test_descriptor_wakes_all_who_wait_for_it(scene: Scene) -> None:
    """Two recipes may wait for one descriptor, and both go on."""
    ours, theirs = scene.pipe()

    def recipe(name: str) -> Recipe[object]:
        readable = yield Wait(ours)
        if len(scene.results) == 1:
            scene.loop.end()
        return name, readable

    scene.begin(recipe("first"))
    scene.begin(recipe("second"))
    os.write(theirs, b"x")
    scene.spin()
    assert scene.results == [("first", True), ("second", True)]


def test_descriptor_watch_outlives_the_others(scene: Scene) -> None:
    """One watcher's end leaves the other's watch of the same descriptor alone."""
    ours, theirs = scene.pipe()
    seen: list[str] = []

    def watch() -> None:
        seen.append(os.read(ours, 1).decode())
        if len(seen) == 3:
            scene.loop.forget(ours, watch)
            scene.loop.end()

    task = scene.begin(_reads(scene, ours))
    scene.loop.watch(ours, watch)
    task.cancel()
    os.write(theirs, b"abcd")
    scene.spin()
    assert seen == ["a", "b", "c"]


def test_descriptor_forgotten_in_its_own_turn_is_not_called(scene: Scene) -> None:
    """A watcher that another watcher of the same turn has taken off is not called any more."""
    ours, theirs = scene.pipe()
    called: list[str] = []

    def second() -> None:
        called.append("second")

    def first() -> None:
        called.append("first")
        scene.loop.forget(ours, second)
        scene.loop.end()

    scene.loop.watch(ours, first)
    scene.loop.watch(ours, second)
    os.write(theirs, b"x")
    scene.spin()
    assert called == ["first"]
    scene.loop.forget(ours, first)
    scene.loop.forget(ours, first)


def test_descriptor_number_may_come_again(scene: Scene) -> None:
    """A descriptor closed after its watch and opened again is watched as a new one (epoll(7))."""
    for round_ in range(3):
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        scene.loop._ended = False
        scene.begin(_reads(scene, ours, ends=True))
        os.write(theirs, str(round_).encode())
        scene.spin()
        os.close(ours)
        os.close(theirs)
    assert scene.results == [b"0", b"1", b"2"]


def test_recipe_may_begin_another(scene: Scene) -> None:
    """What a callback begins is served by the same loop."""
    ours, theirs = scene.pipe()
    other, others = scene.pipe()
    os.write(theirs, b"one")
    os.write(others, b"two")

    def done(result: object) -> None:
        scene.results.append(result)
        scene.begin(_reads(scene, other, ends=True))

    scene.loop.begin(_reads(scene, ours), done, scene.errors.append)
    scene.spin()
    assert scene.results == [b"one", b"two"]


def test_callback_that_fails_is_reported_and_called_no_more(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    """A fault of one watcher ends neither the loop nor the others, and is not repeated without end."""
    ours, theirs = scene.pipe()
    other, others = scene.pipe()
    calls: list[str] = []

    def fails() -> None:
        calls.append("fails")
        os.write(others, b"x")
        raise ValueError("of one client")

    def ends() -> None:
        calls.append("ends")
        scene.loop.end()

    scene.loop.watch(ours, fails)
    scene.loop.watch(other, ends)
    os.write(theirs, b"x")
    scene.spin()
    assert calls == ["fails", "ends"]
    assert "goes on after ValueError: of one client at" in capfd.readouterr().err
    scene.loop.forget(other, ends)
    assert scene.loop._selected == {}


@pytest.mark.parametrize("late", [False, True])
def test_failure_of_an_ending_does_not_end_the_loop(
    scene: Scene, late: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """A recipe whose end cannot be told, by its descriptor or by its deadline, leaves the others alone."""
    ours, theirs = scene.pipe()
    other, others = scene.pipe()

    def done(result: object) -> None:
        os.write(others, b"x")
        raise ValueError("nobody to tell")

    deadline = time.monotonic() if late else None
    scene.loop.begin(_reads(scene, ours, deadline=deadline), done, scene.errors.append)
    scene.begin(_reads(scene, other, ends=True))
    if not late:
        os.write(theirs, b"x")
    scene.spin()
    assert scene.results == [b"x"]
    assert "nobody to tell" in capfd.readouterr().err


def test_undoing_that_fails_does_not_reach_who_cancels(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error while a cancelled recipe undoes its work is reported, and the canceller goes on."""
    ours, _ = scene.pipe()

    def recipe() -> Recipe[object]:
        try:
            yield Wait(ours)
        finally:
            raise OSError("cannot be undone")

    scene.begin(recipe()).cancel()
    assert scene.errors == []
    assert "cannot be undone" in capfd.readouterr().err


def test_recipe_that_waits_for_what_cannot_be_watched_is_told(scene: Scene) -> None:
    """A wait that the kernel refuses is an error where the recipe waits, and it may go on from there."""
    with open(__file__) as regular:

        def recipe() -> Recipe[object]:
            try:
                yield Wait(regular.fileno())
            except OSError as error:
                return type(error).__name__
            return "waited"

        scene.begin(recipe())
        assert scene.results == ["PermissionError"]


@pytest.mark.parametrize("seconds", [1e12, float("inf")])
def test_recipe_may_wait_longer_than_epoll_can(scene: Scene, seconds: float) -> None:
    """A deadline past what the kernel's call takes is as good as any."""
    ours, theirs = scene.pipe()
    scene.begin(_reads(scene, ours, ends=True, deadline=time.monotonic() + seconds))
    os.write(theirs, b"x")
    scene.loop.spin()
    assert scene.results == [b"x"]


def test_recipe_may_wait_for_a_moment_alone(scene: Scene) -> None:
    """Without a descriptor a wait ends at its deadline."""

    def recipe() -> Recipe[object]:
        readable = yield Wait(-1, time.monotonic() + 0.01)
        scene.loop.end()
        return readable

    scene.begin(recipe())
    scene.spin()
    assert scene.results == [False]


def test_descriptor_is_watched_both_ways(scene: Scene) -> None:
    """Readers and writers of one descriptor are called for their own side alone."""
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        while True:
            try:
                left.send(bytes(4096))
            except BlockingIOError:
                break
        calls: list[str] = []

        def write() -> None:
            calls.append("write")
            scene.loop.forget(left.fileno(), write, write=True)
            scene.loop.end()

        def read() -> None:
            calls.append("read")
            left.recv(100)
            while select.select([right], [], [], 0)[0]:
                right.recv(1 << 20)

        scene.loop.watch(left.fileno(), write, write=True)
        scene.loop.watch(left.fileno(), read)
        right.send(b"x")
        scene.spin()
        assert calls == ["read", "write"]
        scene.loop.forget(left.fileno(), read)
        assert scene.loop._selected == {}


@pytest.mark.parametrize("fails", [False, True])
def test_task_apart_outlives_who_waits_for_it(
    scene: Scene, fails: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """A task begun apart goes on when the recipe that waits is cancelled, and writes into no file."""
    ours, theirs = scene.pipe()
    ended: list[str] = []

    def work() -> Recipe[object]:
        yield Wait(ours)
        ended.append("work")
        scene.loop.end()
        if fails:
            raise ValueError("nobody waits")
        return "result"

    def waits() -> Recipe[object]:
        return (yield from scene.loop.begin_apart(work()))

    before = len(os.listdir("/proc/self/fd"))
    scene.begin(waits()).cancel()
    assert len(os.listdir("/proc/self/fd")) == before
    os.write(theirs, b"x")
    scene.spin()
    assert ended == ["work"]
    assert (scene.results, scene.errors) == ([], [])
    assert ("nobody waits" in capfd.readouterr().err) is fails


@pytest.mark.parametrize("at_once", [False, True])
def test_task_apart_hands_its_outcome_to_who_waits(scene: Scene, at_once: bool) -> None:
    """Result and error of a task begun apart are those of the recipe that waits for it."""
    ours, theirs = scene.pipe()

    def work(*, fails: bool) -> Recipe[object]:
        if not at_once:
            yield Wait(ours)
        if fails:
            raise ValueError("told")
        return "result"

    def waits(*, fails: bool) -> Recipe[object]:
        try:
            return (yield from scene.loop.begin_apart(work(fails=fails)))
        finally:
            if fails:
                scene.loop.end()

    scene.begin(waits(fails=False))
    scene.begin(waits(fails=True))
    os.write(theirs, b"x")
    if not at_once:
        scene.spin()
    assert scene.results == ["result"]
    assert [str(error) for error in scene.errors] == ["told"]
