"""Boot the kernels that Debian offers in virtual machines, run doctor and the kernel tests in each.

::

    python -m tests.kernels                          # a small part on every kernel
    python -m tests.kernels --kernel 6.1 --part small runtime network lifetimes
    python -m tests.kernels --kernel 6.1 --tests "tests/runtime/test_init.py -x"
    python -m tests.kernels --list

It needs root, qemu-system-x86_64, mmdebstrap, busybox-static and Debian's archive as apt is configured
for. What it fetches and makes lies in ``PYTEST_CONTAINERS_TEST_KERNELS``, else in
``pytest-containers-kernels`` of the user's cache folder. It ends with a table, and with 1 where something
failed; where the machine lacks a tool it says so and ends with 0.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import json
import os
import shlex
import shutil
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.kernels import initramfs
from tests.kernels.archive import Archive, Kernel, series_order
from tests.kernels.image import Debian, modules_disk
from tests.kernels.machine import QEMU, Accelerator, Machine, accelerator
from tests.kernels.parts import PARTS, SERIES

__all__ = ["Outcome", "main", "table"]

_PROJECT: Final = Path(__file__).resolve().parents[2]
_CONTENT: Final = (
    "pytest_containers",
    "tests",
    "examples",
    "benchmarks",
    "docs",
    "pyproject.toml",
    "README.md",
)
_TOOLS: Final = (QEMU, "mmdebstrap", "busybox", "mkfs.ext4", "dpkg-deb", "apt-get")
_RESULT_BYTES: Final = 64 << 20
_MEMORY_MIB: Final = 3072
_PROCESSORS: Final = 2
_TCG_CLOCK: Final = 20


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What one kernel's machine told."""

    series: str
    release: str = ""
    doctor: str = "did not boot"
    parts: dict[str, Mapping[str, int]] = field(default_factory=dict)
    whole: bool = False

    def hear(self, line: str) -> None:
        """Take one line of the guest's; other lines of the port are no matter."""
        try:
            record = json.loads(line)
        except ValueError:
            return
        if "line" in record:
            _say(f"[{self.series}] {record['line']}")
        if "doctor" in record:
            self.doctor, self.release = record["doctor"], record["release"]
            _say(f"[{self.series}] doctor: {self.doctor}")
        if "part" in record:
            self.parts[record.pop("part")] = record

    def cell(self, part: str) -> str:
        """Return what the table says of *part*."""
        counts = self.parts.get(part)
        if counts is None:
            return "did not end"
        told = [
            f"{counts[name]} {name}" for name in ("passed", "failed", "errors", "skipped") if counts.get(name)
        ]
        return ", ".join(told) or f"exit {counts['code']}"

    @property
    def good(self) -> bool:
        """Whether doctor and every test passed."""
        return self.whole and self.doctor == "ok" and all(not one["code"] for one in self.parts.values())


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("PYTEST_CONTAINERS_TEST_KERNELS") or f"{base}/pytest-containers-kernels")


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Wait for other runs of this program: one machine at a time."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _add(tar: tarfile.TarFile, name: str, content: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content.encode())
    tar.addfile(member, io.BytesIO(content.encode()))


