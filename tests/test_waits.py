"""Laws of waits for other processes: they last while the holder lives, can be ended, and name the holder."""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from pytest_containers import _files
from pytest_containers.errors import EngineError
from tests.plugins.processes import HOLD, line, process

_ROOT: Final = Path(__file__).resolve().parents[1]
_PATIENCE_S: Final = 20.0
# Each waits for something that another process has, and says so before.
_WAITS: Final = {
    "lock": "with _files.locked(path): pass",
    "folder": "folders.base = lambda: path.parent / 'runs'\n    with folders.hold(): pass",
    "run": "client.connect(path.parent / 'run')",
}
_WAIT: Final = """
import signal, sys, pathlib
# Whoever started us may have had it ignored, as a shell does with what it starts in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pytest_containers import _files
from pytest_containers.runtime import client, folders
path = pathlib.Path(sys.argv[1])
try:
    print("waits", flush=True)
    {}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_wait_outlasts_its_timeout_while_the_holder_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A lock is waited for as long as the process that has it lives, and that one is named."""
    path = tmp_path / "lock"
    with process(HOLD, path) as holds:
        assert line(holds) == "held"
        ended: list[float] = []

        def wait() -> None:
            with _files.locked(path, timeout_s=0.1):
                ended.append(time.monotonic())

        thread = threading.Thread(target=wait)
        with caplog.at_level(logging.WARNING, logger="pytest_containers"):
            thread.start()
            deadline = time.monotonic() + _PATIENCE_S
            while f"process {holds.pid} (" not in caplog.text:
                assert time.monotonic() < deadline, caplog.text
                threading.Event().wait(0.01)
        assert ended == []
        holds.kill()
        thread.join(_PATIENCE_S)
        assert len(ended) == 1


def test_wait_ends_at_once_when_it_is_cancelled(tmp_path: Path) -> None:
    """An event ends a wait in any thread, with an error that names the holder."""
    path = tmp_path / "lock"
    cancel = threading.Event()
    errors: list[EngineError] = []

    def wait() -> None:
        try:
            with _files.locked(path, waiting=_files.Waiting(cancel=cancel)):
                pass
        except EngineError as error:
            errors.append(error)

    with process(HOLD, path) as holds:
        assert line(holds) == "held"
        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        cancel.set()
        for thread in threads:
            thread.join(_PATIENCE_S)
        assert len(errors) == 3
        for error in errors:
            assert f"the wait for the lock {path} was cancelled" in str(error)
            assert f"process {holds.pid} (" in error.seen


def test_wait_for_a_holder_that_cannot_be_seen_ends_by_its_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no living holder is in sight, a wait does not last for ever."""
    path = tmp_path / "lock"
    descriptor = _files.try_lock(path)
    assert descriptor is not None
    monkeypatch.setattr(_files, "holder", lambda _: None)
    with pytest.raises(EngineError, match="stayed taken for"), _files.locked(path, timeout_s=0.1):
        pass
    os.close(descriptor)
    with _files.locked(path, timeout_s=0.1):
        pass


@pytest.mark.parametrize("kind", list(_WAITS))
def test_wait_is_interrupted_at_once(tmp_path: Path, kind: str) -> None:
    """Ctrl-C ends each wait for another process, while that one goes on."""
    path = tmp_path / "lock"
    (tmp_path / "runs").mkdir(mode=0o700)
    (tmp_path / "run").mkdir()
    with ExitStack() as scope:
        holds = scope.enter_context(process(HOLD, path))
        silent = scope.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        assert line(holds) == "held"
        silent.bind(str(tmp_path / "run" / "supervisor.sock"))
        silent.listen()
        runs = os.open(tmp_path / "runs", os.O_RDONLY)
        scope.callback(os.close, runs)
        fcntl.flock(runs, fcntl.LOCK_EX)
        with process(_WAIT.format(_WAITS[kind]), path) as waits:
            assert line(waits) == "waits"
            while True:
                waits.send_signal(signal.SIGINT)
                assert waits.stdout is not None
                if select.select([waits.stdout], [], [], 0.2)[0]:
                    break
            assert line(waits) == "interrupted"
            assert waits.wait(_PATIENCE_S) in (0, 130, -signal.SIGINT, 1)
        assert holds.poll() is None


def test_holder_is_none_of_a_file_that_nobody_holds(tmp_path: Path) -> None:
    """A free lock, and a file that is gone, have no holder."""
    path = tmp_path / "lock"
    with _files.locked(path):
        assert (_files.holder(path.stat()) or "").startswith(f"process {os.getpid()} (")
    assert _files.holder(path.stat()) is None
    assert _files.holder(None) is None
