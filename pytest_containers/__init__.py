"""Containers for pytest: real services in milliseconds, by namespaces and without a daemon.

All that a test may import stands here. Nothing is loaded before it is named (PEP 562), for pytest
imports this package at every start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_containers.container import (
        Container,
    )
    from pytest_containers.engines.base import (
        Engine,
        Network,
    )
    from pytest_containers.errors import (
        BuildFailed,
        CommandNotExecutable,
        CommandNotFound,
        ContainerExited,
        ContainersError,
        DigestMismatch,
        DockerfileWarning,
        EngineError,
        ExecFailed,
        HostError,
        ImageError,
        ImageNotFound,
        InterpreterMissing,
        LayerCorrupt,
        LayerEscape,
        LayerTooLarge,
        NotPortable,
        NotReady,
        NotRunning,
        PathMissing,
        ReferenceInvalid,
        RegistryError,
        SpecInvalid,
        StartError,
        StoreFull,
        Unauthorized,
        UnknownKeyword,
        Unsupported,
    )
    from pytest_containers.factory import (
        ContainerFactory,
        NetworkFactory,
    )
    from pytest_containers.plugin import (
        container_fixture,
    )
    from pytest_containers.probe import (
        Probe,
        all_of,
        any_of,
        command,
        exchange,
        exited,
        healthcheck,
        http,
        log,
        port,
        started,
    )
    from pytest_containers.shelf import (
        Shelf,
    )
    from pytest_containers.spec import (
        Address,
        Change,
        ExecResult,
        Healthcheck,
        ImageConfig,
        ImageRecord,
        Limits,
        LogLine,
        Port,
        ProcessEntry,
        Stats,
        Ulimit,
    )

__all__ = [
    "Address",
    "BuildFailed",
    "Change",
    "CommandNotExecutable",
    "CommandNotFound",
    "Container",
    "ContainerExited",
    "ContainerFactory",
    "ContainersError",
    "DigestMismatch",
    "DockerfileWarning",
    "Engine",
    "EngineError",
    "ExecFailed",
    "ExecResult",
    "Healthcheck",
    "HostError",
    "ImageConfig",
    "ImageError",
    "ImageNotFound",
    "ImageRecord",
    "InterpreterMissing",
    "LayerCorrupt",
    "LayerEscape",
    "LayerTooLarge",
    "Limits",
    "LogLine",
    "Network",
    "NetworkFactory",
    "NotPortable",
    "NotReady",
    "NotRunning",
    "PathMissing",
    "Port",
    "Probe",
    "ProcessEntry",
    "ReferenceInvalid",
    "RegistryError",
    "Shelf",
    "SpecInvalid",
    "StartError",
    "Stats",
    "StoreFull",
    "Ulimit",
    "Unauthorized",
    "UnknownKeyword",
    "Unsupported",
    "all_of",
    "any_of",
    "command",
    "container_fixture",
    "exchange",
    "exited",
    "healthcheck",
    "http",
    "log",
    "port",
    "started",
]

_MODULES: Final[Mapping[str, str]] = {
    "Container": "container",
    "Engine": "engines.base",
    "Network": "engines.base",
    "ContainerFactory": "factory",
    "NetworkFactory": "factory",
    "container_fixture": "plugin",
    "Probe": "probe",
    "all_of": "probe",
    "any_of": "probe",
    "command": "probe",
    "exchange": "probe",
    "exited": "probe",
    "healthcheck": "probe",
    "http": "probe",
    "log": "probe",
    "port": "probe",
    "started": "probe",
    "Shelf": "shelf",
    "Address": "spec",
    "Change": "spec",
    "ExecResult": "spec",
    "Healthcheck": "spec",
    "ImageConfig": "spec",
    "ImageRecord": "spec",
    "Limits": "spec",
    "LogLine": "spec",
    "Port": "spec",
    "ProcessEntry": "spec",
    "Stats": "spec",
    "Ulimit": "spec",
}


def __getattr__(name: str) -> object:
    """Load a public name; whatever `_MODULES` does not place is an error's name."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    # Not kept here: a run inside a run (pytester) loads the modules anew, and means the new ones.
    value: object = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
