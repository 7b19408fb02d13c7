"""ADD of git repositories: a real bare repository behind git's own server program, on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_containers.errors import BuildFailed, SpecInvalid
from tests.images.build.plain import Site
from tests.images.build.webserver import WebServer, serving

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

_WHEN = "1234567890 +0000"


class Repository:
    """A working tree and the bare repository that it is pushed to."""

    def __init__(self, root: Path, name: str) -> None:
        self.bare = root / f"{name}.git"
        self.tree = root / name
        self.git("init", "--quiet", "--bare", str(self.bare), at=root)
        self.git("init", "--quiet", str(self.tree), at=root)

    def git(self, *arguments: str, at: Path | None = None) -> str:
        """Run git as nobody in particular."""
        env = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_NAME": "a" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "a@example.com" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_DATE": _WHEN for who in ("AUTHOR", "COMMITTER")},
        }
        command = ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *arguments]
        done = subprocess.run(command, cwd=at or self.tree, env=env, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    def commit(self, **files: str) -> str:
        """Commit files and push all there is; return the commit's name."""
        for name, text in files.items():
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / name).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a change")
        self.push()
        return self.git("rev-parse", "HEAD")

    def push(self) -> None:
        """Push branches and tags."""
        for what in ("--all", "--tags"):
            self.git("push", "--quiet", str(self.bare), what)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Return a repository with one commit."""
    found = Repository(tmp_path, "x")
    found.commit(**{"top": "1", "sub/inner": "2"})
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    """Return a server of the repositories."""
    with serving(tmp_path) as found:
        yield found


def _names(site: Site, line: str, **more: object) -> set[str]:
    tree = site.tree("FROM scratch", line, **more)
    return {path.removeprefix("/g/") for path in tree if path != "/g" and "/.git/" not in path}


def test_repository_is_its_files_without_git_folder(
    site: Site, server: WebServer, repository: Repository
) -> None:
    """The default branch's files arrive with root as their owner, and no .git."""
    assert repository.bare.exists()
    tree = site.tree("FROM scratch", f"ADD {server.url('/x.git')} /g/")
    assert tree.keys() == {"/g", "/g/top", "/g/sub", "/g/sub/inner"}
    assert tree["/g/top"].startswith("file 0644 0:0 ")


def test_repository_by_branch_tag_commit_and_folder(
    site: Site, server: WebServer, repository: Repository
) -> None:
    """What stands behind # is a branch, a tag, a commit or its beginning, and a folder."""
    first = repository.git("rev-parse", "HEAD")
    repository.git("tag", "--annotate", "v1", "--message", "one")
    repository.git("checkout", "--quiet", "-b", "side")
    side = repository.commit(side="3")
    url = server.url("/x.git")
    assert _names(site, f"ADD {url}#v1 /g/") == {"top", "sub", "sub/inner"}
    assert "side" in _names(site, f"ADD {url}#side /g/")
    assert "side" not in _names(site, f"ADD {url}#{first} /g/")
    assert "side" in _names(site, f"ADD {url}#{side[:10]} /g/")
    assert _names(site, f"ADD {url}#v1:sub /g/") == {"inner"}
    assert _names(site, f"ADD --exclude=sub {url}?tag=v1 /g/") == {"top"}


def test_repository_is_found_by_its_commit(site: Site, server: WebServer, repository: Repository) -> None:
    """Another branch at the same commit is found, and fetched no second time; a new commit is made anew."""
    url = server.url("/x.git")
    before = site.top("FROM scratch", f"ADD {url} /g/")
    asked = len([one for one in server.asked if one[0] == "POST"])
    repository.git("branch", "other")
    repository.push()
    assert site.top("FROM scratch", f"ADD {url}#other /g/") == before
    assert site.cached == 1
    fetched = [one for one in server.asked if one[0] == "POST"][asked:]
    assert len(fetched) == 1  # the list of names, and no objects
    repository.commit(top="changed")
    assert site.top("FROM scratch", f"ADD {url} /g/") != before


def test_repository_of_another_commit_than_its_checksum_is_refused(
    site: Site, server: WebServer, repository: Repository
) -> None:
    """--checksum is the beginning of the commit's name, or the build fails."""
    commit = repository.git("rev-parse", "HEAD")
    url = server.url("/x.git")
    assert "top" in _names(site, f"ADD --checksum={commit[:12]} {url}#main /g/")
    other = "0" * 12 if commit[0] != "0" else "1" * 12
    with pytest.raises(BuildFailed, match=r"^Dockerfile:2:") as caught:
        _names(site, f"ADD --checksum={other} {url}#main /g/")
    assert commit in caught.value.seen


