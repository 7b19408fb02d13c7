"""Runs in the interpreter that has testcontainers: one JSON request a line, one answer a line.

It knows nothing of this project, and is typed by what it uses of the library alone.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from typing import Protocol, cast

__all__ = ["main"]


class _Container(Protocol):
    """What is used of testcontainers.core.container.DockerContainer."""

    def with_command(self, command: list[str]) -> _Container: ...
    def with_exposed_ports(self, *ports: int) -> _Container: ...
    def start(self) -> _Container: ...
    def stop(self) -> None: ...
    def exec(self, command: list[str]) -> tuple[int, bytes]: ...
    def get_container_host_ip(self) -> str: ...
    def get_exposed_port(self, port: int) -> int: ...


def _started(image: str, command: list[str], port: int | None = None) -> _Container:
    module = importlib.import_module("testcontainers.core.container")
    make = cast(Callable[[str], _Container], module.DockerContainer)
    container = make(image).with_command(command)
    if port is not None:
        container = container.with_exposed_ports(port)
    return container.start()


def _first(image: str, command: list[str]) -> None:
    began = time.perf_counter()
    container = _started(image, command)
    print(time.perf_counter() - began)
    container.stop()


def _answer(request: dict[str, object], running: dict[str, _Container]) -> str:
    verb, name = request["verb"], str(request.get("name"))
    if verb == "version":
        importlib.import_module("testcontainers.core.container")
        return importlib.metadata.version("testcontainers")
    if verb == "start":
        command = cast(list[str], request["command"])
        running[name] = _started(str(request["image"]), command, cast(int | None, request.get("port")))
    elif verb == "exec":
        running[name].exec(["/bin/true"])
    elif verb == "stop":
        running.pop(name).stop()
    elif verb == "address":
        return f"{running[name].get_container_host_ip()}:{running[name].get_exposed_port(6379)}"
    return ""


def main() -> None:
    """Answer until standard input ends, then stop what runs."""
    if sys.argv[1:2] == ["first"]:
        _first(sys.argv[2], sys.argv[3:])
        return
    running: dict[str, _Container] = {}
    for line in sys.stdin:
        try:
            reply = {"answer": _answer(json.loads(line), running)}
        except Exception as error:  # noqa: BLE001 - it is the asking process's to judge
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)
    for container in running.values():
        container.stop()


if __name__ == "__main__":
    main()
