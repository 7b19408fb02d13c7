"""Each instruction's forms and flags, and what each refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import instruction as nouns
from pytest_containers.images.build.instruction import Argument, CommandLine, Device, InlineFile, Instruction

Parse = Callable[[str], Instruction]


@pytest.mark.parametrize(
    ("text", "sources", "target"),
    [
        ("COPY a b", ("a",), "b"),
        ("COPY a b c/", ("a", "b"), "c/"),
        ("copy\ta\t b", ("a",), "b"),
        ('COPY ["a b", "c d"]', ("a b",), "c d"),
        ('COPY ["a"] b', ('["a"]',), "b"),
        ("COPY a* $b", ("a*",), "$b"),
        ('COPY "a b" c', ('"a', 'b"'), "c"),
        ('COPY ["<<E", "/x"]', ("<<E",), "/x"),
        ("ADD a b", ("a",), "b"),
        ("ADD https://x/y /z", ("https://x/y",), "/z"),
        ('ADD ["a","b","c"]', ("a", "b"), "c"),
    ],
)
def test_transfer_has_sources_and_a_target(
    instruction: Parse, text: str, sources: tuple[str, ...], target: str
) -> None:
    """The last word is the target; words are cut at blanks, or are those of a JSON array."""
    found = instruction(text)
    assert isinstance(found, nouns.Transfer)
    assert (found.sources, found.target) == (sources, target)


def test_copy_takes_its_flags(instruction: Parse) -> None:
    """Every flag of COPY has its field."""
    found = instruction("COPY --from=x --chown=1:2 --chmod=u+x --link --parents --exclude=a --exclude=b s t")
    assert isinstance(found, nouns.Copy)
    assert (found.origin, found.owner, found.mode) == ("x", "1:2", "u+x")
    assert (found.link, found.parents, found.exclude) == (True, True, ("a", "b"))


def test_copy_has_defaults(instruction: Parse) -> None:
    """A COPY without flags takes from the context, as it is."""
    found = instruction("COPY s t")
    assert isinstance(found, nouns.Copy)
    assert (found.origin, found.owner, found.mode) == ("", "", "")
    assert (found.link, found.parents, found.exclude, found.contents) == (False, False, (), ())


def test_add_takes_its_flags(instruction: Parse) -> None:
    """Every flag of ADD has its field."""
    found = instruction(
        "ADD --chown=a --chmod=7 --link=false --keep-git-dir --checksum=c --unpack=false --exclude=e s t"
    )
    assert isinstance(found, nouns.Add)
    assert (found.owner, found.mode, found.link, found.checksum) == ("a", "7", False, "c")
    assert (found.keep_git_dir, found.unpack, found.exclude) == (True, False, ("e",))


def test_add_knows_what_was_not_said(instruction: Parse) -> None:
    """Whether to unpack and to keep the repository's folder may be left open."""
    found = instruction("ADD s t")
    assert isinstance(found, nouns.Add)
    assert (found.keep_git_dir, found.unpack) == (None, None)


@pytest.mark.parametrize(
    ("text", "contents", "sources"),
    [
        ("COPY <<E /x\na\nE", [InlineFile(name="E", content="a\n")], ()),
        ("COPY <<'E' /x\na\nE", [InlineFile(name="E", content="a\n", expand=False)], ()),
        ("COPY <<-E /x\n\ta\n\tE", [InlineFile(name="E", content="a\n")], ()),
        (
            "COPY <<a.txt b <<c /x/\n1\na.txt\n2\nc",
            [InlineFile(name="a.txt", content="1\n"), InlineFile(name="c", content="2\n")],
            ("b",),
        ),
        ("ADD <</abs /x\n1\n/abs", [InlineFile(name="abs", content="1\n")], ()),
    ],
)
def test_transfer_writes_heredocs(
    instruction: Parse, text: str, contents: list[InlineFile], sources: tuple[str, ...]
) -> None:
    """A heredoc among the sources is a file of that name with the lines as its content."""
    found = instruction(text)
    assert isinstance(found, nouns.Transfer)
    assert list(found.contents) == contents
    assert found.sources == sources


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("COPY", "needs a source and a target"),
        ("COPY a", "needs a source and a target"),
        ('COPY ["a"]', "needs a source and a target"),
        ("COPY --from=x a", "needs a source and a target"),
        ("ADD a", "ADD needs a source and a target"),
        ("COPY [1, 2]", "not a string"),
        ("COPY a <<E\nE", "heredoc as its target"),
        ("COPY << E /x\nE", "blank behind <<"),
        ("COPY <<E it's /x", "has no body"),
        ("COPY <<E /x <<E'", "has no body"),
        ("COPY <<a/b /x\na/b", "cannot write a file named a/b"),
        ("COPY <<.. /x\n..", "cannot write a file named .."),
        ("COPY --from=$x a b", "--from cannot have a variable"),
        ("COPY --from=a${x:-b} a b", "--from cannot have a variable"),
        ("COPY --checksum=x a b", "unknown flag --checksum"),
        ("COPY --unpack a b", "unknown flag --unpack"),
        ("ADD --from=x a b", "unknown flag --from"),
        ("ADD --parents a b", "unknown flag --parents"),
        ("ADD --unpack=2 a b", "--unpack cannot be '2'"),
    ],
)
def test_transfer_refuses_wrong_forms(instruction: Parse, text: str, word: str) -> None:
    """Missing paths, heredocs in the wrong place, variables in --from and strange flags are refused."""
    refused(instruction, text, word)


