"""The image host: its key follows the packages, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_containers.images.host import host_key, host_record, is_host
from pytest_containers.images.reference import Reference


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Return a root with a release and a package list."""
    for name in ("etc/os-release", "var/lib/dpkg/status", "etc/hosts"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"first {name}\n")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["etc/os-release", "var/lib/dpkg/status", "lib/apk/db/installed", "var/lib/rpm/rpmdb.sqlite"]
)
def test_key_follows_every_package_list(machine: Path, name: str) -> None:
    """Another package, another version of one, or another release is another machine."""
    before = host_key(machine)
    (machine / name).parent.mkdir(parents=True, exist_ok=True)
    (machine / name).write_text("second\n")
    assert host_key(machine) != before


def test_key_follows_pacman(machine: Path) -> None:
    """Where packages are folders, their names are the list."""
    (machine / "var/lib/pacman/local/redis-7.2-1").mkdir(parents=True)
    before = host_key(machine)
    (machine / "var/lib/pacman/local/redis-7.2-1").rename(machine / "var/lib/pacman/local/redis-7.4-1")
    assert host_key(machine) != before


def test_key_is_of_content_alone(machine: Path) -> None:
    """Times and other files do not count: a cache carried to an equal machine fits."""
    before = host_key(machine)
    os.utime(machine / "var/lib/dpkg/status", (1, 1))
    (machine / "etc/hosts").write_text("changed\n")
    assert host_key(machine) == before


def test_record_runs_a_shell_and_cannot_leave() -> None:
    """The image host has a command and a PATH, no layer, and is not portable."""
    record = host_record()
    assert (record.reference, record.portable, record.diff_ids) == ("host", False, ())
    assert record.config.command == ("/bin/sh",)
    assert record.config.env[0].startswith("PATH=/usr/local/sbin:")
    assert record == host_record()


def test_only_the_bare_name_is_the_host() -> None:
    """A registry's image called host, or another tag of it, is an image like any other."""
    names = ("host", "host:latest", "host:1", "example.com/host", "team/host")
    assert [is_host(Reference.parse(name)) for name in names] == [True, True, False, False, False]
