"""The programs inside the benchmark's image, from this machine's own Debian packages.

They are looked for, installed where they are missing, and taken, all in one container on the
machine's own files: nothing is installed on the machine. Every engine gets the same tar.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pytest_containers.engines.base import Handle
from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.spec import ContainerSpec, ExecSpec

__all__ = ["REDIS", "REGISTRY", "ROOT", "SLEEP", "make"]

ROOT: Final = "root.tar"
REGISTRY: Final = "docker-registry"
SLEEP: Final = ("/bin/sleep", "100000")
REDIS: Final = ("/bin/redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "")

_BUSYBOX: Final = ("sh", "sleep", "true", "dd", "seq", "mkdir")
_PROGRAMS: Final = (
    ("busybox", "busybox-static"),
    ("redis-server", "redis-server"),
    ("docker-registry", "docker-registry"),
)
_NO_SERVICES: Final = b"#!/bin/sh\nexit 101\n"  # policy-rc.d of invoke-rc.d(8): install, do not start
_ACCOUNTS: Final = (("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", b"root:x:0:\n"))
_FOLDERS: Final = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp")
_LIBRARY: Final = re.compile(r"(?:=> |^\s*)(/\S+) \(0x", re.MULTILINE)


def make(work: Path) -> None:
    """Write `ROOT`, a root file system's tar with busybox and Redis, and the program `REGISTRY` to *work*.

    Raises RuntimeError where a program is neither here nor in the machine's package registry.
    """
    with _workshop(work / "workshop") as box:
        where = _programs(box)
        with tarfile.open(work / ROOT, "w", format=tarfile.PAX_FORMAT) as tar:
            _fill(tar, box, where)
        (work / REGISTRY).write_bytes(_read(box, where["docker-registry"]))
        (work / REGISTRY).chmod(0o755)


@contextmanager
def _workshop(store: Path) -> Iterator[Handle]:
    engine = NativeEngine(store=store, run_folder=fresh_run_folder(), owner_pid=os.getpid())
    try:
        spec = ContainerSpec(
            name="workshop",
            command=("sleep", "infinity"),
            env={"DEBIAN_FRONTEND": "noninteractive"},
            files={"/usr/sbin/policy-rc.d": _NO_SERVICES},
        )
        box = engine.create(spec, engine.images.pull("host"))
        box.start()
        _run(box, "chmod", "755", "/usr/sbin/policy-rc.d")
        yield box
    finally:
        engine.close()


def _run(box: Handle, *argv: str) -> str:
    result = box.exec(ExecSpec(argv=argv))
    if result.exit_code != 0:
        raise RuntimeError(f"{' '.join(argv)}: {(result.stderr or result.stdout).strip()}")
    return result.stdout


def _find(box: Handle, program: str) -> str:
    return box.exec(ExecSpec(argv=("sh", "-c", f"command -v {program}"))).stdout.strip()


def _programs(box: Handle) -> dict[str, str]:
    missing = [package for program, package in _PROGRAMS if not _find(box, program)]
    if missing:
        _run(box, "apt-get", "update")
        _run(box, "apt-get", "install", "-y", "--no-install-recommends", *missing)
    return {program: _find(box, program) for program, _ in _PROGRAMS}


def _fill(tar: tarfile.TarFile, box: Handle, where: dict[str, str]) -> None:
    for folder in _FOLDERS:
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
        tar.addfile(entry)
    for name, content in _ACCOUNTS:
        _add(tar, name, content)
    for program in ("busybox", "redis-server"):
        _add(tar, f"bin/{program}", _read(box, where[program]))
    for library in sorted({*_libraries(box, where["busybox"]), *_libraries(box, where["redis-server"])}):
        _add(tar, library.lstrip("/"), _read(box, library))
    for name in _BUSYBOX:
        link = tarfile.TarInfo(f"bin/{name}")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)


def _libraries(box: Handle, program: str) -> list[str]:
    """Return the libraries and the loader of *program*: none for a static one (ldd(1))."""
    return _LIBRARY.findall(box.exec(ExecSpec(argv=("ldd", program))).stdout)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o755
    tar.addfile(entry, io.BytesIO(content))


def _read(box: Handle, path: str) -> bytes:
    packed = io.BytesIO()
    box.tree.read(path, packed)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as tar:
        entry = tar.next()
        content = tar.extractfile(entry) if entry else None
        if content is None:
            raise RuntimeError(f"{path} is not a file")
        return content.read()
