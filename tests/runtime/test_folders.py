"""Laws of run folders: private, locked while somebody lives, swept when nobody does."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pytest_containers.errors import HostError, StoreFull
from pytest_containers.runtime import folders
from tests.plugins.clock import scaled

_PATIENCE_S: Final = scaled(20.0)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of all runs, for this test alone; it is not there yet."""
    place = tmp_path / "runs"
    monkeypatch.setattr(folders, "base", lambda: place)
    return place


@pytest.fixture
def run(base: Path) -> Iterator[Path]:
    """Return a run folder whose lock this test holds."""
    with folders.hold():
        path = base / "aabbccdd"
        lock = folders.make(path)
    yield path
    os.close(lock)


def test_base_is_short_and_the_users_own() -> None:
    """The name says whose it is, and leaves room for a socket's name (unix(7))."""
    path = folders.base()
    assert path.name == f"pytest-containers-{os.geteuid()}"
    assert len(str(folders.fresh() / folders.SOCKET)) < 100


def test_fresh_is_another_each_time(base: Path) -> None:
    """Two runs get two names, and asking makes nothing."""
    assert folders.fresh() != folders.fresh()
    assert folders.fresh().parent == base
    assert not base.exists()


def test_hold_makes_a_private_folder_and_takes_it_away(base: Path) -> None:
    """The folder is there, for nobody else, while it is held; left empty it goes."""
    with folders.hold() as held:
        assert held == base
        assert stat.S_IMODE(base.stat().st_mode) == 0o700
    assert not base.exists()


def test_hold_is_for_one_at_a_time(base: Path) -> None:
    """A second holder waits until the first has left."""
    seen: list[str] = []
    first, second = threading.Event(), threading.Event()

    def other() -> None:
        first.wait(_PATIENCE_S)
        with folders.hold():
            seen.append("second")
        second.set()

    thread = threading.Thread(target=other)
    thread.start()
    with folders.hold():
        first.set()
        assert not second.wait(0.05)
        seen.append("first")
    thread.join(_PATIENCE_S)
    assert seen == ["first", "second"]


def test_hold_takes_the_folder_that_is_there_now(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is exchanged while we wait for its lock is not the one that we hold."""
    real = fcntl.flock
    locked: list[int] = []

    def exchange(descriptor: int, operation: int) -> None:
        if not locked:
            base.rename(base.with_name("moved away"))
            base.mkdir(mode=0o700)
        locked.append(os.fstat(descriptor).st_ino)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", exchange)
    with folders.hold() as folder:
        assert len(locked) == 2
        assert locked[1] == folder.stat().st_ino
        assert locked[0] == base.with_name("moved away").stat().st_ino


@pytest.mark.parametrize("kind", ["link", "file", "open to others", "of another user"])
def test_hold_is_refused_when_the_place_is_not_ours(base: Path, tmp_path: Path, kind: str) -> None:
    """Whatever somebody else has put at our place is not used, and is named."""
    if kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        base.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        base.touch()
    else:
        base.mkdir(mode=0o700)
        if kind == "of another user":
            os.chown(base, 1000, 1000)
        else:
            base.chmod(0o750)
    with pytest.raises(HostError, match="not ours alone") as caught, folders.hold():
        pytest.fail("it was held")
    assert str(base) in caught.value.what
    assert os.path.lexists(base)


def test_hold_is_refused_when_the_place_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no folder for ours the error says which and why."""
    monkeypatch.setattr(folders, "base", lambda: tmp_path / "missing" / "runs")
    with pytest.raises(HostError, match="no folder for runs") as caught, folders.hold():
        pytest.fail("it was held")
    assert "No such file" in caught.value.seen


def test_hold_closes_its_descriptors(base: Path) -> None:
    """Holding, being refused and leaving by an exception keep nothing open."""
    before = len(os.listdir("/proc/self/fd"))
    with folders.hold():
        pass
    with pytest.raises(StoreFull), folders.hold():
        raise StoreFull("anything")
    base.touch()
    with pytest.raises(HostError), folders.hold():
        pytest.fail("it was held")
    assert len(os.listdir("/proc/self/fd")) == before


def test_run_folder_is_private_and_locked(run: Path) -> None:
    """A run folder is for its user alone, and its lock is taken from the first moment."""
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    descriptor = os.open(run, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def test_run_folder_lock_passes_to_children(base: Path) -> None:
    """The lock is held until the last process that has its descriptor is gone (flock(2))."""
    with folders.hold():
        lock = folders.make(base / "shared")
    assert not os.get_inheritable(lock)
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[lock]
    ) as child:
        os.close(lock)
        with folders.hold() as held:
            assert folders.sweep(held) == []
        child.communicate()
    with folders.hold() as held:
        assert folders.sweep(held) == [str(base / "shared")]


def test_sweep_removes_dead_runs_alone(run: Path, base: Path) -> None:
    """A folder whose lock is free goes with all in it; one that is locked stays whole."""
    (run / "alive").touch()
    for name in ("00000000", "ffffffff"):
        (base / name / "disk" / "deep").mkdir(parents=True)
        (base / name / "disk" / "file").write_text("x")
    with folders.hold() as held:
        assert folders.sweep(held) == [str(base / "00000000"), str(base / "ffffffff")]
    assert [path.name for path in base.iterdir()] == ["aabbccdd"]
    assert (run / "alive").exists()


def test_sweep_removes_what_is_no_run(run: Path, base: Path, tmp_path: Path) -> None:
    """Files, FIFOs and links go, and what a link led to stays."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    (base / "file").touch()
    os.mkfifo(base / "fifo")
    (base / "link").symlink_to(tmp_path / "precious")
    (base / "dangling").symlink_to("nowhere")
    with folders.hold() as held:
        assert len(folders.sweep(held)) == 4
    assert [path.name for path in base.iterdir()] == ["aabbccdd"]
    assert (tmp_path / "precious/file").exists()


def test_sweep_passes_over_what_has_gone_meanwhile(
    run: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that its own janitor removes while we look is not our business."""
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter([*real(path), path / "gone"]))
    with folders.hold() as held:
        assert folders.sweep(held) == []


