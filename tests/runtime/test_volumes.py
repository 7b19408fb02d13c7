"""Laws of anonymous volumes: what an image declares with VOLUME is beside the container's own layer."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from pytest_containers.spec import Bind, ContainerSpec, ImageConfig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.runtime.conftest import Boxes, Shell

pytestmark = pytest.mark.kernel


def _spec(name: str) -> ContainerSpec:
    return ContainerSpec(name=name, command=("sleep", "60"))


def test_volume_begins_with_what_the_image_has(boxes: Boxes, sh: Shell) -> None:
    """A volume shows the image's files with their modes, and hides none of them."""
    plain = boxes.start(_spec("plain"))
    handle = boxes.start(_spec("volume"), config=ImageConfig(volumes=("/etc/init.d",)))
    listing = "cd /etc/init.d && stat -c '%n %a %u %g' . *"
    assert sh(handle, listing) == sh(plain, listing)
    assert " /etc/init.d " in sh(handle, "cat /proc/self/mountinfo")


def test_volume_is_not_part_of_the_changes(boxes: Boxes, sh: Shell) -> None:
    """What is written into a volume is in no commit; the place it is mounted on may be."""
    handle = boxes.start(_spec("volume"), config=ImageConfig(volumes=("/etc/init.d", "/srv/new")))
    sh(handle, "touch /etc/init.d/mine /srv/new/mine /srv/outside")
    paths = {change.path for change in handle.tree.changes()}
    assert PurePosixPath("/srv/outside") in paths
    assert not {path for path in paths if path.name == "mine"}


def test_volume_is_kept_over_a_restart(boxes: Boxes, sh: Shell) -> None:
    """A container that is started again finds its volume as it left it."""
    handle = boxes.start(_spec("volume"), config=ImageConfig(volumes=("/srv/new",)))
    sh(handle, "echo kept > /srv/new/mine")
    handle.signal(9)
    handle.wait(20)
    handle.start()
    assert sh(handle, "cat /srv/new/mine") == "kept\n"


def test_volume_gives_way_to_a_bind(boxes: Boxes, sh: Shell, tmp_path: Path) -> None:
    """A folder that the test lays over a declared volume is what the container sees."""
    (tmp_path / "given").touch()
    spec = ContainerSpec(
        name="volume", command=("sleep", "60"), binds=(Bind(source=str(tmp_path), target="/srv/new"),)
    )
    handle = boxes.start(spec, config=ImageConfig(volumes=("/srv/new",)))
    assert sh(handle, "ls /srv/new") == "given\n"


def test_volume_that_was_not_finished_is_begun_again(boxes: Boxes, sh: Shell) -> None:
    """A start after one that failed while it filled the volumes fills them, with nothing of the first."""
    spec = replace(_spec("volume"), storage="disk")
    handle = boxes.create(spec, config=ImageConfig(volumes=("/srv/new", "/etc/init.d")))
    beside = boxes.engine._folder / "disk" / handle.id[:12] / "volumes"
    for name in ("0", "1"):
        (beside / name / "half").mkdir(parents=True)
        (beside / name / "init.d").mkdir()
        (beside / name / "init.d" / "left").touch()
    handle.start()
    assert sh(handle, "ls /etc/init.d/left 2>&1 || true").count("cannot access")
    assert sh(handle, "ls /etc/init.d | wc -l").strip() == str(len(os.listdir("/etc/init.d")))
    assert sh(handle, "ls /srv/new") == ""
