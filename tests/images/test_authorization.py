"""Challenges: what a registry's WWW-Authenticate headers offer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.images.authorization import Challenge, challenges


def one(scheme: str, parameters: dict[str, str] | None = None) -> Challenge:
    """Return a challenge."""
    return Challenge(scheme=scheme, parameters=parameters or {})


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], ()),
        ([""], ()),
        (["Basic"], (one("basic"),)),
        (['Basic realm="a, b"'], (one("basic", {"realm": "a, b"}),)),
        (["basic realm=plain"], (one("basic", {"realm": "plain"}),)),
        (
            ['Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"'],
            (one("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"}),),
        ),
        (['Bearer Realm = "x" , Service = "y"'], (one("bearer", {"realm": "x", "service": "y"}),)),
        (
            ['Basic realm="x", Bearer realm="y"'],
            (one("basic", {"realm": "x"}), one("bearer", {"realm": "y"})),
        ),
        (
            ['Basic realm="x"', 'Bearer realm="y"'],
            (one("basic", {"realm": "x"}), one("bearer", {"realm": "y"})),
        ),
        (["Negotiate, Basic realm=x"], (one("negotiate"), one("basic", {"realm": "x"}))),
        (["Negotiate dG9rZW4=, Basic realm=x"], (one("negotiate"), one("basic", {"realm": "x"}))),
        (["NTLM dG9rZW4=="], (one("ntlm"),)),
        (["Negotiate a+/b, Bearer realm=y"], (one("negotiate"), one("bearer", {"realm": "y"}))),
        ([r'Basic realm="a \"b\" \\"'], (one("basic", {"realm": 'a "b" \\'}),)),
        (['Bearer realm="first",realm="second"'], (one("bearer", {"realm": "first"}),)),
    ],
)
def test_challenges_are_read_as_the_rfc_writes_them(values: list[str], found: tuple[Challenge, ...]) -> None:
    """Several headers, several challenges in one, quoted strings: RFC 9110, 11.6.1."""
    assert challenges(values) == found


@given(st.lists(st.text(alphabet='aB= ",\\:/', max_size=60), max_size=3))
def test_challenges_of_any_text_end(values: list[str]) -> None:
    """Whatever a registry writes is read to an end, and gives lower-case schemes."""
    assert all(challenge.scheme == challenge.scheme.lower() for challenge in challenges(values))
