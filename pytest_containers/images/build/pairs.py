"""The arguments of ENV, LABEL and ARG: words that keep their quotes, and the pairs they make.

Both forms of ENV: https://docs.docker.com/reference/dockerfile/#env. Quotes and escapes stay in
the words; expansion takes them away (`words.expand`).
"""

from __future__ import annotations

from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.values import SPACES, split_blanks

__all__ = ["is_legacy", "read_pairs", "split_words"]

_QUOTES: Final = "'\""


def read_pairs(rest: str, keyword: str, escape: str) -> tuple[tuple[str, str], ...]:
    """Return the names and values of ``name=value ...``, or the one pair of ``name rest of the line``.

    Raises SpecInvalid for no pair, a word without ``=`` behind the first, and an empty name.
    """
    words = split_words(rest, escape)
    if not words:
        raise SpecInvalid(f"{keyword} names nothing", mend=f"write {keyword} NAME=VALUE")
    if "=" not in words[0]:
        parts = split_blanks(rest, 2)
        if len(parts) < 2:
            raise SpecInvalid(
                f"{keyword} gives {words[0]} no value", mend=f"write {keyword} {words[0]}=VALUE"
            )
        return ((parts[0], parts[1]),)
    pairs: list[tuple[str, str]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise SpecInvalid(f"{keyword} has a word without =: {word}", mend="quote a value that has blanks")
        if not name:
            raise SpecInvalid(
                f"{keyword} has a value without a name: {word}", mend="write a name before the ="
            )
        pairs.append((name, value))
    return tuple(pairs)


def is_legacy(rest: str, escape: str) -> bool:
    """Return whether the pair is written without ``=``."""
    words = split_words(rest, escape)
    return bool(words) and "=" not in words[0]


def split_words(text: str, escape: str) -> list[str]:
    """Return the words of *text*: blanks in quotes, or behind *escape*, separate nothing.

    In single quotes *escape* is a character like any other; at the end of the text it is dropped.
    """
    words: list[str] = []
    word: list[str] = []
    quote = ""
    at = 0
    while at < len(text):
        char = text[at]
        if not quote and char in SPACES:
            if word:
                words.append("".join(word))
                word = []
        elif char == escape and quote != "'":
            if at + 1 < len(text):
                word.append(text[at : at + 2])
            at += 1
        else:
            if quote:
                quote = "" if char == quote else quote
            elif char in _QUOTES:
                quote = char
            word.append(char)
        at += 1
    if word:
        words.append("".join(word))
    return words
