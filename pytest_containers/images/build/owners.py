"""Whose a file is to be: ``--chown`` and USER, looked up in the stage's own files.

https://docs.docker.com/reference/dockerfile/#copy---chown---chmod: a number alone is user and group,
a name alone brings the group that /etc/passwd gives it.
"""

from __future__ import annotations

from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.follow import follow
from pytest_containers.images.build.nodes import Tree

__all__ = ["owner_of"]

_LIMIT_BYTES: Final = 1 << 20


def owner_of(below: Tree, owner: str) -> tuple[int, int]:
    """Return the ids that ``user[:group]`` names in the files of *below*.

    Raises SpecInvalid for a name that /etc/passwd or /etc/group there do not know.
    """
    user, _, group = owner.partition(":")
    uid, gid = _user(below, user) if user else (0, 0)
    return uid, _group(below, group) if group else gid


def _user(below: Tree, name: str) -> tuple[int, int]:
    if _is_number(name):
        return int(name), int(name)
    row = _row(below, name, "/etc/passwd")
    return int(row[2]), int(row[3]) if len(row) > 3 and _is_number(row[3]) else int(row[2])


def _group(below: Tree, name: str) -> int:
    return int(name) if _is_number(name) else int(_row(below, name, "/etc/group")[2])


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _row(below: Tree, name: str, path: str) -> list[str]:
    for line in _text(below, path).splitlines():
        row = line.split(":")
        if len(row) > 2 and row[0] == name and _is_number(row[2]):
            return row
    raise SpecInvalid(f"--chown names {name}, which {path} of this stage does not know", mend="use a number")


def _text(below: Tree, path: str) -> str:
    real = follow(below.node, path)
    node = below.node(real)
    if node is None or node.kind != "file":
        return ""
    with below.open(real) as file:
        return file.read(_LIMIT_BYTES).decode("utf-8", "replace")
