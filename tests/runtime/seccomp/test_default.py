"""Laws of the project's own profile, held against what libseccomp makes of Docker's."""

from __future__ import annotations

import errno
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pytest_containers.runtime.capabilities import DEFAULT, NAMES
from pytest_containers.runtime.seccomp.filters import default_rules
from pytest_containers.runtime.seccomp.numbers import AUDIT_ARCH, syscall_numbers
from pytest_containers.runtime.seccomp.program import write
from tests.runtime.seccomp import oracle
from tests.runtime.seccomp.interpreter import Program

# Docker's default profile, of https://github.com/moby/profiles (Apache-2.0).
_DOCKERS: Final = Path(__file__).with_name("docker-default.json")
_ARCHES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_ALLOW: Final = 0x7FFF_0000
_EPERM: Final = 0x0005_0000 | errno.EPERM
_ENOSYS: Final = 0x0005_0000 | errno.ENOSYS
_I386: Final = 0x4000_0003
_ARM: Final = 0x4000_0028
_BORDERS: Final = {
    "socket": (0, 1, 16, 37, 38, 39, 40, 41, 44, 45, 0x7FFF_FFFF, 0xFFFF_FFFF),
    "personality": (
        *(0, 1, 7, 8, 9, 0x1_FFFF, 0x2_0000, 0x2_0001, 0x2_0008, 0x4_0000),
        *(0xFFFF_FFFE, 0xFFFF_FFFF),
    ),
    "clone": (0, 17, 0x11 | 0x0002_0000, *(1 << bit for bit in range(32)), 0x7E02_0000, 0xFFFF_FFFF),
}
_SETS: Final = {
    "docker": DEFAULT,
    "none": frozenset[str](),
    "all": frozenset(NAMES),
    **{name: DEFAULT | {name} for name in NAMES if name not in DEFAULT},
    **{f"no {name}": DEFAULT - {name} for name in sorted(DEFAULT)},
}


def _own(machine: str, capabilities: frozenset[str]) -> Program:
    return Program(write(default_rules(machine, capabilities)))


def _dockers(machine: str, capabilities: frozenset[str]) -> Program:
    document = json.loads(_DOCKERS.read_text(encoding="utf-8"))
    numbers = syscall_numbers(machine)
    rules = oracle.rules_of(document, numbers, capabilities, _ARCHES[machine])
    return oracle.export(machine, oracle.ERRNO | document["defaultErrnoRet"], rules)


def _calls(machine: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield every number of the table with arguments: of a call that is compared, those at the borders."""
    numbers = syscall_numbers(machine)
    names = {number: name for name, number in numbers.items()}
    for number in range(max(names) + 1):
        for first in _BORDERS.get(names.get(number, ""), (0,)):
            yield number, (first, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("machine", "kind"),
    [
        *(("x86_64", kind) for kind in _SETS),
        *(("aarch64", kind) for kind in ("docker", "none", "all", "SYS_ADMIN")),
    ],
)
def test_profile_answers_as_libseccomp_does_for_dockers(machine: str, kind: str) -> None:
    """For every number, at every border of an argument, and with each capability it is the same answer."""
    own, dockers, arch = (
        _own(machine, _SETS[kind]),
        _dockers(machine, _SETS[kind]),
        AUDIT_ARCH[machine],
    )
    names = {number: name for name, number in syscall_numbers(machine).items()}
    # libseccomp has no table of another machine's newest calls; they have the same numbers on both.
    last = max(names) if machine == platform.machine() else 448
    different = [
        f"{names.get(number, number)}{arguments[:1]}"
        for number, arguments in _calls(machine)
        if number <= last and own.run(number, arch, arguments) != dockers.run(number, arch, arguments)
    ]
    assert not different


@pytest.mark.parametrize("machine", AUDIT_ARCH)
@pytest.mark.parametrize("upper", [1, 0x8000_0000, 0xFFFF_FFFF])
def test_upper_half_of_an_int_changes_nothing(machine: str, upper: int) -> None:
    """Arguments that the kernel takes as an int, or uses 32 bits of, are judged by these alone."""
    own, arch, numbers = _own(machine, DEFAULT), AUDIT_ARCH[machine], syscall_numbers(machine)
    for name, borders in _BORDERS.items():
        for value in borders:
            plain = own.run(numbers[name], arch, (value, 0, 0, 0, 0, 0))
            assert own.run(numbers[name], arch, (upper << 32 | value, 0, 0, 0, 0, 0)) == plain, (name, value)


@pytest.mark.parametrize(
    ("machine", "foreign"), [("x86_64", _I386), ("aarch64", _ARM), ("x86_64", 0xC00000B7)]
)
def test_other_architectures_are_refused(machine: str, foreign: int) -> None:
    """Every call with another architecture's numbers is EPERM, whatever the capabilities."""
    own = _own(machine, frozenset(NAMES))
    assert {own.run(number, foreign) for number in range(600)} == {_EPERM}


def test_x32_is_refused() -> None:
    """Numbers with the bit of x32 are EPERM, which share the architecture of x86_64."""
    own, arch = _own("x86_64", frozenset(NAMES)), AUDIT_ARCH["x86_64"]
    assert {own.run(0x4000_0000 | number, arch) for number in range(600)} == {_EPERM}
    assert own.run(0xFFFF_FFFF, arch) == _EPERM
    assert own.run(0x3FFF_FFFF, arch) == _ENOSYS


@pytest.mark.parametrize("machine", AUDIT_ARCH)
def test_call_that_nobody_knows_is_not_there(machine: str) -> None:
    """Numbers behind the table are ENOSYS, so that a newer C library falls back to what is older."""
    own, arch = _own(machine, DEFAULT), AUDIT_ARCH[machine]
    last = max(syscall_numbers(machine).values())
    assert {own.run(number, arch) for number in (last + 1, last + 100, 0x3FFF_FFFF)} == {_ENOSYS}


@pytest.mark.parametrize("machine", AUDIT_ARCH)
def test_clone3_is_not_there(machine: str) -> None:
    """The flags of clone3 are out of a filter's reach, so it is ENOSYS where clone is compared."""
    number, arch = syscall_numbers(machine)["clone3"], AUDIT_ARCH[machine]
    assert _own(machine, DEFAULT).run(number, arch) == _ENOSYS
    assert _own(machine, DEFAULT | {"SYS_ADMIN"}).run(number, arch) == _ALLOW


@pytest.mark.parametrize("machine", AUDIT_ARCH)
@pytest.mark.parametrize(
    "name", "keyctl add_key request_key io_uring_setup userfaultfd kexec_load pivot_root swapon".split()
)
def test_no_capability_opens_what_no_namespace_keeps_apart(machine: str, name: str) -> None:
    """Some calls stay closed with all capabilities; only another profile opens them."""
    assert _own(machine, frozenset(NAMES)).run(syscall_numbers(machine)[name], AUDIT_ARCH[machine]) == _EPERM
