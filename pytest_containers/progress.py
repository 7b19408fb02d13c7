"""What a long operation tells while it goes on: frozen events to one callback (floor 0)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["BuildEvent", "BuildWatch", "Phase", "Progress", "Telling", "Watch", "Watches"]

Phase = Literal["download", "unpack", "upload", "load", "save", "commit", "wait"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """*subject* is a blob's digest or a name; *total_bytes* is None while nobody knows it.

    Bytes are those that are moved or read: compressed ones of a compressed layer. They may fall
    where a transfer has to begin again. At the end, and only there, *done_bytes* is *total_bytes*.
    """

    subject: str
    phase: Phase
    done_bytes: int
    total_bytes: int | None = None
    # The process that has the subject, in the phase "wait".
    holder: str = ""


# Called from any thread, by several at once; what it raises ends the operation.
Watch = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildEvent:
    """One thing that happened to a step of a build.

    *step* names it as ``[stage 2/5] RUN make``. Each begins once, and is then found in the cache
    (``cached``), ``done``, or ``failed``; *output* is a piece of what its command wrote, cut anywhere.
    *duration_s* counts from its beginning. A ``notice`` comes before the first step: its *step* is a
    sentence about what is legal and probably not meant, with the line.
    """

    step: str
    kind: Literal["begin", "output", "cached", "done", "failed", "notice"]
    # What a command writes is not for a log that keeps representations.
    output: bytes = field(default=b"", repr=False)
    duration_s: float = 0.0


# Called from any thread, by several at once; what it raises ends the build.
BuildWatch = Callable[[BuildEvent], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watches:
    """Who hears of transfers, and who of builds."""

    transfer: Watch | None = None
    build: BuildWatch | None = None


# Opened with what is to be had, an image's name, for as long as it takes.
Telling = Callable[[str], AbstractContextManager[Watches]]
