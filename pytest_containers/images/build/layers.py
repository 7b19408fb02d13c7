"""The layers of a build's steps: each is found in the cache, or made once and kept there."""

from __future__ import annotations

import contextlib
import datetime
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO, Final, Literal

from pytest_containers.images.build.cache import Cached, StepCache, step_key
from pytest_containers.images.build.halt import Halt
from pytest_containers.images.build.layertar import clamp
from pytest_containers.images.build.lowers import LowerTree
from pytest_containers.images.build.output import StepReport
from pytest_containers.images.build.runner import Command, Runner, Workspace
from pytest_containers.images.build.state import State
from pytest_containers.images.chains import Chains
from pytest_containers.images.commit import add_layer
from pytest_containers.images.decompress import PIECE_BYTES
from pytest_containers.images.store import Store

__all__ = ["Layers"]

_EMPTY_TAR_BYTES: Final = 10240
_NANO: Final = 10**9


class Layers:
    """Gives steps their layers; used by all stages of a build at once.

    *use_cache* false makes every step anew. With *epoch_s*, SOURCE_DATE_EPOCH, nothing in a layer and
    in the history is younger than that, as with BuildKit's ``rewrite-timestamp``.
    """

    def __init__(
        self,
        store: Store,
        runner: Runner,
        cache: StepCache,
        halt: Halt,
        *,
        use_cache: bool,
        epoch_s: int | None,
    ) -> None:
        self._store = store
        self._runner = runner
        self._cache = cache
        self._halt = halt
        self._use_cache = use_cache
        self._epoch_s = epoch_s
        self._created = (
            "" if epoch_s is None else _written(datetime.datetime.fromtimestamp(epoch_s, datetime.UTC))
        )
        self._chains = Chains(store.root, store.blobs)

    def now(self) -> str:
        """Return the time that a step made now has in the history (RFC 3339)."""
        return self._created or _written(datetime.datetime.now(datetime.UTC))

    def created(self, state: State) -> str:
        """Return the time of a step that makes no layer: that of the one before it."""
        return self._created or (state.history[-1].created if state.history else "") or self.now()

    def files(self, state: State) -> LowerTree:
        """Return the files of *state*, to be closed by the caller."""
        return LowerTree(self._chains.stack(state.chain) if state.chain else ())

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
        self,
        state: State,
        key: str,
        make: Callable[[BinaryIO], None],
        report: StepReport,
        *,
        alone: bool = False,
    ) -> tuple[State, str]:
        """Return *state* with the layer of the step *key*, and when that was made.

        *make* writes it as a plain tar where the cache has not got it. *alone* tells that neither
        the key nor the layer depends on the layers below.
        """
        if self._epoch_s is not None:
            key = step_key(key, "epoch", self._epoch_s)
        with self._halt.waiting(), self._cache.hold(key, self._halt.event):
            self._halt.check()
            found = self._cache.find(key) if self._use_cache else None
            if found is None:
                found = self._make(state, make)
                self._cache.keep(key, found)
            else:
                report.cached()
        if found.layer is not None:
            with self._halt.waiting():
                self._store.unpack_layer(state.chain, found.layer, found.diff_id, cancel=self._halt.event)
        after = step_key(state.key, "alone", key) if alone else key
        return state.with_layer(after, found.layer, found.diff_id), self._created or found.created

    def _make(self, state: State, make: Callable[[BinaryIO], None]) -> Cached:
        with contextlib.ExitStack() as files:
            layer = files.enter_context(tempfile.TemporaryFile())
            make(layer)
            size = layer.tell()
            layer.seek(0)
            if size <= _EMPTY_TAR_BYTES and not layer.read().strip(b"\0"):
                return Cached(layer=None, created=self.now())
            layer.seek(0)
            if self._epoch_s is not None:
                made, layer = layer, files.enter_context(tempfile.TemporaryFile())
                clamp(made, layer, self._epoch_s * _NANO)
                layer.seek(0)
            # With an epoch the standard library packs, so that the same bytes come of it elsewhere.
            pieces = iter(partial(layer.read, PIECE_BYTES), b"")
            plain = self._epoch_s is not None
            descriptor, diff_id = add_layer(self._store, state.chain, pieces, plain_gzip=plain)
        return Cached(layer=descriptor, diff_id=diff_id, created=self.now())


def _written(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
