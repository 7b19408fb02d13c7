"""Builds a plan's stages, those that do not need each other at once."""

from __future__ import annotations

import contextlib
import graphlib
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_containers.images.build.bases import Bases
from pytest_containers.images.build.cache import StepCache
from pytest_containers.images.build.contexts import Contexts
from pytest_containers.images.build.halt import Halt
from pytest_containers.images.build.hashes import Hashes
from pytest_containers.images.build.layers import Layers
from pytest_containers.images.build.mounts import Grants, Mounts
from pytest_containers.images.build.remotes import Remotes
from pytest_containers.images.build.runner import Runner
from pytest_containers.images.build.stages import Plan
from pytest_containers.images.build.state import State
from pytest_containers.images.build.volumes import Volumes
from pytest_containers.images.build.walk import StageWalk
from pytest_containers.images.store import Store
from pytest_containers.images.transport import Settings as TransportSettings
from pytest_containers.progress import BuildWatch

__all__ = ["Builder", "Settings"]

# A stage that compiles takes all processors by itself; more stages at once only want more memory.
_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a build is done. *use_cache* false makes every step anew; *contexts* are the named ones.

    *transport* is how ADD fetches URLs, *ssh* has the sockets of agents by id; git asks ``default``.
    """

    context: Path
    dockerfile: str = "Dockerfile"
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    use_cache: bool = True
    contexts: Mapping[str, str] = field(default_factory=dict)
    ssh: Mapping[str, str] = field(default_factory=dict)
    transport: TransportSettings = field(default_factory=TransportSettings)


class Builder:
    """Builds one plan."""

    def __init__(
        self, store: Store, runner: Runner, plan: Plan, bases: Bases, settings: Settings, watch: BuildWatch
    ) -> None:
        self._plan = plan
        self._halt = Halt()
        self._built: dict[int, State] = {}
        cache = StepCache(store)
        layers = Layers(store, runner, cache, self._halt, use_cache=settings.use_cache, epoch_s=plan.epoch_s)
        self._hashes = Hashes(store.root / "build" / "hashes")
        contexts = Contexts(settings.context, settings.dockerfile, settings.contexts, self._hashes)
        grants = Grants(secrets=settings.secrets, ssh=settings.ssh)
        mounts = Mounts(
            Volumes(store.root / "build" / "mounts", self._halt.event), grants, layers.open, runner.sockets
        )
        agent = settings.ssh.get("default", "")
        self._remotes = Remotes(store, settings.transport, agent, self._halt)
        self._walk = StageWalk(
            layers, bases, contexts, mounts, self._halt, self._built, watch, cache, self._remotes
        )

    def build(self) -> State:
        """Build all stages of the plan; return the target's state.

        The first stage that fails ends the others, and its error is the one that is raised:
        BuildFailed for a command that fails, SpecInvalid, with file and line, for what cannot be
        meant.
        """
        try:
            return self._build()
        finally:
            self._hashes.save()

    def _build(self) -> State:
        if len(self._plan.stages) == 1:
            with contextlib.closing(self._remotes):
                return self._walk.walk(self._plan.stages[0])
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="build") as threads:
            try:
                self._schedule(threads)
            finally:
                # What raised may as well be a Ctrl-C: nothing of a build goes on behind it.
                self._halt.halt()
                self._remotes.close()
        return self._built[self._plan.target]

    def _schedule(self, threads: ThreadPoolExecutor) -> None:
        sorter = graphlib.TopologicalSorter(self._plan.graph())
        sorter.prepare()
        running: dict[Future[State], int] = {}
        while sorter.is_active():
            for number in sorted(sorter.get_ready()):
                running[threads.submit(self._walk.walk, self._plan.stage(number))] = number
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in _failed_first(ended):
                number = running.pop(future)
                self._built[number] = future.result()
                sorter.done(number)


def _failed_first(ended: set[Future[State]]) -> list[Future[State]]:
    """Return the futures with a failure in front, and behind it what only followed from it."""

    def rank(future: Future[State]) -> int:
        error = future.exception()
        return 2 if error is None else int(isinstance(error, CancelledError))

    return sorted(ended, key=rank)
