"""Attacks on what guards the host's /proc, /sys and devices: masks, read-only paths and the nodes of /dev."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import SpecInvalid, StartError
from pytest_containers.runtime.snapshot import DEVICES
from pytest_containers.spec import Bind, ContainerSpec, ExecSpec, ImageConfig

if TYPE_CHECKING:
    from pytest_containers.engines.native_container import NativeHandle
    from tests.runtime.conftest import Boxes, Shell

pytestmark = pytest.mark.kernel

_PATIENCE_S: Final = 20.0
_SPEC: Final = ContainerSpec(name="box", command=("sleep", "1000"))
# What a write to it would show, and what nobody misses: a setting of the container's own UTS namespace.
_LEVER: Final = "/proc/sys/kernel/domainname"
_MASKS: Final = ("acpi", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "timer_list")


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """Return an empty layer, to be laid over the machine's own files."""
    folder = tmp_path / "layer"
    folder.mkdir(mode=0o755)
    return folder


def _start(boxes: Boxes, layer: Path, *volumes: str, spec: ContainerSpec = _SPEC) -> NativeHandle:
    return boxes.start(spec, layers=("/", str(layer)), config=ImageConfig(volumes=volumes))


def _sources(box: NativeHandle, sh: Shell) -> dict[str, str]:
    """Return what lies over each mount point in /proc: file system and the path in it."""
    rows = [line.split() for line in sh(box, "cat /proc/self/mountinfo").splitlines()]
    return {row[4]: f"{row[row.index('-') + 1]} {row[3]}" for row in rows if row[4].startswith("/proc/")}


def _judge_masks(box: NativeHandle, sh: Shell) -> None:
    found = _sources(box, sh)
    masked = {name: found[f"/proc/{name}"] for name in _MASKS if f"/proc/{name}" in found}
    assert masked
    assert set(masked.values()) <= {"tmpfs /null", "tmpfs /"}, masked
    assert found["/proc/sys"] == "proc /sys"
    assert sh(box, f"echo attacked > {_LEVER} 2>/dev/null || echo refused") == "refused\n"
    assert sh(box, "stat -c %t:%T /proc/keys") == "1:3\n"


@pytest.mark.parametrize("declared", ["/dev", "/dev/", "/dev/../dev", "dev", "/sys", "/proc", "/proc/sys"])
def test_volume_of_the_image_over_kernel_files_is_left_out(
    boxes: Boxes, layer: Path, sh: Shell, declared: str
) -> None:
    """An image that declares /dev as a volume, with a link for /dev/null, gets the kernel's /dev."""
    (layer / "dev").mkdir()
    (layer / "dev/null").symlink_to(_LEVER)
    box = _start(boxes, layer, declared)
    _judge_masks(box, sh)
    assert sh(box, "stat -c %F /dev/null") == "character special file\n"


@pytest.mark.parametrize("target", ["/dev", "/proc", "/proc/sys/kernel", "/sys", "/sys/kernel", "/dev/pts"])
@pytest.mark.parametrize("way", ["link", "link above", "by the process"])
def test_volume_that_leads_to_kernel_files_is_refused(
    boxes: Boxes, layer: Path, target: str, way: str
) -> None:
    """So is one whose path is a link there, or goes through one, also by way of /proc/self/root."""
    folder, _, name = target.rpartition("/")
    if way == "link above":
        (layer / "data").symlink_to(folder or "/")
        declared = f"/data/{name}"
    else:
        (layer / "data").symlink_to(target if way == "link" else f"/proc/self/root{target}")
        declared = "/data"
    with pytest.raises(StartError, match=f"can be mounted at {declared}"):
        _start(boxes, layer, declared)


@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_mount_of_a_test_goes_through_no_link_to_kernel_files(
    boxes: Boxes, layer: Path, tmp_path: Path, kind: str
) -> None:
    """An image cannot lead a bind or tmpfs of the test's to the kernel's files either."""
    (layer / "data").symlink_to("/proc/sys")
    spec = replace(_SPEC, tmpfs={"/data": 0})
    if kind == "bind":
        spec = replace(_SPEC, binds=(Bind(source=str(tmp_path), target="/data"),))
    with pytest.raises(StartError, match="can be mounted at /data"):
        _start(boxes, layer, spec=spec)


