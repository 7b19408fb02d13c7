"""A machine that refuses says so in time, with the step and the mend; and a run that cannot begin too."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.engines.native import preflight
from pytest_containers.runtime.preflight import checks
from tests.plugins.groups import bounded_group

if TYPE_CHECKING:
    from tests.lifetimes.conftest import Stage

pytestmark = pytest.mark.kernel

_ROOT: Final = Path(__file__).resolve().parents[2]
_REPORT: Final = """
from pytest_containers.runtime.preflight import checks
from tests.plugins.groups import bounded_group
print([(check.step, check.ok, check.seen, check.mend) for check in checks()])
"""
# The interpreter may lie where a plain user cannot read; nothing else is granted.
_PLAIN_USER: Final = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search", "--bounding-set"),
    "-all,+dac_read_search",
)
_WITHOUT: Final = ("setpriv", "--bounding-set")
Row = tuple[str, bool, str, str]
Report = Callable[..., dict[str, Row]]


@pytest.fixture
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    """Return a function that runs the checks behind a command that takes privileges away."""
    folder = Path(tempfile.mkdtemp(prefix="preflight-"))
    folder.chmod(0o777)

    def run(*prefix: str) -> dict[str, Row]:
        ended = subprocess.run(
            [*prefix, sys.executable, "-c", _REPORT],
            env={"PYTHONPATH": str(_ROOT), "TMPDIR": str(folder), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ended.returncode == 0, ended.stderr
        rows: list[Row] = ast.literal_eval(ended.stdout)
        return {row[0]: row for row in rows}

    yield run
    folder.rmdir()  # and so it must be empty


def test_preflight_takes_every_step_as_root(report: Report) -> None:
    """Where a run can be, every step works, and nothing of it stays in the folder for temporary files."""
    assert [row for row in report().values() if not row[1]] == []


def test_preflight_of_engine_tells_what_the_checks_tell() -> None:
    """The engine's preflight has the steps of the checks, as step, verdict and one line."""
    steps = preflight()
    assert [step for step, _, _ in steps] == [check.step for check in checks()]
    assert all(works and seen and "\n" not in seen for _, works, seen in steps)


def test_preflight_names_root_to_a_plain_user(report: Report) -> None:
    """A plain user is told which steps are refused, and to run as root."""
    found = report(*_PLAIN_USER)
    for step in ("pid namespace", "mount namespace", "network namespace"):
        _, works, seen, mend = found[step]
        assert not works
        assert "Operation not permitted" in seen
        assert "as root" in mend
    assert found["container"][1:3] == (False, "not tried: it needs the pid namespace")
    assert found["safe paths"][1]


@pytest.mark.parametrize(
    ("capability", "refused"),
    [
        ("sys_admin", "mount namespace"),
        ("net_admin", "switch"),
        ("sys_chroot", "joining a container"),
        ("mknod", "copy-on-write files"),
    ],
)
def test_preflight_names_the_step_that_a_missing_capability_breaks(
    report: Report, capability: str, refused: str
) -> None:
    """Root without a capability is told the first step that needs it, and to allow it."""
    found = report(*_WITHOUT, f"-{capability}")
    _, works, seen, mend = found[refused]
    assert not works
    assert "not permitted" in seen
    assert f"allow CAP_{capability.upper()} to pytest" in mend
    assert "--privileged" in mend


def test_preflight_tells_when_no_interpreter_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that cannot be executed is a failed check and no stack."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    first = checks()[0]
    assert not first.ok
    assert "No such file" in first.seen


def test_preflight_tells_the_room_of_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    """The disk that is told of is the one the store will lie on."""
    disk = next(check for check in checks(tmp_path / "not" / "yet") if check.step == "disk")
    assert disk.seen.endswith(f"MiB free at {tmp_path}")


def test_prepare_tells_a_plain_user_to_run_as_root(stage: Stage) -> None:
    """Without root the engine says so before anything is made."""
    player = stage.play(prefix=_PLAIN_USER, network="host")
    answer = player.ask("prepare")
    assert answer.startswith("error HostError: the native engine needs root")
    assert "mend: run it as root" in answer
    player.end()
    assert stage.processes() == ()


@pytest.mark.parametrize("capability", ["sys_admin", "net_admin", "mknod"])
def test_start_without_a_capability_names_it_to_every_process_of_the_run(
    stage: Stage, capability: str
) -> None:
    """A run that cannot begin tells owner and worker why, and is gone by then."""
    owner = stage.play(prefix=(*_WITHOUT, f"-{capability}"), network="host")
    worker = stage.play(owner, prefix=(*_WITHOUT, f"-{capability}"), network="host")
    for player in (owner, worker, owner):
        answer = player.ask("start c")
        assert answer.startswith("error HostError:"), answer
        assert f"allow CAP_{capability.upper()} to pytest" in answer.partition("mend:")[2], answer
        assert "not permitted" in answer
    assert stage.deserted()
    worker.end()
    owner.end()
    assert not stage.folder.exists()


def test_control_groups_are_tried_and_none_is_left(report: Report) -> None:
    """Whether limits can be held is found out by making a group, of which nothing is left."""
    _, ok, seen, mend = report()["control groups"]
    assert ok
    assert "limits of memory, processors and processes can be held" in seen
    assert not mend
    assert not [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if "doctor-" in folder]


def test_machine_without_control_groups_is_told_what_is_missing(report: Report) -> None:
    """Where no hierarchy is mounted a run can begin, and the page says that limits cannot be held."""
    hide = 'mount --make-rprivate / && mount -t tmpfs none /sys/fs/cgroup && exec "$@"'
    _, ok, seen, mend = report("unshare", "-m", "sh", "-c", hide, "sh")["control groups"]
    assert ok
    assert "no control groups are mounted" in seen
    assert "limits=" in mend


def test_free_memory_is_that_of_the_group(report: Report) -> None:
    """In a memory group with a limit no more than that is told as free."""
    with bounded_group(300 << 20) as group:
        _, ok, seen, _ = report("sh", "-c", f'echo 0 > {group}/cgroup.procs && exec "$@"', "sh")["memory"]
    assert ok
    assert int(seen.split()[0]) <= 300