def refused(parse: Parse, text: str, word: str) -> SpecInvalid:
    """Return the error of *text*, which names the second line and has *word*."""
    with pytest.raises(SpecInvalid) as caught:
        parse(text)
    assert caught.value.what.startswith("Dockerfile:2: ")
    assert word in caught.value.what
    return caught.value


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("ARG a", [Argument(name="a")]),
        ("ARG a=", [Argument(name="a", value="")]),
        ("ARG a=b", [Argument(name="a", value="b")]),
        (
            'ARG a="b c" d e=$a',
            [Argument(name="a", value='"b c"'), Argument(name="d"), Argument(name="e", value="$a")],
        ),
        ("ARG a=b\\ c", [Argument(name="a", value="b\\ c")]),
        ("ARG a=b=c", [Argument(name="a", value="b=c")]),
    ],
)
def test_arg_declares_several(instruction: Parse, text: str, arguments: list[Argument]) -> None:
    """ARG takes names with and without defaults, as many as stand there."""
    found = instruction(text)
    assert isinstance(found, nouns.Arg)
    assert list(found.arguments) == arguments


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("ENV a=b", [("a", "b")]),
        ("ENV a=b c=d", [("a", "b"), ("c", "d")]),
        ("ENV a=", [("a", "")]),
        ('ENV a="b c" d', None),
        ('ENV a="b c"', [("a", '"b c"')]),
        ("ENV a='b c' d=e", [("a", "'b c'"), ("d", "e")]),
        ("ENV a=b\\ c d=e", [("a", "b\\ c"), ("d", "e")]),
        ("ENV a b", [("a", "b")]),
        ("ENV a b c  d", [("a", "b c  d")]),
        ("ENV a\tb=c", [("a", "b=c")]),
        ('ENV a "b"', [("a", '"b"')]),
        ("ENV a=b=c", [("a", "b=c")]),
        ("ENV a=b\\", [("a", "b")]),
        ('ENV "a b"=c', [('"a b"', "c")]),
        ("ENV a='x\\'y b=c", [("a", "'x\\'y"), ("b", "c")]),
        ("LABEL a=b c.d=e", [("a", "b"), ("c.d", "e")]),
        ("LABEL a b c", [("a", "b c")]),
        ('LABEL "a b"="c"', [('"a b"', '"c"')]),
    ],
)
def test_pairs_have_two_forms(instruction: Parse, text: str, pairs: list[tuple[str, str]] | None) -> None:
    """ENV and LABEL are name=value words, or one name and the rest of the line."""
    if pairs is None:
        refused(instruction, text, "a word without =")
        return
    found = instruction(text)
    assert isinstance(found, nouns.Env | nouns.Label)
    assert list(found.pairs) == pairs


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("ENV", "ENV names nothing"),
        ("ENV a", "ENV gives a no value"),
        ("ENV a=b c", "a word without =: c"),
        ("ENV =b", "without a name"),
        ("ENV --x a=b", "unknown flag --x"),
        ("LABEL", "LABEL names nothing"),
        ("LABEL a", "LABEL gives a no value"),
        ("ARG", "ARG names nothing"),
        ("ARG =b", "ARG has no name"),
        ('ARG "a=b"', "ARG has no name"),
        ("ARG --x a", "unknown flag --x"),
    ],
)
def test_pairs_refuse_wrong_forms(instruction: Parse, text: str, word: str) -> None:
    """Names without values, values without names and flags are refused."""
    refused(instruction, text, word)


