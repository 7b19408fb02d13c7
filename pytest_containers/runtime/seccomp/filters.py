"""The filter of one container: from a profile and its capabilities to a program, compiled once (floor 1)."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from pytest_containers.errors import HostError, SpecInvalid
from pytest_containers.runtime import syscalls
from pytest_containers.runtime.seccomp.default import grants
from pytest_containers.runtime.seccomp.numbers import AUDIT_ARCH, syscall_numbers
from pytest_containers.runtime.seccomp.program import write
from pytest_containers.runtime.seccomp.rules import (
    ALLOW,
    EPERM,
    ERRNO,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    TRACE,
    TRAP,
    Comparison,
    Rule,
    Ruleset,
    verdict,
)
from pytest_containers.seccomp_profile import ArgumentRule, Profile, Scope, parse

__all__ = ["UNCONFINED", "Filter", "default_rules", "profile_rules", "system_call_filter"]

UNCONFINED: Final = "unconfined"

_ACTIONS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "kill-process": KILL_PROCESS,
        "kill-thread": KILL_THREAD,
        "trap": TRAP,
        "errno": ERRNO,
        "trace": TRACE,
        "log": LOG,
        "allow": ALLOW,
    }
)
_WITH_DATA: Final = (ERRNO, TRACE)
# How profiles call the architectures that there are tables for (GOARCH, https://go.dev/doc/install/source).
_NAMES: Final[Mapping[str, str]] = MappingProxyType({"x86_64": "amd64", "aarch64": "arm64"})
_ENOSYS: Final = ERRNO | errno.ENOSYS
# Without it kernels before 5.16 slow down every process that has a filter
# (https://docs.kernel.org/userspace-api/spec_ctrl.html); runc sets it where a profile names no flags.
_SPEC_ALLOW: Final = 4
# What a child of ours calls between the load and the exec: see `process.prepare` and `process.execute`.
_NEEDED: Final = (
    "brk capset clone execve exit_group futex mmap munmap prctl setgid setgroups setsid setuid write"
)
_CLONE_FLAGS: Final = 0x9011  # CLONE_PARENT | CLONE_PIDFD | SIGCHLD
# With no_new_privs the load is the last step before the exec.
_NEEDED_LAST: Final = "execve exit_group write"
# And what `reaper.become_reaper` calls before its program is there.
_NEEDED_BY_INIT: Final = "clone execveat rt_sigprocmask setpgid"


class Filter(NamedTuple):
    """A program, an array of struct sock_filter, and the flags to load it with (seccomp(2))."""

    program: bytes
    flags: int


def system_call_filter(
    profile: str | None, capabilities: frozenset[str], *, last: bool, init: bool = False
) -> Filter | None:
    """Return the filter of a container with *capabilities*; None where it is to have none.

    *profile* is the text of a profile, `UNCONFINED`, or None for the project's own. *last* says that
    nothing but the exec comes after the load, *init* that a reaper is begun then. A machine whose kernel has
    no filters, or for whose processor there is no table, gives none; HostError where a profile was asked for
    by name. Raises SpecInvalid for a profile under which no process can begin.
    """
    if profile == UNCONFINED:
        return None
    machine = os.uname().machine
    if machine not in AUDIT_ARCH or not syscalls.has_seccomp_filters():
        if profile is None:
            return None
        raise HostError(
            "this machine has no filters of system calls",
            seen=f"processor {machine}" if machine not in AUDIT_ARCH else "seccomp(2) is refused",
            mend="leave seccomp= out, or run on a kernel with CONFIG_SECCOMP_FILTER on x86_64 or aarch64",
        )
    return _compiled(profile, capabilities, machine, last=last, init=init)


@functools.lru_cache(maxsize=128)
def _compiled(
    profile: str | None, capabilities: frozenset[str], machine: str, *, last: bool, init: bool
) -> Filter:
    if profile is None:
        return Filter(write(default_rules(machine, capabilities)), _SPEC_ALLOW)
    wanted = parse(profile, "the seccomp profile")
    rules = profile_rules(wanted, machine, capabilities, _release(os.uname().release))
    needed = (_NEEDED_LAST if last else _NEEDED, _NEEDED_BY_INIT if init else "")
    _check(rules, sorted({name for names in needed for name in names.split()}), last=last)
    return Filter(write(rules), _SPEC_ALLOW if wanted.flags is None else wanted.flags)


def default_rules(machine: str, capabilities: frozenset[str]) -> Ruleset:
    """Return the project's own profile for *machine* and a container with *capabilities*."""
    numbers = syscall_numbers(machine)
    rules = {numbers[name]: found for name, found in grants(capabilities) if name in numbers}
    return _ruleset(machine, rules, EPERM)


