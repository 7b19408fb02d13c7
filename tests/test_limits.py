"""What a test may say of how much a container takes, on the real engine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_containers import ContainerFactory

pytestmark = pytest.mark.kernel


def _room_bytes(text: str) -> int:
    return int(text.rsplit(maxsplit=1)[-1])


def test_storage_on_disk_has_the_room_of_the_disk(container: ContainerFactory) -> None:
    """With storage="disk" a container writes to the file system of the run's folder, else to memory."""
    room = ["df", "-B1", "--output=size", "/srv"]
    disk = container("host", command="sleep 600", storage="disk")
    memory = container("host", command="sleep 600")
    about = os.statvfs("/var/tmp")
    assert _room_bytes(disk.exec(room, check=True).stdout) == about.f_blocks * about.f_frsize
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert _room_bytes(memory.exec(room, check=True).stdout) <= machine // 2


def test_tmpfs_without_a_size_has_the_ceiling_of_the_files(container: ContainerFactory) -> None:
    """A tmpfs= without a size takes what the container's own files may take, to some pages."""
    box = container("host", command="sleep 600", tmpfs=["/fill"])
    shown = box.exec(["df", "-B1", "--output=size", "/srv", "/fill"], check=True).stdout.split()
    assert abs(int(shown[-1]) - int(shown[-2])) <= 1 << 20