def test_mount_of_a_test_may_lie_in_dev_by_its_name(boxes: Boxes, sh: Shell) -> None:
    """What a test names in /dev itself is mounted there; /proc, and /dev as a whole, cannot be covered."""
    box = boxes.start(replace(_SPEC, tmpfs={"/dev/shm": 1 << 20, "/dev/mine": 0}))
    assert sh(box, "stat -f -c %T /dev/shm /dev/mine") == "tmpfs\ntmpfs\n"
    _judge_masks(box, sh)
    for number, target in enumerate(("/proc", "/proc/sys", "/dev", "/sys")):
        with pytest.raises(StartError, match=f"nothing can be mounted at {target}"):
            boxes.start(replace(_SPEC, name=f"box{number}", tmpfs={target: 0}))


def test_volume_at_the_root_is_refused(boxes: Boxes, layer: Path) -> None:
    """An image that declares its root as a volume is told so."""
    for declared in ("/", "//", "/.", "/a/.."):
        with pytest.raises(SpecInvalid, match="declares its root as a volume"):
            _start(boxes, layer, declared)


# Tries to change all there is of a file to what it is already; the errno of each, 0 where it was done.
_CHANGE: Final = """
import json, os, sys
def tried(action):
    try:
        action()
    except OSError as error:
        return error.errno
    return 0
found = {}
for at in sys.argv[1:]:
    seen = os.stat(at)
    found[at] = [
        tried(lambda: os.chmod(at, seen.st_mode & 0o7777)),
        tried(lambda: os.chown(at, seen.st_uid, seen.st_gid)),
        tried(lambda: os.utime(at, ns=(seen.st_atime_ns, seen.st_mtime_ns))),
        tried(lambda: os.removexattr(at, "trusted.missing")),
    ]
print(json.dumps(found))
"""


def _nodes() -> list[tuple[int, ...]]:
    """Return what is seen of the machine's own nodes."""
    seen = [os.stat(f"/dev/{name}") for name in DEVICES]
    return [(stat.S_IMODE(one.st_mode), one.st_uid, one.st_gid, one.st_mtime_ns) for one in seen]


@pytest.fixture
def python() -> Callable[[NativeHandle, str, tuple[str, ...]], str]:
    """Return a function that runs a script in a container; it must end well."""

    def run(box: NativeHandle, script: str, arguments: tuple[str, ...]) -> str:
        argv = (sys.executable, "-I", "-S", "-c", script, *arguments)
        result = box.exec(ExecSpec(argv=argv, timeout_s=_PATIENCE_S))
        assert result.exit_code == 0, result
        return result.stdout

    return run


def test_device_nodes_are_nobodys_to_change(
    boxes: Boxes, sh: Shell, python: Callable[[NativeHandle, str, tuple[str, ...]], str]
) -> None:
    """root in a container changes no node that other containers or the machine have, and all of them work."""
    before = _nodes()
    box, other = boxes.start(_SPEC), boxes.start(replace(_SPEC, name="other"))
    paths = tuple(f"/dev/{name}" for name in DEVICES)
    found = json.loads(python(box, _CHANGE, paths))
    assert set(found) == set(paths)
    assert {one for errnos in found.values() for one in errnos} == {errno.EROFS}, found
    assert _nodes() == before
    assert sh(other, "stat -c %a:%u /dev/null /dev/tty", user="nobody") == "666:0\n666:0\n"
    assert (
        sh(other, "echo x > /dev/null; echo y >> /dev/null; head -c 2 /dev/zero | wc -c", user="nobody")
        == "2\n"
    )


def test_descriptors_of_the_first_process_are_not_the_machines(boxes: Boxes) -> None:
    """Standard input of a first process is no node of the machine's /dev, and cannot be changed."""
    before = _nodes()
    box = boxes.start(replace(_SPEC, command=(sys.executable, "-I", "-S", "-c", _CHANGE, "/proc/self/fd/0")))
    box.wait(_PATIENCE_S)
    found = json.loads(b"".join(chunk.content for chunk in box.logs()[0]))
    assert set(found["/proc/self/fd/0"]) == {errno.EROFS}, found
    assert _nodes() == before
