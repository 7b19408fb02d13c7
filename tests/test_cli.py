"""The command line: what it prints, and with which code it ends."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_containers import NotPortable
from pytest_containers.cli import main
from pytest_containers.container import Container
from pytest_containers.spec import BuiltFrom, ImageConfig
from tests.engines.memory import MemoryEngine
from tests.engines.memory_files import HOST

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def engine() -> MemoryEngine:
    """Return the engine that the commands use."""
    return MemoryEngine()


@pytest.fixture
def run(engine: MemoryEngine, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return how a command is run: to its exit code, its output and its errors."""

    def run(*argv: str) -> tuple[int, str, str]:
        code = main(argv, open_engine=lambda _: engine)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_run_shows_output_and_ends_with_its_code(run: Run, engine: MemoryEngine) -> None:
    """Both streams are passed on, the exit code is the container's, and nothing is left."""
    assert run("run", "host", "sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")
    assert engine.run.containers == {}


def test_run_passes_its_options(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, user and folder reach the process; options behind the image are the command's."""
    monkeypatch.setenv("SHAPE", "round")
    options = ("-e", "COLOUR=red", "-e", "SHAPE", "-u", "nobody", "-w", "/srv")
    code, out, _ = run("run", *options, "host", "sh", "-c", "pwd; id -u; echo $COLOUR $SHAPE")
    assert (code, out) == (0, "/srv\n65534\nred round\n")


def test_run_runs_the_image_s_command(run: Run, engine: MemoryEngine) -> None:
    """Without words of its own, what the image says is run."""
    engine.images.put("says:1", HOST, ImageConfig(command=("echo", "hello")))
    assert run("run", "says:1") == (0, "hello\n", "")


def test_run_of_a_missing_command_is_127(run: Run, engine: MemoryEngine) -> None:
    """A command that is not found ends with 127 and one clear error."""
    code, out, err = run("run", "host", "no-such-command")
    assert (code, out) == (127, "")
    assert err.startswith("pytest-containers: no command no-such-command")
    assert "Traceback" not in err
    assert engine.run.containers == {}


def test_failure_is_125_and_one_error(run: Run) -> None:
    """What fails on our side is 125, told in words, without a stack."""
    code, _, err = run("pull", "none:1")
    assert code == 125
    assert err == "pytest-containers: no image none:1\n  mend: pull it, or mend its name\n"


def test_pull_names_the_image_with_its_digest(run: Run, engine: MemoryEngine) -> None:
    """A pull prints what it has, by digest; names of the catalog are known here, too."""
    engine.images.registry["redis:7"] = (ImageConfig(), HOST)
    code, out, _ = run("pull", "redis")
    assert code == 0
    assert out.startswith("redis:7@sha256:")


def test_offline_pulls_nothing(run: Run, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, what a registry has is not fetched, by option and by environment."""
    engine.images.registry["redis:7"] = (ImageConfig(), HOST)
    assert run("--offline", "pull", "redis:7")[0] == 125
    monkeypatch.setenv("PYTEST_CONTAINERS_OFFLINE", "1")
    assert run("pull", "redis:7")[0] == 125
    assert "the run is offline" in run("push", "redis:7")[2]


def test_images_are_a_table(run: Run, engine: MemoryEngine) -> None:
    """Every image is a line with name, id, age and size, the folder it was built from and what is amiss."""
    record = engine.images.put("team/app:1", HOST, ImageConfig())
    code, out, err = run("images")
    assert (code, err) == (0, "")
    head, row = out.splitlines()
    assert head.split() == ["IMAGE", "PLATFORM", "ID", "CREATED", "SIZE", "BUILT", "FROM", "NOTE"]
    assert re.fullmatch(rf"team/app:1 +{record.id[7:19]}  [0-9]+ years? ago  0 B", row)
    engine.images.put(
        "team/app:1", HOST, ImageConfig(), built_from=BuiltFrom(folder="/docker/app"), stale="other packages"
    )
    row = run("images")[1].splitlines()[1]
    assert re.search(r"0 B   +/docker/app  stale: other packages$", row)
    (told,) = json.loads(run("images", "--json")[1])
    assert (told["built_from"]["folder"], told["stale"]) == ("/docker/app", "other packages")


def test_push_prints_the_digest(run: Run, engine: MemoryEngine) -> None:
    """A push prints the manifest's digest; what cannot be pushed is told."""
    record = engine.images.put("team/app:1", HOST, ImageConfig())
    assert run("push", "team/app:1") == (0, f"{record.digest}\n", "")
    engine.images.put("mine:1", HOST, ImageConfig(), portable=False)
    code, _, err = run("push", "mine:1")
    assert code == NotPortable.exit_code
    assert "mine:1" in err


def test_import_reads_a_file_or_the_input(
    run: Run, engine: MemoryEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tar of a root file system becomes an image, from a file and from the standard input."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("hello"))
    (tmp_path / "root.tar").write_bytes(packed.getvalue())
    assert run("import", str(tmp_path / "root.tar"), "base:1")[0] == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(packed.getvalue())))
    assert run("import", "-", "base:2")[0] == 0
    assert [record.reference for record in engine.images.list()] == ["base:1", "base:2"]
    assert "there is no file" in run("import", str(tmp_path / "none.tar"), "base:3")[2]


def test_prune_tells_what_it_removed(run: Run, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What dead runs left is removed and told, a line each."""
    monkeypatch.setattr(engine, "reclaim", lambda: ("/var/one", "/var/two"))
    assert run("prune") == (
        0,
        "/var/one\n/var/two\nremoved: 0 blobs, 0 layers, 0 B\n",
        "",
    )


@pytest.mark.parametrize(("works", "code"), [(True, 0), (False, 125)])
def test_doctor_is_a_table(run: Run, monkeypatch: pytest.MonkeyPatch, works: bool, code: int) -> None:
    """Every step is a line; one that does not work is the exit code."""
    steps = (("user namespaces", True, "31000"), ("overlay", works, "mount"))
    monkeypatch.setattr("pytest_containers.commands.machine.preflight", lambda: steps)
    told = "ok" if works else "no"
    assert run("doctor") == (code, f"user namespaces  ok  31000\noverlay          {told}  mount\n", "")


def test_interrupt_ends_the_container(
    run: Run, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is exit code 130, and nothing is left."""

    def interrupted(self: Container, *, follow: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Container, "log_lines", interrupted)
    assert run("run", "host", "sleep", "60")[0] == 130
    assert engine.run.containers == {}


def test_command_line_without_a_command_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing is told by argparse, with its own exit code."""
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_reader_that_is_gone_is_no_error(tmp_path: Path) -> None:
    """A pipe that is closed at its other end is the end, without a stack (head does this)."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pytest_containers", "--store", str(tmp_path), "images"]
    for unbuffered in ("", "1"):  # PYTHONUNBUFFERED: what is printed last goes out at once, or at the end
        ended = subprocess.run(
            command,
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
        assert (ended.returncode, ended.stderr) == (141, "")
    os.close(writer)
