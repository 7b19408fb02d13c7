"""Instructions with their variables replaced, by the rules each of them has.

Which instructions expand what: https://docs.docker.com/reference/dockerfile/#environment-replacement.
The text of RUN, CMD and ENTRYPOINT is the shell's and is left alone.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pytest_containers.errors import ReferenceInvalid, SpecInvalid
from pytest_containers.images.build.instruction import (
    Add,
    Arg,
    Argument,
    Copy,
    Env,
    Expose,
    Instruction,
    Label,
    Run,
    StopSignal,
    Transfer,
    User,
    Volume,
    Workdir,
)
from pytest_containers.images.build.mode import Mode
from pytest_containers.images.build.ports import read_ports
from pytest_containers.images.build.remote import GitSource, HttpSource, read_remote
from pytest_containers.images.build.source import located
from pytest_containers.images.build.variables import Scope
from pytest_containers.images.build.words import Rules
from pytest_containers.images.build.words import expand as expand_words
from pytest_containers.images.digest import Digest

__all__ = ["expand", "is_constant"]

# In a heredoc's body quotes are its own and a backslash keeps a $, whatever the escape directive says.
_BODY: Final = Rules(quotes=False)
_REAL_TIME: Final = re.compile(r"RTMIN(?:\+(?:[1-9]|1[0-5]))?|RTMAX(?:-(?:[1-9]|1[0-4]))?")
_LAST_SIGNAL: Final = 64
_COMMIT: Final = re.compile(r"[0-9a-f]{4,64}")

_Expand = Callable[[str], str]


def expand(instruction: Instruction, scope: Scope) -> Instruction:
    """Return *instruction* as *scope* makes it; the values are then checked, too.

    An instruction sees the scope from before it: ``ENV a=1 b=$a`` sets b to what a was. Only
    the arguments of one ARG see each other. A RUN gets its *mounts*, an ARG its values, an
    EXPOSE its ports. Raises SpecInvalid, with file and line.
    """
    with located(instruction.location):

        def one(text: str) -> str:
            return expand_words(text, scope.variables, Rules(escape=scope.escape)).text

        match instruction:
            case Add() | Copy():
                return _transfer(instruction, one, scope)
            case Arg():
                return _arg(instruction, scope)
            case Env() | Label():
                pairs = tuple((one(name), one(value)) for name, value in instruction.pairs)
                return replace(instruction, pairs=pairs)
            case Expose():
                return _expose(instruction, scope)
            case Run():
                return replace(instruction, mounts=tuple(flag.mount(one) for flag in instruction.flags))
            case StopSignal():
                return replace(instruction, signal=_signal(one(instruction.signal)))
            case User():
                return replace(instruction, user=one(instruction.user))
            case Volume():
                return replace(instruction, paths=tuple(_path(one(path)) for path in instruction.paths))
            case Workdir():
                return replace(instruction, path=one(instruction.path))
            case _:
                return instruction


def is_constant(instruction: Instruction) -> bool:
    """Return whether *instruction* expands to the same in every scope."""
    match instruction:
        case Run():
            return not any("$" in flag.text for flag in instruction.flags)
        case Add() | Copy():
            bodies = (doc.content for doc in instruction.contents if doc.expand)
            return "$" not in instruction.text and not any("$" in body for body in bodies)
        case Arg():
            return False
        case _:
            return "$" not in instruction.text


def _transfer(instruction: Transfer, one: _Expand, scope: Scope) -> Transfer:
    contents = tuple(
        replace(doc, content=expand_words(doc.content, scope.variables, _BODY).text) if doc.expand else doc
        for doc in instruction.contents
    )
    expanded = replace(
        instruction,
        sources=tuple(one(path) for path in instruction.sources),
        contents=contents,
        target=one(instruction.target),
        owner=one(instruction.owner),
        mode=one(instruction.mode),
    )
    if expanded.mode:
        Mode.parse(expanded.mode)
    remotes = [remote for path in expanded.sources if (remote := read_remote(path)) is not None]
    if not isinstance(expanded, Add):
        if remotes:
            raise SpecInvalid("COPY cannot copy from a URL or a git repository", mend="write ADD")
        return expanded
    expanded = replace(expanded, checksum=one(expanded.checksum))
    _check_checksum(expanded, remotes)
    return expanded


def _check_checksum(add: Add, remotes: list[HttpSource | GitSource]) -> None:
    if not add.checksum:
        return
    if len(add.sources) != 1 or not remotes:
        raise SpecInvalid("--checksum is for one source that is a URL or a git repository")
    if isinstance(remotes[0], GitSource):
        if not _COMMIT.fullmatch(add.checksum):
            raise SpecInvalid(
                f"--checksum cannot be {add.checksum!r}", mend="for git it is the start of a commit's name"
            )
        if remotes[0].checksum not in {"", add.checksum}:
            raise SpecInvalid("--checksum and the source name two commits", seen=remotes[0].checksum)
        return
    try:
        Digest.parse(add.checksum)
    except ReferenceInvalid as error:
        raise SpecInvalid(f"--checksum cannot be {add.checksum!r}", mend="write sha256:HEX") from error


def _arg(instruction: Arg, scope: Scope) -> Arg:
    variables = dict(scope.variables)
    arguments: list[Argument] = []
    for argument in instruction.arguments:
        value = scope.value_of(argument, variables)
        if value is not None:
            variables[argument.name] = value
        arguments.append(Argument(name=argument.name, value=value))
    return replace(instruction, arguments=tuple(arguments))


def _expose(instruction: Expose, scope: Scope) -> Expose:
    rules = Rules(escape=scope.escape)
    words = [word for port in instruction.ports for word in expand_words(port, scope.variables, rules).words]
    ports = dict.fromkeys(port for word in words for port in read_ports(word))
    return replace(instruction, ports=tuple(ports))


def _path(path: str) -> str:
    if not path:
        raise SpecInvalid("VOLUME has an empty path", mend="a variable in it is not set")
    return path


def _signal(text: str) -> str:
    """Return *text* where it is a signal's number or name (signal(7)), with or without SIG."""
    name = text.upper().removeprefix("SIG")
    known = f"SIG{name}" in signal.Signals.__members__ or _REAL_TIME.fullmatch(name)
    number = text.isascii() and text.isdecimal() and len(text) < 4 and 0 < int(text) <= _LAST_SIGNAL
    if not known and not number:
        raise SpecInvalid(f"{text!r} is not a signal", mend="write SIGTERM, TERM or 15")
    return text
