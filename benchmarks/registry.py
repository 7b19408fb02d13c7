"""Debian's docker-registry as a plain process on loopback."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["serve"]

_LISTENING: Final = re.compile(r"listening on 127\.0\.0\.1:([0-9]+)")
_PATIENCE_S: Final = 20.0


@contextmanager
def serve(program: Path, folder: Path) -> Iterator[str]:
    """Run *program* with its files in *folder*, an empty one; yield ``host:port``."""
    settings = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": "127.0.0.1:0", "secret": "of no one"},
    }
    folder.mkdir()
    # YAML takes JSON as it is.
    (folder / "config.yml").write_text(json.dumps(settings), encoding="utf-8")
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(program), "serve", str(folder / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield f"127.0.0.1:{_port(log, process)}"
    finally:
        process.terminate()
        process.wait()


def _port(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := _LISTENING.search(log.read_text(encoding="utf-8")):
            return found[1]
        time.sleep(0.01)
    raise RuntimeError("the registry did not start\n" + log.read_text(encoding="utf-8"))
