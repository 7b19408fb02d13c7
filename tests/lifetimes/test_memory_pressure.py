"""The law of lifetimes where memory is short: whatever the kernel has to end, nothing of the run is left."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.lifetimes.conftest import Anatomy, Stage

pytestmark = pytest.mark.kernel

_LIMIT_BYTES: Final = 160 << 20
_CONTAINERS: Final = 6
_PATIENCE_S: Final = 20.0
_VERSION_1: Final = Path("/sys/fs/cgroup/memory")
_VERSION_2: Final = Path("/sys/fs/cgroup")
_LEFT_BYTES: Final = 2 << 20
_BOUND_BYTES: Final = 200 << 20
# Takes what its group has left but a little, and goes over it again and again; ends with its input.
_HOG: Final = """
import os, select, sys
usage, limit, bound = sys.argv[1], *map(int, sys.argv[2:])
def used():
    if not usage:
        return 0
    with open(usage) as file:
        return int(file.read())
pieces = []
while len(pieces) << 20 < bound and used() < limit:
    pieces.append(bytearray(b"x" * (1 << 20)))
print("taken", flush=True)
while not select.select([0], [], [], 0.01)[0]:
    for piece in pieces:
        piece[::4096] = b"y" * len(piece[::4096])
"""


@pytest.fixture
def group() -> Iterator[Path | None]:
    """Return a memory group of this test's own; None where the machine gives nobody one (cgroups(7))."""
    name = f"test-{os.urandom(4).hex()}"
    version_1 = (_VERSION_1 / "memory.limit_in_bytes").exists()
    folder = (_VERSION_1 if version_1 else _VERSION_2) / name
    try:
        folder.mkdir()
        limit = "memory.limit_in_bytes" if version_1 else "memory.max"
        (folder / limit).write_text(str(_LIMIT_BYTES))
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        yield None
        return
    yield folder
    deadline = time.monotonic() + 20
    while True:
        try:
            folder.rmdir()
        except OSError:  # EBUSY while the last of its processes ends
            assert time.monotonic() < deadline, "processes are left in the group"
            threading.Event().wait(0.05)
        else:
            break


def _inside(group: Path | None) -> tuple[str, ...]:
    """Return a command that puts itself into *group* and executes what follows."""
    if group is None:
        return ()
    return ("/bin/sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "inside")


@contextlib.contextmanager
def _hog(group: Path | None) -> Iterator[None]:
    """Fill the group; without one a bounded share of the machine's memory is taken."""
    usage = ""
    if group is not None:
        version_1 = (group / "memory.usage_in_bytes").exists()
        usage = str(group / ("memory.usage_in_bytes" if version_1 else "memory.current"))
    words = (usage, _LIMIT_BYTES - _LEFT_BYTES, _BOUND_BYTES)
    command = [*_inside(group), sys.executable, "-c", _HOG, *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hog:
        assert hog.stdout is not None
        try:
            assert select.select([hog.stdout], [], [], _PATIENCE_S)[0], "the group does not fill up"
            yield
        finally:
            hog.kill()


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("victim", ["player", "supervisor"])
def test_kill_leaves_nothing_where_memory_is_short(
    stage: Stage, find: Anatomy, group: Path | None, victim: str, turn: int
) -> None:
    """Under memory pressure, too, a kill -9 leaves nothing, and so does the kernel's own kill."""
    seed = os.urandom(4).hex()
    chance = random.Random(seed)
    player = stage.play(prefix=_inside(group))
    with _hog(group):
        player.tell(f"many {_CONTAINERS} c")
        for _ in range(chance.randrange(1, _CONTAINERS + 1)):
            if not player.line().startswith(("started", "begun")):  # the kernel has ended a part of the run
                break
        threading.Event().wait(chance.uniform(0, 0.02))
        pid = find(player, victim)
        # A player that goes on would start a fresh run in the place of the dead one.
        os.kill(player.pid, signal.SIGSTOP)
        killed = time.monotonic()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        if pid is None:
            player.kill()
        stage.gone(killed, f"{victim} killed in a full group, seed {seed}")
        player.dispose()
