"""One RUN: what its layer depends on, what its command sees, and how it ends.

The key follows BuildKit's (solver/llbsolver/ops/exec.go, CacheMap): the command, environment,
user, folder and mounts, and the content of what is mounted.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from pytest_containers.errors import BuildFailed
from pytest_containers.images.build.cache import step_key
from pytest_containers.images.build.contexts import Contexts
from pytest_containers.images.build.instruction import Copy, Execution, Run
from pytest_containers.images.build.mount import Mount
from pytest_containers.images.build.mounts import Mounts
from pytest_containers.images.build.origins import Origin
from pytest_containers.images.build.output import StepReport, Tail
from pytest_containers.images.build.runner import Command, Workspace
from pytest_containers.images.build.state import State
from pytest_containers.spec import Bind

__all__ = ["Opens", "RunStep"]


class Opens(Protocol):
    """Opens a workspace over the layers of a state."""

    def __call__(self, state: State, command: Command | None) -> AbstractContextManager[Workspace]:
        """Return the workspace; its files are gone at its end."""


class RunStep:
    """An expanded RUN on top of *state*; *origins* are those of its mounts."""

    def __init__(
        self, state: State, run: Run, origins: tuple[Origin, ...], contexts: Contexts, mounts: Mounts
    ) -> None:
        self._state = state
        self._run = run
        self._mounts = mounts
        self._workdir = state.config.workdir or "/"
        self._execution = run.execution(state.config.shell)
        resolved = (mount.resolved(self._workdir, number) for number, mount in enumerate(run.mounts))
        self._mounted = tuple(zip(resolved, origins, strict=True))
        self._contexts = contexts

    @property
    def key(self) -> str:
        """The key of the step.

        An argument goes into it as it is in scope, a secret's value and a proxy do not.
        """
        state, execution = self._state, self._execution
        seen = [execution.argv, execution.script, state.scope.command_env(), self._workdir, state.config.user]
        bound = [self._content(mount, origin) for mount, origin in self._mounted if mount.kind == "bind"]
        mounts = [repr(mount) for mount, _ in self._mounted]
        return step_key(state.key, "RUN", *seen, self._run.network, mounts, bound)

    @property
    def history(self) -> str:
        """What the image's history says of it."""
        return f"RUN {' '.join((*self._state.scope.history_arguments(), *self._execution.argv))}"

    def _content(self, mount: Mount, origin: Origin) -> str:
        run = self._run
        copied = Copy(location=run.location, text=run.text, sources=(mount.source or ".",), target="/")
        return self._contexts.of(origin).select(copied).digest

    def make(self, opens: Opens, report: StepReport, output: BinaryIO) -> None:
        """Run the command and write its layer. Raises BuildFailed."""
        mounts = tuple(mount for mount, _ in self._mounted)
        with self._mounts.prepare(mounts) as mounted, _script(self._execution) as script:
            env = (*self._state.scope.command_env(), *self._state.scope.proxy_env())
            command = Command(
                argv=self._execution.argv,
                env={**dict(pair.split("=", 1) for pair in env), **mounted.env},
                user=self._state.config.user,
                workdir=self._workdir,
                network="none" if self._run.network == "none" else "default",
                binds=(*mounted.binds, *script),
                tmpfs=mounted.tmpfs,
            )
            with opens(self._state, command) as workspace:
                self._execute(workspace, report.output)
                workspace.layer(output)

    def _execute(self, workspace: Workspace, output: Callable[[bytes], None]) -> None:
        tail = Tail(output)
        code = workspace.run(tail.add)
        if code:
            raise BuildFailed(
                f"{self._run.location}: {self._run.text.splitlines()[0]} failed with exit code {code}",
                seen=tail.text() or "it wrote nothing",
                mend="its output says why; run the same line in a container of the layers before it",
            )


@contextlib.contextmanager
def _script(execution: Execution) -> Iterator[tuple[Bind, ...]]:
    """Yield the bind that shows a heredoc's program where it is executed; no layer carries it."""
    if not execution.script_path:
        yield ()
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script"
        path.write_text(execution.script)
        path.chmod(0o755)
        yield (Bind(source=str(path), target=execution.script_path, read_only=True),)
