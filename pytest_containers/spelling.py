"""Keywords that do not exist, and what was meant by them (floor 0).

People bring keywords along from docker-py, from compose files and from testcontainers. Each of these is
told by its name here; another one by the most similar name that there is.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from pytest_containers.errors import UnknownKeyword

__all__ = ["refuse_unknown", "similar"]

# What docker-py 7 (docker.models.containers.run), compose-spec and testcontainers 4 call it.
_FOREIGN: Final[Mapping[str, str]] = types.MappingProxyType(
    {
        "args": "command=[...]",
        "auto_remove": "nothing: a container goes with its scope",
        "binds": 'volumes={"./here": "/inside:ro"}',
        "build": 'container("./folder")',
        "build_args": "container(images.build(folder, args={...}))",
        "buildargs": "container(images.build(folder, args={...}))",
        "capabilities": 'cap_add=["NET_ADMIN"]',
        "cmd": "command=[...]",
        "container_name": 'name="db"',
        "cpu_count": 'limits={"cpus": 0.5}',
        "cpu_period": 'limits={"cpus": 0.5}',
        "cpu_quota": 'limits={"cpus": 0.5}',
        "cpus": 'limits={"cpus": 0.5}',
        "cwd": 'workdir="/srv"',
        "depends_on": "nothing: start the other container first",
        "detach": "nothing: a container runs in the background",
        "dockerfile": 'container(images.build(folder, dockerfile="..."))',
        "environment": 'env={"NAME": "value"}',
        "environment_file": 'env_file="./settings.env"',
        "environ": 'env={"NAME": "value"}',
        "expose": "ports=[6379]",
        "exposed_ports": "ports=[6379]",
        "healthcheck": "ready=command([...])",
        "interactive": "nothing: what reads standard input finds it empty",
        "links": "name= or aliases= of the other container",
        "mem_limit": 'limits={"memory": "512m"}',
        "memory": 'limits={"memory": "512m"}',
        "memswap_limit": "nothing: a container with a limit of memory does not swap",
        "mounts": 'volumes={"./here": "/inside:ro"}',
        "nano_cpus": 'limits={"cpus": 0.5}',
        "net": 'network="NAME"',
        "network_aliases": 'aliases=["db"]',
        "network_mode": 'network="host" or network="none"',
        "networks": 'network="NAME": a container is on one',
        "pids_limit": 'limits={"pids": 100}',
        "port": "ports=[6379]",
        "publish": "ports=[6379], and ask address(6379)",
        "pull_policy": 'pull="always"',
        "readonly": "read_only=True",
        "remove": "nothing: a container goes with its scope",
        "restart": "nothing: call restart()",
        "restart_policy": "nothing: call restart()",
        "rm": "nothing: a container goes with its scope",
        "security_opt": "no_new_privs=True, or cap_add= and cap_drop=",
        "stdin_open": "nothing: what reads standard input finds it empty",
        "stop_grace_period": "stop_timeout=10",
        "storage_opt": 'limits={"storage": "1g"}, or storage="disk"',
        "tag": "the tag in the name: container('redis:7')",
        "target": 'container(images.build(folder, target="..."))',
        "tty": "nothing: there is no terminal; logs() has the output",
        "volume": 'volumes={"./here": "/inside:ro"}',
        "wait": "ready=port(6379), or another probe",
        "wait_for": "ready=port(6379), or another probe",
        "wait_strategy": "ready=port(6379), or another probe",
        "working_dir": 'workdir="/srv"',
    }
)


def similar(word: str, known: Iterable[str]) -> str:
    """Return the one of *known* that *word* may be a slip of the pen for, else an empty string."""
    # Late: only a mistake needs it.
    from difflib import get_close_matches

    return next(iter(get_close_matches(word.lower(), list(known), n=1)), "")


def refuse_unknown(
    name: str, given: Iterable[str], known: Collection[str], foreign: Mapping[str, str] = _FOREIGN
) -> None:
    """Raise UnknownKeyword for the first keyword of *given* that *name* does not take.

    *foreign* says what to write in place of keywords that others have.
    """
    for keyword in given:
        if keyword in known:
            continue
        if keyword in foreign:
            mend = f"write {foreign[keyword]}"
        elif meant := similar(keyword, known):
            mend = f"did you mean {meant}=? It takes {', '.join(known)}"
        else:
            mend = f"it takes {', '.join(known) or 'no keyword'}"
        raise UnknownKeyword(f"{name}() has no keyword {keyword!r}", mend=mend)
