"""The line on pytest's terminal while a test waits for an image."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_containers import notice as module
from pytest_containers.errors import ImageNotFound
from pytest_containers.notice import notice
from pytest_containers.progress import BuildEvent, Progress, Telling

ROOT = Path(__file__).resolve().parents[1]
CONFTEST = """
from pytest_containers import notice
from pytest_containers.spec import ImageConfig
from tests.engines.memory import MemoryEngine
from tests.engines.memory_files import HOST

notice._DELAY_S = 0.0

def pytest_containers_engine(config):
    engine = MemoryEngine()
    engine.images.registry["slow:1"] = (ImageConfig(command=("sleep", "60")), HOST)
    return engine
"""
TESTS = """
def test_before(): pass

def test_slow(container, capsys):
    print("of the test")
    container("slow:1")
    assert capsys.readouterr().out == "of the test\\n"

def test_after(container):
    container("slow:1")
"""


class _Terminal:
    """Remembers what is written, and whether capture was off then."""

    def __init__(self, *, isatty: bool = True) -> None:
        self.isatty = isatty
        self.lines: list[str] = []
        self._capturing = True

    def ensure_newline(self) -> None:
        self.lines.append("newline")

    def rewrite(self, line: str, *, erase: bool = False) -> None:
        assert not self._capturing
        self.lines.append(line)

    @contextlib.contextmanager
    def global_and_fixture_disabled(self) -> Iterator[None]:
        self._capturing = False
        yield
        self._capturing = True


def _moved(subject: str, done: int) -> Progress:
    return Progress(subject=subject, phase="download", done_bytes=done, total_bytes=4_000_000)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """Return a terminal that is told at once."""
    monkeypatch.setattr(module, "_DELAY_S", 0.0)
    monkeypatch.setattr(module, "_PAUSE_S", 0.0)
    return _Terminal()


def _told(terminal: _Terminal) -> Telling:
    telling = notice(terminal, terminal, quiet=False)
    assert telling is not None
    return telling


def test_notice_sums_the_blobs_and_says_the_end(terminal: _Terminal) -> None:
    """One line tells of all blobs of an image, and at last that it is there."""
    with _told(terminal)("redis:7") as watches:
        assert watches.transfer is not None
        watches.transfer(_moved("one", 1_000_000))
        watches.transfer(_moved("two", 500_000))
    *lines, last, end = terminal.lines
    assert end == "\n"
    assert lines == ["newline", "redis:7: download 1.0 of 4.0 MB", "redis:7: download 1.5 of 8.0 MB"]
    assert re.fullmatch(r"redis:7: ready after [0-9.]+ s", last)


def test_notice_of_a_build_is_its_step(terminal: _Terminal) -> None:
    """What fails leaves an empty line to the report."""

    def build() -> None:
        with _told(terminal)("./site") as watches:
            assert watches.build is not None
            watches.build(BuildEvent(step="[stage 1/2] RUN make\nall", kind="begin"))
            raise ImageNotFound("none")

    with pytest.raises(ImageNotFound):
        build()
    assert terminal.lines == ["newline", "./site: [stage 1/2] RUN make all", "", ""]


def test_notice_is_silent_while_it_is_quick(terminal: _Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes less than a moment is not told."""
    monkeypatch.setattr(module, "_DELAY_S", 3600.0)
    with _told(terminal)("redis:7") as watches:
        assert watches.transfer is not None
        watches.transfer(_moved("one", 4_000_000))
    assert terminal.lines == []


def test_notice_is_for_the_thread_of_the_tests(terminal: _Terminal) -> None:
    """Another thread may pull while pytest itself writes, so it is not told of."""

    def pull() -> None:
        with _told(terminal)("redis:7") as watches:
            assert watches.transfer is None

    thread = threading.Thread(target=pull)
    thread.start()
    thread.join()
    assert terminal.lines == []


def test_notice_needs_a_terminal() -> None:
    """A log, a quiet run and a worker of xdist are told nothing."""
    assert notice(_Terminal(isatty=False), None, quiet=False) is None
    assert notice(_Terminal(), None, quiet=True) is None
    assert notice(None, None, quiet=False) is None


@pytest.mark.parametrize("options", [(), ("-v", "-s")])
def test_notice_stands_between_the_results(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    """In a run on a terminal the line comes and goes, and the capture of the test is whole."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    entries = importlib.metadata.entry_points(group="pytest11")
    known = any(entry.value == "pytest_containers.plugin" for entry in entries)
    plugin = () if known else ("-p", "pytest_containers.plugin")
    ours, theirs = pty.openpty()
    ended = subprocess.Popen(
        [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = bytearray()
    # The read fails where the other end is closed, which is the end of the run (pty(7)).
    with contextlib.suppress(OSError):
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
    assert ended.wait() == 0, text
    assert "3 passed" in text
    assert re.search(
        r"\n\rslow:1: download 0\.0 of 0\.0 MB *\rslow:1: ready after [0-9.]+ s *\r\r?\n", text
    ), text
    assert text.count("ready after") == 1
