"""What a refusal is said to come from: the first of its reasons that this process's own state shows."""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.runtime import capabilities, refusals, syscalls
from pytest_containers.runtime.refusals import Standing, hint

if TYPE_CHECKING:
    from tests.runtime.conftest import Apart

_ALL: Final = (1 << len(capabilities.NAMES)) - 1
_ROOT: Final = Standing(uid=0, initial=True, held=_ALL, label="")
_WITHOUT_TWO: Final = capabilities.resolve(("ALL",), ("MKNOD", "NET_ADMIN"))


@pytest.mark.parametrize(
    ("number", "standing", "told"),
    [
        (errno.EPERM, replace(_ROOT, uid=1000), "as root: sudo"),
        (errno.EACCES, replace(_ROOT, initial=False), "outside of its user namespace"),
        (errno.EINVAL, replace(_ROOT, initial=False), "outside of its user namespace"),
        (errno.EPERM, replace(_ROOT, held=_WITHOUT_TWO), "allow CAP_NET_ADMIN, CAP_MKNOD to pytest"),
        (errno.EACCES, replace(_ROOT, label="docker-default (enforce)"), "to 'docker-default (enforce)'"),
        (errno.EACCES, replace(_ROOT, label="docker-default (enforce)"), "apparmor=unconfined"),
        (errno.EPERM, _ROOT, "seccomp=unconfined"),
    ],
)
def test_hint_names_what_holds_the_process_back(number: int, standing: Standing, told: str) -> None:
    """A user, a namespace and a capability are told before a filter or a security module is suspected."""
    assert told in hint(number, standing)


def test_hint_names_all_that_a_run_needs() -> None:
    """What docker and podman are to be told gives every capability that a run needs, with one word too."""
    told = hint(errno.EPERM, replace(_ROOT, held=0))
    assert all(f"--cap-add={name}" in told and f"CAP_{name}" in told for name in refusals.NEEDED)
    assert "--privileged" in told


@pytest.mark.kernel
def test_standing_is_that_of_this_process(apart: Apart) -> None:
    """User, namespace and capabilities are read from the kernel, and change with it."""

    def look() -> tuple[Standing, Standing]:
        before = Standing.ours()
        syscalls.capset(before.held & ~1, before.held & ~1, 0)
        return before, Standing.ours()

    before, after = apart(look)
    assert (before.uid, before.initial, before.missing) == (os.geteuid(), True, ())
    assert (before.held & 1, after.held) == (1, before.held & ~1)
    told = subprocess.run(["cat", "/proc/self/attr/current"], capture_output=True, text=True, check=False)
    assert before.label == told.stdout.rstrip("\0\n")


def test_readme_names_the_oldest_kernel() -> None:
    """The minimum is one: that of doctor's hints is the README's."""
    readme = Path(__file__).resolve().parents[2] / "README.md"
    assert f"Linux {refusals.OLDEST_KERNEL} or newer" in readme.read_text()
