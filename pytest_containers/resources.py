"""How a test writes what a container may take: ``limits=``, ``ulimits=`` and sizes (floor 4).

Written as docker-py, compose and the docker command have it, a value is taken where its meaning is
the same, and else refused with the right spelling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.spec import Limits, Ulimit
from pytest_containers.spelling import similar

__all__ = ["LimitsLike", "UlimitsLike", "limits_of", "size_bytes", "ulimits_of"]

LimitsLike = Limits | Mapping[str, int | float | str | None]
_Number = int | tuple[int, int] | Mapping[str, int] | str
UlimitsLike = Mapping[str, _Number] | Iterable[object]

_UNITS: Final[Mapping[str, int]] = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE: Final = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[bkmgt]?)(?:i?b)?", re.IGNORECASE)
# As docker has it: less is not enough for the start of a process (docker run, "--memory").
_LEAST_MEMORY_BYTES: Final = 6 << 20
# The kernel takes no quota below 1 ms of our 100 (kernel/sched/core.c, "min_cfs_quota_period").
_LEAST_CPUS: Final = 0.01
_LIMITS: Final = ("memory", "cpus", "pids", "storage")
# What other tools call them.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "mem": "memory",
    "mem_limit": "memory",
    "ram": "memory",
    "cpu": "cpus",
    "nano_cpus": "cpus",
    "cpu_count": "cpus",
    "pid": "pids",
    "pids_limit": "pids",
    "disk": "storage",
    "size": "storage",
}
# getrlimit(2); the names without RLIMIT_.
_ULIMITS: Final = tuple(
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending"
    " stack".split()
)
_UNLIMITED: Final = ("unlimited", "infinity", "-1")


def size_bytes(size: int | str) -> int:
    """Return the bytes of ``67108864``, ``"64m"`` or ``"1.5g"``; units count by 1024. Raises SpecInvalid."""
    match = _SIZE.fullmatch(str(size).strip())
    if match is None or isinstance(size, bool):
        raise SpecInvalid(f"{size!r} is not a size", mend='write bytes, or "64m"')
    return int(float(match["number"]) * _UNITS[match["unit"].lower()])


def limits_of(given: LimitsLike | None) -> Limits:
    """Return the limits of ``{"memory": "512m", "cpus": 1.5, "pids": 100}``. Raises SpecInvalid."""
    if given is None:
        return Limits()
    if isinstance(given, Limits):
        limits = given
    elif isinstance(given, Mapping):
        _judge_names(given)
        memory, storage = given.get("memory"), given.get("storage")
        limits = Limits(
            memory_bytes=None if memory is None else _size("memory", memory),
            cpus=_cpus(given.get("cpus")),
            pids=_pids(given.get("pids")),
            storage_bytes=None if storage is None else _size("storage", storage),
        )
    else:
        raise SpecInvalid(
            f"limits={given!r} is not a mapping",
            mend='write limits={"memory": "512m", "cpus": 1.5, "pids": 100}',
        )
    return _judged(limits)


def _judge_names(given: Mapping[str, object]) -> None:
    for name in given:
        if name not in _LIMITS:
            near = _ELSEWHERE.get(name) or similar(str(name), _LIMITS)
            mend = f"the limits are {', '.join(_LIMITS)}"
            raise SpecInvalid(
                f"limits= has no {name!r}", mend=f"write {near!r}: {mend}" if near else f"drop it: {mend}"
            )


def _size(name: str, size: float | str) -> int:
    try:
        return size_bytes(size if isinstance(size, str) else int(size))
    except (SpecInvalid, ValueError, TypeError, OverflowError) as error:
        raise SpecInvalid(f"limits= has {name} of {size!r}", mend='write bytes, or "512m"') from error


def _cpus(cpus: float | str | None) -> float | None:
    if cpus is None:
        return None
    try:
        return float(cpus)
    except (TypeError, ValueError) as error:
        raise SpecInvalid(
            f"limits= has cpus of {cpus!r}", mend="write a number of processors, as 1.5"
        ) from error


def _pids(pids: float | str | None) -> int | None:
    if pids is None:
        return None
    try:
        if int(pids) == float(pids):
            return int(pids)
    except (TypeError, ValueError, OverflowError):
        pass
    raise SpecInvalid(f"limits= has pids of {pids!r}", mend="write a number of processes, as 100")


def _judged(limits: Limits) -> Limits:
    """Return *limits*; raise SpecInvalid for one that no container could start with."""
    for name, value, least, written in (
        ("memory", limits.memory_bytes, _LEAST_MEMORY_BYTES, '"6m"'),
        ("cpus", limits.cpus, _LEAST_CPUS, "0.01"),
        ("pids", limits.pids, 1, "1"),
        ("storage", limits.storage_bytes, 1 << 20, '"1m"'),
    ):
        if value is not None and not least <= value < float("inf"):
            raise SpecInvalid(
                f"a container cannot live with {name} of {value}",
                mend=f"write {written} or more, or leave it out for no limit",
            )
    return limits


def ulimits_of(given: UlimitsLike | None) -> tuple[Ulimit, ...]:
    """Return the limits of ``{"nofile": 65536, "core": (0, -1)}``, sorted by name; -1 is no limit.

    A value is one number for both, a pair of soft and hard, or a mapping with ``"soft"`` and ``"hard"``.
    docker-py's list of ``Ulimit`` and the command's ``"nofile=1024:2048"`` are taken as well. Raises
    SpecInvalid.
    """
    if given is None:
        return ()
    if isinstance(given, str | bytes | int) or not isinstance(given, Mapping | Iterable):
        raise _no_ulimits(given)
    pairs = given.items() if isinstance(given, Mapping) else map(_named, given)
    return tuple(sorted((_ulimit(name, value) for name, value in pairs), key=lambda one: one.name))


def _no_ulimits(given: object) -> SpecInvalid:
    return SpecInvalid(f"ulimits={given!r} is not a mapping", mend='write ulimits={"nofile": 65536}')


def _named(given: object) -> tuple[object, object]:
    """Return name and value of an item of a list: docker-py's Ulimit, or the command's text."""
    if isinstance(given, Mapping):
        plain = {str(key).lower(): value for key, value in given.items()}
        return plain.pop("name", ""), plain
    name, equals, value = given.partition("=") if isinstance(given, str) else ("", "", "")
    if not equals:
        raise _no_ulimits(given)
    return name, value


def _ulimit(name: object, value: object) -> Ulimit:
    short = str(name).lower().removeprefix("rlimit_")
    if short not in _ULIMITS:
        near = similar(short, _ULIMITS)
        known = ", ".join(_ULIMITS)
        raise SpecInvalid(
            f"ulimits= has no {name!r}", mend=f"write {near!r}" if near else f"choose among {known}"
        )
    parts = _parts(value)
    try:
        soft, hard = (_bound(part) for part in (parts * 2 if len(parts) == 1 else parts))
    except (TypeError, ValueError) as error:
        raise SpecInvalid(
            f"ulimits= has {short} of {value!r}", mend="write a number, (soft, hard), or -1 for no limit"
        ) from error
    if hard >= 0 and not 0 <= soft <= hard:
        raise SpecInvalid(
            f"ulimits= has {short} of {value!r}",
            seen=f"the soft limit {soft} is above the hard one, {hard}",
            mend="let the soft limit be the hard one or less (getrlimit(2))",
        )
    return Ulimit(name=short, soft=soft, hard=hard)


def _parts(value: object) -> tuple[object, ...]:
    if isinstance(value, Mapping):
        plain = {str(key).lower(): part for key, part in value.items()}
        soft, hard = plain.get("soft"), plain.get("hard")
        # Where one of the two is missing, docker takes the other for both.
        return (hard if soft is None else soft, soft if hard is None else hard)
    if isinstance(value, str):
        return tuple(value.split(":"))
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _bound(value: object) -> int:
    if isinstance(value, str) and value.strip().lower() in _UNLIMITED:
        return -1
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(value)
    number = int(value)
    if number < -1:
        raise ValueError(value)
    return number
