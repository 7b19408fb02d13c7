"""A Dockerfile, parsed: the global arguments and the stages with their instructions.

`parse` is the way in. It reads all of the file, expands nothing and knows no image; `stages.plan`
goes on from there. Grammar: https://docs.docker.com/reference/dockerfile/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import pairs, source
from pytest_containers.images.build.flags import Command
from pytest_containers.images.build.grammar import read_instruction
from pytest_containers.images.build.instruction import Arg, Env, From, Instruction, Label, Maintainer, Onbuild
from pytest_containers.images.build.source import Location, LogicalLine, Notice

__all__ = ["Dockerfile", "Stage", "parse", "parse_trigger"]

_RESERVED: Final = frozenset({"scratch", "context", "host"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A FROM and what follows it, as written. *number* counts the file's stages from 0."""

    number: int
    begin: From
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """A whole file. *arguments* are the ARGs before the first FROM, *syntax* the frontend it asks for.

    *check* is the text of its ``# check=`` directive. *notices* are what is legal and better written
    otherwise.
    """

    name: str
    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    escape: str = "\\"
    syntax: str = ""
    check: str = ""
    notices: tuple[Notice, ...] = ()


def parse(text: bytes, *, name: str = "Dockerfile") -> Dockerfile:
    """Return the Dockerfile of *text*; *name* stands in messages.

    Raises SpecInvalid, and nothing else, for what is no Dockerfile: its first sentence begins
    with ``NAME:LINE:``.
    """
    lines = source.read(text, name)
    instructions = [read_instruction(line, lines.escape) for line in lines.lines]
    arguments: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    for instruction in instructions:
        if isinstance(instruction, From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            arguments.append(instruction)
        else:
            raise SpecInvalid(
                f"{instruction.location}: {instruction.keyword} stands before the first FROM",
                mend="begin with FROM; ARG alone may stand before it",
            )
    if not stages:
        raise SpecInvalid(
            f"{instructions[-1].location}: there is no stage to build", mend="write FROM and an image"
        )
    found = [notice for item in instructions for notice in _notices(item, lines.escape)]
    return Dockerfile(
        name=name,
        arguments=tuple(arguments),
        stages=tuple(
            Stage(number=number, begin=begin, instructions=tuple(body))
            for number, (begin, body) in enumerate(stages)
        ),
        escape=lines.escape,
        syntax=lines.syntax,
        check=lines.check,
        notices=(*lines.notices, *found, *_repeated_names([begin for begin, _ in stages])),
    )


def parse_trigger(trigger: str, location: Location) -> Instruction:
    """Return the instruction of an ONBUILD trigger, as if it stood at *location*: its stage's FROM.

    Raises SpecInvalid where it is not one instruction, or one that cannot be triggered.
    """
    with source.located(location):
        lines = source.read(trigger.encode("utf-8", "surrogatepass"), "ONBUILD").lines
        if len(lines) != 1:
            raise SpecInvalid("an ONBUILD trigger is not one instruction", seen=trigger)
        line = LogicalLine(location=lines[0].location, text=lines[0].text, heredocs=lines[0].heredocs)
        if Command.split(line.text).keyword in {"FROM", "ONBUILD"}:
            raise SpecInvalid("an ONBUILD trigger cannot be FROM or ONBUILD", seen=trigger)
    relocated = LogicalLine(location=location, text=line.text, heredocs=line.heredocs)
    return read_instruction(relocated, "\\")


def _notices(instruction: Instruction, escape: str) -> Iterator[Notice]:
    at = instruction.location
    if isinstance(instruction, Maintainer):
        text = "MAINTAINER is deprecated: write LABEL org.opencontainers.image.authors=..."
        yield Notice(rule="MaintainerDeprecated", location=at, text=text)
    elif isinstance(instruction, Env | Label):
        if pairs.is_legacy(Command.split(instruction.text).rest, escape):
            text = f"write {instruction.keyword} NAME=VALUE, with the ="
            yield Notice(rule="LegacyKeyValueFormat", location=at, text=text)
    elif isinstance(instruction, From) and instruction.name in _RESERVED:
        text = f"a stage named {instruction.name} hides what that name means"
        yield Notice(rule="ReservedStageName", location=at, text=text)
    elif isinstance(instruction, Onbuild):
        try:
            parse_trigger(instruction.trigger, at)
        except SpecInvalid as error:
            text = f"the trigger will fail: {error.what.removeprefix(f'{at}: ')}"
            yield Notice(rule="InvalidTrigger", location=at, text=text)


def _repeated_names(begins: Sequence[From]) -> Iterator[Notice]:
    seen: set[str] = set()
    for begin in begins:
        if begin.name and begin.name in seen:
            text = f"another stage is named {begin.name}: COPY --from sees the last one"
            yield Notice(rule="DuplicateStageName", location=begin.location, text=text)
        seen.add(begin.name)
