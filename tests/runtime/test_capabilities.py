"""Laws of capabilities: which a container gets, and that a process keeps no others."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import HostError, SpecInvalid
from pytest_containers.runtime import capabilities
from pytest_containers.runtime.capabilities import DEFAULT, NAMES, apply_bounding, apply_sets, resolve

if TYPE_CHECKING:
    from tests.runtime.conftest import Apart

# What `docker run` without options shows as CapBnd in /proc/self/status.
DOCKER: Final = 0xA80425FB
ALL: Final = (1 << 41) - 1


def _mask(names: str) -> int:
    return sum(1 << NAMES.index(name) for name in names.split())


def _sets() -> dict[str, int]:
    """Return this process's capability sets (proc_pid_status(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line[3:6]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}


def test_capability_names_have_the_kernels_numbers() -> None:
    """The place in the table is the number (linux/capability.h)."""
    numbers = {"CHOWN": 0, "KILL": 5, "NET_ADMIN": 12, "SYS_ADMIN": 21, "SETFCAP": 31, "SYSLOG": 34}
    assert {name: NAMES.index(name) for name in numbers} == numbers
    assert NAMES.index("CHECKPOINT_RESTORE") == 40 == len(NAMES) - 1


def test_capabilities_are_dockers_when_nothing_is_asked() -> None:
    """The default mask is that of docker run."""
    assert resolve((), ()) == DOCKER
    assert len(DEFAULT) == 14


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (("NET_ADMIN",), (), DOCKER | _mask("NET_ADMIN")),
        (("net_admin",), (), DOCKER | _mask("NET_ADMIN")),
        (("CAP_NET_ADMIN",), (), DOCKER | _mask("NET_ADMIN")),
        (("cap_net_admin", "SYS_TIME"), (), DOCKER | _mask("NET_ADMIN SYS_TIME")),
        (("CHOWN",), (), DOCKER),
        ((), ("MKNOD", "CAP_NET_RAW"), DOCKER & ~_mask("MKNOD NET_RAW")),
        ((), ("SYS_ADMIN",), DOCKER),
        ((), ("ALL",), 0),
        ((), ("all",), 0),
        ((), ("CAP_ALL",), 0),
        (("ALL",), (), ALL),
        (("all",), (), ALL),
        (("CHOWN",), ("ALL",), _mask("CHOWN")),
        (("CHOWN", "SYS_TIME"), ("ALL", "KILL"), _mask("CHOWN SYS_TIME")),
        (("ALL",), ("MKNOD", "SYS_ADMIN"), ALL & ~_mask("MKNOD SYS_ADMIN")),
        (("ALL",), ("ALL",), ALL),
        (("ALL", "MKNOD"), ("ALL", "MKNOD"), ALL & ~_mask("MKNOD")),
        (("NET_ADMIN",), ("NET_ADMIN",), DOCKER | _mask("NET_ADMIN")),
        (("MKNOD",), ("MKNOD",), DOCKER),
        (("MKNOD", "SYS_TIME"), ("cap_mknod", "KILL"), (DOCKER | _mask("SYS_TIME")) & ~_mask("KILL")),
    ],
)
def test_capabilities_are_added_and_dropped(
    add: tuple[str, ...], drop: tuple[str, ...], expected: int
) -> None:
    """ALL comes first and names count on top; a name both added and dropped is added, as in Docker."""
    assert resolve(add, drop) == expected


def test_capabilities_are_all_when_privileged() -> None:
    """A privileged container has every capability, whatever is dropped (docker run --privileged)."""
    assert resolve((), ("ALL",), privileged=True) == ALL


@pytest.mark.parametrize("name", ["NET_ADMINN", "", "CAP_", "CAP_CAP_KILL", "ALL ", "5"])
def test_capability_unknown_is_refused(name: str) -> None:
    """A word that is no capability is an error, added or dropped."""
    for add, drop in (((name,), ()), ((), (name,))):
        with pytest.raises(SpecInvalid, match="not a capability") as caught:
            resolve(add, drop)
        assert repr(name) in caught.value.what


@pytest.mark.kernel
@pytest.mark.parametrize("last", [None, 40])
def test_capability_bounding_falls_to_the_mask(apart: Apart, last: int | None) -> None:
    """What the mask lacks leaves the bounding set, and nothing else does."""

    def fall() -> dict[str, int]:
        apply_bounding(DOCKER, last)
        return _sets()

    before = _sets()
    assert apart(fall)["Bnd"] == before["Bnd"] & DOCKER
    assert _sets() == before


@pytest.mark.kernel
def test_capability_last_is_the_kernels(apart: Apart) -> None:
    """A capability newer than our table falls with the others: the kernel says how many there are."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())

    def fall() -> int:
        apply_bounding(0)
        return _sets()["Bnd"]

    assert apart(fall) == 0
    assert capabilities._last_known_to_kernel() == last


def _shed(uid: int) -> dict[str, int]:
    apply_bounding(DOCKER)
    os.setgroups(())
    os.setgid(uid)
    os.setuid(uid)
    apply_sets(DOCKER, root=uid == 0)
    return _sets()


@pytest.mark.kernel
def test_capability_sets_of_root_are_the_mask(apart: Apart) -> None:
    """Root has the mask permitted and effective; inheritable and ambient are empty."""
    assert apart(partial(_shed, 0)) == {"Inh": 0, "Prm": DOCKER, "Eff": DOCKER, "Bnd": DOCKER, "Amb": 0}


@pytest.mark.kernel
def test_capability_sets_of_others_are_empty(apart: Apart) -> None:
    """A user who is not root has the bounding set and nothing else."""
    assert apart(partial(_shed, 1000)) == {"Inh": 0, "Prm": 0, "Eff": 0, "Bnd": DOCKER, "Amb": 0}


def test_granted_leaves_out_what_the_machine_withholds() -> None:
    """A privileged container comes with all that there is to give, and no refusal."""
    every = capabilities.resolve((), (), privileged=True)
    without_resource = every & ~(1 << capabilities.NAMES.index("SYS_RESOURCE"))
    assert capabilities.granted(every, without_resource, ()) == without_resource


def test_granted_refuses_a_capability_asked_for_by_name() -> None:
    """What a test adds by name must be there, or the error says which is missing."""
    mask = capabilities.resolve(("SYS_RESOURCE",), ())
    with pytest.raises(HostError, match="SYS_RESOURCE"):
        capabilities.granted(mask, DOCKER, ("cap_sys_resource",))