def profile_rules(
    profile: Profile, machine: str, capabilities: frozenset[str], kernel: tuple[int, int]
) -> Ruleset:
    """Return what *profile* comes to for a container with *capabilities*.

    Names that *machine* has no call for are left out, and rules that do as the default does. A rule
    without conditions counts before those with some; among those the first that holds does. So does
    libseccomp (https://github.com/seccomp/libseccomp/blob/v2.5.4/src/db.c, "db_rule_add").
    """
    numbers = syscall_numbers(machine)
    default = _value(profile.default, profile.default_data)
    found: dict[int, list[Rule]] = {}
    for one in profile.rules:
        action = _value(one.action, one.data)
        if action == default or not _applies(one.includes, one.excludes, machine, capabilities, kernel):
            continue
        for name in one.names:
            if name in numbers:
                found.setdefault(numbers[name], []).extend(_rules(one.arguments, action))
    rules = {number: _ordered(every) for number, every in found.items()}
    return _ruleset(machine, rules, default)


def _ordered(rules: list[Rule]) -> tuple[Rule, ...]:
    whole = next((rule for rule in rules if not rule.comparisons), None)
    return tuple(rules) if whole is None else (whole,)


def _ruleset(machine: str, rules: Mapping[int, tuple[Rule, ...]], default: int) -> Ruleset:
    """Return *rules* for all numbers of the table.

    A call that is newer than the table is answered ENOSYS where the default is an error: C libraries
    then do without it, where EPERM would make them fail
    (https://github.com/opencontainers/runc/blob/v1.1.5/libcontainer/seccomp/patchbpf/enosys_linux.go).
    """
    last = max(syscall_numbers(machine).values())
    every = {number: rules.get(number, ()) for number in range(last + 1)}
    newer = _ENOSYS if default & 0xFFFF_0000 == ERRNO else default
    return Ruleset(machine=machine, rules=MappingProxyType(every), default=default, newer=newer)


def _rules(arguments: tuple[ArgumentRule, ...], action: int) -> tuple[Rule, ...]:
    """Return *arguments* as one rule, or as one each where an argument is named twice.

    All must hold as a rule; of two comparisons of the same argument either may, since libseccomp takes
    no more than one (https://github.com/opencontainers/runc/blob/v1.1.5/libcontainer/seccomp/seccomp_linux.go).
    """
    comparisons = tuple(map(_comparison, arguments))
    if len({one.argument for one in comparisons}) < len(comparisons):
        return tuple(Rule((one,), action) for one in comparisons)
    return (Rule(comparisons, action),)


def _comparison(argument: ArgumentRule) -> Comparison:
    if argument.operator == "masked ==":
        return Comparison(argument.index, "==", argument.value_two & argument.value, argument.value)
    return Comparison(argument.index, argument.operator, argument.value)


def _value(action: str, data: int) -> int:
    value = _ACTIONS[action]
    return value | data if value in _WITH_DATA else value


def _applies(
    includes: Scope, excludes: Scope, machine: str, capabilities: frozenset[str], kernel: tuple[int, int]
) -> bool:
    """Return whether a rule counts: all it includes must be so, and nothing that it excludes."""
    name = _NAMES[machine]
    included = (
        (not includes.architectures or name in includes.architectures)
        and capabilities.issuperset(includes.capabilities)
        and (includes.kernel is None or kernel >= includes.kernel)
    )
    excluded = (
        name in excludes.architectures
        or not capabilities.isdisjoint(excludes.capabilities)
        or (excludes.kernel is not None and kernel >= excludes.kernel)
    )
    return included and not excluded


def _release(text: str) -> tuple[int, int]:
    """Return the first two numbers of a kernel's release (uname(2))."""
    major, minor = text.split(".")[:2]
    return int(major), int("".join(digit for digit in minor[:4] if digit.isdecimal()) or 0)


def _check(ruleset: Ruleset, needed: Iterable[str], *, last: bool) -> None:
    """Raise SpecInvalid where *ruleset* refuses a call that comes between the load and the exec."""
    numbers = syscall_numbers(ruleset.machine)
    refused = [
        name
        for name in needed
        if verdict(
            ruleset.rules[numbers[name]],
            (_CLONE_FLAGS if name == "clone" else 0, 0, 0, 0, 0, 0),
            ruleset.default,
        )
        not in (ALLOW, LOG)
    ]
    if refused:
        raise SpecInvalid(
            "no process can begin under this seccomp profile",
            seen=f"it refuses {', '.join(refused)}, which the start of a process calls",
            mend="allow them"
            + ("" if last else ", or pass no_new_privs=True, under which the start calls less"),
        )
