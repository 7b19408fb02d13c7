"""Symbolic links inside a tree, resolved as in a container whose root the tree is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.nodes import Node

__all__ = ["follow"]

# As many as the kernel follows in one path (path_resolution(7)).
_LINKS: Final = 40


def follow(look: Callable[[str], Node | None], path: str) -> str:
    """Return where *path* leads, its last part followed too; *look* says what is at a path.

    ``..`` at the root stays there and an absolute link begins there (chroot(2)). What is not there
    is taken as written. Raises SpecInvalid for links in a circle.
    """
    done: list[str] = []
    ahead = path.split("/")[::-1]
    hops = 0
    while ahead:
        part = ahead.pop()
        if part in {"", "."}:
            continue
        if part == "..":
            del done[-1:]
            continue
        here = "/".join([*done, part])
        node = look(here)
        if node is None or node.kind != "link":
            done.append(part)
            continue
        hops += 1
        if hops > _LINKS:
            raise SpecInvalid(f"the symbolic link /{here} leads in a circle", seen=f"/{here} -> {node.link}")
        if node.link.startswith("/"):
            done.clear()
        ahead += node.link.split("/")[::-1]
    return "/".join(done)
