"""The small languages of flag and argument values, as Go's libraries read them.

Durations: https://pkg.go.dev/time#ParseDuration. Booleans: https://pkg.go.dev/strconv#ParseBool.
Comma-separated fields: RFC 4180, in the strict reading of https://pkg.go.dev/encoding/csv.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from pytest_containers.errors import SpecInvalid

__all__ = [
    "SPACES",
    "boolean",
    "csv_fields",
    "duration_s",
    "json_words",
    "nearest",
    "size_bytes",
    "split_blanks",
    "unsigned",
]

# What Go calls white space (https://pkg.go.dev/unicode#IsSpace); str.isspace() takes more.
SPACES: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_BLANKS: Final = re.compile(r"[\t\v\f\r ]+")
_LONE: Final = re.compile("[\ud800-\udfff]")
_TRUE: Final = frozenset("1 t T TRUE true True".split())
_FALSE: Final = frozenset("0 f F FALSE false False".split())
_DURATION: Final = re.compile(r"([+-]?)((?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+|0)")
_DURATION_PART: Final = re.compile(r"([0-9.]+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS: Final[Mapping[str, float]] = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([kmgtp])?i?b?)", re.IGNORECASE)
_LONGEST_NUMBER: Final = 400


def split_blanks(text: str, pieces: int = -1) -> list[str]:
    """Return *text* cut at runs of blanks, into at most *pieces* where that is positive."""
    return _BLANKS.split(text, maxsplit=max(0, pieces - 1)) if text else []


def json_words(text: str) -> tuple[str, ...] | None:
    """Return the strings of a JSON array, or None where *text* is no valid JSON array.

    Raises SpecInvalid for a valid array that holds anything but strings.
    """
    text = text.strip(SPACES)
    if not text.startswith("["):
        return None
    try:
        array = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in array):
        raise SpecInvalid(
            "the JSON array holds something that is not a string", mend='write it in quotes: "1"'
        )
    # A \ud800 without its pair has no UTF-8; Go puts U+FFFD there (RFC 8259, section 8.2).
    return tuple(_LONE.sub("\ufffd", item) for item in array)


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def csv_fields(text: str) -> tuple[str, ...]:
    """Return the comma-separated fields of one line; a field in double quotes may hold commas.

    Raises SpecInvalid for a quote inside an unquoted field, or one that is not closed.
    """
    fields: list[str] = []
    rest = text
    while True:
        field, rest, more = _csv_field(rest, text)
        fields.append(field)
        if not more:
            return tuple(fields)


def _csv_field(rest: str, text: str) -> tuple[str, str, bool]:
    """Return the first field, what follows its comma, and whether there was a comma."""
    if not rest.startswith('"'):
        field, comma, after = rest.partition(",")
        if '"' in field:
            raise SpecInvalid(
                f"a quote stands inside a field of {text!r}", mend='quote the whole field: "a=b,c"'
            )
        return field, after, bool(comma)
    match = re.match(r'"((?:[^"]|"")*)"(,|\Z)', rest)
    if match is None:
        raise SpecInvalid(f"a quoted field of {text!r} does not end", mend="close the quote before the comma")
    return match[1].replace('""', '"'), rest[match.end() :], bool(match[2])


def boolean(text: str, what: str) -> bool:
    """Return the truth that *text* says; raise SpecInvalid, naming *what*, for anything else."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise SpecInvalid(f"{what} cannot be {text!r}", mend="write true or false")


def unsigned(text: str, what: str, *, base: int = 10) -> int:
    """Return the 32-bit number of *text*, digits only; raise SpecInvalid, naming *what*."""
    digits = "01234567" if base == 8 else "0123456789"
    if text and len(text) < _LONGEST_NUMBER and not text.strip(digits):
        number = int(text, base)
        if number < 1 << 32:
            return number
    raise SpecInvalid(f"{what} cannot be {text!r}", mend=f"write a number{' in octal' if base == 8 else ''}")


def duration_s(text: str, what: str) -> float:
    """Return the seconds of ``1m30s``, ``500ms`` or ``1.5h``; raise SpecInvalid, naming *what*."""
    match = _DURATION.fullmatch(text) if len(text) < _LONGEST_NUMBER else None
    if match is None:
        raise SpecInvalid(
            f"{what} cannot be {text!r}", mend="write a number with its unit: 30s, 1m30s, 500ms"
        )
    total = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(match[2]))
    if total * 1e9 >= 1 << 63:
        raise SpecInvalid(f"{what} cannot be {text!r}", seen="more than a 64-bit number of nanoseconds")
    return -total if match[1] == "-" else total


def size_bytes(text: str, what: str) -> int:
    """Return the bytes of ``64m`` or ``1.5GiB`` (powers of 1024); raise SpecInvalid, naming *what*."""
    match = _SIZE.fullmatch(text) if len(text) < _LONGEST_NUMBER else None
    if match is None:
        raise SpecInvalid(f"{what} cannot be {text!r}", mend="write a number of bytes, with k, m or g: 64m")
    power = " kmgtp".index((match[2] or " ").lower())
    number = float(match[1]) * 1024**power
    if number >= 1 << 63:
        raise SpecInvalid(f"{what} cannot be {text!r}", seen="more than a 64-bit number of bytes")
    return int(number)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean X?`` for the known word most like *word*, or nothing."""
    import difflib

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6) if len(word) < 80 else []
    return f"did you mean {found[0]}?" if found else ""
