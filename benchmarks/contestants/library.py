"""testcontainers for Python, in an interpreter that has it, over the docker daemon under measurement."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.contestants.base import Address, Contestant
from benchmarks.contestants.commands import Absent
from benchmarks.materials import REDIS, SLEEP

__all__ = ["Testcontainers"]

_IMAGE: Final = "localhost/benchmark:1"
_WORKER: Final = Path(__file__).with_name("library_worker.py")


class Testcontainers(Contestant):
    """A worker process of *python*, told what to do line by line; *socket* is the docker daemon's.

    Its reaper container is off, as its image lies in a registry on the internet; that makes it
    faster by one container. Raises Absent where *python* has no testcontainers.
    """

    name = "testcontainers"

    def __init__(self, python: str, socket: str) -> None:
        self._command = (python, str(_WORKER))
        self._environment = {**os.environ, "DOCKER_HOST": socket, "TESTCONTAINERS_RYUK_DISABLED": "true"}
        self._worker = self._begin()
        try:
            self.version = str(self._ask({"verb": "version"}))
        except RuntimeError as error:
            self.close()
            raise Absent(f"{python} has no testcontainers: {error}") from error

    def _begin(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment
        )

    def _ask(self, request: Mapping[str, object]) -> object:
        if self._worker.stdin is None or self._worker.stdout is None:
            raise RuntimeError("the worker has no pipes")
        self._worker.stdin.write(json.dumps(request) + "\n")
        self._worker.stdin.flush()
        answer = json.loads(self._worker.stdout.readline() or '{"error": "the worker has ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["answer"]

    def start(self, name: str) -> None:
        """``DockerContainer(...).start()``."""
        self._ask({"verb": "start", "name": name, "image": _IMAGE, "command": SLEEP})

    def serve(self, name: str) -> None:
        """``DockerContainer(...).with_exposed_ports(6379).start()``, as its modules do."""
        self._ask({"verb": "start", "name": name, "image": _IMAGE, "command": REDIS, "port": 6379})

    def exec(self, name: str) -> None:
        """``exec``."""
        self._ask({"verb": "exec", "name": name})

    def remove(self, names: Sequence[str]) -> None:
        """``stop``, one by one, which kills and removes."""
        for name in names:
            self._ask({"verb": "stop", "name": name})

    def addresses(self, names: Sequence[str]) -> list[Address]:
        """``get_container_host_ip`` and ``get_exposed_port``."""
        found: list[Address] = []
        for name in names:
            host, port = str(self._ask({"verb": "address", "name": name})).rsplit(":", 1)
            found.append((host, int(port)))
        return found

    def first(self) -> float:
        """Return how long the first container of a fresh process takes, the import included."""
        ended = subprocess.run(
            [*self._command, "first", _IMAGE, *SLEEP],
            check=True,
            capture_output=True,
            text=True,
            env=self._environment,
        )
        return float(ended.stdout)

    def close(self) -> None:
        """End the worker; it removes its containers."""
        if self._worker.stdin is not None:
            self._worker.stdin.close()
        self._worker.wait()
        if self._worker.stdout is not None:
            self._worker.stdout.close()