SHELL_FORM = CommandLine(words=("a b | c",), form="shell")
EXEC_FORM = CommandLine(words=("a", "b"), form="exec")


@pytest.mark.parametrize("keyword", ["RUN", "CMD", "ENTRYPOINT"])
@pytest.mark.parametrize(
    ("rest", "command"),
    [
        ("a b | c", SHELL_FORM),
        ('["a", "b"]', EXEC_FORM),
        ("['a', 'b']", CommandLine(words=("['a', 'b']",), form="shell")),
        ('["a", "b"] c', CommandLine(words=('["a", "b"] c',), form="shell")),
        ("[ -f x ]", CommandLine(words=("[ -f x ]",), form="shell")),
        ('["a]', CommandLine(words=('["a]',), form="shell")),
        ("", CommandLine(words=(), form="shell")),
    ],
)
def test_command_is_a_shells_unless_valid_json(
    instruction: Parse, keyword: str, rest: str, command: CommandLine
) -> None:
    """A valid JSON array is the exec form; invalid JSON silently is the shell form."""
    found = instruction(f"{keyword} {rest}")
    assert isinstance(found, nouns.Run | nouns.Cmd | nouns.Entrypoint)
    assert found.command == command


@pytest.mark.parametrize("keyword", ["CMD", "ENTRYPOINT"])
def test_command_may_be_empty(instruction: Parse, keyword: str) -> None:
    """An empty array clears what is inherited."""
    found = instruction(f"{keyword} []")
    assert isinstance(found, nouns.Cmd | nouns.Entrypoint)
    assert found.command == CommandLine(words=(), form="exec")


@pytest.mark.parametrize(
    ("command", "shell", "argv"),
    [
        (SHELL_FORM, (), ("/bin/sh", "-c", "a b | c")),
        (SHELL_FORM, ("/bin/bash", "-ec"), ("/bin/bash", "-ec", "a b | c")),
        (CommandLine(words=(), form="shell"), (), ("/bin/sh", "-c", "")),
        (EXEC_FORM, ("/bin/bash", "-ec"), ("a", "b")),
    ],
)
def test_command_gets_the_shell_in_front(
    command: CommandLine, shell: tuple[str, ...], argv: tuple[str, ...]
) -> None:
    """The shell form is given to the image's shell, or the default one, as one argument."""
    assert command.argv(shell) == argv


def test_run_takes_its_flags(instruction: Parse) -> None:
    """Every flag of RUN has its field; mounts wait for expansion."""
    found = instruction(
        "RUN --mount=type=cache,target=/x --mount=from=s,target=/y --network=none --security=insecure"
        " --device=vendor.com/dev=all,required make"
    )
    assert isinstance(found, nouns.Run)
    assert [flag.origin for flag in found.flags] == ["", "s"]
    assert (found.mounts, found.network, found.security) == ((), "none", "insecure")
    assert found.devices == (Device(name="vendor.com/dev=all", required=True),)
    assert found.command == CommandLine(words=("make",), form="shell")


def test_run_has_defaults(instruction: Parse) -> None:
    """A RUN without flags has the network and the sandbox."""
    found = instruction("RUN x")
    assert isinstance(found, nouns.Run)
    assert (found.network, found.security, found.devices, found.flags) == ("default", "sandbox", (), ())


@pytest.mark.parametrize(
    ("value", "device"),
    [
        ("a", Device(name="a")),
        ("name=a", Device(name="a")),
        ("a,required", Device(name="a", required=True)),
        ("required=true,name=a", Device(name="a", required=True)),
        ("a,required=false", Device(name="a")),
        ("vendor.com/class=x", Device(name="vendor.com/class=x")),
    ],
)
def test_device_is_named(instruction: Parse, value: str, device: Device) -> None:
    """A device is its name, and whether the build fails without it."""
    found = instruction(f"RUN --device={value} x")
    assert isinstance(found, nouns.Run)
    assert found.devices == (device,)


@pytest.mark.parametrize(
    ("text", "word", "mend"),
    [
        ("RUN []", "RUN has no command", "array"),
        ("RUN [1]", "not a string", "quotes"),
        ("RUN --network=hst x", "--network cannot be 'hst'", "did you mean host?"),
        ("RUN --network= x", "--network cannot be ''", "default, none, host"),
        ("RUN --security=x y", "--security cannot be 'x'", "sandbox, insecure"),
        ("RUN --network=none --network=none x", "given twice", ""),
        ("RUN --mout=type=bind x", "unknown flag --mout", "did you mean --mount?"),
        ("RUN --mount=from=$x,target=/y z", "from cannot have a variable", "FROM"),
        ('RUN --mount=\\"a x', "quoted field", ""),
        ("RUN --device=a,b x", "unknown device option 'b'", "name and required"),
        ("RUN --device=a,required=x y", "required cannot be 'x'", ""),
    ],
)
def test_run_refuses_wrong_forms(instruction: Parse, text: str, word: str, mend: str) -> None:
    """Wrong flags and empty commands are refused with a mend."""
    assert mend in refused(instruction, text, word).mend


