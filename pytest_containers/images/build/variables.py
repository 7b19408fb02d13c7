"""What names mean: global arguments, and the scope that an instruction sees inside a stage.

ARG and ENV: https://docs.docker.com/reference/dockerfile/#arg, "Scope", "Using ARG variables",
"Predefined ARGs", "Automatic platform ARGs in the global scope". A later declaration hides an
earlier one, whichever of ARG and ENV they are; only ENV stays in the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.instruction import Arg, Argument, Env
from pytest_containers.images.build.source import located
from pytest_containers.images.build.words import Rules, expand
from pytest_containers.images.platform import Platform

__all__ = [
    "DEFAULT_PATH",
    "PREDEFINED",
    "Scope",
    "global_variables",
    "platform_variables",
    "source_date_epoch",
]

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
# Build arguments that mean something though no ARG declares them.
PREDEFINED: Final = frozenset({*_PROXIES, *(name.lower() for name in _PROXIES), "SOURCE_DATE_EPOCH"})
# These speak to the builder and are no variables of a command.
_UNSEEN: Final = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})


def platform_variables(*, target: Platform, build: Platform, stage: str) -> Mapping[str, str]:
    """Return the automatic arguments: what is built, where it is built, and the target stage's name."""
    return {
        "BUILDPLATFORM": str(build),
        "BUILDOS": build.os,
        "BUILDOSVERSION": "",
        "BUILDARCH": build.architecture,
        "BUILDVARIANT": build.variant,
        "TARGETPLATFORM": str(target),
        "TARGETOS": target.os,
        "TARGETOSVERSION": "",
        "TARGETARCH": target.architecture,
        "TARGETVARIANT": target.variant,
        "TARGETSTAGE": stage or "default",
    }


def global_variables(
    arguments: Iterable[Arg], automatic: Mapping[str, str], build_args: Mapping[str, str], escape: str
) -> Mapping[str, str]:
    """Return what FROM lines see: the automatic arguments and the ARGs before the first FROM.

    A build argument beats a default; each default sees the arguments before it. Raises
    SpecInvalid for a default that cannot be expanded.
    """
    variables = {name: build_args.get(name, value) for name, value in automatic.items()}
    for instruction in arguments:
        with located(instruction.location):
            for argument in instruction.arguments:
                value = build_args.get(argument.name)
                if value is None and argument.value is not None:
                    value = expand(argument.value, variables, Rules(escape=escape)).text
                if value is not None:
                    variables[argument.name] = value
    return variables


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What the next instruction of a stage sees.

    *env* is the image's own environment, ``NAME=VALUE`` in order; it goes into the config.
    *variables* are those and the arguments in scope: what expansion and RUN see. *arguments* are
    the ARGs so far, for the history. *outer* are the global variables, *build_args* what the
    caller gave.
    """

    env: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[Argument, ...] = ()
    outer: Mapping[str, str] = field(default_factory=dict, repr=False)
    # A proxy's address may hold a password.
    build_args: Mapping[str, str] = field(default_factory=dict, repr=False)
    escape: str = "\\"

    def begin(self, env: Iterable[str]) -> Scope:
        """Return the scope at the start of a stage whose base has the environment *env*.

        Called on the last scope of the base stage, or, for an image, on that of the plan: the
        arguments of a base stage are inherited, its ENV hides those of the same name. PATH is
        always there.
        """
        pairs = dict(_split(env))
        if "PATH" not in pairs:
            pairs["PATH"] = DEFAULT_PATH
        joined = tuple(f"{name}={value}" for name, value in pairs.items())
        return replace(self, env=joined, variables={**self.variables, **pairs})

    def after(self, instruction: object) -> Scope:
        """Return the scope behind an expanded instruction; only ENV and ARG change it."""
        if isinstance(instruction, Env):
            pairs = dict(_split(self.env)) | dict(instruction.pairs)
            joined = tuple(f"{name}={value}" for name, value in pairs.items())
            return replace(self, env=joined, variables={**self.variables, **dict(instruction.pairs)})
        if isinstance(instruction, Arg):
            valued = {
                argument.name: argument.value
                for argument in instruction.arguments
                if argument.value is not None and argument.name not in _UNSEEN
            }
            arguments = (*self.arguments, *instruction.arguments)
            return replace(self, variables={**self.variables, **valued}, arguments=arguments)
        return self

    def value_of(self, argument: Argument, variables: Mapping[str, str]) -> str | None:
        """Return what an ARG declares: the build argument, its default, the global one, or None."""
        if argument.name in self.build_args:
            return self.build_args[argument.name]
        if argument.value is None:
            return self.outer.get(argument.name)
        return expand(argument.value, variables, Rules(escape=self.escape)).text

    def command_env(self) -> tuple[str, ...]:
        """Return the environment of a RUN without proxies: what belongs into its cache key."""
        return tuple(f"{name}={value}" for name, value in self.variables.items())

    def proxy_env(self) -> tuple[str, ...]:
        """Return the proxies given as build arguments, in both spellings of the names.

        A RUN has them behind `command_env`; they stand in no history and no cache key.
        """
        given = {name.upper(): value for name, value in sorted(self.build_args.items()) if name in PREDEFINED}
        pairs = [(name, given[name]) for name in _PROXIES if given.get(name)]
        return tuple(f"{name}={value}" for upper, value in pairs for name in (upper, upper.lower()))

    def history_arguments(self) -> tuple[str, ...]:
        """Return what stands in front of a RUN's command in the history: ``|2 A=1 B=2``, cut at blanks."""
        values = {
            argument.name: self.variables.get(argument.name, argument.value or "")
            for argument in self.arguments
        }
        if not values:
            return ()
        return (f"|{len(values)}", *(f"{name}={value}" for name, value in values.items()))


def _split(env: Iterable[str]) -> Iterator[tuple[str, str]]:
    for entry in env:
        name, _, value = entry.partition("=")
        yield name, value


def source_date_epoch(variables: Mapping[str, str], build_args: Mapping[str, str]) -> int | None:
    """Return SOURCE_DATE_EPOCH in seconds, None where it is not given.

    Source: https://reproducible-builds.org/specs/source-date-epoch/. Raises SpecInvalid for
    anything but a number.
    """
    text = build_args.get("SOURCE_DATE_EPOCH", variables.get("SOURCE_DATE_EPOCH", ""))
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise SpecInvalid(
            f"SOURCE_DATE_EPOCH cannot be {text[:40]!r}", mend="write seconds since 1970: 1700000000"
        )
    return int(text)
