"""Attacks by the container's files passing for Python's own: a module that is imported late is not found.

In another root Python's search path leads to files of the image. No code of ours imports there,
so a run is started here whose supervisor does, each time it is about to work in a container.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.errors import ContainersError
from pytest_containers.runtime import client
from pytest_containers.spec import ContainerSpec, ExecSpec
from tests.runtime.conftest import Boxes

pytestmark = pytest.mark.kernel

# A module of the standard library that nothing of ours loads; the base host has it where we have it.
_LATE: Final = """
import os, sys
sys.path += sys.argv[7:]
from pytest_containers.runtime import accounts, difference, transfer
def late(*_arguments, **_options):
    import wave
    raise RuntimeError(f"{wave.__name__} was imported")
def instead(module, name):
    usual = getattr(module, name)
    def take(*arguments, **options):
        late() if os.path.exists("/late") else None
        return usual(*arguments, **options)
    setattr(module, name, take)
instead(transfer, "pack")
instead(transfer, "unpack")
instead(accounts, "lookup")
difference.write_layer = late
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Boxes]:
    """Return what makes containers of a run that imports late, in those that have a file ``/late``."""

    monkeypatch.setattr(client, "_START", _LATE + "".join(client._START))
    engine = NativeEngine(store=tmp_path / "store", run_folder=fresh_run_folder(), owner_pid=os.getpid())
    with contextlib.closing(engine):
        made = Boxes(engine)
        try:
            yield made
        finally:
            made.remove()


def test_nothing_is_imported_from_a_container(own: Boxes) -> None:
    """Start, exec, read, write and commit import nothing once they are about to change their root."""
    fine = own.start(ContainerSpec(name="fine", command=("sleep", "1000")))
    never = own.create(ContainerSpec(name="never", command=("sleep", "1000"), files={"/late": b""}))
    with pytest.raises(ContainersError, match="No module named 'wave'"):
        never.start()
    assert fine.exec(ExecSpec(argv=("touch", "/late"))).exit_code == 0
    assert "No module named 'wave'" in fine.exec(ExecSpec(argv=("true",))).stderr
    actions: tuple[Callable[[], object], ...] = (
        lambda: own.read(fine, "/etc/hostname"),
        lambda: fine.tree.write("/", io.BytesIO(bytes(10240))),
        lambda: fine.tree.commit("late", fine._tree._image.config),
    )
    for action in actions:
        with pytest.raises(ContainersError, match="No module named 'wave'"):
            action()