@pytest.mark.parametrize(
    ("text", "shell", "argv", "script"),
    [
        ("RUN <<E\na\nb\nE", (), ("/bin/sh", "-c", "a\nb\n"), ""),
        ("RUN <<E\na\nE", ("/bin/bash", "-c"), ("/bin/bash", "-c", "a\n"), ""),
        ("RUN <<-E\n\ta\n\tE", (), ("/bin/sh", "-c", "a\n"), ""),
        ("RUN 3<<'E'\n$a\nE", (), ("/bin/sh", "-c", "$a\n"), ""),
        ("RUN <<E\n#!/bin/x\na\nE", (), ("/dev/pipes/E",), "#!/bin/x\na\n"),
        ("RUN <<-E\n\t#!/bin/x\n\ta\nE", (), ("/dev/pipes/E",), "#!/bin/x\na\n"),
        ("RUN <<E cat\na\nE", (), ("/bin/sh", "-c", "<<E cat\na\nE"), ""),
        ("RUN cat <<-E > x\n\ta\nE", (), ("/bin/sh", "-c", "cat <<-E > x\n\ta\nE"), ""),
        ("RUN <<A <<B\n1\nA\n2\nB", (), ("/bin/sh", "-c", "<<A <<B\n1\nA\n2\nB"), ""),
        ("RUN --network=none <<E\na\nE", (), ("/bin/sh", "-c", "a\n"), ""),
        ("RUN a", (), ("/bin/sh", "-c", "a"), ""),
        ('RUN ["a"]', ("/bin/bash", "-c"), ("a",), ""),
    ],
)
def test_run_executes_its_heredocs(
    instruction: Parse, text: str, shell: tuple[str, ...], argv: tuple[str, ...], script: str
) -> None:
    """One heredoc alone is a script or a program; otherwise the shell gets the line and the bodies."""
    found = instruction(text)
    assert isinstance(found, nouns.Run)
    execution = found.execution(shell)
    assert (execution.argv, execution.script) == (argv, script)
    assert execution.script_path == (argv[0] if script else "")


def test_run_script_stays_in_its_folder(instruction: Parse) -> None:
    """The word of a heredoc names a program's file, so it is no path."""
    found = instruction("RUN <<../x\n#!/bin/sh\n../x")
    assert isinstance(found, nouns.Run)
    with pytest.raises(SpecInvalid, match="cannot be named"):
        found.execution(())


@pytest.mark.parametrize(
    ("text", "base", "name", "platform"),
    [
        ("FROM a", "a", "", ""),
        ("FROM a AS b", "a", "b", ""),
        ("from a as B.c-d_1", "a", "b.c-d_1", ""),
        ("FROM --platform=$BUILDPLATFORM a:1", "a:1", "", "$BUILDPLATFORM"),
        ("FROM a@sha256:x", "a@sha256:x", "", ""),
        ("FROM ${A:-b}", "${A:-b}", "", ""),
    ],
)
def test_from_names_image_and_stage(
    instruction: Parse, text: str, base: str, name: str, platform: str
) -> None:
    """FROM takes an image, a name for the stage, which is in lower case, and a platform."""
    found = instruction(text)
    assert isinstance(found, nouns.From)
    assert (found.base, found.name, found.platform) == (base, name, platform)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("FROM", "one argument or three"),
        ("FROM a b", "one argument or three"),
        ("FROM a b c", "one argument or three"),
        ("FROM a AS", "one argument or three"),
        ("FROM a AS b c", "one argument or three"),
        ("FROM a AS 1", "cannot be named 1"),
        ("FROM a AS b/c", "cannot be named b/c"),
        ("FROM a AS _b", "cannot be named _b"),
        ("FROM --platfrm=x a", "unknown flag --platfrm"),
        ("FROM --platform a", "--platform has no value"),
    ],
)
def test_from_refuses_wrong_forms(instruction: Parse, text: str, word: str) -> None:
    """Other numbers of arguments, and names that could be numbers or paths, are refused."""
    refused(instruction, text, word)
