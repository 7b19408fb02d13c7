"""The suite's own guard bites: what a kernel test leaves behind makes it fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
SETTINGS: Final = f"[pytest]\npythonpath = {ROOT}\nmarkers = kernel\n"
PLUGIN: Final = 'pytest_plugins = ["tests.plugins.traces"]\n'

# One test after the other, each but the first and the last with something it leaves.
LEAVING: Final = """
import os
import subprocess
import threading

import pytest

pytestmark = pytest.mark.kernel
KEPT = []


def test_clean():
    with open("/dev/null"):
        subprocess.run(["true"], check=True)


def test_descriptor():
    KEPT.append(open("/dev/null"))


def test_process():
    KEPT.append(subprocess.Popen(["sleep", "30"]))


def test_zombie():
    if os.fork() == 0:
        os._exit(0)


def test_mount():
    subprocess.run(["mount", "-t", "tmpfs", "none", "."], check=True)


def test_interface():
    from pytest_containers.runtime.network import links
    from pytest_containers.runtime.network.netlink import Channel

    with Channel() as channel:
        channel.run(links.bridge("left0", 77, "02:00:00:00:00:77"))


def test_slow_end():
    slow = subprocess.Popen(["sleep", "0.2"])
    threading.Thread(target=slow.wait).start()
"""


@pytest.mark.kernel
def test_guard_tells_what_was_left_and_by_whom(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a test leaves is named and fails it, and what goes away in time fails nobody."""
    pytester.makeini(SETTINGS)
    pytester.makeconftest(PLUGIN)
    pytester.makepyfile(LEAVING)
    # A worker of ours runs it, and it is none itself.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    # All that is left lies in namespaces that end with their first process (unshare(1)).
    fence = "unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private --".split()
    result = pytester.run(*fence, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=7, errors=5)
    result.stdout.re_match_lines_random(
        [
            r".*::test_descriptor left behind:",
            r"  descriptor \d+ -> /dev/null",
            r".*::test_process left behind:",
            r"  process \d+ \(sleep\)",
            r".*::test_zombie left behind:",
            r".*::test_mount left behind:",
            r"  mount /.* \(tmpfs none rw.*",
            r".*::test_interface left behind:",
            r"  interface left0",
        ]
    )
    result.stderr.re_match_lines([r"ERROR: the run has left behind: .*interface left0.*"])