def test_sweep_spares_a_refusal_while_its_owner_lives(run: Path, base: Path) -> None:
    """The reason why there is no run outlives its janitor's lock, and not the process that may ask."""
    owner = subprocess.Popen(["sleep", "60"])
    with folders.hold():
        refused = base / "11223344"
        os.close(folders.make(refused))
        folders.refuse(refused, HostError("no namespace"), owner=owner.pid)
        assert folders.sweep(base) == []
        owner.kill()
        owner.wait()
        assert folders.sweep(base) == [str(refused)]


def test_sweep_removes_a_refusal_that_was_taken_back(run: Path, base: Path) -> None:
    """Whoever has read the reason lets the folder go; doing so twice is allowed."""
    with folders.hold():
        refused = base / "11223344"
        os.close(folders.make(refused))
        folders.refuse(refused, HostError("no namespace"), owner=os.getpid())
        folders.withdraw(refused)
        folders.withdraw(refused)
        assert folders.sweep(base) == [str(refused)]


def test_end_removes_the_run_and_the_last_one_all(run: Path, base: Path) -> None:
    """A run's end takes its folder; the folder of all runs goes with the last of them."""
    with folders.hold():
        lock = folders.make(base / "other")
    folders.end(run)
    assert [path.name for path in base.iterdir()] == ["other"]
    folders.end(base / "other")
    os.close(lock)
    assert not base.exists()
    folders.end(base / "other")
    assert not base.exists()


def test_refusal_is_found_by_those_who_come_later(run: Path) -> None:
    """The reason why there is no run keeps its class and words."""
    assert folders.refusal(run) is None
    folders.refuse(run, HostError("no namespace", seen="EPERM", mend="be root"))
    found = folders.refusal(run)
    assert isinstance(found, HostError)
    assert (found.what, found.seen, found.mend) == ("no namespace", "EPERM", "be root")


@pytest.mark.parametrize("content", ["", "{", '{"kind": "Ho'])
def test_refusal_unreadable_is_none(run: Path, content: str) -> None:
    """Half a file is no reason."""
    (run / "refusal.json").write_text(content)
    assert folders.refusal(run) is None
