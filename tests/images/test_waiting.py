"""Waits of the image store for other processes: ended at once, told of, and without an end of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers import _files
from pytest_containers.errors import EngineError
from pytest_containers.images.build.cache import StepCache
from pytest_containers.images.build.halt import Halt
from pytest_containers.images.build.volumes import Volumes
from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.prune import prune
from pytest_containers.images.store import Store
from tests.plugins.processes import HOLD, line, process

if TYPE_CHECKING:
    from pytest_containers.progress import Progress
    from tests.images.conftest import TarBuilder

_ROOT: Final = Path(__file__).resolve().parents[2]
_WAIT: Final = """
import signal, sys, pathlib
# Whoever started us may have had it ignored, as a shell does with what it starts in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pytest_containers.images.digest import Digest
from pytest_containers.images.store import Store
store = Store.open(pathlib.Path(sys.argv[1]))
try:
    print("waits", flush=True)
    with store.blobs.receive(Digest.parse(sys.argv[2]), 1):
        pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@contextmanager
def _begun(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program until the end of the block, which begins when it has said that it is there."""
    with process(program, *arguments) as started:
        assert line(started) in ("held", "waits")
        yield started


def _lock_of(store: Store, digest: Digest) -> Path:
    (store.root / "locks").mkdir(exist_ok=True)
    return store.root / "locks" / f"sha256-{digest.hex}.lock"


def test_wait_for_a_blob_ends_with_ctrl_c(store: Store) -> None:
    """A process that waits for a blob which another receives is interrupted while that one goes on."""
    digest = Digest.of(b"x")
    with _begun(HOLD, _lock_of(store, digest)) as holder, _begun(_WAIT, store.root, digest) as waiter:
        waiter.send_signal(signal.SIGINT)
        told, _ = waiter.communicate(timeout=20)
        assert told == "interrupted\n"
        assert holder.poll() is None


def test_wait_for_a_blob_is_told_and_cancelled(store: Store) -> None:
    """Whoever watches hears which process has the blob; the cancel event ends the wait with that process."""
    digest = Digest.of(b"x")
    cancel, heard = threading.Event(), []

    def tell(holder: str) -> None:
        heard.append(holder)
        cancel.set()

    waiting = _files.Waiting(cancel=cancel, tell=tell)
    with _begun(HOLD, _lock_of(store, digest)) as holder:
        with pytest.raises(EngineError, match="was cancelled"), store.blobs.receive(digest, waiting=waiting):
            pass
        assert heard[0].startswith(f"process {holder.pid} (")


def test_wait_for_a_chain_is_told_as_progress(store: Store, tar: Callable[[], TarBuilder]) -> None:
    """The wait for a layer that another process unpacks is an event with that process, and can be ended."""
    data = tar().file("a", b"1").bytes()
    layer = Descriptor(media_type="", digest=store.blobs.add(data), size=len(data))
    (store.root / "locks").mkdir(exist_ok=True)
    lock = store.root / "locks" / f"chain-{layer.digest.hex}.lock"
    cancel, heard = threading.Event(), []

    def watch(event: Progress) -> None:
        heard.append(event)
        cancel.set()

    with _begun(HOLD, lock) as holder:
        with pytest.raises(EngineError, match="was cancelled"):
            store.unpack_layer(None, layer, layer.digest, watch=watch, cancel=cancel)
        assert (heard[0].phase, heard[0].subject) == ("wait", layer.digest)
        assert heard[0].holder.startswith(f"process {holder.pid} (")
    assert store.unpack_layer(None, layer, layer.digest) == layer.digest


def test_step_that_another_process_makes_ends_with_the_build(store: Store) -> None:
    """A stage that waits for a step is ended by another stage's failure, which is what is told."""
    halt, cache = Halt(), StepCache(store)
    with cache.hold("other"):
        pass
    with _begun(HOLD, store.root / "build" / "key.lock"):
        threading.Timer(0.1, halt.halt).start()
        with pytest.raises(CancelledError), halt.waiting(), cache.hold("key", halt.event):
            pass


def test_cache_mount_that_another_command_has_ends_with_the_build(store: Store) -> None:
    """A command that waits for its turn at a locked mount is ended with its build."""
    cancel = threading.Event()
    volumes = Volumes(store.root / "mounts", cancel)
    with volumes.hold("a", "locked", Path.mkdir):
        threading.Timer(0.1, cancel.set).start()
        with pytest.raises(CancelledError), volumes.hold("a", "locked", Path.mkdir):
            pass


def test_prune_removes_the_lock_files_that_nobody_holds(store: Store, tar: Callable[[], TarBuilder]) -> None:
    """One that a living process holds stays, and so does the gate of the leases."""
    data = tar().file("a", b"1").bytes()
    layer = Descriptor(media_type="", digest=store.blobs.add(data), size=len(data))
    with store.blobs.receive(Digest.of(b"never came")):
        pass
    store.unpack_layer(None, layer, layer.digest)
    with StepCache(store).hold("step"):
        pass
    held = _lock_of(store, Digest.of(b"held"))
    with _begun(HOLD, held):
        prune(store)
        assert sorted(path.name for path in store.root.rglob("*.lock")) == [
            "gate.lock",
            "index.lock",  # taken last of all
            held.name,
        ]


def test_lock_file_is_not_removed_between_its_opening_and_its_lock(tmp_path: Path) -> None:
    """Of many threads that lock, and one that removes free lock files, never two hold the lock at once."""
    path, inside, ended = tmp_path / "a.lock", [], threading.Event()
    faults: list[str] = []

    def work() -> None:
        for _ in range(60):
            with _files.locked(path):
                inside.append(1)
                if len(inside) != 1:
                    faults.append("two hold the lock")
                os.sched_yield()
                inside.pop()

    def remove() -> None:
        while not ended.is_set():
            _files.remove_free_locks(tmp_path)

    remover = threading.Thread(target=remove)
    workers = [threading.Thread(target=work) for _ in range(4)]
    for thread in (remover, *workers):
        thread.start()
    for thread in workers:
        thread.join(60)
    ended.set()
    remover.join(60)
    assert faults == []
