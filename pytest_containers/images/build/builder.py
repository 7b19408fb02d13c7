"""Walks a plan: stage by stage and step by step, from the cache where that is possible.

The meaning of each instruction is that of https://docs.docker.com/reference/dockerfile/; the keys
of the cache follow BuildKit's (solver/llbsolver, cache/contenthash): a RUN depends on its command,
environment, user, folder and mounts, a COPY on the content of what it copies, and both on all
layers below.
"""

from __future__ import annotations

import datetime
import io
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from pytest_containers.images.build.bases import Bases
from pytest_containers.images.build.cache import Cached, StepCache, step_key
from pytest_containers.images.build.contexts import Contexts
from pytest_containers.images.build.expand import expand
from pytest_containers.images.build.instruction import Add, Copy, Maintainer, Run, Workdir
from pytest_containers.images.build.mounts import Mounts
from pytest_containers.images.build.origins import Origin
from pytest_containers.images.build.output import StepReport
from pytest_containers.images.build.placing import place
from pytest_containers.images.build.runner import Command, Runner, Workspace
from pytest_containers.images.build.running import RunStep
from pytest_containers.images.build.selection import origin_path, select_tar
from pytest_containers.images.build.source import located
from pytest_containers.images.build.stages import Plan, PlannedStage, Step
from pytest_containers.images.build.state import State, after
from pytest_containers.images.chains import Chains
from pytest_containers.images.commit import add_layer
from pytest_containers.images.decompress import PIECE_BYTES
from pytest_containers.images.store import Store
from pytest_containers.progress import BuildWatch

__all__ = ["Builder", "Settings"]

_EMPTY_TAR_BYTES: Final = 10240


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a build is done. *use_cache* false makes every step anew; *created* stamps the history.

    *contexts* are the named ones.
    """

    context: Path
    dockerfile: str = "Dockerfile"
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    use_cache: bool = True
    created: str = ""
    contexts: Mapping[str, str] = field(default_factory=dict)


class Builder:
    """Builds one plan."""

    def __init__(
        self, store: Store, runner: Runner, plan: Plan, bases: Bases, settings: Settings, watch: BuildWatch
    ) -> None:
        self._store = store
        self._runner = runner
        self._plan = plan
        self._bases = bases
        self._settings = settings
        self._watch = watch
        self._chains = Chains(store.root, store.blobs)
        self._cache = StepCache(store)
        self._contexts = Contexts(settings.context, settings.dockerfile, settings.contexts)
        self._mounts = Mounts(self._cache, settings.context, settings.secrets)
        self._built: dict[int, State] = {}

    def build(self) -> State:
        """Build all stages of the plan; return the target's state.

        Raises BuildFailed for a command that fails,
        SpecInvalid, with file and line, for what cannot be meant.
        """
        for stage in self._plan.stages:
            with located(stage.location):
                state = self._base(stage)
            for number, step in enumerate(stage.steps, 1):
                title = f"[{stage.title} {number}/{len(stage.steps)}] {step.instruction.text}"
                state = self._told(state, step, StepReport(self._watch, title))
            self._built[stage.number] = state
        return self._built[self._plan.target]

    def _base(self, stage: PlannedStage) -> State:
        """Return what a stage stands on; a named context that is a folder is copied as a whole."""
        if stage.base.kind != "context":
            return self._bases.state(stage.base, self._built)
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
                below = state.history[-1].created if state.history else ""
                created = self._settings.created or below or self._now()
                return made.with_history(created, instruction.text, empty=True, author=author)

    def _now(self) -> str:
        if self._settings.created:
            return self._settings.created
        return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _run(self, state: State, run: Run, step: Step, report: StepReport) -> State:
        command = RunStep(state, run, step.origins, self._contexts, self._mounts)
        make = partial(command.make, self._open, report)
        made, created = self._layer(state, command.key, make, report)
        return made.with_history(created, command.history, empty=made.diff_ids == state.diff_ids)

    def _copy(self, state: State, copy: Copy | Add, step: Step, report: StepReport) -> State:
        origin = step.origins[0]
        source = None if origin.kind == "context" else self._bases.state(origin, self._built)
        selection = None if source else self._contexts.of(origin).select(copy)
        content = selection.digest if selection else source.key if source else ""
        details = [copy.sources, copy.target, copy.owner, copy.mode, copy.exclude, state.config.workdir]
        key = step_key(state.key, copy.keyword, content, *details, isinstance(copy, Copy) and copy.parents)

        def make(output: BinaryIO) -> None:
            with self._open(state, None) as workspace:
                if selection is not None:
                    place(workspace, copy, selection, state.config.workdir, self._plan.epoch_s)
                elif source is not None and isinstance(copy, Copy):
                    self._copy_from(workspace, copy, source, state.config.workdir)
                workspace.layer(output)

        made, created = self._layer(state, key, make, report)
        return made.with_history(created, copy.text, empty=made.diff_ids == state.diff_ids)

    def _copy_from(self, workspace: Workspace, copy: Copy, source: State, workdir: str) -> None:
        with self._open(source, None) as other:
            for path in copy.sources:
                with tempfile.TemporaryFile() as tar:
                    one = replace(copy, sources=(path,))
                    other.read(origin_path(one), tar)
                    tar.seek(0)
                    place(workspace, one, select_tar(tar, one), workdir, self._plan.epoch_s)

    def _workdir(self, state: State, instruction: Workdir, report: StepReport) -> State:
        key = step_key(state.key, "WORKDIR", state.config.workdir)

        def make(output: BinaryIO) -> None:
            with self._open(state, None) as workspace:
                workspace.write(state.config.workdir, _empty_tar())
                workspace.layer(output)

        made, created = self._layer(state, key, make, report)
        return made.with_history(created, instruction.text, empty=made.diff_ids == state.diff_ids)

    def _open(self, state: State, command: Command | None) -> AbstractContextManager[Workspace]:
        folders = self._chains.stack(state.chain) if state.chain else ()
        return self._runner.open(tuple(str(folder) for folder in folders), command)

    def _layer(
        self, state: State, key: str, make: Callable[[BinaryIO], None], report: StepReport
    ) -> tuple[State, str]:
        """Return *state* with the layer of one step, found in the cache or made now, and when it was made."""
        with self._cache.hold(key):
            found = self._cache.find(key) if self._settings.use_cache else None
            if found is None:
                found = self._make(state, make)
                self._cache.keep(key, found)
            else:
                report.cached()
        if found.layer is not None:
            self._store.unpack_layer(state.chain, found.layer, found.diff_id)
        created = self._settings.created or found.created
        return state.with_layer(key, found.layer, found.diff_id), created

    def _make(self, state: State, make: Callable[[BinaryIO], None]) -> Cached:
        with tempfile.TemporaryFile() as layer:
            make(layer)
            size = layer.tell()
            layer.seek(0)
            if size <= _EMPTY_TAR_BYTES and not layer.read().strip(b"\0"):
                return Cached(layer=None, created=self._now())
            layer.seek(0)
            descriptor, diff_id = add_layer(
                self._store, state.chain, iter(lambda: layer.read(PIECE_BYTES), b"")
            )
        return Cached(layer=descriptor, diff_id=diff_id, created=self._now())


def _empty_tar() -> io.BytesIO:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w"):
        pass
    content.seek(0)
    return content
