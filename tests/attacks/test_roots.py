"""Attacks by an unusual root: what a test does in a container happens there, wherever pytest runs.

pytest may run below a chroot (schroot, pbuilder, mock), in a folder that is no mount point, or where the root
is the initial ramfs. setns(2) of a mount namespace makes the *namespace's* root that of the caller, which is
then another one than pytest's. Each case makes its mounts in a mount namespace of its own, and what would be
changed by mistake is a scratch folder that lies outside of the root that pytest sees.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.engines.native import NativeEngine
from pytest_containers.errors import EngineError, StartError
from pytest_containers.runtime import bundle, folders, init, roots, snapshot, stopped, syscalls, userns
from pytest_containers.spec import ContainerSpec, ExecSpec, ImageConfig
from tests.plugins.clock import scaled

if TYPE_CHECKING:
    from tests.runtime.conftest import Apart, Boxes

pytestmark = pytest.mark.kernel

_ROOT: Final = Path(__file__).resolve().parents[2]
_PATIENCE_S: Final = round(scaled(60))
_SHARED: Final = 0x10_0000  # MS_SHARED (mount(2))

# Enters a root of the kind argv[1] below the folder argv[2], then becomes the rest of argv in it.
_ENTER: Final = """
import os, sys
sys.path.insert(0, os.environ["PYTHONPATH"])
from pytest_containers.runtime import syscalls as k
kind, folder, *rest = sys.argv[1:]
k.unshare(k.CLONE_NEWNS)
k.mount("none", "/", None, k.MS_REC | k.MS_PRIVATE)
if kind == "ramfs":
    machine = k.open_tree("/", recursive=True)
    k.umount("/", k.MNT_DETACH)
    me = os.pidfd_open(os.getpid())
    k.setns(me, k.CLONE_NEWNS)  # the root is now the one that the kernel began with
    os.close(me)
    k.attach_tree(machine, "/root")
    os.chroot("/root")
else:
    if kind == "overlay":  # as in a container of Docker or Podman; what lies on other mounts is bound
        k.mount("work", folder, "tmpfs")
        for name in ("upper", "work", "root"):
            os.mkdir(f"{folder}/{name}")
        layers = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
        folder += "/root"
        k.mount("overlay", folder, "overlay", 0, layers)
        for name in ("/proc", "/dev", "/sys"):
            k.mount(name, folder + name, None, k.MS_BIND | k.MS_REC)
    else:
        k.mount("/", folder, None, k.MS_BIND | k.MS_REC)
    if kind == "read-only":
        for place in ("/var/tmp", "/tmp"):
            inner = k.open_tree(place, recursive=True)
            k.attach_tree(inner, folder + place)
        k.mount("none", folder, None, k.MS_REMOUNT | k.MS_BIND | k.MS_RDONLY)
    # The scratch folder of the outer root is not the one that is seen in the chroot.
    k.mount("scratch", folder + os.environ["SCRATCH"], "tmpfs")
    if kind == "shared":
        k.mount("none", "/", None, k.MS_REC | 0x10_0000)  # MS_SHARED, as systemd has it
    if kind == "chroot without proc":
        k.umount(folder + "/proc", k.MNT_DETACH)
    os.chroot(folder)
os.chdir("/")
os.execv(rest[0], rest)
"""

# Does with a running container and a stopped one what a test may do, all of it at the path SCRATCH.
_USE: Final = """
import io, os, sys, tarfile
from pathlib import Path
from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.spec import ContainerSpec, ExecSpec, ImageConfig
at = os.environ["SCRATCH"]
def tar(name):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as writer:
        entry = tarfile.TarInfo(name)
        entry.size = 4
        writer.addfile(entry, io.BytesIO(b"mine"))
    made.seek(0)
    return made
def read(box, path):
    found = io.BytesIO()
    box.tree.read(path, found)
    found.seek(0)
    with tarfile.open(fileobj=found) as reader:
        return sorted(reader.getnames())
engine = NativeEngine(store=Path(os.environ["STORE"]), run_folder=fresh_run_folder(), owner_pid=os.getpid())
box = engine.create(ContainerSpec(name="box", command=("sleep", "1000")), engine.images.pull("host"))
box.tree.write(at, tar("before"))
box.start()
def run(*argv):
    ended = box.exec(ExecSpec(argv=argv, timeout_s=20))
    assert ended.exit_code == 0, ended
    return ended.stdout
run("mkdir", "-p", at + "/folder")
run("touch", at + "/folder/by-exec")
box.tree.write(at + "/folder", tar("by-write"))
assert read(box, at + "/folder") == ["folder", "folder/by-exec", "folder/by-write"], read(box, at)
assert run("cat", "/etc/hostname").strip() == box.id[:12]
run("rm", "-rf", at + "/precious", at + "/before")
changed = {str(one.path) for one in box.tree.changes()}
assert at + "/folder/by-exec" in changed and at + "/before" not in changed, changed
box.remove()
engine.close()
os.write(1, b"done\\n")
"""


def _listed(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["chroot", "shared", "chroot without proc", "read-only", "overlay", "ramfs"])
def test_nothing_reaches_the_outer_root(tmp_path: Path, kind: str) -> None:
    """exec, read, write and diff act on the container's files where pytest's root is not the namespace's."""
    scratch, other = tmp_path / "scratch", tmp_path / "other"
    for folder in (scratch, other, tmp_path / "store"):
        folder.mkdir()
    (scratch / "precious").write_text("of the outer root")
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(_ROOT),
        "SCRATCH": str(scratch),
        "STORE": str(tmp_path / "store"),
    }
    command = [sys.executable, "-c", _ENTER, kind, str(other), sys.executable, "-c", _USE]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
    assert _listed(scratch) == {"precious": "of the outer root"}
    assert (ended.stdout, ended.stderr) == ("done\n", "")


