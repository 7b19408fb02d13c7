"""Word expansion: quotes, escapes and ``$`` substitutions in the arguments of instructions.

It is the shell's parameter expansion as https://docs.docker.com/reference/dockerfile/#environment-replacement
has it, with the operators of https://pubs.opengroup.org/onlinepubs/9699919799/utilities/V3_chap02.html
(2.6.2) and ``${v/pattern/new}``; no command is ever run and no path looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import glob
from pytest_containers.images.build.values import SPACES

__all__ = ["Expansion", "Rules", "expand"]

_SPECIAL: Final = "@*#?-$!0"
_OPERATORS: Final = "+-?#%"
_DEEPEST: Final = 60
_HEREDOC_BLANKS: Final = re.compile(r"-?[ \t]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a text is read: *escape* is the escape character.

    *raw_quotes* and *raw_escapes* leave quotes and escape characters in the result, *keep_unset*
    an unset variable's own text. Without *quotes* a quote is a character like any other, as in
    the body of a heredoc.
    """

    escape: str = "\\"
    raw_quotes: bool = False
    raw_escapes: bool = False
    quotes: bool = True
    keep_unset: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """What a text became: *text* as one word, *words* cut at blanks outside quotes.

    *matched* and *unmatched* are the variables it named that are set, and those that are not.
    """

    text: str
    words: tuple[str, ...]
    matched: frozenset[str] = frozenset()
    unmatched: frozenset[str] = frozenset()


_PLAIN: Final = Rules()


def expand(text: str, variables: Mapping[str, str], rules: Rules = _PLAIN) -> Expansion:
    """Return *text* with its variables replaced and its quotes and escapes taken away.

    An unset variable is empty. A value is never read for variables again; blanks in it do
    separate words, unless it stands in quotes. Raises SpecInvalid for an unclosed quote or brace,
    an unknown operator, and for ``${v?message}`` of an unset *v*.
    """
    lexer = _Lexer(text, variables, rules)
    try:
        whole, words = lexer.read("", raw_escapes=rules.raw_escapes)
    except SpecInvalid as error:
        raise SpecInvalid(
            f"cannot expand {text[:200]!r}: {error.what}", seen=error.seen, mend=error.mend
        ) from error
    return Expansion(
        text=whole, words=words, matched=frozenset(lexer.matched), unmatched=frozenset(lexer.unmatched)
    )