def _project_disk(disk: Path, job: Mapping[str, object]) -> None:
    """Write a tar of the project as it is now, of what makes it an installed plugin, and of the job."""
    table = tomllib.loads((_PROJECT / "pyproject.toml").read_text())["project"]
    points = (f"[pytest11]\n{name} = {value}\n" for name, value in table["entry-points"]["pytest11"].items())
    information = f"{table['name'].replace('-', '_')}-{table['version']}.dist-info"
    with tarfile.open(disk, "w") as tar:
        for name in _CONTENT:
            tar.add(_PROJECT / name, name, filter=lambda one: None if "__pycache__" in one.name else one)
        _add(tar, f"{information}/entry_points.txt", "".join(points))
        metadata = f"Metadata-Version: 2.1\nName: {table['name']}\nVersion: {table['version']}\n"
        _add(tar, f"{information}/METADATA", metadata)
        _add(tar, "job.json", json.dumps(job))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What all machines of a run share: the *project* as it was at the beginning, and how they are made."""

    cache: Path
    project: Path
    debian: Debian
    accelerator: Accelerator
    deadline_s: float

    def boot(self, kernel: Kernel) -> Outcome:
        """Run the machine of *kernel*; what it left is kept below ``results`` of the cache."""
        outcome = Outcome(series=kernel.series)
        disks = (self.debian.disk(), modules_disk(kernel, self.debian), self.project)
        kept = self.cache / "results" / kernel.series
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        with tempfile.TemporaryDirectory(prefix="machine-", dir=self.cache) as name:
            folder = Path(name)
            results = folder / "results"
            results.touch()
            os.truncate(results, _RESULT_BYTES)
            machine = Machine(
                kernel=kernel.image,
                initramfs=initramfs.for_root(kernel.modules),
                accelerator=self.accelerator,
                disks=(*disks, results),
                written=results,
                options="root=/dev/vda systemd.show_status=no",
                memory_mib=_MEMORY_MIB,
                processors=_PROCESSORS,
                heard=outcome.hear,
            )
            outcome.whole = machine.run(folder, self.deadline_s)
            shutil.copy(folder / "console", kept)
            with contextlib.suppress(tarfile.TarError), tarfile.open(results) as tar:
                tar.extractall(kept, filter="data")
        return outcome


def table(outcomes: Sequence[Outcome], parts: Sequence[str]) -> str:
    """Return what the machines told as a table of Markdown: a row for each kernel."""
    rows = [["kernel", "doctor", *parts]]
    rows += [[one.release or one.series, one.doctor, *(one.cell(part) for part in parts)] for one in outcomes]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return (
        "\n".join((lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:])) + "\n"
    )


def _chosen(asked: Sequence[str], offered: Sequence[str]) -> list[str]:
    """Return the series asked for; ``7`` means the newest of 7."""
    found = []
    for series in asked:
        known = [one for one in offered if one == series or one.startswith(f"{series}.")]
        if not known:
            raise SystemExit(f"no kernel {series} is offered; there are {', '.join(offered)}")
        found.append(max(known, key=series_order))
    return found


def _accelerator(asked: str | None, kernel: Kernel) -> Accelerator:
    return Accelerator(name=asked, reason="it was asked for") if asked else accelerator(kernel)


def _words(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.kernels", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--kernel", nargs="+", default=SERIES, help="series, as 6.1 (default: one of each age)"
    )
    parser.add_argument("--part", nargs="+", choices=PARTS, default=["small"], help="default: small")
    parser.add_argument("--tests", help="pytest's arguments, in place of a part")
    parser.add_argument(
        "--clock", type=float, help="factor for the tests' deadlines (default: 20 without KVM)"
    )
    parser.add_argument("--deadline", type=float, default=7200, help="seconds for a machine (default: 7200)")
    parser.add_argument("--accelerator", choices=("kvm", "tcg"), help="do not find out which works")
    parser.add_argument("--update", action="store_true", help="ask the archive for newer kernels")
    parser.add_argument("--list", action="store_true", help="say which kernels there are")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run what *argv* asks for; return the exit code."""
    words = _words(argv)
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        _say(f"skipped: this machine has no {', '.join(missing)}")
        return 0
    if os.geteuid() != 0:
        _say("skipped: mmdebstrap makes the machine's disk as root")
        return 0
    cache = _cache()
    archive = Archive(cache / "apt")
    if words.list:
        sys.stdout.write("\n".join(archive.offered()) + "\n")
        return 0
    with _alone(cache):
        if words.update:
            archive.update()
        offered = list(archive.offered())
        parts = (
            {"tests": shlex.split(words.tests)} if words.tests else {name: PARTS[name] for name in words.part}
        )
        kernels = [archive.kernel(series) for series in _chosen(words.kernel, offered)]
        debian = Debian(cache, _PROJECT)
        debian.disk()
        how = _accelerator(words.accelerator, kernels[-1])
        _say(f"accelerator: {how.name}, since {how.reason}")
        clock = words.clock or (_TCG_CLOCK if how.name == "tcg" else 1)
        outcomes = []
        with tempfile.TemporaryDirectory(prefix="project-", dir=cache) as name:
            project = Path(name, "project")
            environment = {"PYTEST_CONTAINERS_TEST_CLOCK": str(clock)}
            _project_disk(project, {"parts": parts, "environment": environment})
            run = _Run(
                cache=cache, project=project, debian=debian, accelerator=how, deadline_s=words.deadline
            )
            for kernel in kernels:
                began = time.monotonic()
                outcomes.append(run.boot(kernel))
                _say(f"[{kernel.series}] ended after {time.monotonic() - began:.0f} s")
    sys.stdout.write(table(outcomes, list(parts)))
    return 0 if all(one.good for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
