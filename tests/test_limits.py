"""What a test may say of how much a container takes, on the real engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import ContainerExited, StartError
from tests.plugins.groups import bounded_group

if TYPE_CHECKING:
    from pytest_containers import ContainerFactory

pytestmark = pytest.mark.kernel


PYTHON: Final = (sys.executable, "-S", "-c")
HOG: Final = "x = b'x' * (100 << 20)"
SPIN: Final = """
import time
end = time.monotonic() + 1
while time.monotonic() < end:
    pass
print(time.process_time())
"""


def _groups(name: str) -> list[str]:
    """Return the control groups that bear a name."""
    return [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(folder) == name]


def _room_bytes(text: str) -> int:
    return int(text.rsplit(maxsplit=1)[-1])


def test_storage_on_disk_has_the_room_of_the_disk(container: ContainerFactory) -> None:
    """With storage="disk" a container writes to the file system of the run's folder, else to memory."""
    room = ["df", "-B1", "--output=size", "/srv"]
    disk = container("host", command="sleep 600", storage="disk")
    memory = container("host", command="sleep 600")
    about = os.statvfs("/var/tmp")
    assert _room_bytes(disk.exec(room, check=True).stdout) == about.f_blocks * about.f_frsize
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert _room_bytes(memory.exec(room, check=True).stdout) <= machine // 2


def test_tmpfs_without_a_size_has_the_ceiling_of_the_files(container: ContainerFactory) -> None:
    """A tmpfs= without a size takes what the container's own files may take, to some pages."""
    box = container("host", command="sleep 600", tmpfs=["/fill"])
    shown = box.exec(["df", "-B1", "--output=size", "/srv", "/fill"], check=True).stdout.split()
    assert abs(int(shown[-1]) - int(shown[-2])) <= 1 << 20


def test_limit_of_storage_is_where_a_write_fails(container: ContainerFactory) -> None:
    """What a container writes to memory ends at limits={"storage": ...}."""
    box = container("host", command="sleep 600", limits={"storage": "8m"})
    result = box.exec(["dd", "if=/dev/zero", "of=/srv/large", "bs=1M", "count=16"])
    assert result.exit_code != 0
    assert "No space left" in result.stderr


def test_memory_past_the_limit_is_told_as_such(container: ContainerFactory) -> None:
    """A container past its memory limit is killed; its state, its wait and its report say out of memory."""
    box = container("host", command=[*PYTHON, HOG], limits={"memory": "48m"}, ready=lambda _: True)
    assert not container("host", command="true", limits={"memory": "48m"}, ready=lambda _: True).oom_killed
    assert box.wait(timeout=20) == 137
    assert box.oom_killed
    assert "out of memory" in box.report(5)
    with pytest.raises(ContainerExited, match="out of memory"):
        container("host", command=[*PYTHON, HOG], limits={"memory": "48m"}, ready=lambda _: False)


def test_memory_limit_holds_for_an_exec_and_its_files(container: ContainerFactory) -> None:
    """Processes of an exec, and files in memory, count as the container's."""
    box = container("host", command="sleep 600", limits={"memory": "48m"})
    assert box.exec([*PYTHON, HOG]).exit_code == 137
    assert box.exec(["dd", "if=/dev/zero", "of=/dev/shm/large", "bs=1M", "count=60"]).exit_code == 137
    assert box.state == "running"


def test_container_that_ends_by_itself_was_not_out_of_memory(container: ContainerFactory) -> None:
    """A kill of the test's is not told as out of memory, and a second life is told for itself."""
    other = container("host", command="sleep 600", limits={"memory": "48m"})
    other.kill()
    assert "out of memory" not in other.report(5)
    other.start()
    other.exec([*PYTHON, HOG])
    other.kill()
    assert "out of memory" in other.report(5)


def test_limit_of_pids_stops_a_fork_bomb(container: ContainerFactory) -> None:
    """Past the limit a fork fails inside, and the container and others go on."""
    box = container("host", command="sleep 600", limits={"pids": 20})
    script = "for n in $(seq 40); do sleep 600 & done"
    result = box.exec(["sh", "-c", script])
    assert "fork" in result.stderr.lower()
    assert container("host", command="true", ready=lambda _: True).wait(timeout=20) == 0


def test_limit_of_cpus_is_a_share_of_time(container: ContainerFactory) -> None:
    """A tenth of a processor gets at most about that much of its time."""
    box = container("host", command="sleep 600", limits={"cpus": 0.1})
    assert float(box.exec([*PYTHON, SPIN], check=True).stdout) < 0.5


