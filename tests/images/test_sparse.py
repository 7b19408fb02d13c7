"""Files with holes: every form GNU tar writes, and maps that lie."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import LayerCorrupt
from pytest_containers.images.tarstream import TarStream

if TYPE_CHECKING:
    from tests.images.conftest import TarBuilder

HOLE = 1 << 20
PIECES = 40


def _copy_all(stream: TarStream, file: int) -> None:
    for entry in stream:
        stream.copy(file, entry)


@pytest.mark.parametrize("form", [("gnu",), ("pax", "0.0"), ("pax", "0.1"), ("pax", "1.0")], ids="-".join)
def test_sparse_file_is_read_as_gnu_tar_wrote_it(tmp_path: Path, form: tuple[str, ...]) -> None:
    """Data and holes come out as they went in, more pieces than one header holds included."""
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        for piece in range(PIECES):
            file.seek(piece * HOLE + 4096)
            file.write(bytes([piece + 1]) * 4096)
        file.truncate(PIECES * HOLE)
    version = [f"--sparse-version={form[1]}"] if len(form) > 1 else []
    command = ["tar", "--sparse", f"--format={form[0]}", *version, "-cf", "-", "sparse", "sparse"]
    packed = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    assert len(packed) < HOLE
    stream = TarStream(iter([packed]), limit_bytes=len(packed))
    entry = next(iter(stream))
    with (tmp_path / "out").open("wb") as file:
        stream.copy(file.fileno(), entry)
    assert (entry.name, entry.kind, entry.size) == (b"sparse", b"0", PIECES * HOLE)
    assert (tmp_path / "out").read_bytes() == source.read_bytes()
    assert os.stat(tmp_path / "out").st_blocks * 512 < PIECES * HOLE / 4


@pytest.mark.parametrize(
    ("pax", "data"),
    [
        ({b"GNU.sparse.map": b"0,5,3,5", b"GNU.sparse.size": b"10"}, b"x" * 10),
        ({b"GNU.sparse.map": b"0,50", b"GNU.sparse.size": b"10"}, b"x" * 50),
        ({b"GNU.sparse.map": b"0,50", b"GNU.sparse.size": b"60"}, b"x" * 10),
        ({b"GNU.sparse.map": b"1,2,3", b"GNU.sparse.size": b"10"}, b"x" * 10),
        ({b"GNU.sparse.map": b"a,b", b"GNU.sparse.size": b"10"}, b"x" * 10),
        ({b"GNU.sparse.map": b"0,1"}, b"x"),
        ({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"}, b"99999999999\n" + b"1\n" * 250),
        ({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"}, b"1\n0\n9\n"),
    ],
    ids=["backwards", "past the file", "past the data", "odd", "no numbers", "no size", "endless", "no room"],
)
def test_map_that_lies_is_refused(
    tar: Callable[[], TarBuilder], tmp_path: Path, pax: dict[bytes, bytes], data: bytes
) -> None:
    """A map that does not fit file or data is corrupt."""
    stream = TarStream(iter([tar().add("f", data=data, pax=pax).bytes()]), limit_bytes=1 << 20)
    with (tmp_path / "out").open("wb") as file, pytest.raises(LayerCorrupt):
        _copy_all(stream, file.fileno())
