"""The life of one container, and of many: start, exec, end, memory."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.contestants.base import Address, Contestant, ImageContestant
from benchmarks.contestants.library import Testcontainers
from benchmarks.contestants.ours import Ours
from benchmarks.report import OURS
from benchmarks.samples import Collection, Contest, in_turns

__all__ = ["measure"]

_OURS_A_TURN: Final = 4
_TWENTY: Final = 20
_HUNDRED: Final = 100
_PATIENCE_S: Final = 60.0


def measure(
    collected: Collection, ours: Ours, peers: Sequence[Contestant], store: Path, *, quick: bool
) -> None:
    """Collect ``first start exec teardown stop twenty answering memory added hundred``."""
    numbers = itertools.count()
    everyone: list[Contestant] = [ours, *peers]
    in_turns(collected, list(_firsts(store, peers)), 2 if quick else 8, vital=[OURS])
    for one in everyone:  # the first of each pays for what is made once
        _life(one, numbers)
    lives = [
        Contest(
            contestant=one.name, measure=_bound(_life, one, numbers), times=_OURS_A_TURN if one is ours else 1
        )
        for one in everyone
    ]
    in_turns(collected, lives, 2 if quick else 8, vital=[OURS])
    crowds = [Contest(contestant=one.name, measure=_bound(_twenty, one, numbers)) for one in everyone]
    in_turns(collected, crowds, 1 if quick else 3, vital=[OURS])
    hundreds = [Contest(contestant=OURS, measure=lambda: _hundred(ours, numbers))]
    in_turns(collected, hundreds, 1 if quick else 3, vital=[OURS])


def _bound(
    measured: Callable[[Contestant, Iterator[int]], Mapping[str, float]],
    one: Contestant,
    numbers: Iterator[int],
) -> Callable[[], Mapping[str, float]]:
    return lambda: measured(one, numbers)


def _firsts(store: Path, peers: Sequence[Contestant]) -> Iterator[Contest]:
    yield Contest(contestant=OURS, measure=lambda: _first(store))
    for peer in peers:
        if isinstance(peer, Testcontainers):
            yield Contest(contestant=peer.name, measure=_bound_first(peer))


def _bound_first(peer: Testcontainers) -> Callable[[], Mapping[str, float]]:
    return lambda: {"first": peer.first()}


def _first(store: Path) -> Mapping[str, float]:
    argv = [sys.executable, "-m", "benchmarks.first", str(store)]
    return {"first": float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)}


def _life(one: Contestant, numbers: Iterator[int]) -> Mapping[str, float]:
    name = f"one-{next(numbers)}"
    began = time.perf_counter()
    one.start(name)
    started = time.perf_counter()
    one.exec(name)
    executed = time.perf_counter()
    figures = {"start": started - began, "exec": executed - started}
    if isinstance(one, Ours):
        one.kill(name)
        exited = time.perf_counter()
        one.remove([name])
        figures["teardown"] = time.perf_counter() - exited
    else:
        one.remove([name])
    return {**figures, "stop": time.perf_counter() - executed}


def _twenty(one: Contestant, numbers: Iterator[int]) -> Mapping[str, float]:
    """Start twenty servers one after the other, as a test does, then ask each until it answers."""
    names = [f"crowd-{next(numbers)}" for _ in range(_TWENTY)]
    alone = one.memory_bytes() if isinstance(one, ImageContestant) else 0
    began = time.perf_counter()
    for name in names:
        one.serve(name)
    started = time.perf_counter()
    _until_all_answer(one.addresses(names))
    answered = time.perf_counter()
    figures = {"twenty": started - began, "answering": answered - began}
    if isinstance(one, ImageContestant):
        figures |= {"memory": alone, "added": max(0, one.memory_bytes() - alone) / _TWENTY}
    one.remove(names)
    return figures


def _hundred(ours: Ours, numbers: Iterator[int]) -> Mapping[str, float]:
    names = [f"hundred-{next(numbers)}" for _ in range(_HUNDRED)]
    began = time.perf_counter()
    for name in names:
        ours.start(name)
    took = time.perf_counter() - began
    ours.remove(names)
    return {"hundred": took}


def _until_all_answer(addresses: Sequence[Address]) -> None:
    waiting = list(addresses)
    deadline = time.monotonic() + _PATIENCE_S
    while waiting := [address for address in waiting if not _answers(address)]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no answer from {waiting}")
        time.sleep(0.001)


def _answers(address: Address) -> bool:
    try:
        with socket.create_connection(address, timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16) == b"+PONG\r\n"
    except OSError:
        return False
