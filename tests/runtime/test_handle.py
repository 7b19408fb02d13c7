"""Laws of a native container's handle at the edges: no time, no log, no answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import EngineError
from pytest_containers.runtime import messages
from pytest_containers.spec import ContainerSpec, LogTail

if TYPE_CHECKING:
    from tests.runtime.conftest import Boxes

pytestmark = pytest.mark.kernel

_PATIENCE_S: Final = 20.0
_SPEC: Final = ContainerSpec(name="box", command=("sh", "-c", "echo said; exec sleep 1000"))


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0])
def test_wait_without_time_returns_at_once(boxes: Boxes, timeout_s: float) -> None:
    """A wait whose time is over already tells the state as it is (poll(2) would take -1 as for ever)."""
    box = boxes.start(_SPEC)
    began = time.monotonic()
    assert box.wait(timeout_s).status == "running"
    assert time.monotonic() - began < _PATIENCE_S


def test_logs_after_the_removal_are_empty(boxes: Boxes) -> None:
    """Nothing comes of a log that is gone, and that is no error."""
    box = boxes.start(_SPEC)
    while not (found := box.logs())[0]:
        assert box.state().status == "running"
    assert found[0][0].content == b"said\n"
    box.remove()
    assert box.logs() == ((), 0)
    assert box.logs(found[1]) == ((), found[1])
    assert box.log_tail(100) == LogTail(chunks=(), is_cut=False, position=0)


def test_removal_that_fails_gives_up_what_is_ours(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the supervisor's is told, the handle's descriptors are closed all the same."""
    box = boxes.start(_SPEC)

    def tell(request: messages.Request[object], descriptors: tuple[int, ...] = ()) -> object:
        raise EngineError(f"no {type(request).__name__} today", seen=str(descriptors))

    with monkeypatch.context() as broken:
        broken.setattr(box._connection, "tell", tell)
        with pytest.raises(EngineError, match="no Remove today"):
            box.remove()
    assert (box._held.log, box._held.pidfd) == (-1, -1)
    box.remove()
