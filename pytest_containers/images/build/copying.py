"""One COPY, ADD or WORKDIR: what its layer depends on, and the layer, written without a container."""

from __future__ import annotations

import contextlib
import posixpath
from functools import cached_property
from typing import BinaryIO

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.cache import StepCache, step_key
from pytest_containers.images.build.context import Content, select
from pytest_containers.images.build.contexts import Contexts
from pytest_containers.images.build.instruction import Add, Copy
from pytest_containers.images.build.layers import Layers
from pytest_containers.images.build.layertar import LayerTar
from pytest_containers.images.build.lowers import LowerTree
from pytest_containers.images.build.origins import Origin
from pytest_containers.images.build.owners import owner_of
from pytest_containers.images.build.picking import Picker
from pytest_containers.images.build.placing import Placement, place
from pytest_containers.images.build.remotes import Remote, Remotes
from pytest_containers.images.build.selection import Selection
from pytest_containers.images.build.source import located
from pytest_containers.images.build.state import State

__all__ = ["CopyStep", "FolderStep"]


class CopyStep:
    """An expanded COPY or ADD on top of *state*, from *source* or, where that is None, a context."""

    def __init__(
        self,
        state: State,
        copy: Copy | Add,
        origin: Origin,
        source: State | None,
        layers: Layers,
        contexts: Contexts,
        cache: StepCache,
        remotes: Remotes,
    ) -> None:
        self._state = state
        self._copy = copy
        self._origin = origin
        self._source = source
        self._layers = layers
        self._contexts = contexts
        self._cache = cache
        self._remotes = remotes
        self._workdir = state.config.workdir or "/"

    @property
    def key(self) -> str:
        """The key of the step: of content and place, and but for ``--link`` of the layers below."""
        copy = self._copy
        parents = isinstance(copy, Copy) and copy.parents
        target = posixpath.join("/", self._workdir, copy.target)
        details = [target, copy.mode, copy.exclude, parents, self._owner or copy.owner]
        below = "" if copy.link else self._state.key
        return step_key(below, copy.keyword, self._digest, *details, copy.link)

    def make(self, output: BinaryIO) -> None:
        """Write the layer."""
        with contextlib.ExitStack() as scope:
            below = scope.enter_context(contextlib.closing(self._below))
            if self._fetched:
                items = [one.items(scope) for one in self._fetched]
                selection = self._contexts.of(self._origin).select(self._copy, items)
            else:
                selection = self._selection
            tar = LayerTar(output)
            place(Placement(tar, below), self._copy, selection, self._workdir, self._owner)
            tar.close()

    @property
    def _below(self) -> LowerTree:
        """What the layer is laid over: nothing for ``--link``, so that it fits on anything."""
        return LowerTree(()) if self._copy.link else self._layers.files(self._state)

    @cached_property
    def _owner(self) -> tuple[int, int] | None:
        if not self._copy.owner:
            return None
        with contextlib.closing(self._layers.files(self._state)) as files:
            return owner_of(files, self._copy.owner)

    @property
    def _digest(self) -> str:
        """The content's digest; that of a stage's or image's files is remembered, for they never change."""
        if self._source is None:
            remotes = [one.key for one in self._fetched]
            return step_key(self._content.digest, "remotes", *remotes) if remotes else self._content.digest
        copy = self._copy
        parents = isinstance(copy, Copy) and copy.parents
        key = step_key(self._source.key, "select", copy.sources, copy.exclude, parents)
        if known := self._cache.content(key):
            return known
        self._cache.keep_content(key, self._selection.digest)
        return self._selection.digest

    @cached_property
    def _fetched(self) -> tuple[Remote, ...]:
        return self._remotes.of(self._copy) if isinstance(self._copy, Add) else ()

    @cached_property
    def _content(self) -> Content:
        return self._contexts.of(self._origin).content(self._copy)

    @cached_property
    def _selection(self) -> Selection:
        copy = self._copy
        if self._source is None:
            context, known = self._contexts.of(self._origin), self._content
            return known.selection or context.select(copy, expected=known.digest)
        with located(copy.location):
            files = self._layers.files(self._source)
            picker = Picker(tree=files, place=self._origin.name or "the stage", rooted=True)
            with contextlib.closing(files):
                return select(picker, copy)


class FolderStep:
    """A WORKDIR: the folder is made where it is missing, and belongs to USER."""

    def __init__(self, state: State, layers: Layers) -> None:
        self._state = state
        self._layers = layers

    @property
    def key(self) -> str:
        """The key of the step."""
        config = self._state.config
        return step_key(self._state.key, "WORKDIR", config.workdir, config.user)

    def make(self, output: BinaryIO) -> None:
        """Write the layer, which has no entries where the folder is there."""
        with contextlib.closing(self._layers.files(self._state)) as below:
            tar = LayerTar(output)
            placement = Placement(tar, below)
            path = placement.resolve(self._state.config.workdir)
            if not placement.is_folder(path):
                placement.folder(path, _user(below, self._state.config.user))
            tar.close()


def _user(below: LowerTree, user: str) -> tuple[int, int]:
    """Return the ids of USER, root's where a later step is to make the user known."""
    try:
        return owner_of(below, user) if user else (0, 0)
    except SpecInvalid:
        return 0, 0
