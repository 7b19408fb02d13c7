"""The instructions that write the image's config: forms, flags, and what each refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import instruction as nouns
from pytest_containers.images.build.instruction import Instruction

Parse = Callable[[str], Instruction]


@pytest.mark.parametrize(
    ("text", "test"),
    [
        ("HEALTHCHECK NONE", ("NONE",)),
        ("healthcheck none", ("NONE",)),
        ("HEALTHCHECK --interval=5s NONE", ("NONE",)),
        ("HEALTHCHECK CMD a b", ("CMD-SHELL", "a b")),
        ("HEALTHCHECK cmd a", ("CMD-SHELL", "a")),
        ('HEALTHCHECK CMD ["a", "b"]', ("CMD", "a", "b")),
        ("HEALTHCHECK CMD [a]", ("CMD-SHELL", "[a]")),
        ("HEALTHCHECK\tCMD\ta", ("CMD-SHELL", "a")),
    ],
)
def test_healthcheck_has_three_forms(instruction: Parse, text: str, test: tuple[str, ...]) -> None:
    """A check is none, a command in exec form, or a line for the shell."""
    found = instruction(text)
    assert isinstance(found, nouns.Healthcheck)
    assert found.test == test


def test_healthcheck_takes_its_flags(instruction: Parse) -> None:
    """Every flag of HEALTHCHECK has its field, in seconds."""
    found = instruction(
        "HEALTHCHECK --interval=1m --timeout=500ms --start-period=2s --start-interval=1s --retries=4 CMD x"
    )
    assert isinstance(found, nouns.Healthcheck)
    assert (found.interval_s, found.timeout_s) == (60.0, 0.5)
    assert (found.start_period_s, found.start_interval_s, found.retries) == (2.0, 1.0, 4)


def test_healthcheck_has_defaults(instruction: Parse) -> None:
    """Zero stands for what is not said, or said to be zero."""
    found = instruction("HEALTHCHECK --interval=0s --retries=0 CMD x")
    assert isinstance(found, nouns.Healthcheck)
    assert (found.interval_s, found.timeout_s, found.retries) == (0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("HEALTHCHECK", "HEALTHCHECK has no form"),
        ("HEALTHCHECK curl x", "HEALTHCHECK has no form curl"),
        ("HEALTHCHECK NONE x", "NONE takes no arguments"),
        ("HEALTHCHECK CMD", "CMD has no command"),
        ("HEALTHCHECK CMD []", "CMD has no command"),
        ("HEALTHCHECK CMD [1]", "not a string"),
        ("HEALTHCHECK --interval=5 CMD x", "--interval cannot be '5'"),
        ("HEALTHCHECK --interval=1us CMD x", "--interval cannot be 1us"),
        ("HEALTHCHECK --timeout=-1s CMD x", "--timeout cannot be -1s"),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries cannot be '-1'"),
        ("HEALTHCHECK --retries=2147483648 CMD x", "--retries cannot be"),
        ("HEALTHCHECK --retires=1 CMD x", "unknown flag --retires"),
    ],
)
def test_healthcheck_refuses_wrong_forms(instruction: Parse, text: str, word: str) -> None:
    """Unknown kinds, empty commands and times without units are refused."""
    refused(instruction, text, word)


def refused(parse: Parse, text: str, word: str) -> SpecInvalid:
    """Return the error of *text*, which names the second line and has *word*."""
    with pytest.raises(SpecInvalid) as caught:
        parse(text)
    assert caught.value.what.startswith("Dockerfile:2: ")
    assert word in caught.value.what
    return caught.value


@pytest.mark.parametrize(
    ("text", "trigger"),
    [
        ("ONBUILD RUN a", "RUN a"),
        ("onbuild  run a b", "run a b"),
        ("ONBUILD COPY --from=x a b", "COPY --from=x a b"),
        ("ONBUILD RUN a \\\n  b", "RUN a   b"),
        ("ONBUILD RUN <<E\na\nE", "RUN <<E\na\nE"),
        ("ONBUILD COPY <<-A <<B /x\n\t1\n\tA\n2\nB", "COPY <<-A <<B /x\n\t1\nA\n2\nB"),
        ("ONBUILD ENV a=$b", "ENV a=$b"),
    ],
)
def test_onbuild_keeps_the_text(instruction: Parse, text: str, trigger: str) -> None:
    """A trigger is the instruction's text, its heredocs with it."""
    found = instruction(text)
    assert isinstance(found, nouns.Onbuild)
    assert found.trigger == trigger


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("ONBUILD", "needs an argument"),
        ("ONBUILD ONBUILD RUN a", "another ONBUILD"),
        ("ONBUILD FROM a", "FROM cannot be an ONBUILD trigger"),
        ("ONBUILD maintainer a", "MAINTAINER cannot be an ONBUILD trigger"),
        ("ONBUILD --x RUN a", "unknown flag --x"),
        ("ONBUILD ENV a", "ENV gives a no value"),
        ("ONBUILD LABEL a=b c", "a word without ="),
        ("ONBUILD RUN [1]", "not a string"),
    ],
)
def test_onbuild_refuses_some_triggers(instruction: Parse, text: str, word: str) -> None:
    """FROM, MAINTAINER and ONBUILD itself cannot wait for another build."""
    refused(instruction, text, word)


