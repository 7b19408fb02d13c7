"""The operator of a heredoc: its word, its number, its dash and its quotes."""

from __future__ import annotations

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.heredoc import Heredoc, find, parse


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("<<EOF", Heredoc(name="EOF")),
        ("<<-EOF", Heredoc(name="EOF", strip_tabs=True)),
        ("<<'EOF'", Heredoc(name="EOF", expand=False)),
        ('<<"EOF"', Heredoc(name="EOF", expand=False)),
        ("<<-'EOF'", Heredoc(name="EOF", expand=False, strip_tabs=True)),
        ('<<EO"F"', Heredoc(name="EOF", expand=False)),
        ("<<eo\\'f", Heredoc(name="eo'f")),
        ("<<'e'o\\'f", Heredoc(name="eo'f", expand=False)),
        ("<<'one two'", Heredoc(name="one two", expand=False)),
        ("<<$EOF", Heredoc(name="$EOF")),
        ("<<${EOF}", Heredoc(name="${EOF}")),
        ("<<file.txt", Heredoc(name="file.txt")),
        ("<<  EOF", Heredoc(name="EOF")),
        ("<<- EOF", Heredoc(name="EOF", strip_tabs=True)),
        ("3<<EOF", Heredoc(name="EOF", descriptor=3)),
        ("10<<-EOF", Heredoc(name="EOF", descriptor=10, strip_tabs=True)),
    ],
)
def test_heredoc_reads_its_operator(word: str, expected: Heredoc) -> None:
    """The word is read as the shell reads it, and a quote that quotes means no expansion."""
    assert parse(word) == expected


@pytest.mark.parametrize(
    "word", ["", "EOF", "<<", "<<-", "<EOF", "<<<EOF", "<<EOF sh", "a<<EOF", "<<''", "<<A<B"]
)
def test_heredoc_is_not_everything_with_angles(word: str) -> None:
    """Without two angles, a word behind them and nothing else there is no heredoc."""
    assert parse(word) is None


@pytest.mark.parametrize("word", ["<<'EOF", '<<"EOF', "<<EOF'", '<<EOF"', "<<${EOF"])
def test_heredoc_word_must_close_its_quotes(word: str) -> None:
    """A word whose quote does not end is refused."""
    with pytest.raises(SpecInvalid, match="missing"):
        parse(word)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("RUN <<EOF", ["EOF"]),
        ("RUN <<- EOF", ["EOF"]),
        ("RUN << -EOF", ["-EOF"]),
        ("RUN 4<<EOF", ["EOF"]),
        ("RUN <<EOF <<EOF2", ["EOF", "EOF2"]),
        ("RUN <<A cat 3<<'B' > x", ["A", "B"]),
        ("COPY --chmod=1 <<A <<-B /x", ["A", "B"]),
        ("RUN '<<EOF'", []),
        ('RUN "<<EOF"', []),
        ("RUN \\<<EOF", []),
        ("RUN $<<EOF", []),
        ("RUN unclosed ' <<EOF", []),
        ("RUN nothing", []),
    ],
)
def test_heredoc_is_found_in_a_line(line: str, names: list[str]) -> None:
    """Every word of the line that is an operator begins a heredoc, in order."""
    assert [doc.name for doc in find(line)] == names


@pytest.mark.parametrize(
    ("content", "strip", "body"),
    [
        ("\ta\n\t\tb\n  \tc\n", True, "a\nb\n  \tc\n"),
        ("\ta\n", False, "\ta\n"),
        ("", True, ""),
    ],
)
def test_heredoc_body_loses_tabs_in_the_dash_form(content: str, strip: bool, body: str) -> None:
    """The dash takes leading tabs away, and only those."""
    assert Heredoc(name="E", content=content, strip_tabs=strip).body == body
