"""Which instruction expands what, and what is checked behind expansion."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import instruction as nouns
from pytest_containers.images.build.expand import expand, is_constant
from pytest_containers.images.build.instruction import Instruction
from pytest_containers.images.build.mount import Mount
from pytest_containers.images.build.variables import Scope

Parse = Callable[[str], Instruction]
SCOPE = Scope(variables={"A": "one", "B": "two words", "N": "8000", "E": "", "Q": 'it\'s "$A"'})


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("USER $A:${B}", "user", "one:two words"),
        ("WORKDIR /$A/'$A'", "path", "/one/$A"),
        ("STOPSIGNAL ${X:-SIGINT}", "signal", "SIGINT"),
        ("VOLUME /$A /x", "paths", ("/one", "/x")),
        ('VOLUME ["/$A b"]', "paths", ("/one b",)),
        ("ENV a=$A $A=c", "pairs", (("a", "one"), ("one", "c"))),
        ("ENV a=\"$B\" c='$B' d=\\$B", "pairs", (("a", "two words"), ("c", "$B"), ("d", "$B"))),
        ("ENV a $B  'x'", "pairs", (("a", "two words  x"),)),
        ("ENV a=$Q", "pairs", (("a", 'it\'s "$A"'),)),
        ("LABEL $A=$B", "pairs", (("one", "two words"),)),
        ('LABEL a="x\\ny"', "pairs", (("a", "x\\ny"),)),
        ("EXPOSE $N ${N}-8002/udp", "ports", ("8000/tcp", "8000/udp", "8001/udp", "8002/udp")),
        ("EXPOSE 80 80/tcp", "ports", ("80/tcp",)),
        ("COPY $A '$A' /$A/", "sources", ("one", "$A")),
        ("COPY $A /$A/", "target", "/one/"),
        ("COPY --chown=$A:$N a b", "owner", "one:8000"),
        ("COPY --chmod=${X:-755} a b", "mode", "755"),
        ("COPY --exclude=$A a b", "exclude", ("$A",)),
        # A blank separates sources whatever stands before it; only the JSON form has blanks in a path.
        ("COPY a\\ b c", "sources", ("a", "b")),
        ("ADD https://x/$A b", "sources", ("https://x/one",)),
        ("MAINTAINER $A", "author", "$A"),
        ("ONBUILD RUN $A", "trigger", "RUN $A"),
        ('SHELL ["$A"]', "words", ("$A",)),
    ],
)
def test_instruction_expands_its_arguments(instruction: Parse, text: str, field: str, value: object) -> None:
    """Each instruction has its own arguments that may have variables."""
    assert getattr(expand(instruction(text), SCOPE), field) == value


@pytest.mark.parametrize(
    "text", ["RUN echo $A", "CMD echo $A", 'ENTRYPOINT ["$A"]', "HEALTHCHECK CMD $A", "RUN <<E\n$A\nE"]
)
def test_instruction_leaves_commands_to_the_shell(instruction: Parse, text: str) -> None:
    """The text of a command is not touched."""
    found = instruction(text)
    assert expand(found, SCOPE) == found


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("COPY <<E /x\n$A \"$A\" '$A' \\$A\nE", "one \"one\" 'one' $A\n"),
        ("COPY <<'E' /x\n$A\nE", "$A\n"),
        ('COPY <<E /x\nit\'s ${X:-"d"}\nE', 'it\'s "d"\n'),
        ("ADD <<E /x\n$X|\nE", "|\n"),
    ],
)
def test_instruction_expands_heredoc_bodies(instruction: Parse, text: str, content: str) -> None:
    """In a body that is not quoted variables are replaced and quotes stay."""
    found = expand(instruction(text), SCOPE)
    assert isinstance(found, nouns.Transfer)
    assert found.contents[0].content == content


def test_run_gets_its_mounts(instruction: Parse) -> None:
    """The options of a mount are expanded one by one."""
    found = expand(
        instruction("RUN --mount=type=cache,id=$A,target=/$A --mount=target=/x,source='$A' a"), SCOPE
    )
    assert isinstance(found, nouns.Run)
    assert found.mounts == (
        Mount(kind="cache", id="one", target="/one", read_only=False),
        Mount(target="/x", source="one"),
    )


def test_env_sees_the_scope_before_itself(instruction: Parse) -> None:
    """Within one ENV a name still has its old value."""
    found = expand(instruction("ENV A=new c=$A"), SCOPE)
    assert isinstance(found, nouns.Env)
    assert found.pairs == (("A", "new"), ("c", "one"))


def test_arg_values_are_not_expanded_twice(instruction: Parse) -> None:
    """A build argument is taken as it is; only a default in the file is expanded."""
    scope = Scope(build_args={"X": "'$A'"}, outer={"Y": "$A"}, variables={"A": "one"})
    found = expand(instruction("ARG X=1 Y Z=$A"), scope)
    assert isinstance(found, nouns.Arg)
    assert [argument.value for argument in found.arguments] == ["'$A'", "$A", "one"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("USER ${A", "} is missing"),
        ("USER ${X?name it}", "X: name it"),
        ("ENV a='b", "single quote"),
        ("VOLUME $X", "VOLUME has an empty path"),
        ("EXPOSE $A", "'one' is not a port"),
        ("EXPOSE 80/xyz", "no known transport"),
        ("STOPSIGNAL SIGFOO", "'SIGFOO' is not a signal"),
        ("STOPSIGNAL 0", "'0' is not a signal"),
        ("STOPSIGNAL 65", "'65' is not a signal"),
        ("STOPSIGNAL $X", "'' is not a signal"),
        ("STOPSIGNAL RTMIN+16", "is not a signal"),
        ("COPY --chmod=888 a b", "mode cannot be '888'"),
        ("COPY --chmod=$A a b", "mode cannot be 'one'"),
        ("COPY https://x/y b", "cannot copy from a URL"),
        ("COPY git@x:y b", "cannot copy from a URL or a git"),
        ("ADD --checksum=sha256:12 https://x/y b", "--checksum cannot be"),
        ("ADD --checksum=sha256:{hex} a b", "is for one source"),
        ("ADD --checksum=sha256:{hex} https://x/y https://x/z b", "is for one source"),
        ("ADD --checksum=xyz https://x/y.git b", "--checksum cannot be 'xyz'"),
        ("ADD --checksum=abcd https://x/y.git?commit=ef01 b", "name two commits"),
        ("ADD https://x/y.git?z=1 b", "unknown member z"),
        ("RUN --mount=type=$A,target=/x a", "type cannot be 'one'"),
        ("RUN --mount=type=secret a", "no name"),
    ],
)
def test_expansion_is_checked(instruction: Parse, text: str, word: str) -> None:
    """A value that cannot be meant is refused with file and line."""
    with pytest.raises(SpecInvalid) as caught:
        expand(instruction(text.replace("{hex}", "a" * 64)), SCOPE)
    assert caught.value.what.startswith("Dockerfile:2: ")
    assert word in caught.value.what


@pytest.mark.parametrize(
    "text",
    ["SIGTERM", "TERM", "sigterm", "15", "1", "64", "SIGRTMIN+3", "RTMAX-14", "RTMIN", "SIGPOLL", "SIGCLD"],
)
def test_stop_signal_has_many_spellings(instruction: Parse, text: str) -> None:
    """A signal is kept as written, by number or by name."""
    found = expand(instruction(f"STOPSIGNAL {text}"), SCOPE)
    assert isinstance(found, nouns.StopSignal)
    assert found.signal == text


@pytest.mark.parametrize(
    "text",
    [
        "ADD --checksum=sha256:" + "a" * 64 + " https://x/y b",
        "ADD --checksum=abcd1234 https://x/y.git b",
        "ADD --checksum=abcd https://x/y.git?commit=abcd b",
        "COPY --chmod=u=rwX,go=rX a b",
    ],
)
def test_expansion_takes_what_is_right(instruction: Parse, text: str) -> None:
    """A digest for a URL, a commit for a repository and a symbolic mode are taken."""
    found = instruction(text)
    assert expand(found, SCOPE) == found


@pytest.mark.parametrize(
    ("text", "constant"),
    [
        ("USER a", True),
        ("USER $a", False),
        ("RUN $a", True),
        ("RUN --mount=target=/$a x", False),
        ("COPY <<E /x\n$a\nE", False),
        ("COPY <<'E' /x\n$a\nE", True),
        ("COPY <<E /x\na\nE", True),
        ("COPY $a /x", False),
        ("ARG a=1", False),
        ("EXPOSE 80", True),
    ],
)
def test_instruction_may_be_the_same_in_every_scope(instruction: Parse, text: str, constant: bool) -> None:
    """An instruction without variables can be checked before anything is built."""
    assert is_constant(instruction(text)) is constant


def test_expansion_leaves_the_parsed_instruction(instruction: Parse) -> None:
    """An instruction is a value: expanding it twice begins from the same text."""
    found = instruction("USER $A")
    assert expand(found, SCOPE) == expand(found, SCOPE)
    assert isinstance(found, nouns.User)
    assert found.user == "$A"
