"""How far a command is: bars on a terminal, plain lines in a log, and completion for a shell."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pytest_containers.commands.progress import Lines, shown
from pytest_containers.names import image_names, service_names
from pytest_containers.progress import BuildEvent, Progress

ROOT = Path(__file__).resolve().parents[1]
DIGEST = "sha256:" + "ab" * 32


def _moved(done: int, total: int | None = 100_000_000) -> Progress:
    return Progress(subject=DIGEST, phase="download", done_bytes=done, total_bytes=total)


def test_log_shows_begin_and_end_of_a_transfer() -> None:
    """Between the two nothing is told for some seconds, however many events there are."""
    out = io.StringIO()
    lines = Lines(out, pause_s=3600)
    for done in (0, *range(1_000_000, 99_000_000, 1_000_000), 100_000_000):
        lines.transfer(_moved(done))
    first, last = out.getvalue().splitlines()
    assert first == "sha256:abababababab download 0 B of 100.0 MB"
    assert re.fullmatch(r"sha256:abababababab download 100\.0 MB, done in [0-9.]+ s", last)


def test_log_tells_of_a_long_transfer_now_and_then() -> None:
    """A line a pause shows that it goes on; a size that nobody knows is left out."""
    out = io.StringIO()
    lines = Lines(out, pause_s=0)
    for done in (0, 5_000_000):
        lines.transfer(_moved(done, None))
    assert out.getvalue().splitlines()[1] == "sha256:abababababab download 5.0 MB"


def test_log_numbers_the_steps_of_a_build() -> None:
    """Output of steps that run side by side is told apart by their numbers, in whole lines."""
    out = io.StringIO()
    lines = Lines(out)
    one, two = "[a 1/1] RUN one", "[b 1/1] RUN two"
    for event in (
        BuildEvent(step=one, kind="begin"),
        BuildEvent(step=two, kind="begin"),
        BuildEvent(step=one, kind="output", output=b"be"),
        BuildEvent(step=two, kind="output", output=b"end\n"),
        BuildEvent(step=one, kind="output", output=b"gun\nlast"),
        BuildEvent(step=one, kind="done", duration_s=1.25),
        BuildEvent(step=two, kind="cached"),
    ):
        lines.step(event)
    told = ["#1 [a 1/1] RUN one", "#2 [b 1/1] RUN two", "#2 end", "#1 begun", "#1 last", "#1 DONE 1.2s"]
    assert out.getvalue().splitlines() == [*told, "#2 CACHED"]


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """With --quiet nobody hears of a transfer, and a build's steps go nowhere."""
    with shown(quiet=True) as watches:
        assert watches.transfer is None
        assert watches.build is not None
        watches.build(BuildEvent(step="x", kind="begin"))
    assert capsys.readouterr().err == ""


def _on_a_terminal(*argv: str) -> tuple[int, str]:
    """Run the command with a terminal as its standard error; return its code and what was shown."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(
        [sys.executable, "-m", "pytest_containers", *argv],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as ended:
        os.close(theirs)
        shown = bytearray()
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError as error:
            # The other end is closed: the command has ended (pty(7)).
            if error.errno != errno.EIO:
                raise
        os.close(ours)
        assert ended.stdout is not None
        assert b"\x1b[" not in ended.stdout.read()
    return ended.returncode, shown.decode()


def test_terminal_has_a_bar_for_a_transfer(tmp_path: Path) -> None:
    """What moves is a bar with phase and bytes, redrawn in place, and the result stays on the output."""
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        entry = tarfile.TarInfo("etc/motd")
        entry.size = 3_000_000
        tar.addfile(entry, io.BytesIO(os.urandom(entry.size)))
    code, text = _on_a_terminal(
        "--store", str(tmp_path / "store"), "import", str(tmp_path / "root.tar"), "moved:1"
    )
    assert code == 0
    assert "\x1b[" in text
    assert re.search(r"moved:1 loaded .*3\.0/3\.0 MB", text)


@pytest.mark.kernel
def test_terminal_has_a_line_for_a_step(tmp_path: Path) -> None:
    """Steps are told as they end, with their time or CACHED; square brackets are shown as they are."""
    (tmp_path / "Dockerfile").write_text("FROM host\nRUN echo 'said [b]this[/b]'\nRUN exit 3\n")
    argv = ("--store", str(tmp_path / "store"), "build", str(tmp_path))
    code, text = _on_a_terminal(*argv)
    assert code == 125
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert re.search(r"✓ \[stage-0 1/2\] RUN echo 'said \[b\]this\[/b\]' +[0-9.]+s", plain)
    assert re.search(r"✗ \[stage-0 2/2\] RUN exit 3 +[0-9.]+s", plain)
    assert "RUN exit 3 failed with exit code 3" in plain
    again = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", _on_a_terminal(*argv)[1])
    assert re.search(r"✓ \[stage-0 1/2\] .* CACHED", again)


def _completed(line: str, folder: Path) -> list[str]:
    """Ask the command as a shell does (argcomplete, "bash"); what is found comes on descriptor 8."""
    reader, writer = os.pipe()
    script = f'exec 8>&{writer} 9>/dev/null; exec "$0" -m pytest_containers'
    environ = {
        **os.environ,
        "_ARGCOMPLETE": "3",
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "PYTHONPATH": str(ROOT),
        "PYTEST_CONTAINERS_STORE": str(folder / "store"),
    }
    ended = subprocess.Popen(
        ["bash", "-c", script, sys.executable], cwd=folder, env=environ, pass_fds=(writer,)
    )
    os.close(writer)
    with os.fdopen(reader) as found:
        words = found.read().split("\n")
    assert ended.wait() == 0
    return [word.strip() for word in words if word.strip()]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store's folder with two names in its index."""
    names = ("docker.io/library/redis:7", "docker.io/library/mine:1")
    entries = [{"annotations": {"org.opencontainers.image.ref.name": name}} for name in names]
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "index.json").write_text(json.dumps({"manifests": entries}))
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("python -m pytest_containers pru", ["prune"]),
        ("python -m pytest_containers inspect mi", ["mine"]),
        ("python -m pytest_containers prune --kee", ["--keep-lock"]),
        ("python -m pytest_containers prune --dr", ["--dry-run"]),
        ("python -m pytest_containers prune --ol", ["--older-than"]),
        ("python -m pytest_containers completion f", ["fish"]),
    ],
)
def test_shell_completes_what_is_typed(tmp_path: Path, store: Path, line: str, words: list[str]) -> None:
    """Commands, options, choices and the store's images are found."""
    found = _completed(line, tmp_path)
    assert [word for word in found if word.startswith(words[0])], found


def test_names_are_those_of_store_catalog_and_project(tmp_path: Path, store: Path) -> None:
    """What is broken or missing has no names, and is no error while somebody types."""
    (tmp_path / "pyproject.toml").write_text('[tool.pytest-containers.services.search]\nimage = "s:1"\n')
    assert image_names(store) == ("docker.io/library/mine:1", "docker.io/library/redis:7")
    assert {"host", "redis", "search"} <= set(service_names(tmp_path))
    (tmp_path / "pyproject.toml").write_text("not TOML")
    (store / "index.json").write_text("not JSON")
    assert image_names(store) == image_names(tmp_path / "none") == ()
    assert "redis" in service_names(tmp_path)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_a_shell_reads(shell: str) -> None:
    """Each shell gets a script that names the command."""
    argv = [sys.executable, "-m", "pytest_containers", "completion", shell]
    out = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "pytest-containers" in out
