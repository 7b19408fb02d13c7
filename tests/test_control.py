"""Pausing containers and looking at what they use, on the real engine."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import NotRunning
from pytest_containers.runtime import cgroups

if TYPE_CHECKING:
    from pytest_containers import Container, ContainerFactory

pytestmark = pytest.mark.kernel

# A parent and children that write all the time, and one that makes more of them.
TICKS: Final = "sh -c 'for n in 1 2 3; do while :; do echo tick; sleep 0.01; done & done; wait'"
FORKS: Final = "sh -c 'while :; do sleep 0.02 & sleep 0.001; done'"


LIMITS: Final[tuple[dict[str, int | str], ...]] = ({}, {"memory": "200m", "pids": 50})
# Takes 40 MiB and a fifth of a second of a processor, says so, and sleeps.
HOLD: Final = """
import time
x = b'x' * (40 << 20)
while time.process_time() < 0.2:
    pass
print('held', flush=True)
time.sleep(600)
"""


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def _written(box: Container) -> int:
    return len(box.logs())


def _stands_still(box: Container) -> bool:
    """Return whether a container that writes all the time has written nothing for some of its turns."""
    threading.Event().wait(0.05)  # what was in the pipes when it was paused
    before = _written(box)
    threading.Event().wait(0.2)
    return _written(box) == before


def test_paused_container_stands_still(container: ContainerFactory) -> None:
    """All processes of a paused container stop, those of execs too, and go on after it."""
    box = container("host", command=TICKS, ready=lambda box: "tick" in box.logs())
    box.pause()
    assert box.state == "paused"
    assert "paused" in box.report(1)
    assert _stands_still(box)
    before = _written(box)
    box.unpause()
    assert "paused" not in box.report(1)
    _until(lambda: _written(box) > before)


def test_pause_catches_processes_that_are_made_meanwhile(container: ContainerFactory) -> None:
    """A container that makes processes all the time is paused as a whole, again and again."""
    box = container("host", command=FORKS, ready=lambda _: True)
    for _ in range(5):
        box.pause()
        before = {entry.pid for entry in box.top()}
        threading.Event().wait(0.1)
        assert {entry.pid for entry in box.top()} == before
        box.unpause()


def test_pause_without_a_control_group_stops_each_process(
    pytester: pytest.Pytester, request: pytest.FixtureRequest
) -> None:
    """Where no group of version 2 can be made the processes get SIGSTOP, and all the rest is the same."""
    pytester.makepyfile(
        f"""
        import pytest
        from pytest_containers.errors import HostError
        from tests.test_control import _stands_still, _until, _written
        from tests.test_control import test_exec_that_begins_at_the_pause_is_paused
        def test_limits(container):
            with pytest.raises(HostError, match="no control groups are mounted"):
                container("host", command="true", limits={{"pids": 5}})
        def test_stop(container):
            box = container("host", command={TICKS!r}, ready=lambda box: "tick" in box.logs())
            box.pause()
            assert _stands_still(box)
            before = _written(box)
            box.unpause()
            _until(lambda: _written(box) > before)
            box.pause()
            box.kill()
            assert box.exit_code == 137
            box.start()
            box.pause()
            box.remove()
        """
    )
    # A mount namespace in which no hierarchy is mounted, for that run alone.
    hide = 'mount --make-rprivate / && mount -t tmpfs none /sys/fs/cgroup && exec "$@"'
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "test_pause_without_a_control_group_stops_each_process.py",
    ]
    environment = f"PYTHONPATH={request.config.rootpath}"
    result = pytester.run("unshare", "-m", "sh", "-c", hide, "sh", "env", environment, *argv)
    assert result.ret == 0
    result.assert_outcomes(passed=3)


def test_stop_lets_a_paused_container_end_by_itself(container: ContainerFactory) -> None:
    """A paused container is stopped as any other: its handler of SIGTERM runs."""
    command = "sh -c 'trap \"exit 7\" TERM; echo ready; sleep 600 & wait'"
    box = container("host", command=command, ready=lambda box: "ready" in box.logs())
    box.pause()
    box.stop()
    assert box.exit_code == 7
    box.start()
    box.pause()
    box.restart(timeout=5)
    assert box.state == "running"


def test_exec_of_a_paused_container_says_so(container: ContainerFactory) -> None:
    """An exec is refused with what to do, and files can be read and written meanwhile."""
    box = container("host", command="sleep 600")
    box.pause()
    with pytest.raises(NotRunning, match=r"paused(.|\n)*unpause"):
        box.exec(["true"])
    box.write_text("/srv/file", "content")
    assert box.read_text("/srv/file") == "content"
    box.unpause()
    assert box.exec(["cat", "/srv/file"]).stdout == "content"


def test_paused_container_can_have_limits(container: ContainerFactory) -> None:
    """Limits and a pause together leave no control group."""
    box = container("host", command="sleep 600", limits={"pids": 20})
    box.pause()
    box.unpause()
    box.exec(["true"], check=True)
    box.pause()
    box.remove()
    assert not [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if box.id[:12] in folder]


def test_stats_count_memory_time_processes_and_traffic(container: ContainerFactory) -> None:
    """What a container does is seen in its numbers, without a control group and with one."""
    for limits in LIMITS:
        box = container(
            "host",
            command=[sys.executable, "-S", "-c", HOLD],
            limits=limits,
            ready=lambda box: "held" in box.logs(),
        )
        stats = box.stats()
        assert 40 << 20 <= stats.memory_bytes < 150 << 20
        assert stats.memory_limit_bytes == (200 << 20 if limits else None)
        assert stats.cpu_s >= 0.15  # counted in hundredths, each part rounded down
        assert stats.pids == 1


def test_stats_count_traffic(container: ContainerFactory) -> None:
    """What another container sends is received."""
    box = container("host", command="sleep 600")
    peer = container("host", command="sleep 600")
    before = box.stats().received_bytes
    send = f"import socket; socket.socket(2, 2).sendto(b'x' * 999, ({box.ip!r}, 9))"
    peer.exec([sys.executable, "-c", send], check=True)
    _until(lambda: box.stats().received_bytes - before > 999)
    assert peer.stats().sent_bytes > 999


def test_top_shows_each_process_with_its_user(container: ContainerFactory) -> None:
    """The processes have their ids, users and commands as they are inside."""
    box = container("host", command=["sh", "-c", "sleep 601 & sleep 602 & wait"], user="nobody")
    _until(lambda: len(box.top()) == 3)
    entries = box.top()
    assert entries[0].pid == 1
    assert {entry.user for entry in entries} == {"nobody"}
    assert {entry.command for entry in entries[1:]} == {"sleep 601", "sleep 602"}


def test_control_group_of_a_pause_is_removed(container: ContainerFactory) -> None:
    """The group that a pause has made is there until the container is removed."""
    box = container("host", command="sleep 600")
    box.pause()
    there = [f for f, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(f) == box.id[:12]]
    assert len(there) == 1
    assert cgroups.is_frozen(there[0])
    box.remove()
    assert not os.path.exists(there[0])


def test_processes_are_listed_without_the_right_to_look_at_them(pytester: pytest.Pytester) -> None:
    """Without CAP_SYS_PTRACE the processes of another user are listed by their descent."""
    pytester.makepyfile(
        """
        def test_top(container):
            box = container("host", command=["sh", "-c", "sleep 600 & wait"], user="nobody")
            while len(box.top()) < 2:
                box.wait_for(lambda _: True)
            assert [entry.pid for entry in box.top()] == [1, 2]
            assert box.stats().pids == 2
            box.pause()
            assert box.state == "paused"
        """
    )
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    result = pytester.run("setpriv", "--bounding-set", "-sys_ptrace", *argv)
    assert result.ret == 0


def test_exec_that_begins_at_the_pause_is_paused(container: ContainerFactory) -> None:
    """What an exec makes while the container is being paused stands still as well."""
    box = container("host", command="sleep 600", files={"/srv/written": ""})
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            with contextlib.suppress(NotRunning):
                box.exec(["sh", "-c", "for n in $(seq 500); do echo x >> /srv/written; done"])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    grown: list[int] = []
    try:
        for _ in range(20):
            box.pause()
            ended.wait(0.005)
            before = len(box.read_bytes("/srv/written"))
            ended.wait(0.02)
            grown.append(len(box.read_bytes("/srv/written")) - before)
            box.unpause()
            ended.wait(0.01)
    finally:
        ended.set()
        box.unpause()
        for thread in threads:
            thread.join()
    assert grown == [0] * 20
