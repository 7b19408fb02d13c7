"""The command that builds: what it prints where, and its exit code."""

from __future__ import annotations

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


def test_build_takes_secrets_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--secret names a file; one that cannot be read is one clear error."""
    (tmp_path / "token").write_text("open sesame")
    dockerfile = "FROM host\nRUN --mount=type=secret,id=token,required wc -c < /run/secrets/token\n"
    assert _build(tmp_path, dockerfile, "--secret", f"token={tmp_path / 'token'}") == 0
    shown = capsys.readouterr()
    assert "11" in shown.err
    assert "sesame" not in shown.err + shown.out
    assert _build(tmp_path, dockerfile, "--secret", "token=/missing") == 125
    assert "no secret can be read from '/missing'" in capsys.readouterr().err


def test_build_that_fails_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error says file, line and exit code, without a stack; the command's own code is 125."""
    assert _build(tmp_path, "FROM host\nRUN echo why; exit 9\n") == 125
    shown = capsys.readouterr()
    assert "Dockerfile:2: RUN echo why; exit 9 failed with exit code 9" in shown.err
    assert "Traceback" not in shown.err
