"""The commands against Debian's real registry: sent, locked, fetched, verified, logged in."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.cli import main

if TYPE_CHECKING:
    from tests.plugins.registries import RegistryStarter

pytestmark = pytest.mark.kernel

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return how a command is run on a store of this test, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, store: str = "store") -> tuple[int, str, str]:
        code = main(["--store", str(tmp_path / store), *argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def _root(folder: Path, content: bytes = b"hello\n") -> str:
    with tarfile.open(folder / "root.tar", "w") as tar:
        entry = tarfile.TarInfo("etc/motd")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return str(folder / "root.tar")


def test_image_is_locked_fetched_and_verified(run: Run, registry: str, tmp_path: Path) -> None:
    """The way of a CI job: pull --lock, verify, offline, and a damaged blob is found and mended."""
    name = f"{registry}/app:1"
    digest = run("import", _root(tmp_path), name)[1].rpartition("@")[2]
    code, out, err = run("push", name)
    assert (code, out) == (0, digest)
    assert "upload" in err
    assert run("lock", name)[1] == f"{name}@{digest}"
    code, out, err = run("pull", "--lock", store="other")
    assert (code, out) == (0, f"{name}@{digest}")
    assert "download" in err
    assert "unpack" in err
    assert run("verify", store="other") == (0, "", "")
    assert run("--offline", "pull", name, store="other")[:2] == (0, f"{name}@{digest}")
    # What a CI keeps of a store: blobs and their index, and none of what is unpacked.
    (tmp_path / "cache").mkdir()
    shutil.copytree(tmp_path / "other" / "blobs", tmp_path / "cache" / "blobs")
    for kept in ("index.json", "oci-layout"):
        shutil.copy(tmp_path / "other" / kept, tmp_path / "cache")
    assert run("verify", store="cache") == (0, "", "")
    assert run("--offline", "pull", "--lock", store="cache")[:2] == (0, f"{name}@{digest}")
    (image,) = json.loads(run("inspect", "--json", name, store="other")[1])
    blob = tmp_path / "other" / "blobs" / "sha256" / image["layers"][0]["digest"].partition(":")[2]
    blob.write_bytes(b"?" * blob.stat().st_size)
    code, out, _ = run("verify", store="other")
    assert (code, len(out.splitlines())) == (1, 1)
    assert run("pull", "--lock", "--quiet", store="other") == (0, f"{name}@{digest}", "")
    assert run("verify", store="other")[0] == 0
    code, out, err = run("verify", "missing.lock")
    assert (code, out) == (125, "")
    assert "missing.lock cannot be read" in err


def test_prune_keeps_the_lock_file_s_images(run: Run, registry: str, tmp_path: Path) -> None:
    """Before a cache is saved, what no lock file names is removed."""
    run("import", _root(tmp_path), f"{registry}/kept:1")
    run("push", f"{registry}/kept:1")
    run("import", _root(tmp_path, b"loose\n"), "loose:1")
    run("lock", f"{registry}/kept:1")
    code, out, _ = run("prune", "--older-than", "0s", "--keep-lock", "--json")
    assert code == 0
    assert json.loads(out)["images"] == ["docker.io/library/loose:1"]
    assert f"{registry}/kept:1" in run("images")[1]
    assert run("verify")[0] == 0


def test_login_is_proved_and_kept(
    run: Run, start_registry: RegistryStarter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry with passwords takes a push after a login, and not after the logout."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    host = start_registry(password=True)
    run("import", _root(tmp_path), f"{host}/app:1")
    assert run("push", f"{host}/app:1")[0] == 125
    monkeypatch.setattr(sys, "stdin", io.StringIO("not it"))
    code, _, err = run("login", host, "-u", "alice", "--password-stdin")
    assert code == 125
    assert "not it" not in err
    monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
    code, out, _ = run("login", host, "-u", "alice", "--password-stdin")
    assert code == 0
    assert str(tmp_path / "docker" / "config.json") in out
    assert run("push", f"{host}/app:1")[0] == 0
    assert run("logout", host)[0] == 0
    assert run("push", f"{host}/app:1")[0] == 125
