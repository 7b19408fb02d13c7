"""Run folders: a free lock is garbage for whoever comes next, and the place for runs is ours alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.engines.native import NativeEngine
from pytest_containers.errors import HostError
from pytest_containers.runtime import folders

if TYPE_CHECKING:
    from tests.lifetimes.conftest import Stage

pytestmark = pytest.mark.kernel


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of runs for this test alone; it is not there yet."""
    folder = tmp_path / "runs"
    monkeypatch.setattr(folders, "base", lambda: folder)
    return folder


@contextmanager
def _alive(name: str) -> Iterator[Path]:
    """Make a run folder and hold its lock, as janitor and supervisor do."""
    with folders.hold() as base:
        lock = folders.make(base / name)
    try:
        yield base / name
    finally:
        os.close(lock)


def _dead(name: str) -> Path:
    with _alive(name) as folder:
        (folder / "disk" / "upper").mkdir(parents=True)
        (folder / "disk" / "upper" / "file").write_bytes(b"x")
        (folder / folders.SOCKET).touch()
    return folder


def test_sweep_removes_what_nobody_holds_and_nothing_else(place: Path) -> None:
    """The folder of a dead run goes with all that is in it, that of a live one stays."""
    dead = _dead("dead")
    with _alive("live") as live:
        with folders.hold() as base:
            assert folders.sweep(base) == [str(dead)]
        assert not dead.exists()
        assert live.exists()


def test_sweep_removes_what_is_no_folder_without_following_it(place: Path, tmp_path: Path) -> None:
    """Files, pipes and links in the place are removed as what they are; nothing waits for a pipe's writer."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "kept").touch()
    with folders.hold() as base:
        (base / "file").touch()
        os.mkfifo(base / "pipe")
        (base / "link").symlink_to(target)
        (base / "dangling").symlink_to(tmp_path / "nowhere")
        assert len(folders.sweep(base)) == 4
        assert list(base.iterdir()) == []
    assert (target / "kept").exists()


def test_sweep_bears_janitors_that_remove_their_folders_meanwhile(place: Path) -> None:
    """Folders that vanish under the sweep's feet are no error, and neither is the last one's parent."""
    troubles: list[BaseException] = []

    def live_and_end(name: str) -> None:
        try:
            for _ in range(100):
                with _alive(name) as folder:
                    folders.end(folder)
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            troubles.append(error)

    threads = [threading.Thread(target=live_and_end, args=(str(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with folders.hold() as base:
            folders.sweep(base)
    for thread in threads:
        thread.join()
    assert troubles == []
    assert not place.exists()


def test_hold_lets_an_error_of_its_body_through(place: Path) -> None:
    """What goes wrong while the lock is held reaches the caller as it is."""
    with pytest.raises(FileNotFoundError, match="no such thing"), folders.hold():
        raise FileNotFoundError("no such thing")
    assert not place.exists()


def test_place_of_somebody_else_is_refused(place: Path) -> None:
    """A folder of another owner, readable by others, or no folder at all, is named with the mend."""
    place.mkdir(mode=0o700)
    os.chown(place, 65534, 65534)
    with pytest.raises(HostError, match=r"owner 65534.*\n.*remove it"), folders.hold():
        pass
    os.chown(place, 0, 0)
    place.chmod(0o755)
    with pytest.raises(HostError, match="mode drwxr-xr-x"), folders.hold():
        pass
    place.rmdir()
    place.symlink_to("/tmp")
    with pytest.raises(HostError, match="mode lrwxrwxrwx"), folders.hold():
        pass


def test_place_that_cannot_be_made_is_an_error_with_a_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no room for run folders, the error names the folder to make."""
    monkeypatch.setattr(folders, "base", lambda: tmp_path / "missing" / "runs")
    with pytest.raises(HostError, match=r"mend: make .*missing a folder"), folders.hold():
        pass


def test_next_run_sweeps_what_a_dead_one_left(stage: Stage) -> None:
    """The start of a run removes the folders of dead runs, and so does reclaim."""
    dead = [_dead(f"{stage.folder.name}-{number}") for number in range(2)]
    player = stage.play()
    assert player.ask("start c").startswith("c")
    assert not any(folder.exists() for folder in dead)
    assert stage.folder.exists()
    folder = _dead(f"{stage.folder.name}-2")
    engine = NativeEngine(store=stage.store, run_folder=stage.folder, owner_pid=os.getpid())
    assert str(folder) in engine.reclaim()
    assert not folder.exists()
    assert player.ask("exec c true") == "0"
