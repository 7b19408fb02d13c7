"""A long run costs no more than a short one: what is used for a container goes with it."""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.plugins.clock import scaled

if TYPE_CHECKING:
    from tests.lifetimes.conftest import Anatomy, Player, Stage

pytestmark = pytest.mark.kernel

_SLACK_BYTES: Final = 1_500_000
_SETTLE_S: Final = scaled(5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a run uses, by kind; all but the memory can be counted."""

    counts: dict[str, int]
    memory: dict[str, int]


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _memory(pid: int) -> int:
    found = re.search(
        r"^Private_Dirty: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE
    )
    assert found is not None
    return int(found[1]) << 10


def _use(stage: Stage, find: Anatomy, player: Player) -> Use:
    parts = {part: find(player, part) for part in ("janitor", "supervisor", "gateway")}
    pids = {part: pid for part, pid in parts.items() if pid is not None}
    assert len(pids) == 3
    supervisor = Path(f"/proc/{pids['supervisor']}")
    descriptors, threads = player.ask("counts").split()
    counts = {f"descriptors of the {part}": _descriptors(pid) for part, pid in pids.items()}
    counts |= {
        "descriptors of the client": int(descriptors),
        "threads of the client": int(threads),
        "mounts": len((supervisor / "mountinfo").read_text().splitlines()),
        "links of the switch": len((supervisor / "net/dev").read_text().splitlines()),
        "children of the supervisor": len(stage.children(pids["supervisor"])),
        "children of the client": len(stage.children(player.pid)),
        "files in the run folder": len(list(stage.folder.rglob("*"))),
    }
    return Use(counts=counts, memory={part: _memory(pid) for part, pid in pids.items()})


def _growth(stage: Stage, find: Anatomy, player: Player, before: Use) -> list[str]:
    """Return what has grown since *before*, after the kernel's time to take dead links away."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        now = _use(stage, find, player)
        grown = [
            f"{kind}: {before.counts[kind]} -> {n}"
            for kind, n in now.counts.items()
            if n > before.counts[kind]
        ]
        if not grown or time.monotonic() > deadline:
            break
        threading.Event().wait(0.05)
    for part, size in now.memory.items():
        if size > before.memory[part] + _SLACK_BYTES:
            grown.append(f"memory of the {part}: {before.memory[part]} -> {size} bytes")
    return grown


@pytest.mark.parametrize(
    ("work", "answer", "few", "more"),
    [
        ("cycle {}", "cycled", 50, 150),
        ("execs {} stays", "0", 10, 40),
        ("fail {}", "CommandNotFound", 10, 40),
    ],
)
def test_run_does_not_grow(stage: Stage, find: Anatomy, work: str, answer: str, few: int, more: int) -> None:
    """Many of a kind leave the run as large as a few did: nothing is kept for each."""
    player = stage.play()
    assert player.ask("start stays").startswith("stays")
    assert player.ask(work.format(few)) == answer
    before = _use(stage, find, player)
    assert player.ask(work.format(more)) == answer
    assert _growth(stage, find, player, before) == []
    assert stage.asleep(player) == 1


def test_run_does_not_grow_by_visitors(stage: Stage, find: Anatomy) -> None:
    """Who connects, leaves a container behind and goes away, leaves the run as large as it was."""
    player = stage.play()
    assert player.ask("start stays").startswith("stays")
    supervisor = find(player, "supervisor")
    resting = _links(supervisor)

    def visit(count: int) -> None:
        for _ in range(count):
            assert player.ask("connect 1") == "connected"
            # Its network is free for the next one, and stays as one bridge, when its links are gone.
            deadline = time.monotonic() + _SETTLE_S
            while _links(supervisor) > resting + 1:
                assert time.monotonic() < deadline
                threading.Event().wait(0.01)

    visit(10)
    before = _use(stage, find, player)
    visit(40)
    assert _growth(stage, find, player, before) == []


def _links(supervisor: int | None) -> int:
    return len(Path(f"/proc/{supervisor}/net/dev").read_text().splitlines())
