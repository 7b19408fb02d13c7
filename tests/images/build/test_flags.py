"""The keyword, the flags and the rest of a line; which flags are taken."""

from __future__ import annotations

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.flags import Command, Flags


@pytest.mark.parametrize(
    ("line", "keyword", "flags", "rest"),
    [
        ("RUN a b", "RUN", (), "a b"),
        ("  run\ta  b  ", "RUN", (), "a  b"),
        ("RUN", "RUN", (), ""),
        ("", "", (), ""),
        ("COPY --from=x a b", "COPY", ("--from=x",), "a b"),
        ("COPY --a --b=c d", "COPY", ("--a", "--b=c"), "d"),
        ("COPY --a", "COPY", ("--a",), ""),
        ("COPY a --b c", "COPY", (), "a --b c"),
        ("COPY -a b", "COPY", (), "-a b"),
        ("COPY - b", "COPY", (), "- b"),
        ("COPY -- --a b", "COPY", (), "--a b"),
        ("COPY --x -- b", "COPY", ("--x",), "b"),
        ("COPY --", "COPY", (), ""),
        ('COPY --a="b c" d', "COPY", ("--a=b c",), "d"),
        ("COPY --a='b c' d", "COPY", ("--a=b c",), "d"),
        ('COPY --a="b" "c"', "COPY", ("--a=b",), '"c"'),
        ("COPY --a=b\\ c d", "COPY", ("--a=b c",), "d"),
        ('COPY --a="b\\"c" d', "COPY", ('--a=b"c',), "d"),
        ("COPY --a='b", "COPY", ("--a=b",), ""),
        ("COPY --a=b\\", "COPY", ("--a=b",), ""),
        ('RUN --mount=type=bind,"source=a,b" x', "RUN", ("--mount=type=bind,source=a,b",), "x"),
        ('RUN --mount=type=bind,\\"source=a,b\\" x', "RUN", ('--mount=type=bind,"source=a,b"',), "x"),
        ("FROM --platform=$A b AS c", "FROM", ("--platform=$A",), "b AS c"),
    ],
)
def test_command_is_cut_in_three(line: str, keyword: str, flags: tuple[str, ...], rest: str) -> None:
    """Flags stand between the keyword and the first other word; their quotes and escapes are the shell's."""
    assert Command.split(line) == Command(keyword=keyword, flags=flags, rest=rest)


def read(*given: str) -> Flags:
    """Return the flags of an instruction that knows one of each kind."""
    return Flags.read(given, switches=("link",), texts=("chown",), lists=("mount",))


def test_flags_are_sorted_by_kind() -> None:
    """A switch is a truth value, a text its value, a list all of its values in order."""
    flags = read("--mount=a", "--link", "--chown=1:2", "--mount=b=c")
    assert flags.switch("link") is True
    assert flags.text("chown") == "1:2"
    assert flags.list("mount") == ("a", "b=c")


def test_flags_have_defaults() -> None:
    """What is not given is false, empty, or no values."""
    flags = read()
    assert (flags.switch("link"), flags.text("chown"), flags.list("mount")) == (False, "", ())


@pytest.mark.parametrize(
    ("flag", "truth"),
    [
        ("--link", True),
        ("--link=true", True),
        ("--link=TRUE", True),
        ("--link=false", False),
        ("--link=False", False),
    ],
)
def test_switch_may_leave_its_value_out(flag: str, truth: bool) -> None:
    """A switch alone is on; with a value it is what the value says."""
    assert read(flag).switch("link") is truth


@pytest.mark.parametrize(
    ("given", "word", "mend"),
    [
        (("--chwn=1",), "unknown flag --chwn", "did you mean --chown?"),
        (("--zzz",), "unknown flag --zzz", "--chown, --link, --mount"),
        (("--Link",), "unknown flag --Link", "did you mean --link?"),
        (("--=x",), "unknown flag --", "knows"),
        (("--link", "--link"), "--link is given twice", "leave one"),
        (("--chown=1", "--chown=2"), "--chown is given twice", "leave one"),
        (("--chown",), "--chown has no value", "--chown=VALUE"),
        (("--mount",), "--mount has no value", "--mount=VALUE"),
        (("--link=",), "--link cannot be ''", "true or false"),
        (("--link=1",), "--link cannot be '1'", "true or false"),
    ],
)
def test_flags_are_checked(given: tuple[str, ...], word: str, mend: str) -> None:
    """An unknown, repeated, empty or wrong flag is refused with its mend."""
    with pytest.raises(SpecInvalid) as caught:
        read(*given)
    assert word in caught.value.what
    assert mend in caught.value.mend


def test_flags_of_an_instruction_without_any() -> None:
    """Where no flag is known, that is what the message says."""
    with pytest.raises(SpecInvalid) as caught:
        Flags.read(["--x"])
    assert caught.value.mend == "the instruction takes no flags"


def test_text_flag_may_be_empty() -> None:
    """An equals sign with nothing behind it is an empty value."""
    assert read("--chown=").text("chown") == ""
