"""Expansion: each operator, nested, quoted and escaped; what it refuses; how words are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.words import Rules, expand

SET = {"PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("hello", "hello"),
        ("he'll'o", "hello"),
        ("he'llo w'o", "hello wo"),
        ("he\\'llo", "he'llo"),
        ("he\\\\'llo w'o", "he\\llo wo"),
        ("abc\\tdef", "abctdef"),
        ("'abc\\tdef'", "abc\\tdef"),
        ('"abc\\tdef"', "abc\\tdef"),
        ("'hello\\there'", "hello\\there"),
        ('"hello\\\\there"', "hello\\there"),
        ("'\"", "error"),
        ('"\'"', "'"),
        ("'\"'", '"'),
        ('"hello\\"there"', 'hello"there'),
        ('"a\\$PWD"', "a$PWD"),
        ('"a$PWD b"', "a/home b"),
        ("'a$PWD'", "a$PWD"),
        ("a\\$PWD", "a$PWD"),
        ("a\\", "a"),
        ('"a\\', "error"),
        ("he$PWD", "he/home"),
        ("he$PWD.txt", "he/home.txt"),
        ("he$PWD$SHELL", "he/homebash"),
        ("$UNSETa b", " b"),
        ("he${hi}xx", "hexx"),
        ("he$PWD_x", "he"),
        ("$", "$"),
        ("a$", "a$"),
        ("$.x", "$.x"),
        ("$/x", "$/x"),
        ("$1a", "a"),
        ("$12a", "a"),
        ("$0", ""),
        ("$@x", "x"),
        ("$*$#$?$-$$$!", ""),
        ("${PWD}", "/home"),
        ("${PWD}${SHELL}", "/homebash"),
        ("${@}${1}${10}", ""),
        ("안녕하세요 $KOREAN", "안녕하세요 한국어"),
        ("$한국", ""),
        ("A <<B C", "A <<B C"),
    ],
)
def test_word_expands_as_a_shell_word(text: str, expected: str) -> None:
    """Quotes and escapes go, variables become their values, unset ones nothing."""
    if expected == "error":
        with pytest.raises(SpecInvalid):
            expand(text, SET)
    else:
        assert expand(text, SET).text == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${PWD:-x}", "/home"),
        ("${NULL:-x}", "x"),
        ("${NO:-x}", "x"),
        ("${PWD-x}", "/home"),
        ("${NULL-x}", ""),
        ("${NO-x}", "x"),
        ("${PWD:+x}", "x"),
        ("${NULL:+x}", ""),
        ("${NO:+x}", ""),
        ("${PWD+x}", "x"),
        ("${NULL+x}", "x"),
        ("${NO+x}", ""),
        ("${PWD:?x}", "/home"),
        ("${PWD?x}", "/home"),
        ("${NULL?x}", ""),
        ("${NO:-}", ""),
        ("${NO:-a b}", "a b"),
        ("${NO:-'a}b'}", "a}b"),
        ('${NO:-"a}b"}', "a}b"),
        ("${NO:-a\\}b}", "a}b"),
        ("${NO:-$PWD}", "/home"),
        ("${NO:-${NULL:-${SHELL}}}", "bash"),
        ("${NO:-${NO:-${NO:-deep}}}", "deep"),
        ("${PWD:+${SHELL}/x}", "bash/x"),
        ('"${NO:-"}"}"', "}"),
        ("${NO:--x}", "-x"),
        ("${NO:-:x}", ":x"),
        ("x-${A:-v${B:-.}w}-y", "x-v.w-y"),
    ],
)
def test_word_substitutes_defaults_and_alternatives(text: str, expected: str) -> None:
    """The operators - + ? look at unset, with a colon at empty too; their word expands in turn."""
    assert expand(text, SET).text == expected


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("${F#x}", "xxyy", "xyy"),
        ("${F##x}", "xxyy", "xyy"),
        ("${F#*x}", "xxyy", "xyy"),
        ("${F##*x}", "xxyy", "yy"),
        ("${F#*x*y}", "xxyy", "y"),
        ("${F##*x*y}", "xxyy", ""),
        ("${F#*}", "xxyy", "xxyy"),
        ("${F##*}", "xxyy", ""),
        ("${F#}", "xxyy", "xxyy"),
        ("${F##}", "xxyy", "xxyy"),
        ("${F#y}", "xxyy", "xxyy"),
        ("${F#?\\?}", "???y", "?y"),
        ("${F#()[]{\\}^$.\\*\\?|\\\\}", "()[]{}^$.*?|\\x", "x"),
        ("${F#$V}", "vx", "x"),
        ("${F:#x}", "xy", "y"),
        ("${F%y}", "xxyy", "xxy"),
        ("${F%%y}", "xxyy", "xxy"),
        ("${F%y*}", "xxyy", "xxy"),
        ("${F%%y*}", "xxyy", "xx"),
        ("${F%%*}", "xxyy", ""),
        ("${F%}", "xxyy", "xxyy"),
        ("${F%x}", "xxyy", "xxyy"),
        ("${F%%\\**}", "xx**", "xx"),
        ("${F%%\\**\\*}", "a***yy*", "a"),
        ("${F%.*}", "a.tar.gz", "a.tar"),
        ("${F%%.*}", "a.tar.gz", "a"),
        ("${F#*/}", "docker.io/x/y", "x/y"),
        ("${F##*/}", "docker.io/x/y", "y"),
        ("${F%/*}", "a/b/c", "a/b"),
        ("${F%?}", "한국어", "한국"),
        ("${NO#x}", "x", ""),
        ("${NO%%x*}", "x", ""),
    ],
)
def test_word_trims_what_a_pattern_matches(text: str, value: str, expected: str) -> None:
    """# trims the start and % the end, once the shortest match and twice the longest."""
    assert expand(text, {"F": value, "V": "v"}).text == expected


