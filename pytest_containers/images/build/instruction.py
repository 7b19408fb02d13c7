"""The eighteen instructions of a Dockerfile, each a frozen noun with its flags as fields.

What is parsed is as written: `expand.expand` returns the same noun with its variables replaced.
Meaning of each: https://docs.docker.com/reference/dockerfile/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build import heredoc
from pytest_containers.images.build.heredoc import Heredoc
from pytest_containers.images.build.mount import Mount, MountFlag
from pytest_containers.images.build.source import Location

__all__ = [
    "DEFAULT_SHELL",
    "Add",
    "Arg",
    "Argument",
    "Cmd",
    "CommandLine",
    "Copy",
    "Device",
    "Entrypoint",
    "Env",
    "Execution",
    "Expose",
    "From",
    "Healthcheck",
    "InlineFile",
    "Instruction",
    "Label",
    "Maintainer",
    "Network",
    "Onbuild",
    "Run",
    "Security",
    "Shell",
    "StopSignal",
    "Transfer",
    "User",
    "Volume",
    "Workdir",
]

Network = Literal["default", "none", "host"]
Security = Literal["sandbox", "insecure"]
DEFAULT_SHELL: Final = ("/bin/sh", "-c")
_SCRIPTS: Final = "/dev/pipes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What every instruction has: where it stands, and its line as written, continuations joined."""

    keyword: ClassVar[str] = ""

    location: Location
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """A command in exec form, or a line for a shell; *words* of a shell form is one line or nothing."""

    words: tuple[str, ...]
    form: Literal["shell", "exec"]

    def argv(self, shell: Sequence[str]) -> tuple[str, ...]:
        """Return what is executed; *shell* is the image's SHELL, or empty for ``/bin/sh -c``."""
        if self.form == "exec":
            return self.words
        return (*(shell or DEFAULT_SHELL), " ".join(self.words))


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineFile:
    """A file that stands in the Dockerfile itself as a heredoc: COPY and ADD write it with mode 0644."""

    name: str
    content: str
    expand: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """A build argument; *value* is its default, after expansion its value, None where it has none."""

    name: str
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device of the Container Device Interface that RUN asks for."""

    name: str
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What a RUN starts. *script* is mounted read-only, mode 0755, at *script_path* where that is set."""

    argv: tuple[str, ...]
    script_path: str = ""
    script: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Instruction):
    """What ADD and COPY share.

    *sources* and *contents* are copied to *target*, in that order. *owner* is ``user[:group]``,
    *mode* octal or symbolic (`mode.Mode.parse`), both empty where not given.
    """

    sources: tuple[str, ...] = ()
    contents: tuple[InlineFile, ...] = ()
    target: str
    owner: str = ""
    mode: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Transfer):
    """``ADD``: copy from the context, a URL or a git repository; local archives are unpacked.

    *keep_git_dir* and *unpack* are None where not given.
    """

    keyword: ClassVar[str] = "ADD"

    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """``ARG``: declare build arguments, several per line."""

    keyword: ClassVar[str] = "ARG"

    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    """``CMD``: the default command."""

    keyword: ClassVar[str] = "CMD"

    command: CommandLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Transfer):
    """``COPY``: copy from the context, or from *origin*: a stage's name or number, or an image."""

    keyword: ClassVar[str] = "COPY"

    origin: str = ""
    parents: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    """``ENTRYPOINT``: what the command is given to; resets an inherited CMD but not this stage's own."""

    keyword: ClassVar[str] = "ENTRYPOINT"

    command: CommandLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    """``ENV``: name and value pairs, in order."""

    keyword: ClassVar[str] = "ENV"

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    """``EXPOSE``: as parsed the words, sorted; after expansion each port as ``8000/udp``."""

    keyword: ClassVar[str] = "EXPOSE"

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """``FROM``: begin a stage; *name* is in lower case, empty where the stage has none."""

    keyword: ClassVar[str] = "FROM"

    base: str
    name: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """``HEALTHCHECK``: *test* is ``("NONE",)``, ``("CMD", ...)`` or ``("CMD-SHELL", line)``.

    A zero means the engine's default.
    """

    keyword: ClassVar[str] = "HEALTHCHECK"

    test: tuple[str, ...]
    interval_s: float = 0.0
    timeout_s: float = 0.0
    start_period_s: float = 0.0
    start_interval_s: float = 0.0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    """``LABEL``: key and value pairs, in order."""

    keyword: ClassVar[str] = "LABEL"

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    """``MAINTAINER``: the image's author (deprecated)."""

    keyword: ClassVar[str] = "MAINTAINER"

    author: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Onbuild(Instruction):
    """``ONBUILD``: *trigger* is an instruction's text, heredocs included, for images built on this one."""

    keyword: ClassVar[str] = "ONBUILD"

    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """``RUN``: *flags* are its ``--mount`` as written; *mounts* are filled by expansion."""

    keyword: ClassVar[str] = "RUN"

    command: CommandLine
    heredocs: tuple[Heredoc, ...] = ()
    flags: tuple[MountFlag, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: Network = "default"
    security: Security = "sandbox"
    devices: tuple[Device, ...] = ()

    def execution(self, shell: Sequence[str]) -> Execution:
        """Return what is started; *shell* is the image's SHELL, or empty for ``/bin/sh -c``.

        A line that is nothing but one heredoc is its body: a ``#!`` program, or lines for the
        shell. With anything beside it the line goes to the shell with its bodies behind it.
        """
        if not self.heredocs:
            return Execution(argv=self.command.argv(shell))
        line = " ".join(self.command.words)
        if len(self.heredocs) == 1 and heredoc.parse(line) is not None:
            return self._single(shell)
        bodies = "".join(f"\n{doc.content}{doc.name}" for doc in self.heredocs)
        return Execution(argv=CommandLine(words=(line + bodies,), form="shell").argv(shell))

    def _single(self, shell: Sequence[str]) -> Execution:
        doc = self.heredocs[0]
        if not doc.body.startswith("#!"):
            return Execution(argv=CommandLine(words=(doc.body,), form="shell").argv(shell))
        path = f"{_SCRIPTS}/{doc.name}"
        if "/" in doc.name or doc.name in {".", ".."}:
            raise SpecInvalid(
                f"{self.location}: the script cannot be named {doc.name}", mend="use a word without /: <<EOF"
            )
        return Execution(argv=(path,), script_path=path, script=doc.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    """``SHELL``: what shell forms are given to, from here on."""

    keyword: ClassVar[str] = "SHELL"

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(Instruction):
    """``STOPSIGNAL``: a signal's number or name."""

    keyword: ClassVar[str] = "STOPSIGNAL"

    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    """``USER``: ``user[:group]``, names or numbers."""

    keyword: ClassVar[str] = "USER"

    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    """``VOLUME``: paths."""

    keyword: ClassVar[str] = "VOLUME"

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    """``WORKDIR``: a path, relative to the one before."""

    keyword: ClassVar[str] = "WORKDIR"

    path: str
