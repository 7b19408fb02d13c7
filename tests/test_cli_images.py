"""The commands of images and archives: what they print, as text and as JSON, and their exit codes."""

from __future__ import annotations

import datetime
import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_containers import SpecInvalid
from pytest_containers.cli import main
from pytest_containers.commands.output import age, duration_s, size_bytes
from pytest_containers.spec import ImageConfig
from tests.engines.memory import MemoryEngine
from tests.engines.memory_files import HOST

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def engine() -> MemoryEngine:
    """Return the engine that the commands use."""
    return MemoryEngine()


@pytest.fixture
def run(engine: MemoryEngine, capsysbinary: pytest.CaptureFixture[bytes], in_tmp_path: Path) -> Run:
    """Return how a command is run: to its exit code, its output and its errors."""

    def run(*argv: str) -> tuple[int, str, str]:
        code = main(argv, open_engine=lambda _: engine)
        captured = capsysbinary.readouterr()
        return code, captured.out.decode("latin-1"), captured.err.decode()

    return run


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the empty folder in which the commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_pull_takes_several_and_prints_json(run: Run, engine: MemoryEngine) -> None:
    """JSON is one document on the output, how far it is stands beside it."""
    engine.images.registry |= {"one:1": (ImageConfig(), HOST), "two:1": (ImageConfig(user="x"), HOST)}
    code, out, err = run("pull", "one:1", "two:1", "--json")
    assert code == 0
    assert [image["reference"] for image in json.loads(out)] == ["one:1", "two:1"]
    assert "download" in err
    assert run("pull", "one:1", "--quiet")[2] == ""
    assert "not said what to pull" in run("pull")[2]


def test_services_are_those_of_catalog_and_project(run: Run, in_tmp_path: Path) -> None:
    """A bare name is told with the image that it starts."""
    (in_tmp_path / "pyproject.toml").write_text('[tool.pytest-containers.services.search]\nimage = "s:1"\n')
    rows = [line.split() for line in run("services")[1].splitlines()]
    assert ["redis", "redis:7"] in rows
    assert ["search", "s:1"] in rows
    assert {"name": "search", "image": "s:1"} in json.loads(run("services", "--json")[1])


def test_tag_and_rm_change_names(run: Run, engine: MemoryEngine) -> None:
    """A tag is a second name, rm forgets names."""
    engine.images.put("one:1", HOST, ImageConfig())
    assert run("tag", "one:1", "two:1") == (0, "", "")
    assert run("rm", "one:1") == (0, "", "")
    assert [record.reference for record in engine.images.list()] == ["two:1"]
    assert run("rm", "one:1")[0] == 125


def test_inspect_is_readable_and_json(run: Run, engine: MemoryEngine) -> None:
    """Digest, config, layers and history are told both ways."""
    record = engine.images.put("one:1", HOST, ImageConfig(command=("serve", "-v"), labels={"a": "b"}))
    out = run("inspect", "one:1")[1]
    for told in (record.digest, "command: serve -v", "labels: a=b", "layers", "history"):
        assert told in out
    (found,) = json.loads(run("inspect", "--json", "one:1")[1])
    assert (found["digest"], found["config"]["command"]) == (record.digest, ["serve", "-v"])
    assert len(found["layers"]) == len(found["history"]) == 1
    assert json.loads(run("images", "--json")[1])[0]["created"] == found["created"]