@pytest.mark.parametrize(
    ("text", "variables", "expected"),
    [
        ("${F/x/o}", {"F": "xaxa"}, "oaxa"),
        ("${F//x/o}", {"F": "xaxa"}, "oaoa"),
        ("${F/x/}", {"F": "xaxa"}, "axa"),
        ("${F//x/}", {"F": "xaxa"}, "aa"),
        ("${F/n/o}", {"F": "xaxa"}, "xaxa"),
        ("${F/$N/.} - ${F//$N/.}", {"F": "/foo*/*/*.txt", "N": "\\*/"}, "/foo.*/*.txt - /foo..*.txt"),
        ("${F/$N/} - ${F//$N/}", {"F": "/tmp/tmp/bar.txt", "N": "/tmp"}, "/tmp/bar.txt - /bar.txt"),
        ("${F/$N/$R}", {"F": "http://google.de", "N": "http://", "R": "https://"}, "https://google.de"),
        ("${F//\\//\\/}", {"F": "/tmp/foo.txt"}, "\\/tmp\\/foo.txt"),
        ("${F/a*/x}", {"F": "bacada"}, "bx"),
        ("${F//a?/x}", {"F": "abacad"}, "xxx"),
        ("${F//*/r}", {"F": "abc"}, "r"),
        ("${F///-}", {"F": "ab"}, "-a-b-"),
        ("${F/$N/ww}", {"F": "xxyy", "N": ""}, "wwxxyy"),
        ("${F///}", {"F": "xxyy"}, "xxyy"),
        ("${F/./x}", {"F": "a.b"}, "axb"),
        ("${F//x/\\1}", {"F": "x"}, "\\1"),
        ("${NO/x/y}", {}, ""),
        ("v${V//./_}", {"V": "1.2.3"}, "v1_2_3"),
    ],
)
def test_word_replaces_what_a_pattern_matches(text: str, variables: dict[str, str], expected: str) -> None:
    """One slash replaces the first and longest match, two replace every one, with a literal text."""
    assert expand(text, variables).text == expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("${", "} is missing"),
        ("${A", "} is missing"),
        ("${}", "bad substitution"),
        ("${:}", "bad substitution"),
        ("${{A}}", "bad substitution"),
        ("${:-x}", "bad substitution"),
        ("${ A}", "bad substitution"),
        ("${A=x}", "unsupported operator '='"),
        ("${A:x}", "unsupported operator ':x'"),
        ("${A:}", "unsupported operator"),
        ("${A^}", "unsupported operator"),
        ("${A:-x", "} is missing"),
        ("${A#x", "} is missing"),
        ("${A/x}", "/ is missing"),
        ("${A//x}", "/ is missing"),
        ("${A//}", "/ is missing"),
        ("${A/x/y", "} is missing"),
        ("${A#\\x}", "escapes 'x'"),
        ("'a", "single quote"),
        ('"a', "double quote"),
        ('"${A', "} is missing"),
        ("${A:-'}", "single quote"),
        ("${A?}", "A: is not allowed to be unset"),
        ("${A:?}", "A: is not allowed to be unset"),
        ("${NULL:?}", "NULL: is not allowed to be empty"),
        ("${A?say $PWD}", "A: say /home"),
        ("${NULL:?say it}", "NULL: say it"),
    ],
)
def test_word_refuses_what_it_cannot_expand(text: str, word: str) -> None:
    """Open quotes and braces, unknown operators and a demanded variable are refused with the text."""
    with pytest.raises(SpecInvalid) as caught:
        expand(text, SET)
    assert word in caught.value.what
    assert caught.value.what.startswith(f"cannot expand {text!r}")


def test_word_refuses_bottomless_nesting() -> None:
    """Substitutions nest to some depth, and past it there is an error, not a stack overflow."""
    assert expand("${A:-" * 50 + "x" + "}" * 50, {}).text == "x"
    with pytest.raises(SpecInvalid, match="inside each other"):
        expand("${A:-" * 5000 + "x" + "}" * 5000, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("   ", []),
        ("a b", ["a", "b"]),
        ("  a\t b \n", ["a", "b"]),
        ("a\\ b c", ["a b", "c"]),
        ("'a b' c", ["a b", "c"]),
        ('"a b"c d', ["a bc", "d"]),
        ("'' a", ["a"]),
        ("$W", ["x", "y"]),
        ("'$W' \"$W\"", ["$W", "x y"]),
        ("a$W", ["ax", "y"]),
        ("$W$W", ["x", "yx", "y"]),
        ("$NO a", ["a"]),
        ("${NO:-a b}", ["a", "b"]),
        ("<< a b", ["<< a", "b"]),
        ("a<b c", ["a<b", "c"]),
        ("a\u00a0b", ["a", "b"]),
    ],
)
def test_words_are_cut_behind_expansion(text: str, words: list[str]) -> None:
    """Blanks separate words, those of a value too, but not quoted, escaped or behind a heredoc mark."""
    assert list(expand(text, {"W": "x y"}).words) == words


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
