"""The walk through one stage: step by step, from what it stands on to its last state.

The meaning of each instruction is that of https://docs.docker.com/reference/dockerfile/; the keys
of the cache follow BuildKit's (solver/llbsolver, cache/contenthash): a RUN depends on its command,
environment, user, folder and mounts, a COPY on the content of what it copies, and both on all
layers below.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from pytest_containers.images.build.bases import Bases
from pytest_containers.images.build.cache import StepCache
from pytest_containers.images.build.context import Context
from pytest_containers.images.build.contexts import Contexts
from pytest_containers.images.build.copying import CopyStep, FolderStep
from pytest_containers.images.build.expand import expand
from pytest_containers.images.build.halt import Halt
from pytest_containers.images.build.instruction import Add, Copy, Maintainer, Run, Workdir
from pytest_containers.images.build.layers import Layers
from pytest_containers.images.build.mounts import Mounts
from pytest_containers.images.build.origins import Origin
from pytest_containers.images.build.output import StepReport
from pytest_containers.images.build.remotes import Remotes
from pytest_containers.images.build.running import RunStep
from pytest_containers.images.build.source import located
from pytest_containers.images.build.stages import PlannedStage, Step
from pytest_containers.images.build.state import State, after
from pytest_containers.progress import BuildWatch

__all__ = ["StageWalk"]


class StageWalk:
    """Builds stages one after the other; a build has one for each thread that builds.

    *built* has the last states of the stages before.
    """

    def __init__(
        self,
        layers: Layers,
        bases: Bases,
        contexts: Contexts,
        mounts: Mounts,
        halt: Halt,
        built: Mapping[int, State],
        watch: BuildWatch,
        cache: StepCache,
        remotes: Remotes,
    ) -> None:
        self._layers = layers
        self._bases = bases
        self._contexts = contexts
        self._mounts = mounts
        self._halt = halt
        self._built = built
        self._watch = watch
        self._cache = cache
        self._remotes = remotes

    def walk(self, stage: PlannedStage) -> State:
        """Build *stage*, whose needs are built; return its last state.

        Raises BuildFailed for a command that fails, SpecInvalid, with file and line, for what
        cannot be meant, CancelledError where another stage has failed.
        """
        self._halt.check()
        with located(stage.location):
            state = self._base(stage)
        for number, step in enumerate(stage.steps, 1):
            self._halt.check()
            title = f"[{stage.title} {number}/{len(stage.steps)}] {step.instruction.text}"
            state = self._told(state, step, StepReport(self._watch, title))
        return state

    def _base(self, stage: PlannedStage) -> State:
        """Return what a stage stands on; a named context that is a folder is copied as a whole."""
        if stage.base.kind != "context":
            return self._bases.state(stage.base, self._built, stage.platform)
        text = f"COPY . / from the context {stage.base.name}"
        copy = Copy(location=stage.location, text=text, sources=(".",), target="/")
        nothing = self._bases.state(Origin(kind="scratch"), self._built)
        report = StepReport(self._watch, f"[{stage.title}] {text}")
        return self._told(nothing, Step(instruction=copy, origins=(stage.base,)), report)

    def _told(self, state: State, step: Step, report: StepReport) -> State:
        """Return the state behind *step*, whose end is told, whichever it is."""
        try:
            with located(step.instruction.location):
                made = self._step(state, step, report)
        except BaseException:
            report.end(failed=True)
            raise
        report.end()
        return made

    def _step(self, state: State, step: Step, report: StepReport) -> State:
        instruction = expand(step.instruction, state.scope)
        match instruction:
            case Run():
                return self._run(state, instruction, step, report)
            case Copy() | Add():
                return self._copy(state, instruction, step, report)
            case Workdir():
                return self._workdir(after(state, instruction), instruction, report)
            case _:
                author = instruction.author if isinstance(instruction, Maintainer) else ""
                made = after(state, instruction)
                created = self._layers.created(state)
                return made.with_history(created, instruction.text, empty=True, author=author)

    def _run(self, state: State, run: Run, step: Step, report: StepReport) -> State:
        origins = tuple(map(self._origin, step.origins))
        command = RunStep(state, run, origins, self._mounts)
        make = partial(command.make, self._layers.open, report)
        made, created = self._layers.lay(state, command.key, make, report)
        return made.with_history(created, command.history, empty=made.diff_ids == state.diff_ids)

    def _origin(self, origin: Origin) -> State | Context:
        if origin.kind == "context":
            return self._contexts.of(origin)
        return self._bases.state(origin, self._built)

    def _copy(self, state: State, copy: Copy | Add, step: Step, report: StepReport) -> State:
        origin = step.origins[0]
        source = None if origin.kind == "context" else self._bases.state(origin, self._built)
        placed = CopyStep(
            state, copy, origin, source, self._layers, self._contexts, self._cache, self._remotes
        )
        made, created = self._layers.lay(state, placed.key, placed.make, report, alone=copy.link)
        return made.with_history(created, copy.text, empty=made.diff_ids == state.diff_ids)

    def _workdir(self, state: State, instruction: Workdir, report: StepReport) -> State:
        folder = FolderStep(state, self._layers)
        made, created = self._layers.lay(state, folder.key, folder.make, report)
        return made.with_history(created, instruction.text, empty=made.diff_ids == state.diff_ids)