def test_archive_travels_by_file_and_by_pipe(
    run: Run, engine: MemoryEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What save writes, load reads: a file, and the standard streams where it is -."""
    engine.images.put("one:1", HOST, ImageConfig())
    assert run("save", "one:1", "-o", str(tmp_path / "one.tar"))[:2] == (0, "")
    assert run("load", str(tmp_path / "one.tar"))[1].startswith("one:1@sha256:")
    piped = run("save", "one:1", "-o", "-", "-q")[1].encode("latin-1")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
    assert json.loads(run("load", "--name", "two:1", "--json")[1])[0]["reference"] == "two:1"
    assert "folder cannot be written" in run("save", "one:1", "-o", "-", "--format", "oci-dir")[2]
    assert "there is no file" in run("load", str(tmp_path / "none.tar"))[2]


def test_load_refuses_a_root_file_system(run: Run, tmp_path: Path) -> None:
    """The mend names the command that takes it."""
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("hello"))
    code, _, err = run("load", str(tmp_path / "root.tar"))
    assert code == 125
    assert "import" in err


def test_prune_keeps_what_the_lock_file_names(run: Run, engine: MemoryEngine, in_tmp_path: Path) -> None:
    """Old images go but for those of the lock file; a dry run tells the same and changes nothing."""
    for name in ("one:1", "two:1"):
        engine.images.put(name, HOST, ImageConfig())
    (in_tmp_path / "containers.lock").write_text("one:1 sha256:0\n")
    dry = json.loads(run("prune", "--older-than", "0s", "--keep-lock", "--dry-run", "--json")[1])
    assert (dry["images"], len(engine.images.list())) == (["two:1"], 2)
    assert run("prune", "--older-than", "0s", "--keep-lock")[1].startswith("two:1\nremoved: ")
    assert [record.reference for record in engine.images.list()] == ["one:1"]


def test_login_reads_the_password_from_the_input(
    run: Run, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is in no argument and in no message; without one nobody is asked in a script."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("s3same\n"))
    code, out, err = run("login", "registry.example", "-u", "alice", "--password-stdin")
    assert (code, engine.registries.credentials) == (0, {"registry.example": ("alice", "s3same")})
    assert "s3same" not in out + err
    assert "password is missing" in run("login", "registry.example", "-u", "alice")[2]
    monkeypatch.setattr(sys, "stdin", io.StringIO("wrong"))
    assert run("login", "registry.example", "-u", "alice", "--password-stdin")[0] == 125
    assert run("logout", "registry.example")[1] == "logged out of registry.example\n"
    assert run("logout", "registry.example")[1] == "no credentials for registry.example\n"


def test_verify_is_1_where_it_finds_problems(run: Run, engine: MemoryEngine) -> None:
    """Each problem is a line, and the exit code tells a script."""
    engine.images.registry["redis:7"] = (ImageConfig(), HOST)
    assert run("lock", "redis")[1].startswith("redis:7@sha256:")
    assert run("verify")[:2] == (0, "")
    engine.images.remove("redis:7")
    assert run("verify")[:2] == (1, "redis:7: not in the store\n")
    assert json.loads(run("verify", "--json")[1]) == [{"reference": "redis:7", "what": "not in the store"}]
    (locked,) = json.loads(run("lock", "--json")[1])
    assert locked["reference"] == "redis:7"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("12h", 43200), ("1.5d", 129600), ("2w", 1209600)]
)
def test_age_is_read(text: str, seconds: int) -> None:
    """A number and a unit are seconds."""
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("10GB", 10**10), ("1.5kB", 1500), ("1GiB", 2**30), ("512", 512), ("3m", 3 * 10**6)]
)
def test_size_is_read(text: str, count: int) -> None:
    """Units are powers of 1000, those with an i of 1024."""
    assert size_bytes(text) == count


@pytest.mark.parametrize("text", ["", "d", "30", "30y", "-1d"])
def test_age_that_is_none_is_refused(text: str) -> None:
    """What is no age is quoted."""
    with pytest.raises(SpecInvalid, match="is not an age"):
        duration_s(text)


@pytest.mark.parametrize("text", ["", "GB", "ten", "10XB"])
def test_size_that_is_none_is_refused(text: str) -> None:
    """What is no size is quoted."""
    with pytest.raises(SpecInvalid, match="is not a size"):
        size_bytes(text)


@pytest.mark.parametrize(
    ("created", "told"),
    [
        ("2024-05-01T00:00:00Z", "9 days ago"),
        ("2024-05-10T11:59:30.123456789+00:00", "just now"),
        ("2024-05-10T10:00:00Z", "2 hours ago"),
        ("1970-01-01T00:00:00Z", ""),
        ("", ""),
    ],
)
def test_age_is_told_in_one_unit(created: str, told: str) -> None:
    """The age is that of a reader's interest; that of a reproducible image is none."""
    assert age(created, datetime.datetime(2024, 5, 10, 12, tzinfo=datetime.UTC)) == told
