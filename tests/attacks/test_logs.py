"""Attacks on whoever reads a container's output: floods, endless lines, and words for a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.kernel

# Run apart, so that its peak is this run's alone (getrusage(2), ru_maxrss in KiB).
_MEASURED: Final = r"""
import json, os, resource, sys, time
from pathlib import Path
from pytest_containers.container import Container
from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.errors import NotReady
from pytest_containers.probe import Started, log, warm
from pytest_containers.spec import ContainerSpec

warm()
engine = NativeEngine(store=Path(sys.argv[1]), run_folder=fresh_run_folder(), owner_pid=os.getpid())
image = engine.images.pull("host")
spec = ContainerSpec(name="box", command=("sh", "-c", sys.argv[2]))
handle = engine.create(spec, image)
box = Container(handle=handle, spec=spec, image=image, ready=Started(), timeout_s=60.0)
box.start()
box.wait(timeout=120)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seen = {}


def timed(name, action):
    began = time.process_time()
    seen[name] = action()
    seen[f"{name}_cpu_s"] = time.process_time() - began


timed("report", lambda: len(box.report(50)))
timed("position", lambda: box._handle.log_tail(0).position)
try:
    box.wait_for(log("never written"), timeout=0.5)
except NotReady as error:
    seen["not_ready"] = len(str(error))
if sys.argv[3] == "lines":
    timed("tail", lambda: len(box.logs(tail=3)))
    timed("first", lambda: len(next(box.log_lines()).text))
seen["peak_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps(seen))
engine.close()
"""
_LINES: Final = "yes 0123456789012345678901234567890123456789 | head -c 300000000"
_NO_LINE_END: Final = "head -c 300000000 /dev/zero | tr '\\0' x"


@pytest.mark.parametrize(("kind", "flood"), [("lines", _LINES), ("no line end", _NO_LINE_END)])
def test_flood_costs_a_report_next_to_nothing(tmp_path: Path, kind: str, flood: str) -> None:
    """Of 256 MiB a report, a NotReady, the last and the first lines cost milliseconds and a few MiB."""
    command = [sys.executable, "-c", _MEASURED, str(tmp_path), flood, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert 1000 < seen["report"] < 10_000, seen
    assert 1000 < seen["not_ready"] < 10_000, seen
    assert seen["position"] > 250_000_000
    assert max(seen["report_cpu_s"], seen["position_cpu_s"]) < 0.1, seen
    assert seen["peak_kib"] < 24 * 1024, seen
    if kind == "lines":
        assert seen["first"] == 40
        assert 82 < seen["tail"] < 200  # the last but one is cut where the log ends
        assert max(seen["tail_cpu_s"], seen["first_cpu_s"]) < 0.5, seen
