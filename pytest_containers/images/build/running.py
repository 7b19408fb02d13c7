"""One RUN: what its layer depends on, what its command sees, and how it ends.

The key follows BuildKit's (solver/llbsolver/ops/exec.go, CacheMap): the command, environment,
user, folder and mounts, and the content of what is mounted.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

from pytest_containers.errors import BuildFailed, StartError
from pytest_containers.images.build.cache import step_key
from pytest_containers.images.build.context import Context
from pytest_containers.images.build.instruction import Run
from pytest_containers.images.build.mount import Mount
from pytest_containers.images.build.mounts import Mounts, Opens, Source
from pytest_containers.images.build.output import Mask, StepReport, Tail
from pytest_containers.images.build.runner import Command, Workspace
from pytest_containers.images.build.state import State
from pytest_containers.spec import ExitStatus

__all__ = ["RunStep"]


class RunStep:
    """An expanded RUN on top of *state*; *origins* are what its mounts' ``from`` mean, in their order."""

    def __init__(self, state: State, run: Run, origins: tuple[State | Context, ...], mounts: Mounts) -> None:
        self._state = state
        self._run = run
        self._mounts = mounts
        self._workdir = state.config.workdir or "/"
        self._execution = run.execution(state.config.shell)
        self._sources = tuple(self._resolved(origins))

    def _resolved(self, origins: tuple[State | Context, ...]) -> Iterator[Source]:
        agents = itertools.count()
        for mount, origin in zip(self._run.mounts, origins, strict=True):
            # Each ssh mount has a number of its own in its path.
            resolved = mount.resolved(self._workdir, next(agents) if mount.kind == "ssh" else 0)
            # Without from= a cache begins empty; the kinds that take no files have none.
            used = mount.kind == "bind" or (mount.kind == "cache" and mount.origin)
            yield Source(resolved, origin if used else None, self._run.location)

    @property
    def key(self) -> str:
        """The key of the step.

        An argument goes into it as it is in scope, a secret's value and a proxy do not; nor does
        which folder a cache mount is.
        """
        state, execution, run = self._state, self._execution, self._run
        seen = [execution.argv, execution.script, state.scope.command_env(), self._workdir, state.config.user]
        mounts = [_described(source.mount) for source in self._sources]
        contents = [source.content for source in self._sources]
        return step_key(state.key, "RUN", *seen, run.network, run.security, mounts, contents)

    @property
    def history(self) -> str:
        """What the image's history says of it."""
        return f"RUN {' '.join((*self._state.scope.history_arguments(), *self._execution.argv))}"

    def make(self, opens: Opens, report: StepReport, output: BinaryIO) -> None:
        """Run the command and write its layer. Raises BuildFailed."""
        state, execution = self._state, self._execution
        script = (execution.script_path, execution.script)
        with self._mounts.prepare(self._sources, script) as mounted:
            env = dict(pair.split("=", 1) for pair in (*state.scope.command_env(), *state.scope.proxy_env()))
            command = Command(
                argv=execution.argv,
                # An agent's socket gives way to an SSH_AUTH_SOCK of the image's (BuildKit, llb/exec.go).
                env={**mounted.defaults, **env, **mounted.env},
                user=state.config.user,
                workdir=self._workdir,
                network=self._run.network,
                privileged=self._run.security == "insecure",
                binds=mounted.binds,
                tmpfs=mounted.tmpfs,
            )
            with opens(state, command) as workspace:
                self._execute(workspace, report.output)
                workspace.layer(output)

    def _execute(self, workspace: Workspace, output: Callable[[bytes], None]) -> None:
        tail = Tail(output)
        mask = Mask(tail.add, self._secrets())
        try:
            status = workspace.run(mask.add)
        except StartError as error:
            raise BuildFailed(
                f"{self._shown(mask)} could not be started, exit code {error.exit_code}",
                seen=mask.text(f"{error.what}: {error.seen}" if error.seen else error.what),
                mend=error.mend,
            ) from None  # it may tell of what is masked
        finally:
            mask.end()
        if status.code:
            raise BuildFailed(
                f"{self._shown(mask)} failed with {_ended(status)}",
                seen=tail.text() or "it wrote nothing",
                mend=_mend(status),
            )

    def _shown(self, mask: Mask) -> str:
        return f"{self._run.location}: {mask.text(self._run.text.splitlines()[0])}"

    def _secrets(self) -> Iterator[bytes]:
        for source in self._sources:
            if source.mount.kind == "secret":
                yield self._mounts.secrets.get(source.mount.id, b"")


def _ended(status: ExitStatus) -> str:
    """Return the words for an end: the exit code, and the signal where it was one (signal(7))."""
    # A shell tells of a child's signal by its own exit code (sh(1), "EXIT STATUS").
    number = status.signal or status.code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit code {status.code}"
    killer = "killed" if status.signal else "its last command was killed"
    cause = ": out of memory" if status.oom_killed else ""
    return f"exit code {status.code}, {killer} by {name}{cause}"


def _mend(status: ExitStatus) -> str:
    if status.oom_killed or status.code == 128 + signal.SIGKILL:
        return "the machine may be out of memory (dmesg tells): give it more, or let the command take less"
    return "its output says why; run the same line in a container of the layers before it"


def _described(mount: Mount) -> str:
    return repr(replace(mount, id="", sharing="shared") if mount.kind == "cache" else mount)
