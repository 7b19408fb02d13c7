"""What of a command's output is handed on."""

from __future__ import annotations

import pytest

from pytest_containers.images.build.output import Mask


def masked(secret: bytes, *pieces: bytes) -> list[bytes]:
    """Return what a mask hands on of *pieces*, each when it came, and at the end."""
    told: list[bytes] = []
    mask = Mask(told.append, [secret])
    for piece in pieces:
        mask.add(piece)
    mask.end()
    return told


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        ((b"a hunter2 b",), [b"a *** b"]),
        ((b"a hun", b"ter2 b"), [b"a ", b"*** b"]),
        ((b"h", b"u", b"n", b"t", b"e", b"r", b"2"), [b"***"]),
        ((b"hunhunter2hunter2",), [b"hun******"]),
        ((b"a hun", b"dred"), [b"a ", b"hundred"]),
        ((b"ends in hun",), [b"ends in ", b"hun"]),
    ],
)
def test_mask_hides_a_secret_however_it_is_cut(pieces: tuple[bytes, ...], told: list[bytes]) -> None:
    """No piece has a secret or begins one that the next piece ends; nothing else is lost or late."""
    assert masked(b"hunter2\n", *pieces) == told


def test_mask_hides_each_line_of_a_key() -> None:
    """A command that prints one line of a secret tells nothing; short lines are no secrets."""
    secret = b"-----BEGIN-----\nMIIEpAIBAAKCAQEA\nab\n"
    assert masked(secret, b"MIIEpAIBAAKCAQEA and ab") == [b"*** and ab"]
    assert masked(secret, secret) == [b"***\n"]


def test_mask_of_nothing_hands_all_on() -> None:
    """Without secrets, or with one of three bytes, output is as it was."""
    assert masked(b"", b"a", b"b") == [b"a", b"b"]
    assert masked(b"abc", b"abc") == [b"abc"]
