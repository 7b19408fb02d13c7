"""Laws of the tables of system call numbers."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Final

import pytest

from pytest_containers.runtime.seccomp.numbers import syscall_numbers

# Those of linux-libc-dev; Debian's have asm below the architecture's own folder.
_HEADERS: Final = Path("/usr/include")
_PLAIN: Final = re.compile(r"^#define __NR_(\w+)\s+([0-9]+)", re.MULTILINE)
_OF_64_BITS: Final = re.compile(r"^#define __NR3264_(\w+)\s+([0-9]+)", re.MULTILINE)
_ALIAS: Final = re.compile(r"^#define __NR_(\w+) __NR3264_(\w+)", re.MULTILINE)
# Numbers that 32-bit machines alone have (include/uapi/asm-generic/unistd.h).
_FOR_32_BITS: Final = range(403, 424)
# No calls: where those of one machine begin, how many there are, and what 32-bit ARM has for another one.
_NO_CALLS: Final = {"arch_specific_syscall", "syscalls", "sync_file_range2"}
_ADDED: Final = 424


def _x86_64() -> dict[str, int]:
    found = next(_HEADERS.glob("**/asm/unistd_64.h"))
    return {name: int(number) for name, number in _PLAIN.findall(found.read_text(encoding="ascii"))}


def _generic() -> dict[str, int]:
    """Return the numbers that 64-bit machines without a table of their own have, aarch64 among them."""
    text = (_HEADERS / "asm-generic/unistd.h").read_text(encoding="ascii")
    wide = {name: int(number) for name, number in _OF_64_BITS.findall(text)}
    aliases = _ALIAS.findall(text.rpartition("#if __BITS_PER_LONG == 64")[2].partition("#else")[0])
    found = {name: int(number) for name, number in _PLAIN.findall(text)}
    found |= {name: wide[alias] for name, alias in aliases if alias in wide}
    return {n: at for n, at in found.items() if at not in _FOR_32_BITS and n not in _NO_CALLS}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the headers are those of this machine")
def test_numbers_of_x86_64_are_the_headers() -> None:
    """The table has each call of this machine's headers at its number, and newer ones behind them."""
    headers, table = _x86_64(), syscall_numbers("x86_64")
    assert {name: table.get(name) for name in headers} == headers
    last = max(headers.values())
    assert all(
        number > last or name in ("uretprobe", "uprobe") for name, number in table.items() - headers.items()
    )


def test_numbers_of_aarch64_are_the_headers() -> None:
    """The table has each call of the generic headers at its number, and newer ones behind them."""
    headers, table = _generic(), syscall_numbers("aarch64")
    assert {name: table.get(name) for name in headers} == headers
    assert all(number > max(headers.values()) for _, number in table.items() - headers.items())


def test_newer_numbers_are_the_same_everywhere() -> None:
    """From 424 on all machines have the same numbers, without a gap."""
    ours, others = syscall_numbers("x86_64"), syscall_numbers("aarch64")
    newer = {name: number for name, number in ours.items() if number >= _ADDED}
    assert newer == {name: number for name, number in others.items() if number >= _ADDED}
    assert sorted(newer.values()) == list(range(_ADDED, _ADDED + len(newer)))
