"""libseccomp, by which Docker and runc make their filters: what it makes of a profile.

It is a library of every Debian, since apt is linked with it. Nothing is loaded into this process: the program
is exported and run by `Program`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from tests.runtime.seccomp.interpreter import Program

# SCMP_ARCH_*, by what uname(2) calls the machine (include/seccomp.h of libseccomp).
_ARCHES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_OPERATORS: Final = {"!=": 1, "<": 2, "<=": 3, "==": 4, ">=": 5, ">": 6, "masked ==": 7}
_OPTIMIZE: Final = 8  # SCMP_FLTATR_CTL_OPTIMIZE; 2 is a binary tree
_OF_PROFILES: Final = {
    "SCMP_CMP_NE": "!=",
    "SCMP_CMP_LT": "<",
    "SCMP_CMP_LE": "<=",
    "SCMP_CMP_EQ": "==",
    "SCMP_CMP_GE": ">=",
    "SCMP_CMP_GT": ">",
    "SCMP_CMP_MASKED_EQ": "masked ==",
}
_UNKNOWN: Final = -1  # __NR_SCMP_ERROR
# Up to here every libseccomp of 2022 and later knows the calls (version 2.5.4).
_LAST_KNOWN: Final = 448
ALLOW: Final = 0x7FFF_0000
ERRNO: Final = 0x0005_0000


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


class Asked(NamedTuple):
    """A comparison for libseccomp; *second* is for the masked one alone."""

    argument: int
    operator: str
    first: int
    second: int = 0


class Wanted(NamedTuple):
    """A rule for libseccomp, for a call by name and number."""

    name: str
    number: int
    action: int
    comparisons: tuple[Asked, ...] = ()


def export(machine: str, default: int, rules: Iterable[Wanted]) -> Program:
    """Return the program that libseccomp makes of *rules*.

    For another machine than this one it takes names alone; a call that is newer than it is left out there.
    """
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
    arch = ctypes.c_uint32(_ARCHES[machine])
    native = not library.seccomp_arch_exist(context, arch)
    try:
        if not native:
            assert library.seccomp_arch_add(context, arch) == 0
            assert library.seccomp_arch_remove(context, library.seccomp_arch_native()) == 0
        assert library.seccomp_attr_set(context, _OPTIMIZE, 2) == 0
        for rule in rules:
            compared = (_Comparison * max(1, len(rule.comparisons)))(
                *(
                    _Comparison(c.argument, _OPERATORS[c.operator], c.first, c.second)
                    for c in rule.comparisons
                )
            )
            number = rule.number if native else library.seccomp_syscall_resolve_name(rule.name.encode())
            if number == _UNKNOWN:
                assert rule.number > _LAST_KNOWN, rule.name
                continue
            action, count = ctypes.c_uint32(rule.action), len(rule.comparisons)
            answer = library.seccomp_rule_add_array(context, action, number, count, compared)
            assert answer in (0, -17), f"{rule}: {answer}"  # EEXIST: it is there already
        file = os.memfd_create("program", os.MFD_CLOEXEC)
        with os.fdopen(file, "rb") as whole:
            assert library.seccomp_export_bpf(context, file) == 0
            whole.seek(0)
            return Program(whole.read())
    finally:
        library.seccomp_release(context)


def rules_of(
    document: Mapping[str, object], numbers: Mapping[str, int], capabilities: frozenset[str], arch: str
) -> Iterable[Wanted]:
    """Yield the rules of a profile in Docker's form as Docker and runc hand them to libseccomp.

    A name that is in no table is left out, as they do.
    """
    entries = document["syscalls"]
    assert isinstance(entries, list)
    for entry in entries:
        include, exclude = entry.get("includes", {}), entry.get("excludes", {})
        held = {f"CAP_{name}" for name in capabilities}
        if include.get("arches") and arch not in include["arches"]:
            continue
        if not held.issuperset(include.get("caps", ())) or held & set(exclude.get("caps", ())):
            continue
        if arch in exclude.get("arches", ()):
            continue
        action = ALLOW if entry["action"] == "SCMP_ACT_ALLOW" else ERRNO | entry["errnoRet"]
        compared = tuple(
            Asked(one["index"], _OF_PROFILES[one["op"]], one["value"], one.get("valueTwo", 0))
            for one in entry.get("args") or ()
        )
        yield from (
            Wanted(name, numbers[name], action, compared) for name in entry["names"] if name in numbers
        )
