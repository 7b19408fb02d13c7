"""From a logical line to its instruction: which forms each keyword has.

Forms: https://docs.docker.com/reference/dockerfile/. Where that is silent the instructions
package of https://github.com/moby/buildkit says what is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import instruction as nouns
from pytest_containers.images.build import pairs, transfer
from pytest_containers.images.build.flags import Command, Flags
from pytest_containers.images.build.heredoc import Heredoc
from pytest_containers.images.build.instruction import CommandLine, Instruction
from pytest_containers.images.build.mount import MountFlag
from pytest_containers.images.build.source import Location, LogicalLine, located
from pytest_containers.images.build.values import (
    SPACES,
    boolean,
    csv_fields,
    duration_s,
    json_words,
    nearest,
    split_blanks,
)

__all__ = ["read_instruction"]

_STAGE_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]*")
_ONBUILD: Final = re.compile(r"\s*ONBUILD\s*", re.IGNORECASE)
_NETWORKS: Final = ("default", "none", "host")
_SECURITIES: Final = ("sandbox", "insecure")
_SHORTEST_S: Final = 0.001
_ARRAYS: Final = frozenset("ADD COPY CMD ENTRYPOINT RUN SHELL VOLUME".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clause:
    """A logical line in its parts."""

    location: Location
    text: str
    keyword: str
    flags: tuple[str, ...]
    rest: str
    heredocs: tuple[Heredoc, ...]
    escape: str

    def one(self) -> str:
        """Return the rest of the line as the one argument there must be."""
        if not self.rest:
            raise SpecInvalid(f"{self.keyword} needs an argument")
        Flags.read(self.flags)
        return self.rest

    def command(self) -> CommandLine:
        """Return the rest of the line in exec form, where it is a JSON array, or else in shell form."""
        words = json_words(self.rest)
        if words is not None:
            return CommandLine(words=words, form="exec")
        return CommandLine(words=(self.rest,) if self.rest else (), form="shell")


def read_instruction(line: LogicalLine, escape: str) -> Instruction:
    """Return the instruction of *line*; *escape* is the file's escape character.

    Raises SpecInvalid, with file and line, for an unknown instruction or flag and for arguments
    that the instruction does not take.
    """
    command = Command.split(line.text)
    with located(line.location):
        reader = _READERS.get(command.keyword)
        if reader is None:
            mend = nearest(command.keyword, _READERS) or "an instruction begins with FROM, RUN, COPY ..."
            raise SpecInvalid(f"unknown instruction {command.keyword[:40]}", mend=mend)
        return reader(
            _Clause(
                location=line.location,
                text=line.text.strip(SPACES),
                keyword=command.keyword,
                flags=command.flags,
                rest=command.rest,
                heredocs=line.heredocs,
                escape=escape,
            )
        )


def _add(clause: _Clause) -> nouns.Add:
    flags = Flags.read(
        clause.flags,
        switches=("link", "keep-git-dir", "unpack"),
        texts=("chown", "chmod", "checksum"),
        lists=("exclude",),
    )
    paths = transfer.read_paths(clause.rest, clause.keyword, clause.heredocs)
    return nouns.Add(
        location=clause.location,
        text=clause.text,
        sources=paths.sources,
        contents=paths.contents,
        target=paths.target,
        owner=flags.text("chown"),
        mode=flags.text("chmod"),
        link=flags.switch("link"),
        exclude=flags.list("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.switches.get("keep-git-dir"),
        unpack=flags.switches.get("unpack"),
    )


def _copy(clause: _Clause) -> nouns.Copy:
    flags = Flags.read(
        clause.flags, switches=("link", "parents"), texts=("chown", "chmod", "from"), lists=("exclude",)
    )
    paths = transfer.read_paths(clause.rest, clause.keyword, clause.heredocs)
    return nouns.Copy(
        location=clause.location,
        text=clause.text,
        sources=paths.sources,
        contents=paths.contents,
        target=paths.target,
        owner=flags.text("chown"),
        mode=flags.text("chmod"),
        link=flags.switch("link"),
        exclude=flags.list("exclude"),
        origin=transfer.check_origin(flags.text("from")),
        parents=flags.switch("parents"),
    )


def _arg(clause: _Clause) -> nouns.Arg:
    Flags.read(clause.flags)
    arguments: list[nouns.Argument] = []
    for word in pairs.split_words(clause.rest, clause.escape):
        name, equals, value = word.partition("=")
        if not name or name[0] in "'\"":
            raise SpecInvalid(f"ARG has no name in {word}", mend="write ARG NAME, or ARG NAME=VALUE")
        arguments.append(nouns.Argument(name=name, value=value if equals else None))
    if not arguments:
        raise SpecInvalid("ARG names nothing", mend="write ARG NAME, or ARG NAME=VALUE")
    return nouns.Arg(location=clause.location, text=clause.text, arguments=tuple(arguments))


def _cmd(clause: _Clause) -> nouns.Cmd:
    Flags.read(clause.flags)
    return nouns.Cmd(location=clause.location, text=clause.text, command=clause.command())


def _entrypoint(clause: _Clause) -> nouns.Entrypoint:
    Flags.read(clause.flags)
    return nouns.Entrypoint(location=clause.location, text=clause.text, command=clause.command())


def _env(clause: _Clause) -> nouns.Env:
    Flags.read(clause.flags)
    found = pairs.read_pairs(clause.rest, clause.keyword, clause.escape)
    return nouns.Env(location=clause.location, text=clause.text, pairs=found)


def _label(clause: _Clause) -> nouns.Label:
    Flags.read(clause.flags)
    found = pairs.read_pairs(clause.rest, clause.keyword, clause.escape)
    return nouns.Label(location=clause.location, text=clause.text, pairs=found)


def _expose(clause: _Clause) -> nouns.Expose:
    Flags.read(clause.flags)
    words = split_blanks(clause.rest)
    if not words:
        raise SpecInvalid("EXPOSE names no port", mend="write EXPOSE 8000, or EXPOSE 53/udp")
    return nouns.Expose(location=clause.location, text=clause.text, ports=tuple(sorted(words)))


def _from(clause: _Clause) -> nouns.From:
    words = split_blanks(clause.rest)
    if len(words) != 1 and (len(words) != 3 or words[1].lower() != "as"):
        raise SpecInvalid(
            "FROM takes one argument or three",
            seen=clause.rest,
            mend="write FROM IMAGE, or FROM IMAGE AS NAME",
        )
    name = words[2].lower() if len(words) == 3 else ""
    if name and not _STAGE_NAME.fullmatch(name):
        raise SpecInvalid(
            f"a stage cannot be named {words[2]}",
            mend="begin with a letter; then letters, digits, - _ and . may follow",
        )
    flags = Flags.read(clause.flags, texts=("platform",))
    return nouns.From(
        location=clause.location,
        text=clause.text,
        base=words[0],
        name=name,
        platform=flags.text("platform"),
    )


def _healthcheck(clause: _Clause) -> nouns.Healthcheck:
    kind, command = _first_word(clause.rest)
    if kind.upper() == "NONE":
        if command:
            raise SpecInvalid("HEALTHCHECK NONE takes no arguments", seen=command)
        return nouns.Healthcheck(location=clause.location, text=clause.text, test=("NONE",))
    spans = ("interval", "timeout", "start-period", "start-interval")
    flags = Flags.read(clause.flags, texts=(*spans, "retries"))
    if kind.upper() != "CMD":
        raise SpecInvalid(
            f"HEALTHCHECK has no form {kind}".rstrip(), mend="write HEALTHCHECK CMD, or HEALTHCHECK NONE"
        )
    words = json_words(command)
    test = ("CMD", *words) if words is not None else ("CMD-SHELL", command)
    if not any(test[1:]):
        raise SpecInvalid("HEALTHCHECK CMD has no command")
    interval, timeout, start_period, start_interval = (_span(flags, name) for name in spans)
    return nouns.Healthcheck(
        location=clause.location,
        text=clause.text,
        test=test,
        interval_s=interval,
        timeout_s=timeout,
        start_period_s=start_period,
        start_interval_s=start_interval,
        retries=_retries(flags.text("retries")),
    )


def _first_word(text: str) -> tuple[str, str]:
    at = next((at for at, char in enumerate(text) if char in SPACES), len(text))
    return text[:at], text[at:].lstrip(SPACES)


def _span(flags: Flags, name: str) -> float:
    text = flags.text(name)
    span = duration_s(text, f"--{name}") if text else 0.0
    if span and span < _SHORTEST_S:
        raise SpecInvalid(f"--{name} cannot be {text}", mend="the shortest is 1ms; 0 is the default")
    return span


def _retries(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"\+?[0-9]{1,10}", text) or int(text) >= 1 << 31:
        raise SpecInvalid(f"--retries cannot be {text!r}", mend="write a number, 0 for the default")
    return int(text)


def _maintainer(clause: _Clause) -> nouns.Maintainer:
    return nouns.Maintainer(location=clause.location, text=clause.text, author=clause.one())


def _onbuild(clause: _Clause) -> nouns.Onbuild:
    trigger = Command.split(clause.one())
    if trigger.keyword == "ONBUILD":
        raise SpecInvalid("ONBUILD cannot trigger another ONBUILD")
    if trigger.keyword in {"FROM", "MAINTAINER"}:
        raise SpecInvalid(f"{trigger.keyword} cannot be an ONBUILD trigger")
    # The shape of its words is checked now, all else when it is triggered.
    if trigger.keyword in {"ENV", "LABEL"}:
        pairs.read_pairs(trigger.rest, trigger.keyword, clause.escape)
    elif trigger.keyword in _ARRAYS:
        json_words(trigger.rest)
    text = _ONBUILD.sub("", clause.text, count=1)
    bodies = "".join(f"\n{doc.content}{doc.name}" for doc in clause.heredocs)
    return nouns.Onbuild(location=clause.location, text=clause.text, trigger=text + bodies)


def _run(clause: _Clause) -> nouns.Run:
    flags = Flags.read(clause.flags, texts=("network", "security"), lists=("mount", "device"))
    command = clause.command()
    if command.form == "exec" and not command.words:
        raise SpecInvalid("RUN has no command", mend='write it in the array: ["program", "argument"]')
    return nouns.Run(
        location=clause.location,
        text=clause.text,
        command=command,
        heredocs=clause.heredocs,
        flags=tuple(MountFlag.parse(text) for text in flags.list("mount")),
        network=cast("nouns.Network", _choice(flags, "network", _NETWORKS)),
        security=cast("nouns.Security", _choice(flags, "security", _SECURITIES)),
        devices=tuple(_device(text) for text in flags.list("device")),
    )


def _choice(flags: Flags, name: str, known: tuple[str, ...]) -> str:
    value = flags.texts.get(name, known[0])
    if value not in known:
        mend = nearest(value, known) or f"it is one of {', '.join(known)}"
        raise SpecInvalid(f"--{name} cannot be {value!r}", mend=mend)
    return value


def _device(text: str) -> nouns.Device:
    device = nouns.Device(name="")
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if key.lower() == "required":
            truth = boolean(value, "a device's required") if equals else True
            device = nouns.Device(name=device.name, required=truth)
        elif not device.name:
            name = value if key.lower() == "name" and equals else field
            device = nouns.Device(name=name, required=device.required)
        else:
            raise SpecInvalid(f"unknown device option {field!r}", mend="a device knows name and required")
    return device


def _shell(clause: _Clause) -> nouns.Shell:
    Flags.read(clause.flags)
    words = json_words(clause.rest)
    if not words:
        raise SpecInvalid(
            "SHELL takes a JSON array",
            seen=clause.rest,
            mend='write SHELL ["/bin/bash", "-c"]; a \\ in it is \\\\',
        )
    return nouns.Shell(location=clause.location, text=clause.text, words=words)


def _stop_signal(clause: _Clause) -> nouns.StopSignal:
    return nouns.StopSignal(location=clause.location, text=clause.text, signal=clause.one())


def _user(clause: _Clause) -> nouns.User:
    return nouns.User(location=clause.location, text=clause.text, user=clause.one())


def _volume(clause: _Clause) -> nouns.Volume:
    Flags.read(clause.flags)
    words = json_words(clause.rest)
    paths = tuple(path.strip(SPACES) for path in (split_blanks(clause.rest) if words is None else words))
    if not paths or not all(paths):
        raise SpecInvalid(
            "VOLUME has an empty path" if paths else "VOLUME names no path", mend="write VOLUME /data"
        )
    return nouns.Volume(location=clause.location, text=clause.text, paths=paths)


def _workdir(clause: _Clause) -> nouns.Workdir:
    return nouns.Workdir(location=clause.location, text=clause.text, path=clause.one())


_READERS: Final[Mapping[str, Callable[[_Clause], Instruction]]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
