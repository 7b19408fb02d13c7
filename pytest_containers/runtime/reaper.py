"""The small pid 1 of a container with ``init=True``: reap zombies, forward signals (floor 1).

A process that becomes pid 1 inherits orphans of its namespace and must wait for them, and the kernel
keeps signals from it that it does not handle (pid_namespaces(7)); programs that expect neither leave
zombies and do not end by SIGTERM. So pid 1 is a program of its own here, as with ``docker run --init``,
and the container's command is its child. The program needs no file of the image and no interpreter: it is the
machine code below in a memory file (memfd_create(2)).
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pytest_containers.errors import StartError

__all__ = ["become_reaper", "is_supported", "prepare", "program"]

# Both parts do the same. The command's process id is read from argv[1], in decimal. All signals are blocked
# by whoever executes this, so they are queued for rt_sigtimedwait(2), and none is lost. Then, for ever: wait
# for a signal; send it to the command, unless it is SIGCHLD; after that, wait4(2) for each child that
# has ended; when it is the command, exit with its code, or with 128 and the number of its signal.
_X86_64: Final = (
    "488b742410"  # mov rsi, [rsp+16]; argv[1]
    "31db"  # xor ebx, ebx
    "0fb606"  # digit: movzx eax, byte [rsi]
    "83e830"  # sub eax, '0'
    "83f809"  # cmp eax, 9
    "770a"  # ja parsed
    "6bdb0a"  # imul ebx, ebx, 10
    "01c3"  # add ebx, eax
    "48ffc6"  # inc rsi
    "ebeb"  # jmp digit
    "4883ec10"  # parsed: sub rsp, 16
    "48830c24ff"  # or qword [rsp], -1; all signals
    "4889e7"  # wait: mov rdi, rsp
    "31f6"  # xor esi, esi
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "b880000000"  # mov eax, 128; rt_sigtimedwait(all, NULL, NULL, 8)
    "0f05"  # syscall
    "83f811"  # cmp eax, SIGCHLD
    "7411"  # je reap
    "85c0"  # test eax, eax
    "7ee3"  # jle wait
    "89c6"  # mov esi, eax
    "89df"  # mov edi, ebx
    "b83e000000"  # mov eax, 62; kill(command, signal)
    "0f05"  # syscall
    "ebd6"  # jmp wait
    "83cfff"  # reap: or edi, -1
    "488d742408"  # lea rsi, [rsp+8]
    "ba01000000"  # mov edx, WNOHANG
    "4531d2"  # xor r10d, r10d
    "b83d000000"  # mov eax, 61; wait4(-1, &status, WNOHANG, NULL)
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "7ebb"  # jle wait
    "39d8"  # cmp eax, ebx
    "75e1"  # jne reap
    "8b7c2408"  # mov edi, [rsp+8]
    "89f8"  # mov eax, edi
    "83e07f"  # and eax, 127
    "7408"  # jz exited
    "8db880000000"  # lea edi, [rax+128]
    "eb03"  # jmp exit
    "c1ef08"  # exited: shr edi, 8
    "b8e7000000"  # exit: mov eax, 231; exit_group
    "0f05"  # syscall
)
_AARCH64: Final = (
    "e10b40f9"  # ldr x1, [sp, 16]; argv[1]
    "13008052"  # mov w19, 0
    "43018052"  # mov w3, 10
    "22144038"  # digit: ldrb w2, [x1], 1
    "42c00051"  # sub w2, w2, '0'
    "5f240071"  # cmp w2, 9
    "68000054"  # b.hi parsed
    "730a031b"  # madd w19, w19, w3, w2
    "fbffff17"  # b digit
    "ff4300d1"  # parsed: sub sp, sp, 16
    "00008092"  # mov x0, -1
    "e00300f9"  # str x0, [sp]; all signals
    "e0030091"  # wait: mov x0, sp
    "010080d2"  # mov x1, 0
    "020080d2"  # mov x2, 0
    "030180d2"  # mov x3, 8
    "281180d2"  # mov x8, 137; rt_sigtimedwait(all, NULL, NULL, 8)
    "010000d4"  # svc 0
    "1f440071"  # cmp w0, SIGCHLD
    "00010054"  # b.eq reap
    "1f000071"  # cmp w0, 0
    "edfeff54"  # b.le wait
    "e103002a"  # mov w1, w0
    "e003132a"  # mov w0, w19
    "281080d2"  # mov x8, 129; kill(command, signal)
    "010000d4"  # svc 0
    "f2ffff17"  # b wait
    "00008092"  # reap: mov x0, -1
    "e1230091"  # add x1, sp, 8
    "220080d2"  # mov x2, WNOHANG
    "030080d2"  # mov x3, 0
    "882080d2"  # mov x8, 260; wait4(-1, &status, WNOHANG, NULL)
    "010000d4"  # svc 0
    "1f000071"  # cmp w0, 0
    "4dfdff54"  # b.le wait
    "1f00136b"  # cmp w0, w19
    "e1feff54"  # b.ne reap
    "e10b40b9"  # ldr w1, [sp, 8]
    "20180072"  # ands w0, w1, 127
    "60000054"  # b.eq exited
    "00000211"  # add w0, w0, 128
    "02000014"  # b exit
    "207c0853"  # exited: lsr w0, w1, 8
    "c80b80d2"  # exit: mov x8, 94; exit_group
    "010000d4"  # svc 0
)
# By the machine's name of uname(2): the number of its format (include/uapi/linux/elf-em.h), and the code.
_MACHINES: Final = MappingProxyType({"x86_64": (62, _X86_64), "aarch64": (183, _AARCH64)})
_BASE: Final = 0x40_0000
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_LOAD: Final = 1
_STACK: Final = 0x6474_E551
_READ_EXECUTE: Final = 5
_READ_WRITE: Final = 6
_PAGE_BYTES: Final = 0x1_0000  # the largest page of an aarch64 kernel, whose alignment fits all
# For which Python has no name (memfd_create(2), Linux 6.3).
_MFD_EXEC: Final = 0x10


def is_supported() -> bool:
    """Return whether there is a program for this machine."""
    return os.uname().machine in _MACHINES


def program(machine: str) -> bytes:
    """Return the static ELF executable for *machine*: a header, one segment and the code (elf(5))."""
    number, text = _MACHINES[machine]
    code = bytes.fromhex(text)
    start = _HEADER.size + 2 * _SEGMENT.size
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    size = start + len(code)
    return b"".join(
        (
            _HEADER.pack(ident, 2, number, 1, _BASE + start, 64, 0, 0, 64, _SEGMENT.size, 2, 0, 0, 0),
            _SEGMENT.pack(_LOAD, _READ_EXECUTE, 0, _BASE, _BASE, size, size, _PAGE_BYTES),
            _SEGMENT.pack(_STACK, _READ_WRITE, 0, 0, 0, 0, 0, 16),
            code,
        )
    )


def prepare() -> int:
    """Return the descriptor of a sealed memory file with the program; nobody can change it."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create("init", flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise _refused(error) from error
        # An older kernel, where every memory file may be executed.
        descriptor = os.memfd_create("init", flags)
    os.write(descriptor, program(os.uname().machine))
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def _refused(error: OSError) -> StartError:
    return StartError(
        "the program of init=True cannot be executed",
        seen=str(error),
        mend="leave init= out, or allow programs in memory (sysctl vm.memfd_noexec)",
    )


def become_reaper(descriptor: int, env: Mapping[str, str]) -> None:
    """Leave this process, pid 1, to the program of *descriptor*; return in a child, the command to be.

    The child has a process group of its own and no signal blocked.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    child = os.fork()
    if child:
        try:
            os.execve(descriptor, ("init", str(child)), env)
        except OSError as error:
            os.kill(child, signal.SIGKILL)
            raise _refused(error) from error
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
