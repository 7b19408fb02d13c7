"""The command that builds: what it prints where, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_containers import cli

pytestmark = pytest.mark.kernel


def _build(tmp_path: Path, dockerfile: str, *options: str) -> int:
    folder = tmp_path / "site"
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    return cli.main(["--store", str(tmp_path / "store"), "build", *options, str(folder)])


def test_build_tells_its_steps_and_prints_the_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps and their output go to the standard error, the image's name and digest to the output."""
    dockerfile = "FROM host\nARG WORD\nRUN echo said-$WORD\n"
    assert _build(tmp_path, dockerfile, "-t", "talking", "--build-arg", "WORD=hello") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("docker.io/library/talking:latest@sha256:")
    assert "RUN echo said-$WORD" in shown.err
    assert "said-hello" in shown.err


def test_build_takes_secrets_from_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--secret names a file or a variable; one that cannot be read is one clear error."""
    (tmp_path / "token").write_text("open sesame")
    dockerfile = "FROM host\nRUN --mount=type=secret,id=token,required wc -c < /run/secrets/token\n"
    assert _build(tmp_path, dockerfile, "--secret", f"id=token,src={tmp_path / 'token'}") == 0
    shown = capsys.readouterr()
    assert "11" in shown.err
    assert "sesame" not in shown.err + shown.out
    monkeypatch.setenv("WORD", "sesame street")
    assert _build(tmp_path, dockerfile, "--no-cache", "--secret", "id=token,env=WORD") == 0
    shown = capsys.readouterr()
    assert "13" in shown.err
    assert "street" not in shown.err + shown.out
    assert _build(tmp_path, dockerfile, "--secret", "id=token,src=/missing") == 125
    assert "no secret can be read from '/missing'" in capsys.readouterr().err


def test_build_that_fails_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error says file, line and exit code, without a stack; the command's own code is 125."""
    assert _build(tmp_path, "FROM host\nRUN echo why; exit 9\n") == 125
    shown = capsys.readouterr()
    assert "Dockerfile:2: RUN echo why; exit 9 failed with exit code 9" in shown.err
    assert "Traceback" not in shown.err


def test_build_takes_a_dockerfile_from_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """-f is a path from where the command runs, below the folder or not, and --iidfile gets the id."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "word").write_text("hello")
    (tmp_path / "other.dockerfile").write_text("FROM host\nCOPY word /srv/word\n")
    argv = ["--store", "store", "build", "-f", "other.dockerfile", "-t", "built:1", "--iidfile", "id", "site"]
    assert cli.main([*argv, "--json", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out)["id"] == (tmp_path / "id").read_text()


def test_build_takes_named_contexts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--build-context is a folder that COPY --from names."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "word").write_text("from-data")
    dockerfile = "FROM host\nCOPY --from=data word /srv/word\nRUN cat /srv/word\n"
    assert _build(tmp_path, dockerfile, "--build-context", f"data={tmp_path / 'data'}") == 0
    assert "from-data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--allow", "everything"), "--allow everything is not known"),
        (("--build-context", "data"), "--build-context 'data' cannot be read"),
        (("--secret", "token=file"), "--secret 'token=file' cannot be read"),
        (("--secret", "id=token,env=NO_SUCH_WORD"), "NO_SUCH_WORD is not set"),
        (("--ssh", "default"), "--ssh default has no agent"),
    ],
)
def test_build_flag_that_cannot_be_meant_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    told: str,
) -> None:
    """A wrong flag is one clear error before anything starts."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    assert _build(tmp_path, "FROM host\n", *options) == 125
    assert told in capsys.readouterr().err
    assert cli.main(["--store", str(tmp_path / "store"), "build", str(tmp_path / "none")]) == 125
    assert "there is no folder" in capsys.readouterr().err


def test_prune_tells_of_cache_mounts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a RUN kept in a cache mount is counted, and goes by its age."""
    assert _build(tmp_path, "FROM host\nRUN --mount=type=cache,target=/kept echo x > /kept/file\n") == 0
    prune = ["--store", str(tmp_path / "store"), "prune", "--older-than", "0s"]
    capsys.readouterr()
    assert cli.main([*prune, "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["caches"]) == 1
    assert cli.main(prune) == 0
    assert ", 1 cache mounts, " in capsys.readouterr().out
    assert cli.main(prune) == 0
    assert "cache mounts" not in capsys.readouterr().out


def test_bare_argument_without_a_value_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--build-arg NAME takes the variable's value, and the Dockerfile's own default where there is none."""
    dockerfile = "FROM host\nARG WORD=default\nRUN echo said-$WORD\n"
    monkeypatch.delenv("WORD", raising=False)
    assert _build(tmp_path, dockerfile, "--build-arg", "WORD") == 0
    assert "said-default" in capsys.readouterr().err
    monkeypatch.setenv("WORD", "variable")
    assert _build(tmp_path, dockerfile, "--build-arg", "WORD") == 0
    assert "said-variable" in capsys.readouterr().err


def test_notice_of_a_build_is_shown_without_progress_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An argument that no ARG takes is a warning on the standard error, with --quiet as well."""
    for option in ("--progress=plain", "--quiet"):
        assert _build(tmp_path, "FROM host\nARG WORD\n", option, "--build-arg", "WROD=1") == 0
        assert "warning: Dockerfile:1: no ARG takes the build argument WROD" in capsys.readouterr().err
