"""Control groups: where a process is in them, and what memory is left there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_containers.errors import HostError
from pytest_containers.runtime.cgroups import (
    Groups,
    Hierarchy,
    Memory,
    Placement,
    hierarchies,
    raised_oom_score,
    remove_listed,
)
from pytest_containers.spec import Limits
from tests.plugins.groups import bounded_group, memory_hierarchy, parent_for
from tests.runtime.conftest import Apart

_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 {root} {top}/memory rw - cgroup cgroup rw,memory
33 31 0:30 / {top}/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / {top}/two\\040parts rw - cgroup2 cgroup2 rw
35 31 0:32 / {top}/systemd rw - cgroup cgroup rw,name=systemd
"""


def _process(folder: Path, memory: str, *, root: str = "/") -> str:
    """Write the files of a process in *folder*, whose hierarchies lie beside them."""
    top = folder / "mounted"
    for group in ("memory/a/b", "cpu,cpuacct/a", "two parts/session"):
        (top / group).mkdir(parents=True, exist_ok=True)
    (top / "two parts/session/cgroup.controllers").write_text("pids hugetlb\n")
    (folder / "mountinfo").write_text(_MOUNTS.format(root=root, top=top))
    lines = (f"4:memory:{memory}", "3:cpu,cpuacct:/a", "2:freezer:/", "1:name=systemd:/gone", "0::/session")
    (folder / "cgroup").write_text("\n".join(lines) + "\n")
    return str(folder)


def test_hierarchies_are_found_by_mount_and_membership(tmp_path: Path) -> None:
    """Each mounted hierarchy is found with its version, its controllers and our own group's folder."""
    found = {Path(one.top).name: one for one in hierarchies(_process(tmp_path, "/a/b"))}
    assert {name: one.version for name, one in found.items()} == {
        "memory": 1,
        "cpu,cpuacct": 1,
        "two parts": 2,
    }
    assert found["memory"].controllers == {"memory"}
    assert found["memory"].own == str(tmp_path / "mounted/memory/a/b")
    assert found["cpu,cpuacct"].controllers == {"cpu", "cpuacct"}
    assert found["two parts"].controllers == {"pids", "hugetlb"}
    names = [Path(level).name for level in found["memory"].levels()]
    assert names == ["b", "a", "memory"]


@pytest.mark.parametrize(
    ("root", "path", "own"),
    [
        ("/", "/a", "memory/a"),
        ("/a", "/a/b", "memory/b"),
        ("/docker/1", "/docker/1", "memory"),
        ("/other", "/a", None),
        ("/", "/../a", None),
    ],
)
def test_hierarchy_is_left_out_where_our_group_is_not_below(
    tmp_path: Path, root: str, path: str, own: str | None
) -> None:
    """A mount of another part of the hierarchy, or of another namespace, shows no group of ours."""
    (tmp_path / "mounted/memory/b").mkdir(parents=True)
    found = [one for one in hierarchies(_process(tmp_path, path, root=root)) if "memory" in one.controllers]
    assert [one.own for one in found] == ([] if own is None else [str(tmp_path / "mounted" / own)])


def test_process_without_control_groups_has_no_hierarchies(tmp_path: Path) -> None:
    """Without the files of /proc nothing is found, and nothing is raised."""
    assert hierarchies(str(tmp_path)) == ()


@pytest.mark.kernel
def test_free_memory_is_that_of_our_group(apart: Apart) -> None:
    """In a memory group with a limit no more than that limit is free, and half of it is a ceiling."""
    with bounded_group(200 << 20) as group:

        def look() -> tuple[int, int]:
            (group / "cgroup.procs").write_text("0")
            inside = Memory(hierarchies())
            return inside.free_bytes(), inside.ceiling_bytes()

        free, ceiling = apart(look)
    assert 100 << 20 < free <= 200 << 20
    assert ceiling <= 100 << 20


@pytest.mark.kernel
def test_free_memory_without_a_limit_is_the_machine_s() -> None:
    """Without a limit above us the free memory is what the machine has available."""
    assert memory_hierarchy().own
    line = next(one for one in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in one)
    assert 0 < Memory(()).free_bytes() < int(line.split()[1]) << 10
    assert Memory(()).ceiling_bytes() < int(line.split()[1]) << 9


@pytest.mark.kernel
def test_placement_raises_the_score(apart: Apart) -> None:
    """A process that takes its place is 500 further up among the kernel's victims."""
    own = int(Path("/proc/self/oom_score_adj").read_text())

    def take() -> int:
        Placement(oom_score_adj=raised_oom_score()).take()
        return int(Path("/proc/self/oom_score_adj").read_text())

    assert apart(take) == min(1000, own + 500)
    assert int(Path("/proc/self/oom_score_adj").read_text()) == own


