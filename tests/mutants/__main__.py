"""Change the code in one place at a time and see whether the tests nearest to it notice (tox -e mutants).

::

    python -m tests.mutants                              # a sample of 300 over all modules
    python -m tests.mutants --sample 20 --seed 7
    python -m tests.mutants --module runtime/join.py --sample 1000
    python -m tests.mutants --list                       # how many places each module has

cosmic-ray makes the mutants and runs the tests. It writes them into the source, so it works on a copy of the
checkout, and as root in a mount namespace of its own. Of each place in the code one mutant is in the sample
at most; places in annotations are left out, which nothing evaluates, and those of `DANGEROUS`. The
same seed gives the same sample of the same code. It ends with a table, and the survivors as they would be
written; with 1 where a module's tests fail without any mutant, or fewer than *--least* percent were killed.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mutants.modules import DANGEROUS, MODULES

ROOT: Final = Path(__file__).resolve().parents[2]
_PACKAGE: Final = "pytest_containers"
_PRIVATE: Final = ("unshare", "--mount", "--propagation", "private")
# A mutant may wait for what never comes: its tests may take so many times as long as without it.
_PATIENCE: Final = 4
_LEAST_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in the code of a module, and one mutant of it."""

    module: str
    line: int
    column: int
    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a mutant; *survived* where no test failed."""

    place: Place
    survived: bool
    change: str


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# The first place and the one behind the last, each a line and a column.
Span = tuple[tuple[int, int], tuple[int, int]]


def left_out(module: str, source: str) -> Iterator[Span]:
    """Yield the spans of *source* in which no mutant is made: annotations and what is dangerous."""
    names = {name for one in DANGEROUS if one.module == module for name in one.names}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
            first = min((node.lineno, *(one.lineno for one in node.decorator_list)))
            yield (first, 0), _span(node)[1]
        if isinstance(node, ast.FunctionDef):
            annotations = (node.returns, *(argument.annotation for argument in _arguments(node)))
            yield from (_span(annotation) for annotation in annotations if annotation is not None)
        if isinstance(node, ast.AnnAssign):
            yield _span(node.annotation)


def _span(node: ast.stmt | ast.expr) -> Span:
    end = (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
    return (node.lineno, node.col_offset), end


def _arguments(node: ast.FunctionDef) -> Iterator[ast.arg]:
    given = node.args
    yield from (*given.posonlyargs, *given.args, *given.kwonlyargs)
    yield from (one for one in (given.vararg, given.kwarg) if one is not None)


class Copy:
    """A copy of the checkout, in which cosmic-ray writes its mutants."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        names = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in filter(None, names.stdout.split("\0")):
            if (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)

    def places(self, module: str, rng: random.Random, *, limit_s: float) -> list[Place]:
        """Return one mutant of each place of *module*, chosen by *rng*, in the order of the code."""
        path = self._folder / _PACKAGE / module
        source = path.read_text(encoding="utf-8")
        self._configure(module, limit_s)
        self._cosmic_ray("init", self._name(module, "toml"), self._name(module, "sqlite"))
        found: dict[tuple[int, int], list[str]] = {}
        with sqlite3.connect(self._folder / self._name(module, "sqlite")) as session:
            rows = session.execute(
                "SELECT start_pos_row, start_pos_col, job_id FROM mutation_specs "
                "ORDER BY start_pos_row, start_pos_col, operator_name, occurrence, operator_args"
            )
            skipped = list(left_out(module, source))
            for line, column, job in rows:
                if not any(first <= (line, column) < end for first, end in skipped):
                    found.setdefault((line, column), []).append(job)
        session.close()
        return [
            Place(module=module, line=line, column=column, job=rng.choice(jobs))
            for (line, column), jobs in found.items()
        ]

    def baseline_s(self, module: str) -> float | None:
        """Return how long the tests of *module* take without a mutant, in seconds; None where one fails."""
        began = time.monotonic()
        done = subprocess.run(
            self._pytest(module), cwd=self._folder, env=self._env(), capture_output=True, check=False
        )
        return time.monotonic() - began if done.returncode == 0 else None

    def run(self, module: str, places: Sequence[Place], *, limit_s: float) -> Iterator[Outcome]:
        """Yield what became of each mutant in *places*."""
        self._configure(module, limit_s)
        wanted = {place.job: place for place in places}
        path = self._folder / self._name(module, "sqlite")
        with sqlite3.connect(path) as session:
            for table in ("mutation_specs", "work_items"):
                marks = ",".join("?" * len(wanted))
                session.execute(f"DELETE FROM {table} WHERE job_id NOT IN ({marks})", tuple(wanted))
        session.close()
        self._cosmic_ray("exec", self._name(module, "toml"), self._name(module, "sqlite"))
        with sqlite3.connect(path) as session:
            rows = session.execute(
                "SELECT job_id, worker_outcome, test_outcome, diff FROM work_results"
            ).fetchall()
        session.close()
        for job, worker, tests, diff in rows:
            if worker == "NORMAL":
                yield Outcome(place=wanted[job], survived=tests == "SURVIVED", change=diff or "")

    def _pytest(self, module: str) -> list[str]:
        private = _PRIVATE if os.geteuid() == 0 else ()
        return [
            *private,
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            *MODULES[module],
        ]

    def _configure(self, module: str, limit_s: float) -> None:
        text = (
            "[cosmic-ray]\n"
            f"module-path = {json.dumps(f'{_PACKAGE}/{module}')}\n"
            f"timeout = {limit_s:.1f}\n"
            "excluded-modules = []\n"
            f"test-command = {json.dumps(' '.join(self._pytest(module)))}\n"
            '[cosmic-ray.distributor]\nname = "local"\n'
        )
        (self._folder / self._name(module, "toml")).write_text(text, encoding="utf-8")

    def _name(self, module: str, kind: str) -> str:
        return f"mutants-{module.replace('/', '-')}.{kind}"

    def _cosmic_ray(self, *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name("cosmic-ray")), *arguments]
        done = subprocess.run(
            command, cwd=self._folder, env=self._env(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")

    def _env(self) -> Mapping[str, str]:
        # The copy goes before the checkout that is installed, in processes that tests start as well.
        return {**os.environ, "PYTHONPATH": str(self._folder), "PYTHONDONTWRITEBYTECODE": "1"}


def sampled(places: Iterable[Place], size: int, rng: random.Random) -> dict[str, list[Place]]:
    """Return *size* of *places*, or all where there are fewer, by module."""
    everywhere = list(places)
    chosen: dict[str, list[Place]] = {}
    for place in rng.sample(everywhere, min(size, len(everywhere))):
        chosen.setdefault(place.module, []).append(place)
    return {
        module: sorted(found, key=lambda one: (one.line, one.column))
        for module, found in sorted(chosen.items())
    }


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=300, help="how many mutants are run")
    parser.add_argument("--seed", type=int, default=1, help="what the sample is drawn with")
    parser.add_argument("--module", action="append", choices=tuple(MODULES), help="of this module alone")
    parser.add_argument("--least", type=int, default=80, help="how many percent must be killed")
    parser.add_argument("--list", action="store_true", help="count places and run nothing")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(Path(folder))
        modules = options.module or tuple(MODULES)
        places = {module: copy.places(module, rng, limit_s=_LEAST_S) for module in modules}
        if options.list:
            for module, found in places.items():
                _say(f"{module:32} {len(found):5}")
            return 0
        chosen = sampled((one for found in places.values() for one in found), options.sample, rng)
        return _report(chosen, copy, options.least)


def _report(chosen: Mapping[str, Sequence[Place]], copy: Copy, least_percent: int) -> int:
    survivors: list[Outcome] = []
    run = 0
    broken = False
    _say(f"{'module':32} {'mutants':>8} {'killed':>8} {'':>6}")
    for module, places in chosen.items():
        took_s = copy.baseline_s(module)
        if took_s is None:
            broken = True
            _say(f"{module:32} its tests fail without any mutant: {' '.join(MODULES[module])}")
            continue
        outcomes = list(copy.run(module, places, limit_s=_LEAST_S + _PATIENCE * took_s))
        left = [one for one in outcomes if one.survived]
        killed = len(outcomes) - len(left)
        _say(f"{module:32} {len(outcomes):8} {killed:8} {_percent(killed, len(outcomes)):>6}")
        survivors += left
        run += len(outcomes)
    _say(f"{'all':32} {run:8} {run - len(survivors):8} {_percent(run - len(survivors), run):>6}")
    for one in survivors:
        _say(f"\nsurvived: {one.place.module}:{one.place.line}\n{one.change.strip()}")
    return int(broken or not run or 100 * (run - len(survivors)) < least_percent * run)


if __name__ == "__main__":
    raise SystemExit(main())