def test_root_of_the_namespace_is_ours_below_a_plain_folder(apart: Apart, tmp_path: Path) -> None:
    """A chroot to a folder that is no mount point becomes the root that setns(2) leads to."""
    (tmp_path / "mine").touch()

    def look() -> tuple[list[str], list[str]]:
        os.chroot(tmp_path)
        roots.leave_mount_namespace()
        before = os.listdir("/")
        syscalls.setns(os.pidfd_open(os.getpid()), syscalls.CLONE_NEWNS)
        return before, os.listdir("/")

    assert apart(look) == (["mine"], ["mine"])


def test_mounts_of_a_run_are_private(apart: Apart, tmp_path: Path) -> None:
    """What is mounted after leaving a namespace whose mounts are shared does not show there."""
    place = tmp_path / "place"
    place.mkdir()

    def look() -> tuple[bool, bool]:
        syscalls.mount("none", "/", None, syscalls.MS_REC | _SHARED)
        child = syscalls.clone(0)
        if child.pid == 0:
            roots.leave_mount_namespace()
            syscalls.mount("scratch", str(place), "tmpfs")
            (place / "inside").touch()
            os._exit(len(os.listdir(place)))
        ended = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        assert ended is not None
        return ended.si_status == 1, os.path.ismount(place)

    assert apart(look) == (True, False)


def test_a_root_that_was_taken_away_is_not_replaced_by_the_hosts(boxes: Boxes) -> None:
    """exec, read and write are refused where a privileged container has unmounted its own root."""
    line = "touch /ready; until [ -e /go ]; do sleep 0.01; done; umount -l /; echo unmounted; sleep 1000"
    box = boxes.start(ContainerSpec(name="box", command=("sh", "-c", line), privileged=True))
    box.exec(ExecSpec(argv=("touch", "/go"), timeout_s=_PATIENCE_S))
    deadline = time.monotonic() + _PATIENCE_S
    while b"unmounted" not in b"".join(chunk.content for chunk in box.logs()[0]):
        assert time.monotonic() < deadline, box.logs()
    actions: tuple[Callable[[], object], ...] = (
        lambda: box.exec(ExecSpec(argv=("/bin/true",), timeout_s=_PATIENCE_S)),
        lambda: boxes.read(box, "/proc"),
        lambda: box.tree.write("/dev", io.BytesIO(bytes(10240))),
    )
    for action in actions:
        with pytest.raises(EngineError, match="is not where it was put"):
            action()


def _as_root_of_a_namespace(uid: int, action: Callable[[], str]) -> str:
    """Return what *action* returns to the user *uid* of the machine in a user namespace where he is root."""
    ready, mapped = os.pipe(), os.pipe()
    out, into = os.pipe()
    child = syscalls.clone(0)
    if child.pid == 0:
        os.setresuid(uid, uid, uid)
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(ready[1], b".")
        os.read(mapped[0], 1)
        os.write(into, action().encode())
        os._exit(0)
    os.read(ready[0], 1)
    Path(f"/proc/{child.pid}/uid_map").write_text(f"0 {uid} 1")
    os.write(mapped[1], b".")
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    return os.read(out, 4096).decode()


def test_root_of_a_user_namespace_has_a_place_of_his_own(apart: Apart) -> None:
    """In ``unshare -r`` runs lie in the folder of the user outside, never in the machine's root's."""

    def look() -> str:
        return f"{folders.base().name} {userns.is_initial()}"

    assert apart(lambda: _as_root_of_a_namespace(4711, look)) == "pytest-containers-4711 False"
    assert apart(look) == "pytest-containers-0 True"


def test_end_of_a_run_that_nobody_may_look_at(apart: Apart, tmp_path: Path) -> None:
    """The end of pytest raises nothing where the run's folder is another user's."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)

    def close() -> str:
        os.setresuid(4711, 4711, 4711)
        engine = NativeEngine(store=tmp_path, run_folder=closed / "run", owner_pid=os.getpid())
        engine.close()
        return "closed"

    assert apart(close) == "closed"


@pytest.mark.parametrize("place", ["proc", "dev", "sys", "etc", "etc/hosts"])
def test_start_mounts_nothing_through_a_link(apart: Apart, tmp_path: Path, place: str) -> None:
    """A place of our own mounts that a container with SYS_ADMIN has made a link ends what would use it."""

    def look() -> list[str]:
        ground = snapshot.lay_ground(str(tmp_path))
        files = snapshot.prepare(ground, "box", ())
        made = bundle.bundle(ContainerSpec(name="box", command=("true",)), ImageConfig(), "0" * 64)
        init.look_at_places(files.root)
        path = Path(files.root, place)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to("/srv")
        said = []
        for action in (partial(init.look_at_places, files.root), partial(stopped.enter, made, files)):
            with pytest.raises(StartError) as raised:
                action()
            said.append(raised.value.what)
        return said

    assert apart(look) == [f"/{place} in the container is not what it was at first"] * 2
