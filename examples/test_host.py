"""A container that stands on this machine's own files, and cannot harm them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_containers import ContainerFactory


def test_host_says_hello(container: ContainerFactory) -> None:
    """A container runs what this machine has, in a world of its own."""
    box = container("host", command=["echo", "hello"], hostname="elsewhere")
    assert box.wait(timeout=10) == 0
    assert box.logs() == "hello\n"


def test_process_tree_is_its_own(container: ContainerFactory) -> None:
    """The first process of a container is number one, under the container's own name."""
    box = container("host", command=["sleep", "infinity"], hostname="elsewhere")
    assert box.exec(["cat", "/proc/1/comm"], check=True).stdout == "sleep\n"
    assert box.exec(["hostname"], check=True).stdout == "elsewhere\n"


def test_deleting_etc_leaves_the_host_alone(container: ContainerFactory) -> None:
    """What is deleted inside is still there outside, and in the next container."""
    before = sorted(os.listdir("/etc"))
    box = container("host", command=["sleep", "infinity"])
    box.exec(["rm", "-rf", "/etc"])
    assert box.exec(["cat", "/etc/passwd"]).exit_code == 1

    assert sorted(os.listdir("/etc")) == before
    other = container("host", command=["sleep", "infinity"])
    assert other.exec(["cat", "/etc/passwd"], check=True).stdout.startswith("root:")