def test_repository_keeps_its_git_folder_where_asked(
    site: Site, server: WebServer, repository: Repository
) -> None:
    """With --keep-git-dir there is a repository at that commit."""
    commit = repository.git("rev-parse", "HEAD")
    tree = site.tree("FROM scratch", f"ADD --keep-git-dir=true {server.url('/x.git')} /g/")
    assert "/g/.git/HEAD" in tree
    assert f"/g/.git/objects/{commit[:2]}" in tree or any("/g/.git/objects/pack/" in one for one in tree)


def test_repository_brings_its_submodules(
    site: Site, server: WebServer, repository: Repository, tmp_path: Path
) -> None:
    """Submodules are checked out with it, unless that is declined."""
    other = Repository(tmp_path, "other")
    other.commit(within="x")
    repository.git("submodule", "--quiet", "add", str(other.bare), "module")
    repository.git("config", "--file", ".gitmodules", "submodule.module.url", "../other.git")
    repository.commit()
    url = server.url("/x.git")
    assert "module/within" in _names(site, f"ADD {url} /g/")
    assert "module/within" not in _names(site, f"ADD {url}?submodules=false /g/")


def test_repository_cannot_reach_the_machines_files(
    site: Site, server: WebServer, repository: Repository, tmp_path: Path
) -> None:
    """A submodule that names a folder of this machine is refused, and no hook of a user is run."""
    other = Repository(tmp_path, "other")
    other.commit(within="x")
    repository.git("submodule", "--quiet", "add", str(other.bare), "module")
    repository.commit()
    with pytest.raises(BuildFailed, match=r"^Dockerfile:2:") as caught:
        _names(site, f"ADD {server.url('/x.git')} /g/")
    assert "'file' not allowed" in caught.value.seen


def test_repository_is_there_offline_by_its_commit(
    site: Site, server: WebServer, repository: Repository
) -> None:
    """Offline a commit that was fetched is there, and a name that may mean another one is not asked."""
    url = server.url("/x.git")
    commit = repository.git("rev-parse", "HEAD")
    _names(site, f"ADD {url} /g/")
    site.settings = replace(site.settings, offline=True)
    assert "top" in _names(site, f"ADD {url}#{commit} /g/", use_cache=False)
    with pytest.raises(BuildFailed) as caught:
        _names(site, f"ADD {url}#main /g/")
    assert "offline" in caught.value.seen


def test_repository_that_nobody_asks_for_goes(site: Site, server: WebServer, repository: Repository) -> None:
    """What was fetched of a repository and not wanted for a month goes with the next fetch."""
    assert repository.bare.exists()
    other = Repository(repository.bare.parent, "other")
    other.commit(within="x")
    _names(site, f"ADD {server.url('/x.git')} /g/")
    folder = site.store.root / "build/git"
    (lock,) = folder.glob("*.lock")
    os.utime(lock, (0, 0))
    _names(site, f"ADD {server.url('/other.git')} /g/")
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 1
    assert not lock.exists()


@pytest.mark.parametrize("ref", ["missing", "--upload-pack=touch", "main:missing"])
def test_repository_without_what_is_named_is_told(
    site: Site, server: WebServer, repository: Repository, ref: str
) -> None:
    """A branch or folder that is not there fails with the line; an option is no branch."""
    assert repository.bare.exists()
    with pytest.raises((BuildFailed, SpecInvalid), match=r"^Dockerfile:2:"):
        site.tree("FROM scratch", f"ADD {server.url('/x.git')}#{ref} /g/", use_cache=False)


def test_repository_without_git_is_refused_before_the_first_step(
    site: Site, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the machine has no git the line is refused, with the mend."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SpecInvalid, match="this machine has no git") as caught:
        site.tree("FROM scratch", f"ADD {server.url('/x.git')} /g/")
    assert "install git" in caught.value.mend
    assert not server.asked


def test_ssh_takes_nothing_of_the_users(site: Site, tmp_path: Path) -> None:
    """ssh reads no file of settings and no key but the passed agent's, and knows hosts of its own file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    asked = tmp_path / "asked"
    (folder / "ssh").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {asked}\nexit 1\n')
    (folder / "ssh").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    site.settings = replace(site.settings, environ={**site.settings.environ, "PATH": path})
    with pytest.raises(BuildFailed, match="cannot be fetched"):
        site.tree("FROM base", "ADD git@git.example.com:team/app.git /srv/")
    words = asked.read_text().splitlines()
    assert words[:2] == ["-F", "/dev/null"]
    assert {"IdentityFile=/dev/null", "IdentityAgent=none", "BatchMode=yes"} <= set(words)
    (hosts,) = [word for word in words if word.startswith("UserKnownHostsFile=")]
    assert str(site.store.root / "build" / "git" / "known_hosts") in hosts
