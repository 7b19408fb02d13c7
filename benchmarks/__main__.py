"""``python -m benchmarks``: measure, print one table, keep it where asked.

Needs root for anything with a container in it: without it, the two rows of the plugin's own cost
are measured. Changes nothing on the machine, and says so if it has.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import budgets, census, machine, materials, stage, startup, table
from benchmarks.report import Report, plain
from benchmarks.samples import Collection

__all__ = ["main"]

_ROOT: Final = Path(__file__).resolve().parents[1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="few rounds and a small image: a look, not a result"
    )
    parser.add_argument("--with-dockerd", action="store_true", help="start a docker daemon for the run")
    parser.add_argument(
        "--testcontainers-python",
        metavar="PATH",
        default=sys.executable,
        help="the interpreter that has testcontainers (default: this one)",
    )
    parser.add_argument(
        "--only", metavar="SECTION", choices=stage.SECTIONS, action="append", help=f"one of {stage.SECTIONS}"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every sample to FILE")
    parser.add_argument("--write", metavar="FILE", type=Path, help="put the table into the page FILE")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks; return 1 if anything was left on the machine, else 0."""
    given = _parser().parse_args(arguments)
    page = given.write.read_text(encoding="utf-8") if given.write else ""
    if page:
        table.insert(page, "")  # a page without its markers is better told of before than after
    report = _measured(given, _shown(given))
    text = table.markdown(report)
    print(text)
    if given.json:
        given.json.write_text(json.dumps(plain(report), indent=1), encoding="utf-8")
    if given.write:
        given.write.write_text(table.insert(page, text), encoding="utf-8")
    return 1 if report.left else 0


def _shown(given: argparse.Namespace) -> str:
    """Return the command that measures the same: no path of this machine, nor where results went."""
    words = ["python -m benchmarks"]
    words += ["--quick"] if given.quick else []
    words += ["--with-dockerd"] if given.with_dockerd else []
    words += [f"--only {section}" for section in given.only or ()]
    words += ["--testcontainers-python PATH"] if given.testcontainers_python != sys.executable else []
    return " ".join(words)


def _measured(given: argparse.Namespace, command: str) -> Report:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    work = Path(tempfile.mkdtemp(prefix="ptc-benchmarks-"))
    before = census.look(work)
    try:
        seen = machine.look(work)
        orders = stage.Orders(
            work=str(work),
            quick=given.quick,
            sections=tuple(given.only or stage.SECTIONS),
            docker=given.with_dockerd,
            testcontainers_python=given.testcontainers_python,
        )
        _run(orders)
        result = json.loads((work / "result.json").read_text(encoding="utf-8"))
    finally:
        census.remove_cgroups(before)
        left = census.settle(before, work)
        shutil.rmtree(work, ignore_errors=True)
    return Report(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        command=command,
        machine=seen,
        versions=result["versions"],
        skipped=result["skipped"],
        rows=budgets.rows(Collection(result["values"]), quick=given.quick),
        left=left,
    )


def _run(orders: stage.Orders) -> None:
    """Measure in namespaces of our own; as a plain user what can be measured without."""
    if os.geteuid() != 0:
        print("not root: the plugin's own cost alone is measured", file=sys.stderr)
        stage.run(stage.without_containers(orders))
        return
    if set(orders.sections) - {"startup"}:
        materials.make(Path(orders.work))
    environment = {**startup.environment(), "PYTHONPATH": str(_ROOT)}
    # Its standard input is its life: it ends when we do, in whatever way.
    process = subprocess.Popen(orders.argv(), stdin=subprocess.PIPE, env=environment)
    try:
        code = process.wait()
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()
    if code != 0:
        raise SystemExit(f"the measurement ended with exit code {code}")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
