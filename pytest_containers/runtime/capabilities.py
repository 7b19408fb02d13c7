"""Capabilities by name, Docker's default set, and how a process sheds the rest (floor 1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pytest_containers.errors import HostError, SpecInvalid
from pytest_containers.runtime import syscalls

__all__ = ["DEFAULT", "NAMES", "apply_bounding", "apply_sets", "granted", "held", "names_in", "resolve"]

# In the order of include/uapi/linux/capability.h: the place in the tuple is the number.
NAMES: Final = tuple(
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE"
    " NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO"
    " SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME"
    " SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG"
    " WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE".split()
)

# https://github.com/moby/moby/blob/v28.0.0/daemon/pkg/oci/caps/defaults.go
DEFAULT: Final = frozenset(
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP"
    " NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE".split()
)


def _known(name: str) -> frozenset[str]:
    plain = name.upper().removeprefix("CAP_")
    if plain == "ALL":
        return frozenset(NAMES)
    if plain not in NAMES:
        raise SpecInvalid(
            f"{name!r} is not a capability",
            mend="use a name of capabilities(7), such as NET_ADMIN, or ALL",
        )
    return frozenset((plain,))


def resolve(add: tuple[str, ...], drop: tuple[str, ...], *, privileged: bool = False) -> int:
    """Return the bit mask of the capabilities a container gets (capabilities(7)).

    As in Docker, ``ALL`` may be added or dropped and single names then count on top:
    ``drop=["ALL"], add=["CHOWN"]`` leaves CHOWN, ``add=["ALL"], drop=["CHOWN"]`` all others. A name that
    is both added and dropped is added. Raises SpecInvalid. Source:
    https://github.com/moby/moby/blob/v28.0.0/daemon/pkg/oci/caps/utils.go, "TweakCapabilities".
    """
    names: frozenset[str]
    if privileged or _is_all(add):
        names = frozenset(NAMES)
        if not privileged:
            names -= _named(name for name in drop if not _is_all((name,)))
    elif _is_all(drop):
        names = _named(add)
    else:
        names = (DEFAULT - _named(drop)) | _named(add)
    return sum(1 << NAMES.index(name) for name in names)


def _is_all(names: tuple[str, ...]) -> bool:
    return any(name.upper().removeprefix("CAP_") == "ALL" for name in names)


def _named(names: Iterable[str]) -> frozenset[str]:
    return frozenset[str]().union(*(_known(name) for name in names))


def names_in(mask: int) -> frozenset[str]:
    """Return the names of the capabilities in a bit mask."""
    return frozenset(name for number, name in enumerate(NAMES) if mask >> number & 1)


def held() -> int:
    """Return the bit mask of this process's permitted set (proc_pid_status(5), "CapPrm")."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapPrm"))


def granted(mask: int, ours: int, asked: tuple[str, ...]) -> int:
    """Return what of *mask* can be given by a supervisor that holds *ours* itself.

    A whole set, Docker's or that of a privileged container, comes without what the machine
    withholds; a capability that was *asked* for by name must be there. Raises HostError.
    """
    for name in asked:
        plain = name.upper().removeprefix("CAP_")
        if plain in NAMES and not ours >> NAMES.index(plain) & 1:
            raise HostError(
                f"this machine cannot give a container the capability {plain}",
                seen="pytest itself runs without it",
                mend="drop it from cap_add=, or run pytest where it is allowed",
            )
    return mask & ours


def _last_known_to_kernel() -> int:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def apply_bounding(mask: int, last: int | None = None) -> None:
    """Drop from the bounding set what *mask* lacks; needs SETPCAP, so do it before `apply_sets`.

    *last* is the highest number the kernel knows, where /proc is out of sight.
    """
    for number in range((_last_known_to_kernel() if last is None else last) + 1):
        if not mask >> number & 1:
            syscalls.cap_drop_bounding(number)


def apply_sets(mask: int, *, root: bool) -> None:
    """Set permitted and effective to *mask* for root, to nothing for others, as Docker does.

    Inheritable and ambient stay empty (runtime-spec, config.md, "capabilities";
    CVE-2022-24769 for why inheritable must be).
    """
    kept = mask if root else 0
    syscalls.capset(kept, kept, 0)
