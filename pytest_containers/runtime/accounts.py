"""Users and groups as the container's own files name them (floor 1).

Never the host's: a process that has already pivoted into its root reads /etc/passwd and
/etc/group there, with the rules of image-spec, config.md, "User".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pytest_containers.errors import StartError

__all__ = ["Account", "lookup"]

# A real passwd file has kilobytes; the bound keeps an image from feeding us /dev/zero.
_LIMIT_BYTES: Final = 1 << 20
_LAST_ID: Final = 0xFFFF_FFFE
_DIGITS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who a process runs as. *groups* are the supplementary ones, *gid* among them."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    name: str


def _rows(path: str, columns: int) -> Iterator[list[str]]:
    try:
        # O_NONBLOCK: a FIFO in the place of the file must not hold us (open(2)).
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return
    try:
        content = os.read(descriptor, _LIMIT_BYTES).decode("utf-8", "replace")
    except OSError:
        return
    finally:
        os.close(descriptor)
    for line in content.split("\n"):
        row = line.split(":")
        if len(row) >= columns and not line.startswith("#"):
            yield row


def _number(text: str) -> int | None:
    digits = text.lstrip("0") or text[:1]  # int() refuses thousands of them
    if digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS and int(digits) <= _LAST_ID:
        return int(digits)
    return None


def _group(text: str, path: str) -> int:
    number = _number(text)
    if number is not None:
        return number
    for row in _rows(path, 3):
        if row[0] == text and (found := _number(row[2])) is not None:
            return found
    raise StartError(
        f"no group {text!r} in the image",
        seen=f"{path} does not name it",
        mend="use a group of the image, or a number",
    )


def _users(path: str) -> Iterator[tuple[str, int, int, str]]:
    """Yield name, uid, gid and home of each row that has them (passwd(5))."""
    for row in _rows(path, 6):
        uid, gid = _number(row[2]), _number(row[3])
        if uid is not None and gid is not None:
            yield row[0], uid, gid, row[5]


def lookup(user: str, *, passwd: str = "/etc/passwd", group: str = "/etc/group") -> Account:  # noqa: S107
    """Return the account that *user* names: "", ``user``, ``uid``, ``user:group`` and so on.

    A number is always an id. With a group given it is the only one; a user found alone brings the
    primary group and all memberships; an unknown uid gets gid 0. The primary group is among the
    supplementary ones, as a set-group-ID program could drop it otherwise (CVE-2022-36109).
    Raises StartError for a name that the image does not know; a row without ids names nobody.
    """
    who, separator, which = user.partition(":")
    uid = _number(who or "0")
    row = next((one for one in _users(passwd) if (one[1] == uid if uid is not None else one[0] == who)), None)
    if row is None and uid is None:
        raise StartError(
            f"no user {who!r} in the image",
            seen=f"{passwd} does not name it",
            mend="use a user of the image, or a number",
        )
    name, own, primary, home = row or ("", uid or 0, 0, "")
    groups = {primary}
    if separator and which:
        primary = _group(which, group)
        groups = {primary}
    elif name:
        members = (one for one in _rows(group, 4) if name in one[3].split(","))
        groups |= {gid for one in members if (gid := _number(one[2])) is not None}
    return Account(uid=own, gid=primary, groups=tuple(sorted(groups)), home=home or "/", name=name)
