"""The small languages of values, as Go's libraries read them."""

from __future__ import annotations

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('["a", "b"]', ("a", "b")),
        ("[]", ()),
        (' [ "a" ] ', ("a",)),
        ('["\\u00e9\\n\\\\"]', ("é\n\\",)),
        ('["\\ud83d\\ude00"]', ("😀",)),
        ('["\\ud83d"]', ("\ufffd",)),
        ('[""]', ("",)),
        ("", None),
        ("a", None),
        ("[", None),
        ("['a']", None),
        ("[a]", None),
        ('["a",]', None),
        ('["a"] b', None),
        ('["a" "b"]', None),
        ("[ -f x ]", None),
        ("[NaN]", None),
        ('{"a": 1}', None),
        ('["\\x"]', None),
        ("[" * 100_000, None),
    ],
)
def test_json_array_of_strings_is_an_exec_form(text: str, words: tuple[str, ...] | None) -> None:
    """A valid array gives its strings; anything that is no valid JSON array is a shell's text."""
    assert values.json_words(text) == words


@pytest.mark.parametrize("text", ["[1]", '["a", null]', '[["a"]]', "[true]", '[{"a": "b"}]'])
def test_json_array_holds_strings_only(text: str) -> None:
    """A valid array of anything else is refused, and not given to a shell."""
    with pytest.raises(SpecInvalid, match="not a string"):
        values.json_words(text)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("a", ("a",)),
        ("", ("",)),
        ("a,b", ("a", "b")),
        ("a,,b,", ("a", "", "b", "")),
        ('"a,b",c', ("a,b", "c")),
        ('"a""b"', ('a"b',)),
        ('""', ("",)),
        ("type=bind,source=x y", ("type=bind", "source=x y")),
    ],
)
def test_csv_fields_are_cut_at_commas(text: str, fields: tuple[str, ...]) -> None:
    """A field in quotes may hold commas and doubled quotes."""
    assert values.csv_fields(text) == fields


@pytest.mark.parametrize("text", ['a"b', '"a', '"a"b', 'a,"b', '"a" ,b'])
def test_csv_quotes_enclose_whole_fields(text: str) -> None:
    """A quote inside a field, or one that is not closed, is refused."""
    with pytest.raises(SpecInvalid, match="quote"):
        values.csv_fields(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("5s", 5.0),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("500ms", 0.5),
        ("2us", 2e-6),
        ("2µs", 2e-6),
        ("7ns", 7e-9),
        ("1h1m1s1ms", 3661.001),
        (".5s", 0.5),
        ("+1s", 1.0),
        ("-1s", -1.0),
    ],
)
def test_duration_reads_as_in_go(text: str, seconds: float) -> None:
    """A duration is numbers, each with its unit."""
    assert values.duration_s(text, "it") == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "5d", "1m 30s", "5S", ".s", "1e3s", "9" * 30 + "h", "9" * 500]
)
def test_duration_needs_units(text: str) -> None:
    """A number without a known unit, and one past 64 bits of nanoseconds, is no duration."""
    with pytest.raises(SpecInvalid, match="it cannot be"):
        values.duration_s(text, "it")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("64", 64),
        ("64b", 64),
        ("1k", 1024),
        ("1KB", 1024),
        ("1kib", 1024),
        ("64m", 64 << 20),
        ("1.5g", 3 << 29),
        ("2 G", 2 << 30),
        ("1t", 1 << 40),
        ("1p", 1 << 50),
    ],
)
def test_size_counts_in_powers_of_1024(text: str, size: int) -> None:
    """A size is a number with a unit of either spelling."""
    assert values.size_bytes(text, "it") == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1x", "1 2", "k", "1..2g", "1e9", "99999999999p"])
def test_size_refuses_the_rest(text: str) -> None:
    """What is no size is refused."""
    with pytest.raises(SpecInvalid, match="it cannot be"):
        values.size_bytes(text, "it")


@pytest.mark.parametrize(
    ("text", "truth"),
    [(text, True) for text in "1 t T TRUE true True".split()]
    + [(text, False) for text in "0 f F FALSE false False".split()],
)
def test_boolean_has_six_spellings(text: str, truth: bool) -> None:
    """Each truth value has the spellings of Go."""
    assert values.boolean(text, "it") is truth


@pytest.mark.parametrize("text", ["", "yes", "tRUE", "2", "on"])
def test_boolean_refuses_the_rest(text: str) -> None:
    """What Go takes for no boolean is none here."""
    with pytest.raises(SpecInvalid, match="it cannot be"):
        values.boolean(text, "it")


@pytest.mark.parametrize(
    ("text", "base", "number"),
    [("0", 10, 0), ("1000", 10, 1000), ("4294967295", 10, 4294967295), ("0755", 8, 493), ("755", 8, 493)],
)
def test_unsigned_reads_digits(text: str, base: int, number: int) -> None:
    """A number is digits of its base, up to 32 bits."""
    assert values.unsigned(text, "it", base=base) == number


@pytest.mark.parametrize(
    ("text", "base"),
    [("", 10), ("-1", 10), ("+1", 10), ("4294967296", 10), ("0o7", 8), ("8", 8), ("٣", 10), ("1_0", 10)],
)
def test_unsigned_refuses_the_rest(text: str, base: int) -> None:
    """Signs, other digits, prefixes and too large numbers are refused."""
    with pytest.raises(SpecInvalid, match="it cannot be"):
        values.unsigned(text, "it", base=base)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("RNU", "did you mean RUN?"), ("FORM", "did you mean FROM?"), ("zzz", ""), ("R" * 500, "")],
)
def test_nearest_word_is_suggested(word: str, meant: str) -> None:
    """A near miss gets a suggestion, nonsense none."""
    assert values.nearest(word, ["RUN", "FROM", "COPY"]) == meant
