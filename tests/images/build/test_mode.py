"""Modes of --chmod, octal and symbolic."""

from __future__ import annotations

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.mode import Mode


@pytest.mark.parametrize(
    ("text", "before", "folder", "after"),
    [
        ("755", 0o600, False, 0o755),
        ("0644", 0o777, True, 0o644),
        ("0", 0o777, False, 0),
        ("7777", 0, False, 0o7777),
        ("+x", 0o644, False, 0o755),
        ("a+x", 0o644, False, 0o755),
        ("u+x", 0o644, False, 0o744),
        ("go-rwx", 0o755, False, 0o700),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, False, 0o755),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("a=", 0o777, False, 0),
        ("u=rw,g=u,o=g", 0o700, False, 0o666),
        ("u+s", 0o755, False, 0o4755),
        ("g+s", 0o755, True, 0o2755),
        ("+t", 0o777, True, 0o1777),
        ("u-s", 0o4755, False, 0o755),
        ("u=rwx", 0o4600, False, 0o700),
        ("u+r-w", 0o600, False, 0o400),
        ("ug+rw,o-r", 0o604, False, 0o660),
    ],
)
def test_mode_changes_permission_bits(text: str, before: int, folder: bool, after: int) -> None:
    """An octal mode replaces the bits; a symbolic one changes them as chmod does."""
    assert Mode.parse(text).apply(before, folder=folder) == after


@pytest.mark.parametrize(
    "text", ["", "8", "10000", "999999", "u", "u+q", "x", "+x,", ",", "u=rw;", "rwx", "-1", "u==gx"]
)
def test_mode_refuses_the_rest(text: str) -> None:
    """What chmod does not take is refused."""
    with pytest.raises(SpecInvalid, match="the mode cannot be"):
        Mode.parse(text)