def test_shell_is_an_array(instruction: Parse) -> None:
    """SHELL takes the exec form and nothing else."""
    found = instruction('SHELL ["/bin/bash", "-o", "pipefail", "-c"]')
    assert isinstance(found, nouns.Shell)
    assert found.words == ("/bin/bash", "-o", "pipefail", "-c")


@pytest.mark.parametrize("text", ["SHELL", "SHELL []", "SHELL /bin/bash -c", 'SHELL ["\\x"]', "SHELL [1]"])
def test_shell_refuses_other_forms(instruction: Parse, text: str) -> None:
    """A shell that is no array of strings is refused."""
    refused(instruction, text, "array" if text != "SHELL [1]" else "not a string")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("USER a", "a"),
        ("USER a:b", "a:b"),
        ("USER a b", "a b"),
        ("WORKDIR /a b", "/a b"),
        ("WORKDIR $x", "$x"),
        ("STOPSIGNAL SIGTERM", "SIGTERM"),
        ("STOPSIGNAL 9", "9"),
        ("MAINTAINER a <b@c>", "a <b@c>"),
    ],
)
def test_instruction_with_one_argument_takes_the_line(instruction: Parse, text: str, value: str) -> None:
    """USER, WORKDIR, STOPSIGNAL and MAINTAINER take the rest of the line as it is."""
    found = instruction(text)
    assert isinstance(found, nouns.User | nouns.Workdir | nouns.StopSignal | nouns.Maintainer)
    fields = {"USER": "user", "WORKDIR": "path", "STOPSIGNAL": "signal", "MAINTAINER": "author"}
    assert getattr(found, fields[found.keyword]) == value


@pytest.mark.parametrize("keyword", ["USER", "WORKDIR", "STOPSIGNAL", "MAINTAINER"])
def test_instruction_with_one_argument_needs_it(instruction: Parse, keyword: str) -> None:
    """Without the argument, and with a flag, they are refused."""
    refused(instruction, keyword, f"{keyword} needs an argument")
    refused(instruction, f"{keyword} --x a", "unknown flag --x")


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("VOLUME /a", ("/a",)),
        ("VOLUME /a /b", ("/a", "/b")),
        ('VOLUME ["/a b", " /c "]', ("/a b", "/c")),
        ("VOLUME [/a]", ("[/a]",)),
    ],
)
def test_volume_has_two_forms(instruction: Parse, text: str, paths: tuple[str, ...]) -> None:
    """VOLUME takes words, or a JSON array."""
    found = instruction(text)
    assert isinstance(found, nouns.Volume)
    assert found.paths == paths


@pytest.mark.parametrize("text", ["VOLUME", "VOLUME []", 'VOLUME [""]', 'VOLUME ["/a", " "]'])
def test_volume_needs_paths(instruction: Parse, text: str) -> None:
    """An empty path is no volume."""
    refused(instruction, text, "path")


def test_expose_sorts_its_words(instruction: Parse) -> None:
    """The words are kept in order of their text; what they mean is known after expansion."""
    found = instruction("EXPOSE 90 80/udp $x 1-2")
    assert isinstance(found, nouns.Expose)
    assert found.ports == ("$x", "1-2", "80/udp", "90")


def test_expose_needs_a_port(instruction: Parse) -> None:
    """EXPOSE alone is refused."""
    refused(instruction, "EXPOSE", "names no port")


@pytest.mark.parametrize(
    ("text", "word", "mend"),
    [
        ("RNU a", "unknown instruction RNU", "did you mean RUN?"),
        ("copyy a b", "unknown instruction COPYY", "did you mean COPY?"),
        ("EXPOSE8080", "unknown instruction EXPOSE8080", "did you mean EXPOSE?"),
        ("apt-get update", "unknown instruction APT-GET", "begins with"),
        ("\\", "unknown instruction", "begins with"),
    ],
)
def test_instruction_unknown_gets_a_suggestion(instruction: Parse, text: str, word: str, mend: str) -> None:
    """A misspelt instruction is refused with the one that was meant."""
    assert mend in refused(instruction, text, word).mend


@pytest.mark.parametrize(
    "keyword",
    [
        "Cmd",
        "eNTRYPOINT",
        "env",
        "Label",
        "expose",
        "User",
        "workdir",
        "Volume",
        "run",
        "Arg",
        "shell",
        "stopsignal",
    ],
)
def test_instruction_keyword_has_no_case(instruction: Parse, keyword: str) -> None:
    """The keyword may be in upper and lower case."""
    rest = {"shell": '["a"]', "env": "a=b", "label": "a=b", "stopsignal": "9"}.get(keyword.lower(), "1")
    assert instruction(f"{keyword} {rest}").keyword == keyword.upper()


def test_instruction_keeps_its_text(instruction: Parse) -> None:
    """An instruction knows its line as written and where it stands."""
    found = instruction("RUN  a \\\n  b  ")
    assert found.text == "RUN  a   b"
    assert (str(found.location), found.location.last) == ("Dockerfile:2", 3)
