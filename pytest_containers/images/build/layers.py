"""The layers of a build's steps: each is found in the cache, or made once and kept there."""

from __future__ import annotations

import contextlib
import datetime
import tempfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, Literal

from pytest_containers.images.build.cache import Cached, StepCache
from pytest_containers.images.build.halt import Halt
from pytest_containers.images.build.output import StepReport
from pytest_containers.images.build.runner import Command, Runner, Workspace
from pytest_containers.images.build.state import State
from pytest_containers.images.chains import Chains
from pytest_containers.images.commit import add_layer
from pytest_containers.images.decompress import PIECE_BYTES
from pytest_containers.images.store import Store

__all__ = ["Layers"]

_EMPTY_TAR_BYTES: Final = 10240


class Layers:
    """Gives steps their layers; used by all stages of a build at once.

    *use_cache* false makes every step anew; *created* stamps the history, empty for the time it is.
    """

    def __init__(
        self, store: Store, runner: Runner, cache: StepCache, halt: Halt, *, use_cache: bool, created: str
    ) -> None:
        self._store = store
        self._runner = runner
        self._cache = cache
        self._halt = halt
        self._use_cache = use_cache
        self._created = created
        self._chains = Chains(store.root, store.blobs)

    def now(self) -> str:
        """Return the time that a step made now has in the history (RFC 3339)."""
        return self._created or datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def created(self, state: State) -> str:
        """Return the time of a step that makes no layer: that of the one before it."""
        return self._created or (state.history[-1].created if state.history else "") or self.now()

    @contextlib.contextmanager
    def open(
        self, state: State | None, command: Command | None, *, storage: Literal["memory", "disk"] = "disk"
    ) -> Iterator[Workspace]:
        """Open a workspace over the layers of *state*; it is stopped where another stage fails."""
        folders = self._chains.stack(state.chain) if state and state.chain else ()
        layers = tuple(str(folder) for folder in folders)
        with (
            self._runner.open(layers, command, storage=storage) as workspace,
            self._halt.running(workspace),
        ):
            yield workspace

    def lay(
        self, state: State, key: str, make: Callable[[BinaryIO], None], report: StepReport
    ) -> tuple[State, str]:
        """Return *state* with the layer of the step *key*, and when that was made.

        *make* writes it as a plain tar where the cache has not got it.
        """
        with self._cache.hold(key):
            self._halt.check()
            found = self._cache.find(key) if self._use_cache else None
            if found is None:
                found = self._make(state, make)
                self._cache.keep(key, found)
            else:
                report.cached()
        if found.layer is not None:
            self._store.unpack_layer(state.chain, found.layer, found.diff_id)
        return state.with_layer(key, found.layer, found.diff_id), self._created or found.created

    def _make(self, state: State, make: Callable[[BinaryIO], None]) -> Cached:
        with tempfile.TemporaryFile() as layer:
            make(layer)
            size = layer.tell()
            layer.seek(0)
            if size <= _EMPTY_TAR_BYTES and not layer.read().strip(b"\0"):
                return Cached(layer=None, created=self.now())
            layer.seek(0)
            descriptor, diff_id = add_layer(
                self._store, state.chain, iter(lambda: layer.read(PIECE_BYTES), b"")
            )
        return Cached(layer=descriptor, diff_id=diff_id, created=self.now())
