"""Laws of the container's own users and groups."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol

import pytest

from pytest_containers.errors import StartError
from pytest_containers.runtime.accounts import Account, lookup

PASSWD: Final = """\
root:x:0:0:root:/root:/bin/bash
# comment:x:7:7::/:/bin/sh
app:x:1000:1001:The app,,,:/home/app:/bin/sh
app:x:2000:2001:again:/home/again:/bin/sh
homeless:x:1003:1003::
1234:x:77:77:named like a number:/home/named:
short:x:5
"""
GROUP: Final = """\
root:x:0:
staff:x:50:app,other
wheel:x:10:root,app
apple:x:60:apple
again:x:50:app
1001:x:88:
"""


class Find(Protocol):
    """Looks an account up in the files of the test."""

    def __call__(self, user: str, *, passwd: str = PASSWD, group: str = GROUP) -> Account: ...


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Return a lookup in temporary files."""

    def run(user: str, *, passwd: str = PASSWD, group: str = GROUP) -> Account:
        (tmp_path / "passwd").write_text(passwd, newline="")
        (tmp_path / "group").write_text(group, newline="")
        return lookup(user, passwd=str(tmp_path / "passwd"), group=str(tmp_path / "group"))

    return run


def _account(uid: int, gid: int, groups: tuple[int, ...], home: str, name: str) -> Account:
    return Account(uid=uid, gid=gid, groups=groups, home=home, name=name)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", _account(0, 0, (0, 10), "/root", "root")),
        ("root", _account(0, 0, (0, 10), "/root", "root")),
        ("0", _account(0, 0, (0, 10), "/root", "root")),
        ("app", _account(1000, 1001, (10, 50, 1001), "/home/app", "app")),
        ("1000", _account(1000, 1001, (10, 50, 1001), "/home/app", "app")),
        ("01000", _account(1000, 1001, (10, 50, 1001), "/home/app", "app")),
        ("app:", _account(1000, 1001, (10, 50, 1001), "/home/app", "app")),
        ("app:staff", _account(1000, 50, (50,), "/home/app", "app")),
        ("app:99", _account(1000, 99, (99,), "/home/app", "app")),
        ("1000:wheel", _account(1000, 10, (10,), "/home/app", "app")),
        (":staff", _account(0, 50, (50,), "/root", "root")),
        ("homeless", _account(1003, 1003, (1003,), "/", "homeless")),
        ("4711", _account(4711, 0, (0,), "/", "")),
        ("4711:4712", _account(4711, 4712, (4712,), "/", "")),
        ("1234", _account(1234, 0, (0,), "/", "")),
        ("4711:1001", _account(4711, 1001, (1001,), "/", "")),
        ("4294967294", _account(4294967294, 0, (0,), "/", "")),
    ],
)
def test_account_is_found_by_the_rules_of_the_image_spec(find: Find, user: str, expected: Account) -> None:
    """A number is an id, the first row wins, a group given is the only one, and the primary is among them."""
    assert find(user) == expected


@pytest.mark.parametrize(
    "user", ["nobody-here", "app:nobody-here", "short", "# comment", "-1", "4294967295", "\u0663"]
)
def test_account_is_refused_when_the_image_does_not_name_it(find: Find, user: str) -> None:
    """A name that no row has is an error and never root."""
    with pytest.raises(StartError, match="in the image"):
        find(user)


@pytest.mark.parametrize(
    "row",
    ["app:x:one:2::/:", "app:x::2::/:", "app:x:-1:2::/:", "app:x:1:two::/:", "app:x:4294967295:1::/:"],
)
def test_account_is_refused_when_its_row_has_no_ids(find: Find, row: str) -> None:
    """A row whose numbers cannot be read names nobody: it must not become root."""
    with pytest.raises(StartError, match="no user 'app'"):
        find("app", passwd=f"{row}\n")


def test_account_is_found_behind_a_row_without_ids(find: Find) -> None:
    """A broken row hides none of those behind it."""
    assert find("app", passwd="app:x:one:2::/:\napp:x:5:6::/srv:\n").uid == 5


@pytest.mark.parametrize("where", ["passwd", "group", "user"])
def test_account_number_may_be_of_any_length(find: Find, where: str) -> None:
    """Digits without end are no number of an id, and nothing to stumble over."""
    digits = "9" * 5000
    if where == "user":
        with pytest.raises(StartError, match="no user"):
            find(digits)
    elif where == "passwd":
        assert find("1000", passwd=f"huge:x:{digits}:0::/:\n{PASSWD}").name == "app"
    else:
        assert find("app", group=f"huge:x:{digits}:app\n{GROUP}").groups == (10, 50, 1001)


def test_account_line_ends_at_a_newline_only(find: Find) -> None:
    """What else Unicode calls a line end does not begin a row (getpwent(3))."""
    with pytest.raises(StartError, match="no user 'evil'"):
        find("evil", passwd="app:x:1:1:a\u2028evil:x:0:0::/:\x0cevil:x:0:0::/:\x85evil:x:0:0::/:\n")


def test_account_is_a_number_when_there_are_no_files(tmp_path: Path) -> None:
    """An image without passwd and group, such as one from scratch, runs as any number."""
    missing = str(tmp_path / "missing")
    assert lookup("12:34", passwd=missing, group=missing) == _account(12, 34, (34,), "/", "")
    assert lookup("", passwd=missing, group=missing) == _account(0, 0, (0,), "/", "")


def test_account_lookup_does_not_wait_when_the_file_is_a_fifo(tmp_path: Path) -> None:
    """A FIFO in the place of passwd holds nobody, with a writer or without."""
    fifo = tmp_path / "passwd"
    os.mkfifo(fifo)
    with pytest.raises(StartError):
        lookup("app", passwd=str(fifo), group=str(fifo))
    writer = os.open(fifo, os.O_RDWR)
    try:
        with pytest.raises(StartError):
            lookup("app", passwd=str(fifo), group=str(fifo))
    finally:
        os.close(writer)


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/urandom", "/proc/self/mem", "/", "/dev/full"])
def test_account_lookup_ends_when_the_file_does_not(place: str) -> None:
    """A device without an end, a folder or noise is a file that names nobody."""
    assert lookup("12", passwd=place, group=place).uid == 12
    with pytest.raises(StartError):
        lookup("app", passwd=place, group=place)


def test_account_lookup_reads_a_bounded_part(find: Find) -> None:
    """Of a file past all measure only the beginning counts."""
    padding = "filler:x:9:9::/:\n" * 70_000
    assert find("app", passwd=PASSWD + padding).uid == 1000
    with pytest.raises(StartError):
        find("app", passwd=padding + PASSWD)


def test_account_lookup_survives_bytes_that_are_no_text(tmp_path: Path) -> None:
    """Undecodable bytes in one row leave the others readable."""
    (tmp_path / "passwd").write_bytes(b"\xff\xfe\x00:x:\xff:0::/:\n" + PASSWD.encode())
    assert lookup("app", passwd=str(tmp_path / "passwd"), group=str(tmp_path / "none")).home == "/home/app"
