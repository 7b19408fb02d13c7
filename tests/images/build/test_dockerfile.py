"""A whole file: stages, global arguments, notices, and triggers read on their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.dockerfile import Dockerfile, parse, parse_trigger
from pytest_containers.images.build.instruction import Copy, Run
from pytest_containers.images.build.source import Location

AT = Location(name="Dockerfile", first=7, last=7)


def test_dockerfile_is_cut_into_stages(dockerfile: Callable[..., Dockerfile]) -> None:
    """Each FROM begins a stage; what stands before the first one are global arguments."""
    found = dockerfile("ARG A=1", "ARG B", "FROM a AS x", "RUN 1", "RUN 2", "FROM b", "FROM c", "ARG A")
    assert [argument.text for argument in found.arguments] == ["ARG A=1", "ARG B"]
    assert [stage.begin.base for stage in found.stages] == ["a", "b", "c"]
    assert [len(stage.instructions) for stage in found.stages] == [2, 0, 1]
    assert [stage.number for stage in found.stages] == [0, 1, 2]


def test_dockerfile_keeps_its_directives() -> None:
    """The escape character, the frontend and the lint options go with the file."""
    found = parse(b"# syntax=s\n# escape=`\n# check=skip=all\nFROM a", name="D")
    assert (found.name, found.syntax, found.escape, found.check) == ("D", "s", "`", "skip=all")


@pytest.mark.parametrize(
    ("content", "where", "word"),
    [
        (b"RUN a\nFROM b", "D:1: ", "RUN stands before the first FROM"),
        (b"ARG a\nENV a=b\nFROM b", "D:2: ", "ENV stands before the first FROM"),
        (b"ARG a\n", "D:1: ", "no stage to build"),
        (b"FROM a\n\nFRM b", "D:3: ", "unknown instruction FRM"),
        (b"FROM a\nRUN x \\\n y\nCOPY z", "D:4: ", "needs a source"),
        (b"", "D:1: ", "no instructions"),
    ],
)
def test_dockerfile_errors_name_file_and_line(content: bytes, where: str, word: str) -> None:
    """The first sentence of an error begins with the file and the line."""
    with pytest.raises(SpecInvalid) as caught:
        parse(content, name="D")
    assert caught.value.what.startswith(where)
    assert word in caught.value.what


@pytest.mark.parametrize(
    ("lines", "rules"),
    [
        (["FROM a", "MAINTAINER me"], ["MaintainerDeprecated"]),
        (["FROM a", "ENV a b"], ["LegacyKeyValueFormat"]),
        (["FROM a", "LABEL a b"], ["LegacyKeyValueFormat"]),
        (["FROM a", "ENV a=b"], []),
        (["FROM a AS scratch"], ["ReservedStageName"]),
        (["FROM a AS context"], ["ReservedStageName"]),
        (["FROM a AS host"], ["ReservedStageName"]),
        (["FROM a AS x", "FROM b AS y", "FROM c AS X"], ["DuplicateStageName"]),
        (["FROM a", "FROM b"], []),
        (["FROM a", "RUN a \\", "", " b"], ["NoEmptyContinuation"]),
        (["FROM a", "ONBUILD RUN a"], []),
        (["FROM a", "ONBUILD RNU a"], ["InvalidTrigger"]),
        (["FROM a", "ONBUILD COPY a"], ["InvalidTrigger"]),
    ],
)
def test_dockerfile_notices_what_is_better_written(
    dockerfile: Callable[..., Dockerfile], lines: list[str], rules: list[str]
) -> None:
    """What is legal and discouraged is noticed by the name of its rule."""
    assert [notice.rule for notice in dockerfile(*lines).notices] == rules


def test_trigger_stands_where_it_runs() -> None:
    """A trigger's instruction is located at the FROM that runs it, and its heredocs come with it."""
    found = parse_trigger("COPY <<E /x\na\nE", AT)
    assert isinstance(found, Copy)
    assert found.location == AT
    assert found.contents[0].content == "a\n"
    assert isinstance(parse_trigger("run x", AT), Run)


@pytest.mark.parametrize(
    ("trigger", "word"),
    [
        ("FROM a", "cannot be FROM or ONBUILD"),
        ("ONBUILD RUN a", "cannot be FROM or ONBUILD"),
        ("RUN a\nRUN b", "not one instruction"),
        ("", "no instructions"),
        ("# nothing", "no instructions"),
        ("RNU a", "unknown instruction RNU"),
        ("RUN <<E\na", "does not end"),
        ("RUN \ud800", "not UTF-8"),
    ],
)
def test_trigger_is_one_instruction(trigger: str, word: str) -> None:
    """A trigger that is none, several or a FROM is refused where it would run."""
    with pytest.raises(SpecInvalid) as caught:
        parse_trigger(trigger, AT)
    assert caught.value.what.startswith("Dockerfile:7: ")
    assert word in caught.value.what