def _hierarchy(top: Path, own: str, *given: str) -> Hierarchy:
    """Return version 2 mounted at *top*, whose groups give these controllers, the mount point's first."""
    folder = top
    for part, names in zip(("", *Path(own).parts), given, strict=True):
        folder = folder / part
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.subtree_control").write_text(names)
    return Hierarchy(version=2, controllers=frozenset(("memory", "pids")), top=str(top), own=str(top / own))


def test_limit_without_a_group_that_gives_it_is_refused(tmp_path: Path) -> None:
    """Where no group above ours gives a controller to others the error names what each of them gives."""
    hierarchy = _hierarchy(tmp_path / "mounted", "slice/session", "pids", "pids", "")
    groups = Groups(str(tmp_path), (hierarchy,))
    with pytest.raises(HostError) as caught:
        groups.make("box", Limits(memory_bytes=64 << 20))
    assert "limit of memory" in str(caught.value)
    assert f"{hierarchy.own} gives none" in str(caught.value)
    assert "slice gives pids" in str(caught.value)


def test_limit_of_a_controller_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    """A controller that no mounted hierarchy has is refused with what the hierarchies have."""
    hierarchy = _hierarchy(tmp_path / "mounted", "session", "pids", "")
    for mounted, words in (((hierarchy,), "memory pids"), ((), "no control groups are mounted")):
        with pytest.raises(HostError) as caught:
            Groups(str(tmp_path), mounted).make("box", Limits(cpus=1.0))
        assert "limit of cpus" in str(caught.value)
        assert words in str(caught.value)


def test_group_that_cannot_be_made_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """A hierarchy that takes no settings is refused by its path, and what was made is removed."""
    top = tmp_path / "mounted"
    top.mkdir()
    hierarchy = Hierarchy(version=1, controllers=frozenset(("pids",)), top=str(top), own=str(top))
    with pytest.raises(HostError, match=r"pids\.max"):
        Groups(str(tmp_path), (hierarchy,)).make("box", Limits(pids=5))
    assert list(top.iterdir()) == []


def test_groups_without_a_limit_are_none(tmp_path: Path) -> None:
    """No limit needs no group, and nothing is made."""
    assert Groups(str(tmp_path), ()).make("box", Limits(storage_bytes=1 << 20)) is None
    assert list(tmp_path.iterdir()) == []


def test_listed_groups_are_removed_by_name_alone(tmp_path: Path) -> None:
    """Of what the list of a run names, only folders that bear the run's name are removed."""
    run = tmp_path / "0badcafe"
    run.mkdir()
    ours, others = tmp_path / "pytest-containers-0badcafe", tmp_path / "pytest-containers-1"
    for folder in (ours / "box", others, tmp_path / "foreign"):
        folder.mkdir(parents=True)
    (run / "groups").write_text(f"{ours}\n{others}\n{tmp_path / 'foreign'}\n/nowhere\n")
    remove_listed(str(run))
    assert not ours.exists()
    assert others.exists()
    assert (tmp_path / "foreign").exists()
    remove_listed(str(others))


@pytest.mark.kernel
def test_process_begins_in_a_group_of_version_2() -> None:
    """A child that is cloned into a group is there from its first moment, and its parent stays."""
    hierarchy = next(one for one in hierarchies() if one.version == 2)
    group = Path(hierarchy.own, f"pytest-containers-test-{os.getpid()}")
    group.mkdir()
    read, write = os.pipe()
    try:
        child = Placement(oom_score_adj=0, begin=str(group)).clone(0)
        if child.pid == 0:
            os.write(write, Path("/proc/self/cgroup").read_bytes())
            os._exit(0)
        os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        os.close(child.pidfd)
        assert group.name in os.read(read, 4096).decode()
        assert group.name not in Path("/proc/self/cgroup").read_text()
    finally:
        os.close(read)
        os.close(write)
        group.rmdir()


@pytest.mark.kernel
def test_limit_above_that_of_our_own_group_is_taken(tmp_path: Path) -> None:
    """A limit that can never be reached, for pytest's own group has a lower one, is no error."""
    hierarchy = next(one for one in hierarchies() if "cpu" in one.controllers)
    own = Path(parent_for(hierarchy, "cpu"), f"test-of-cpus-{os.getpid()}")
    own.mkdir()
    try:
        if hierarchy.version == 1:
            (own / "cpu.cfs_quota_us").write_text("50000")
        else:
            (own / "cpu.max").write_text("50000 100000")
            (own / "cgroup.subtree_control").write_text("+cpu")
        groups = Groups(str(tmp_path), (replace(hierarchy, own=str(own)),))
        for cpus in (0.25, 1.0):
            group = groups.make("box", Limits(cpus=cpus))
            assert group is not None
            groups.remove(group.folders)
    finally:
        own.rmdir()
