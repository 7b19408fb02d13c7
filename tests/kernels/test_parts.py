"""What the virtual machines are told exists, and what they tell becomes a table."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.kernels import initramfs
from tests.kernels.__main__ import Outcome, main, table
from tests.kernels.parts import PARTS

_ROOT = Path(__file__).resolve().parents[2]


def test_parts_name_tests_that_exist() -> None:
    """A file that was renamed is not left out of the machines without notice."""
    named = [word for words in PARTS.values() for word in words if not word.startswith("-")]
    assert [name for name in named if not (_ROOT / name).exists()] == []


def test_table_tells_what_each_machine_told() -> None:
    """A row for each kernel: doctor, the counts of each part, and what did not come to its end."""
    whole = Outcome(series="6.1", whole=True)
    part = {"part": "small", "code": 1, "seconds": 9, "passed": 4, "failed": 1, "errors": 0, "skipped": 0}
    for record in ({"doctor": "ok", "release": "6.1.0-50"}, part):
        whole.hear(json.dumps(record))
    whole.hear("[    0.1] a line of the kernel's")
    lines = table([whole, Outcome(series="5.10")], ["small"]).splitlines()
    assert [line.strip("| ").split(" | ") for line in (lines[2], lines[3])] == [
        ["6.1.0-50", "ok          ", "4 passed, 1 failed"],
        ["5.10    ", "did not boot", "did not end"],
    ]
    assert not whole.good


def test_machine_without_the_programs_is_told_which(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing can be booted the reason is printed, and that is no failure."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([]) == 0
    assert "skipped: this machine has no qemu-system-x86_64, mmdebstrap, busybox" in capsys.readouterr().err


def test_initramfs_is_a_cpio_archive() -> None:
    """Entries begin at multiples of four and end with the trailer (cpio(5), "New ASCII Format")."""
    data = gzip.decompress(initramfs.archive({"bin/busybox": b"x", "init": b"#!/bin/busybox sh\n"}))
    names: list[str] = []
    while not names or names[-1] != "TRAILER!!!":
        assert data.startswith(b"070701")
        size, length = int(data[54:62], 16), int(data[94:102], 16)
        names.append(data[110 : 110 + length - 1].decode())
        end = (110 + length + 3) // 4 * 4
        data = data[end + (size + 3) // 4 * 4 :]
    assert names == ["bin", "dev", "modules", "root", "bin/busybox", "init", "TRAILER!!!"]