class _Words:
    """Gathers words; what was quoted or escaped never separates two."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._word: list[str] = []

    def add(self, text: str) -> None:
        for char in text:
            if char not in SPACES:
                self._word.append(char)
            elif word := "".join(self._word):
                self._done.append(word)
                self._word.clear()

    def add_raw(self, text: str) -> None:
        self._word.append(text)

    def finish(self) -> tuple[str, ...]:
        last = "".join(self._word)
        return (*self._done, last) if last else tuple(self._done)


class _Lexer:
    """Reads one text from its start to its end; a substitution reads its own parts the same way."""

    def __init__(self, text: str, variables: Mapping[str, str], rules: Rules) -> None:
        self._text = text
        self._at = 0
        self._variables = variables
        self._rules = rules
        self._raw_escapes = rules.raw_escapes
        self._depth = 0
        self.matched: set[str] = set()
        self.unmatched: set[str] = set()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        self._at += 1
        return char

    def read(self, stop: str, *, raw_escapes: bool) -> tuple[str, tuple[str, ...]]:
        """Return the text up to the character *stop*, which is consumed, or to the end, and its words."""
        before, self._raw_escapes = self._raw_escapes, raw_escapes
        result: list[str] = []
        words = _Words()
        while char := self._peek():
            if char == stop:
                self._at += 1
                self._raw_escapes = before
                return "".join(result), words.finish()
            result.append(self._piece(char, words))
        if stop:
            raise SpecInvalid(f"the closing {stop} is missing", mend="close it, or escape the $")
        self._raw_escapes = before
        return "".join(result), words.finish()

    def _piece(self, char: str, words: _Words) -> str:
        """Consume what *char* begins, add it to *words* and return its text."""
        if char == "$":
            piece = self._dollar()
            words.add(piece)
            return piece
        if char == self._rules.escape:
            self._at += 1
            piece = (char if self._raw_escapes else "") + self._next()
        elif char == "<":
            piece = self._heredoc_mark()
        elif char == "'" and self._rules.quotes:
            piece = self._single_quoted()
        elif char == '"' and self._rules.quotes:
            piece = self._double_quoted()
        else:
            self._at += 1
            words.add(char)
            return char
        words.add_raw(piece)
        return piece

    def _heredoc_mark(self) -> str:
        """Return ``<``, or ``<<`` or ``<<-`` with the blanks behind it: they are the heredoc word's."""
        start = self._at
        self._at += 1
        if self._peek() == "<":
            self._at += 1
            blanks = _HEREDOC_BLANKS.match(self._text, self._at)
            self._at = blanks.end() if blanks else self._at
        return self._text[start : self._at]

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise SpecInvalid("the closing single quote is missing", mend="close it, or write \\'")
        quoted = self._text[self._at : end + 1]
        self._at = end + 1
        return quoted if self._rules.raw_quotes else quoted[1:-1]

    def _double_quoted(self) -> str:
        quote = '"' if self._rules.raw_quotes else ""
        self._at += 1
        result = [quote]
        while char := self._peek():
            if char == '"':
                self._at += 1
                return "".join(result) + quote
            result.append(self._dollar() if char == "$" else self._in_double_quotes())
        raise SpecInvalid("the closing double quote is missing", mend='close it, or write \\"')

    def _in_double_quotes(self) -> str:
        """Return the next character; here the escape character escapes itself, the quote and ``$`` only."""
        char = self._next()
        if char != self._rules.escape:
            return char
        kept = char if self._raw_escapes else ""
        following = self._peek()
        if following and following in f'"${self._rules.escape}':
            char = self._next()
        return kept + (char if following else "")

    def _name(self) -> str:
        start = self._at
        char = self._peek()
        if char.isdecimal():
            while self._peek().isdecimal():
                self._at += 1
        elif char and char in _SPECIAL:
            self._at += 1
        else:
            while (char := self._peek()).isalpha() or char.isdecimal() or char == "_":
                self._at += 1
        return self._text[start : self._at]

    def _value(self, name: str) -> str | None:
        value = self._variables.get(name)
        (self.unmatched if value is None else self.matched).add(name)
        return value

    def _dollar(self) -> str:
        start = self._at
        self._at += 1
        if self._peek() == "{":
            self._at += 1
            self._depth += 1
            if self._depth > _DEEPEST:
                raise SpecInvalid(f"more than {_DEEPEST} substitutions stand inside each other")
            value = self._braced()
            self._depth -= 1
        else:
            name = self._name()
            value = self._value(name) if name else "$"
        if value is not None:
            return value
        return self._text[start : self._at] if self._rules.keep_unset else ""

    def _braced(self) -> str | None:
        """Return the value of what follows ``${``; None for an unset variable that is kept or empty."""
        name = self._name() if self._peek() not in {"{", "}", ":"} else ""
        operator = self._next()
        if not operator:
            raise SpecInvalid("the closing } is missing", mend="close it, or escape the $")
        if not name:
            raise SpecInvalid("bad substitution: no name stands behind ${", mend="write ${NAME}")
        if operator == "}":
            return self._value(name)
        if operator == "/":
            return self._replaced(name)
        colon = operator == ":"
        if colon:
            operator = self._next()
        if not operator or operator not in _OPERATORS:
            raise SpecInvalid(
                f"unsupported operator {':' * colon + operator!r} in a substitution of {name}",
                mend="the operators are :- - :+ + :? ? # ## % %% / //",
            )
        return self._operated(name, operator, colon=colon)

    def _operated(self, name: str, operator: str, *, colon: bool) -> str | None:
        word, _ = self.read("}", raw_escapes=operator in "#%")
        value = self._value(name)
        if value is None and self._rules.keep_unset:
            return None
        there = bool(value) if colon else value is not None
        if operator == "-":
            return value if there else word
        if operator == "+":
            return word if there else ""
        if operator == "?":
            if not there:
                state = "unset" if value is None else "empty"
                raise SpecInvalid(f"{name}: {word or f'is not allowed to be {state}'}", mend=f"set {name}")
            return value
        longest = word.startswith(operator)
        pattern = word[1:] if longest else word
        trim = glob.trim_prefix if operator == "#" else glob.trim_suffix
        return trim(value or "", pattern, longest=longest)

    def _replaced(self, name: str) -> str | None:
        everywhere = self._peek() == "/"
        self._at += everywhere
        pattern, _ = self.read("/", raw_escapes=True)
        new, _ = self.read("}", raw_escapes=True)
        value = self._value(name)
        if value is None and self._rules.keep_unset:
            return None
        return glob.replace(value or "", pattern, new, everywhere=everywhere)
