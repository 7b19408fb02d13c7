"""Expansion: each operator, nested, quoted and escaped; what it refuses; how words are cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.words import Rules, expand
from tests.images.build.expansions import BACKTICK, EXPANSIONS, REFUSED, SPLITS, VARIABLES

BUILDING = Path(__file__).parents[3] / "docs" / "build.md"


def rows(*groups: str) -> list[tuple[str, str]]:
    """Return the rows of some groups of the table."""
    return [row for group in groups for row in EXPANSIONS[group]]


@pytest.mark.parametrize(
    ("text", "expected"), rows("names", "dollars", "single quotes", "double quotes", "escapes")
)
def test_word_expands_as_a_shell_word(text: str, expected: str) -> None:
    """Quotes and escapes go, variables become their values, unset ones nothing."""
    assert expand(text, VARIABLES).text == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    rows(
        "default where unset or empty",
        "default where unset",
        "alternative where not empty",
        "alternative where set",
        "demand",
        "nested",
    ),
)
def test_word_substitutes_defaults_and_alternatives(text: str, expected: str) -> None:
    """The operators - + ? look at unset, with a colon at empty too; their word expands in turn."""
    assert expand(text, VARIABLES).text == expected


@pytest.mark.parametrize(
    ("text", "expected"), rows("shortest prefix", "longest prefix", "shortest suffix", "longest suffix")
)
def test_word_trims_what_a_pattern_matches(text: str, expected: str) -> None:
    """# trims the start and % the end, once the shortest match and twice the longest."""
    assert expand(text, VARIABLES).text == expected


@pytest.mark.parametrize(("text", "expected"), rows("first replaced", "all replaced"))
def test_word_replaces_what_a_pattern_matches(text: str, expected: str) -> None:
    """One slash replaces the first and longest match, two replace every one, with a literal text."""
    assert expand(text, VARIABLES).text == expected


@pytest.mark.parametrize(("text", "expected"), BACKTICK)
def test_word_is_escaped_by_a_backtick_where_the_file_says_so(text: str, expected: str) -> None:
    """With the backtick as escape character a backslash is a character like any other."""
    assert expand(text, VARIABLES, Rules(escape="`")).text == expected


@pytest.mark.parametrize(("text", "word"), REFUSED)
def test_word_refuses_what_it_cannot_expand(text: str, word: str) -> None:
    """Open quotes and braces, unknown operators and a demanded variable are refused with the text."""
    with pytest.raises(SpecInvalid) as caught:
        expand(text, VARIABLES)
    assert word in caught.value.what
    assert caught.value.what.startswith(f"cannot expand {text!r}")


@pytest.mark.parametrize(("text", "words"), SPLITS)
def test_words_are_cut_behind_expansion(text: str, words: tuple[str, ...]) -> None:
    """Blanks separate words, those of a value too, but not quoted, escaped or behind a heredoc mark."""
    assert expand(text, VARIABLES).words == words


def test_tables_of_words_have_the_rows_that_the_documentation_names() -> None:
    """The tables repeat no row, no group is empty, and their sizes are those in docs/build.md."""
    texts = [text for group in EXPANSIONS.values() for text, _ in group]
    assert all(EXPANSIONS.values())
    for table in (texts, [text for text, _ in BACKTICK], [row[0] for row in REFUSED], [r[0] for r in SPLITS]):
        assert len(set(table)) == len(table)
    documentation = BUILDING.read_text()
    assert f"{len(texts) + len(BACKTICK)} expansions" in documentation
    assert f"{len(REFUSED)} refusals" in documentation
    assert f"{len(SPLITS)} word splits" in documentation


def test_word_refuses_bottomless_nesting() -> None:
    """Substitutions nest to some depth, and past it there is an error, not a stack overflow."""
    assert expand("${A:-" * 50 + "x" + "}" * 50, {}).text == "x"
    with pytest.raises(SpecInvalid, match="inside each other"):
        expand("${A:-" * 5000 + "x" + "}" * 5000, {})


@pytest.mark.parametrize(
    ("text", "rules", "expected"),
    [
        ("a`$A b`", Rules(escape="`"), "a$A b"),
        ("C:\\x", Rules(escape="`"), "C:\\x"),
        ('"a`"b"', Rules(escape="`"), 'a"b'),
        ("'a' \"$A\"", Rules(quotes=False), "'a' \"1\""),
        ("it's $A \\$A \\\\", Rules(quotes=False), "it's 1 $A \\"),
        ("'a' \"b\" c", Rules(raw_quotes=True), "'a' \"b\" c"),
        ('a\\b "c\\"d"', Rules(raw_escapes=True), 'a\\b c\\"d'),
        ("$A $NO ${NO} ${NO:-x} ${NO/a/b}", Rules(keep_unset=True), "1 $NO ${NO} ${NO:-x} ${NO/a/b}"),
    ],
)
def test_word_obeys_its_rules(text: str, rules: Rules, expected: str) -> None:
    """Another escape character, raw quotes and escapes, no quotes, unset variables kept."""
    assert expand(text, {"A": "1"}, rules).text == expected


def test_word_names_what_it_used() -> None:
    """The variables that were set and those that were not are told, looked for or replaced."""
    found = expand("${A:-$B} $C ${D+x} $A", {"A": "1", "D": ""})
    assert found.text == "1  x 1"
    assert found.matched == {"A", "D"}
    assert found.unmatched == {"B", "C"}


def test_word_reads_no_value_again() -> None:
    """What a variable holds is data, though it looks like quotes or variables."""
    assert expand("$A", {"A": "'$B' \\x ${", "B": "no"}).text == "'$B' \\x ${"


@given(st.text(alphabet="ab$\\{}'\"<:-+?#%/* \t`1@", max_size=40), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_word_expansion_raises_nothing_else(text: str, raw: bool, keep: bool) -> None:
    """Whatever the text, it expands or raises SpecInvalid."""
    try:
        found = expand(text, {"a": "x y", "b": ""}, Rules(raw_quotes=raw, raw_escapes=raw, keep_unset=keep))
    except SpecInvalid:
        return
    assert all(found.words)


@given(st.text(max_size=40).filter(lambda text: not set(text) & set("$\\'\"")))
@settings(max_examples=200, deadline=None)
def test_word_without_specials_is_itself(text: str) -> None:
    """A text with nothing to expand, unquote or unescape stays as it is."""
    assert expand(text, {}).text == text
