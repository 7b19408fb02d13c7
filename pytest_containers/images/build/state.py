"""What a stage is at one point of its build: layers, config and history, each step a new value."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pytest_containers.images.build.instruction import (
    Cmd,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from pytest_containers.images.build.variables import Scope
from pytest_containers.images.chains import chain_ids
from pytest_containers.images.manifest import Descriptor, History
from pytest_containers.spec import Healthcheck as HealthcheckConfig
from pytest_containers.spec import ImageConfig, Port

__all__ = ["State", "after"]

_INTERVAL_S: Final = 30.0
_RETRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A stage behind some of its steps.

    *base* is the chain of the machine's own files, None elsewhere. *key* stands for all that the
    layers depend on. *own_command* is true once this stage has had a CMD of its own.
    """

    key: str
    scope: Scope
    config: ImageConfig
    base: str | None = None
    layers: tuple[Descriptor, ...] = ()
    diff_ids: tuple[str, ...] = ()
    history: tuple[History, ...] = ()
    own_command: bool = False

    @property
    def chain(self) -> str | None:
        """The ChainID of the uppermost layer, None for nothing."""
        return (self.base, *chain_ids(self.base, self.diff_ids))[-1]

    def with_history(self, created: str, text: str, *, empty: bool, author: str = "") -> State:
        """Return the state with one line of history more."""
        line = History(
            created=created,
            created_by=text,
            author=author,
            comment="pytest-containers build",
            empty_layer=empty,
        )
        return replace(self, history=(*self.history, line))

    def with_layer(self, key: str, descriptor: Descriptor | None, diff_id: str) -> State:
        """Return the state with a layer more, or with the new key alone where nothing was changed."""
        if descriptor is None:
            return replace(self, key=key)
        return replace(self, key=key, layers=(*self.layers, descriptor), diff_ids=(*self.diff_ids, diff_id))


def after(state: State, instruction: Instruction) -> State:
    """Return the state behind an expanded *instruction* that makes no files: its config changes.

    ENTRYPOINT clears an inherited command, but not one of this stage's own
    (https://docs.docker.com/reference/dockerfile/#understand-how-cmd-and-entrypoint-interact).
    """
    config = state.config
    match instruction:
        case Cmd():
            command = instruction.command.argv(config.shell)
            return replace(state, config=replace(config, command=command), own_command=True)
        case Entrypoint():
            entrypoint = instruction.command.argv(config.shell)
            command = config.command if state.own_command else ()
            return replace(state, config=replace(config, entrypoint=entrypoint, command=command))
        case Workdir():
            path = posixpath.normpath(posixpath.join("/", config.workdir, instruction.path))
            return replace(state, config=replace(config, workdir=path.replace("//", "/", 1)))
        case Env():
            scope = state.scope.after(instruction)
            return replace(state, scope=scope, config=replace(config, env=scope.env))
        case _:
            return replace(
                state, config=_configured(config, instruction), scope=state.scope.after(instruction)
            )


def _configured(config: ImageConfig, instruction: Instruction) -> ImageConfig:
    match instruction:
        case Label():
            return replace(config, labels={**config.labels, **dict(instruction.pairs)})
        case Expose():
            return replace(config, ports=_union(config.ports, [Port.parse(one) for one in instruction.ports]))
        case Volume():
            return replace(config, volumes=tuple(dict.fromkeys((*config.volumes, *instruction.paths))))
        case User():
            return replace(config, user=instruction.user)
        case StopSignal():
            return replace(config, stop_signal=instruction.signal)
        case Shell():
            return replace(config, shell=instruction.words)
        case Onbuild():
            return replace(config, onbuild=(*config.onbuild, instruction.trigger))
        case Healthcheck():
            return replace(config, healthcheck=_healthcheck(instruction))
        case Maintainer():
            return replace(config, author=instruction.author)
        case _:
            return config


def _union(ports: tuple[Port, ...], more: Sequence[Port]) -> tuple[Port, ...]:
    return tuple(dict.fromkeys((*ports, *more)))


def _healthcheck(instruction: Healthcheck) -> HealthcheckConfig:
    return HealthcheckConfig(
        test=instruction.test,
        interval_s=instruction.interval_s or _INTERVAL_S,
        timeout_s=instruction.timeout_s or _INTERVAL_S,
        start_period_s=instruction.start_period_s,
        start_interval_s=instruction.start_interval_s,
        retries=instruction.retries or _RETRIES,
    )
