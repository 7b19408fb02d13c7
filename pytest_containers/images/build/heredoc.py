"""Here-documents: ``[fd]<<[-]WORD`` and the lines up to WORD.

Rules: https://docs.docker.com/reference/dockerfile/#here-documents; the shape of the operator is
the shell's (https://pubs.opengroup.org/onlinepubs/9699919799/utilities/V3_chap02.html, 2.7.4).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.words import Rules, expand

__all__ = ["Heredoc", "find", "parse"]

_OPERATOR: Final = re.compile(r"([0-9]*)<<(-?)[ \t\f\r\n]*([^<]*)")
_TABS: Final = re.compile(r"^\t+", re.MULTILINE)
_PLAIN: Final = Rules(keep_unset=True)
_QUOTED: Final = Rules(keep_unset=True, raw_quotes=True)
_WORDS: Final = Rules(keep_unset=True, raw_quotes=True, raw_escapes=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heredoc:
    """One here-document.

    *content* is as in the file. *expand* is false where any part of the word was quoted.
    *strip_tabs* is the ``-`` form; *descriptor* the number in front, 0 where there is none.
    """

    name: str
    content: str = ""
    expand: bool = True
    strip_tabs: bool = False
    descriptor: int = 0

    @property
    def body(self) -> str:
        """The content, without leading tabs in the ``-`` form."""
        return _TABS.sub("", self.content) if self.strip_tabs else self.content


def parse(word: str) -> Heredoc | None:
    """Return the heredoc that *word* begins, its content still empty, or None where it begins none.

    Raises SpecInvalid where the word behind ``<<`` has a quote that does not end.
    """
    match = _OPERATOR.fullmatch(word)
    if match is None or not match[3]:
        return None
    plain = expand(match[3], {}, _PLAIN).words
    if len(plain) != 1:
        return None
    quoted = expand(match[3], {}, _QUOTED).words
    # A quote that quotes is in the second reading only, an escaped one in both.
    same = _quotes(plain[0]) == sum(_quotes(part) for part in quoted)
    digits = match[1][-9:]
    return Heredoc(
        name=plain[0], expand=same, strip_tabs=bool(match[2]), descriptor=int(digits) if digits else 0
    )


def find(line: str) -> tuple[Heredoc, ...]:
    """Return the heredocs that a line begins, in order, without their contents.

    A line whose quotes do not end begins none: it is the shell's to complain.
    """
    try:
        words = expand(line, {}, _WORDS).words
    except SpecInvalid:
        return ()
    return tuple(doc for word in words if (doc := parse(word)) is not None)


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')
