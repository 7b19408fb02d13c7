"""Bars and step lines on a terminal: the one door to rich."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.text import Text

from pytest_containers.progress import BuildEvent, Phase, Progress

__all__ = ["Screen"]

_HEX: Final = 12
_FRAMES_PER_S: Final = 10
_SHOWN_LINES: Final = 4
_SETTLED: Final[Mapping[Phase, str]] = {
    "download": "downloaded",
    "unpack": "unpacked",
    "upload": "uploaded",
    "load": "loaded",
    "save": "saved",
    "commit": "committed",
}


@dataclass(slots=True)
class _Step:
    """A step that runs, with the last lines of its output."""

    name: str
    begun: float
    lines: list[str] = field(default_factory=list)
    rest: bytes = b""

    def add(self, output: bytes) -> None:
        """Keep the last lines; a carriage return begins a line anew, as on a terminal."""
        *whole, self.rest = (self.rest + output).split(b"\n")
        self.lines += [line.rsplit(b"\r", 1)[-1].decode("utf-8", "replace") for line in whole]
        del self.lines[:-_SHOWN_LINES]


class Screen:
    """The live part of a terminal; a context manager. Safe between threads."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=self._console,
        )
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._steps: dict[str, _Step] = {}
        self._live = Live(
            console=self._console, get_renderable=self._render, refresh_per_second=_FRAMES_PER_S
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def transfer(self, event: Progress) -> None:
        """Show a transfer as a bar: one for each blob, through all of its phases."""
        if event.phase == "wait":
            self._live.console.print(Text(f"{_short(event.subject)} waits for {event.holder}", style="dim"))
            return
        done = event.total_bytes is not None and event.done_bytes == event.total_bytes
        described = f"{_short(event.subject)} {_SETTLED[event.phase] if done else event.phase:<10}"
        with self._lock:
            task = self._tasks.get(event.subject)
            if task is None:
                task = self._bars.add_task(described, total=event.total_bytes)
                self._tasks[event.subject] = task
            self._bars.update(
                task, description=described, completed=event.done_bytes, total=event.total_bytes
            )

    def step(self, event: BuildEvent) -> None:
        """Show a build's step: with its last output while it runs, as one line when it has ended."""
        if event.kind == "notice":
            self._live.console.print(Text.assemble(("warning: ", "yellow"), event.step))
            return
        with self._lock:
            if event.kind == "begin":
                self._steps[event.step] = _Step(name=event.step, begun=time.monotonic())
            elif event.kind == "output" and event.step in self._steps:
                self._steps[event.step].add(event.output)
        if event.kind in ("cached", "done", "failed"):
            with self._lock:
                self._steps.pop(event.step, None)
            self._live.console.print(self._ended(event))

    def _ended(self, event: BuildEvent) -> Text:
        if event.kind == "cached":
            return self._line("✓", event.step, "CACHED", "cyan")
        sign, style = ("✓", "green") if event.kind == "done" else ("✗", "red")
        return self._line(sign, event.step, f"{event.duration_s:.1f}s", style)

    def _line(self, sign: str, name: str, right: str, style: str) -> Text:
        room = max(self._console.width - len(right) - 4, 10)
        name = name.replace("\n", " ")
        name = name if len(name) <= room else name[: room - 1] + "…"
        return Text.assemble((f"{sign} ", style), f"{name:<{room}} ", (right, style), no_wrap=True)

    def _render(self) -> RenderableType:
        now = time.monotonic()
        with self._lock:
            parts: list[RenderableType] = []
            for step in self._steps.values():
                parts.append(self._line("●", step.name, f"{now - step.begun:.1f}s", "bold"))
                parts += [
                    Text(f"    {line}", style="dim", no_wrap=True, overflow="ellipsis") for line in step.lines
                ]
            if self._tasks:
                parts.append(self._bars.get_renderable())
        return Group(*parts)


def _short(subject: str) -> str:
    algorithm, colon, digest = subject.partition(":")
    return digest[:_HEX] if colon and algorithm.startswith("sha") else subject[-30:]
