"""Inside the virtual machine: run doctor and the tests that were asked for, and tell the results.

A program of the standard library alone, started by systemd: `python guest.py PROJECT SERIAL DISK`. Each
line on SERIAL is a JSON object; DISK gets a tar of what doctor, pytest and the kernel's log said.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

__all__ = ["main"]

_PARTS: Final = ("passed", "failed", "errors", "skipped")
_COMMON: Final = ("-v", "-p", "no:cacheprovider", "--color=no", "--tb=short")
_DOCTOR_S: Final = 300.0


def _counts(report: Path) -> dict[str, int]:
    """Return how many tests passed, failed and so on (JUnit XML)."""
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    numbers = {
        name: sum(int(suite.get(attribute, "0")) for suite in suites)
        for name, attribute in (("failed", "failures"), ("errors", "errors"), ("skipped", "skipped"))
    }
    total = sum(int(suite.get("tests", "0")) for suite in suites)
    return {"passed": total - sum(numbers.values()), **numbers}


class Guest:
    """What runs in the machine: the *job* says what."""

    def __init__(self, project: Path, serial: int, results: Path) -> None:
        self._project = project
        self._serial = serial
        self._results = results
        self._job = json.loads((project / "job.json").read_text())
        self._environment = {
            "HOME": "/root",
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}:/usr/sbin:/sbin",
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            **self._job["environment"],
        }

    def tell(self, **record: object) -> None:
        """Write one line to the machine's owner."""
        os.write(self._serial, json.dumps(record).encode() + b"\n")

    def doctor(self) -> None:
        """Ask doctor whether containers can run here.

        The first run loads modules, which may take an emulated machine longer than doctor waits for a
        step (20 s); what counts is the second, where the first failed.
        """
        code = self._doctor("doctor") and self._doctor("doctor-again")
        self.tell(doctor="ok" if code == 0 else f"exit {code}", release=os.uname().release)

    def _doctor(self, name: str) -> int:
        argv = [sys.executable, "-m", "pytest_containers", "doctor"]
        with (self._results / name).open("wb") as out:
            return subprocess.run(
                argv,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd="/",
                timeout=_DOCTOR_S,
                check=False,
            ).returncode

    def part(self, name: str, arguments: list[str]) -> None:
        """Run pytest with *arguments*, and say how far it is."""
        report = self._results / f"{name}.xml"
        argv = [sys.executable, "-m", "pytest", *_COMMON, f"--junitxml={report}", *arguments]
        began = time.monotonic()
        with (
            (self._results / f"{name}.txt").open("w") as out,
            subprocess.Popen(
                argv,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self._environment,
                cwd=self._project,
            ) as running,
        ):
            assert running.stdout is not None
            for line in running.stdout:
                out.write(line)
                self.tell(line=line.rstrip()[:200])
        seconds = round(time.monotonic() - began)
        counts = _counts(report) if report.exists() else {}
        self.tell(part=name, code=running.returncode, seconds=seconds, **counts)

    def run(self) -> None:
        """Do the whole job."""
        self.tell(line=f"Linux {os.uname().release} is up")
        self.doctor()
        for name, arguments in self._job["parts"].items():
            self.part(name, arguments)
        with (self._results / "dmesg").open("wb") as out:
            subprocess.run(["dmesg"], stdout=out, check=False)


def main(project: str, serial: str, disk: str) -> None:
    """Run the job in the folder *project*, tell on *serial*, and leave the results on *disk*."""
    packages = Path(sys.prefix, "lib", f"python3.{sys.version_info.minor}", "site-packages")
    (packages / "project.pth").write_text(f"{project}\n")
    results = Path("/var/tmp/results")
    results.mkdir()
    descriptor = os.open(serial, os.O_WRONLY | os.O_NOCTTY)
    guest = Guest(Path(project), descriptor, results)
    try:
        guest.run()
    except BaseException as error:
        guest.tell(line=f"{type(error).__name__}: {error}")
        raise
    finally:
        with open(disk, "r+b") as raw, tarfile.open(fileobj=raw, mode="w|") as tar:
            tar.add(results, "results")
        os.sync()


if __name__ == "__main__":
    main(*sys.argv[1:])