def test_control_group_of_a_container_is_the_root_that_it_sees(container: ContainerFactory) -> None:
    """A process of a container, an exec's too, sees its own group as the root of the hierarchies."""
    limits: dict[str, int | str] = {"memory": "64m", "cpus": 1, "pids": 50}
    box = container("host", command=["cat", "/proc/self/cgroup"], limits=limits, ready=lambda _: True)
    box.wait(timeout=20)
    other = container("host", command="sleep 600", limits=limits)
    for text in (box.logs(), other.exec(["cat", "/proc/self/cgroup"]).stdout):
        named = [line for line in text.splitlines() if re.search(r":(memory|cpu|pids):|^0::", line)]
        assert named
        assert all(line.endswith(":/") for line in named), text


def test_control_groups_end_with_their_container(container: ContainerFactory) -> None:
    """A group is there while its container is, and is gone after its removal."""
    box = container("host", command="sleep 600", limits={"memory": "64m", "pids": 50})
    assert _groups(box.id[:12])
    box.remove()
    assert not _groups(box.id[:12])


def test_limits_survive_a_restart(container: ContainerFactory) -> None:
    """A container that is started again has the limits that it was made with."""
    box = container("host", command="sleep 600", limits={"pids": 20})
    box.kill()
    box.start()
    assert "fork" in box.exec(["sh", "-c", "for n in $(seq 40); do sleep 600 & done"]).stderr.lower()


def test_limits_of_processes_are_set(container: ContainerFactory) -> None:
    """Soft and hard limits hold for the first process and for an exec, as an ordinary user too."""
    asked = {"nofile": (300, 400), "core": 0}
    show = ["sh", "-c", "ulimit -n; ulimit -Hn; ulimit -c"]
    box = container("host", command=show, ulimits=asked, ready=lambda _: True)
    box.wait(timeout=20)
    other = container("host", command="sleep 600", ulimits=asked, user="nobody")
    assert box.logs().split() == other.exec(show).stdout.split() == ["300", "400", "0"]


def test_limit_that_the_kernel_refuses_is_told(container: ContainerFactory) -> None:
    """A number of descriptors that no process may have fails the start with the limit's name."""
    with pytest.raises(StartError, match="nofile"):
        container("host", command="true", ulimits={"nofile": 1 << 40})


def test_size_of_shared_memory_is_as_asked(container: ContainerFactory) -> None:
    """/dev/shm has 64 MiB, or what shm_size= says."""
    room = ["df", "-B1", "--output=size", "/dev/shm"]
    assert _room_bytes(container("host", command="sleep 600").exec(room).stdout) == 64 << 20
    large = container("host", command="sleep 600", shm_size="128m")
    assert _room_bytes(large.exec(room).stdout) == 128 << 20


def test_memory_that_ends_without_a_limit_is_told(pytester: pytest.Pytester) -> None:
    """Where the machine's memory or our group's ends, the report of the killed container says so."""
    pytester.makepyfile(
        f"""
        def test_hog(container):
            box = container("host", command={[*PYTHON, HOG.replace("100", "300")]!r}, ready=lambda _: True)
            assert box.wait(timeout=20) == 137
            assert "out of memory" in box.report(5)
            other = container("host", command="sleep 600")
            other.kill()
            assert "out of memory" not in other.report(5)
        """
    )
    with bounded_group(200 << 20) as group:
        enter = f"echo 0 > {group}/cgroup.procs && exec {sys.executable} -m pytest -q -p no:cacheprovider"
        environment = {**os.environ, "PYTEST_CONTAINERS_STORE": str(pytester.path / "store")}
        ended = subprocess.run(
            ["sh", "-c", enter], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_process_of_a_container_is_an_earlier_victim(container: ContainerFactory) -> None:
    """The first process and that of an exec have an oom_score_adj 500 above that of pytest."""
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        expected = min(1000, int(file.read()) + 500)
    show = ["cat", "/proc/self/oom_score_adj"]
    box = container("host", command=show, ready=lambda _: True)
    box.wait(timeout=20)
    other = container("host", command="sleep 600", init=True, user="nobody")
    scores = (box.logs(), other.exec(show).stdout, other.exec(["cat", "/proc/1/oom_score_adj"]).stdout)
    assert [int(score) for score in scores] == [expected] * 3
