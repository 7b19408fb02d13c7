"""Runs a program of classic BPF as the kernel does for seccomp(2), over the data of one call."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

_INSTRUCTION: Final = struct.Struct("=HBBI")
_DATA: Final = struct.Struct("=iIQ6Q")  # struct seccomp_data (include/uapi/linux/seccomp.h)
_HALF: Final = 0xFFFF_FFFF


class Program:
    """A program, decoded; it is checked as the kernel's own check does (net/core/filter.c)."""

    def __init__(self, content: bytes) -> None:
        self.code = tuple(_INSTRUCTION.iter_unpack(content))
        assert 0 < len(self.code) <= 4096, f"{len(self.code)} instructions"
        for at, (code, yes, no, far) in enumerate(self.code):
            jump = far if code == 0x05 else max(yes, no) if code & 0x07 == 0x05 else 0
            assert at + 1 + jump < len(self.code) or code == 0x06, f"instruction {at} jumps behind the end"
        assert self.code[-1][0] == 0x06, "the last instruction returns"

    def run(self, number: int, arch: int, arguments: Sequence[int] = (0, 0, 0, 0, 0, 0)) -> int:
        """Return what the program answers to a call."""
        signed = number - (1 << 32) if number >= 1 << 31 else number
        data = _DATA.pack(signed, arch, 0, *arguments)
        accumulator, at = 0, 0
        while True:
            code, yes, no, constant = self.code[at]
            at += 1
            if code == 0x20:
                (accumulator,) = struct.unpack_from("=I", data, constant)
            elif code == 0x54:
                accumulator &= constant
            elif code == 0x06:
                return int(constant)
            elif code == 0x05:
                at += constant
            else:
                holds = {
                    0x15: accumulator == constant,
                    0x25: accumulator > constant,
                    0x35: accumulator >= constant,
                    0x45: bool(accumulator & constant),
                }[code]
                at += yes if holds else no
                accumulator &= _HALF
