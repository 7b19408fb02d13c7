"""What a process is started with, after image and test have been laid over each other (floor 1).

A `Bundle` is to our start recipe what config.json is to an OCI runtime: the whole of it, in
plain values, so that the child needs to ask nobody once it has left the host's files.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pytest_containers.errors import SpecInvalid
from pytest_containers.runtime import capabilities
from pytest_containers.runtime.seccomp.filters import UNCONFINED, Filter, system_call_filter
from pytest_containers.spec import Bind, ContainerSpec, ExecSpec, ImageConfig, Ulimit

__all__ = ["DEFAULT_PATH", "KERNEL_FOLDERS", "Bundle", "Process", "bundle", "kernel_files", "process"]

# https://github.com/moby/moby/blob/v28.0.0/oci/defaults.go: what a Docker image may rely on.
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KERNEL_FOLDERS: Final = ("/dev", "/proc", "/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process to be: *env* as ``KEY=value``, *capabilities* as a bit mask.

    *filter* judges its system calls, None where nothing does.
    With *init* a small program of ours is in its place, and the process is a child of that.
    """

    argv: tuple[str, ...]
    env: tuple[str, ...]
    user: str
    workdir: str
    capabilities: int
    no_new_privs: bool
    ulimits: tuple[Ulimit, ...] = ()
    filter: Filter | None = None
    init: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A container to be: its first process and the world around it.

    *volumes* are the paths that the image declares and the test has laid nothing over; those that have been
    made already and are among *binds* are *image_volumes*. *roots* are
    the roots of the containers that *binds* are from, by id. *interfaces* of the
    ``host`` are in no network namespace of its own, ``none`` has one with lo alone.
    """

    process: Process
    hostname: str
    binds: tuple[Bind, ...]
    volumes: tuple[str, ...]
    tmpfs: Mapping[str, int]
    build_step: bool
    read_only: bool
    privileged: bool
    shm_bytes: int
    interfaces: Literal["switch", "host", "none"] = "switch"
    roots: Mapping[str, str] = field(default_factory=dict)
    image_volumes: frozenset[str] = frozenset()


def _merged_env(*layers: tuple[str, ...], over: Mapping[str, str | None]) -> tuple[str, ...]:
    """Lay ``KEY=value`` lists over each other: the last wins, at the first's place; None removes one."""
    merged: dict[str, str | None] = {}
    for layer in layers:
        for pair in layer:
            key, _, text = pair.partition("=")
            if not key or "\0" in pair:
                raise SpecInvalid(
                    f"{pair!r} is not a variable of the environment",
                    seen="the image's config says so in Env",
                    mend="build the image without, or have it made again",
                )
            merged[key] = text
    for key, value in over.items():
        if not key or "=" in key or "\0" in key + (value or ""):
            raise SpecInvalid(f"{key!r} is not a name of an environment variable", mend="drop or rename it")
        merged[key] = value
    return tuple(f"{key}={text}" for key, text in merged.items() if text is not None)


def kernel_files(path: str) -> bool:
    """Tell whether the absolute *path*, without ``..`` and links, is one of `KERNEL_FOLDERS` or in one."""
    return any(path == folder or path.startswith(f"{folder}/") for folder in KERNEL_FOLDERS)


def _volumes(config: ImageConfig) -> Iterator[str]:
    """Yield the paths that the image declares, but for those in /dev, /proc and /sys: they are the kernel's.

    Images for systemd declare /sys/fs/cgroup. Raises SpecInvalid for the root.
    """
    for declared in config.volumes:
        path = posixpath.normpath(f"/{declared}").replace("//", "/")
        if path == "/":
            raise SpecInvalid(
                "the image declares its root as a volume",
                seen=f"VOLUME {declared}",
                mend="build it without, or name a folder in VOLUME",
            )
        if not kernel_files(path):
            yield path


def _argv(spec: ContainerSpec, config: ImageConfig) -> tuple[str, ...]:
    """Return entrypoint and command; an entrypoint of the test's clears the image's command."""
    if spec.entrypoint is not None:
        argv = (*spec.entrypoint, *(spec.command or ()))
    else:
        command = config.command if spec.command is None else spec.command
        argv = (*config.entrypoint, *command)
    if not argv or not argv[0]:
        raise SpecInvalid(
            f"container {spec.name} has no command",
            seen="neither the image nor the test names an entrypoint or a command",
            mend="pass command=[...]",
        )
    return argv


def bundle(spec: ContainerSpec, config: ImageConfig, container_id: str, *, held: int = ~0) -> Bundle:
    """Return what *spec* makes of *config* (image-spec, conversion.md).

    *held* is the mask of the capabilities that there are to give. Raises SpecInvalid, HostError.
    """
    hostname = spec.hostname or container_id[:12]
    base = (f"PATH={DEFAULT_PATH}", *(() if spec.build_step else (f"HOSTNAME={hostname}",)))
    covered = {posixpath.normpath(target) for target in (*(bind.target for bind in spec.binds), *spec.tmpfs)}
    mask = capabilities.resolve(spec.cap_add, spec.cap_drop, privileged=spec.privileged)
    mask = capabilities.granted(mask, held, spec.cap_add)
    # As in Docker a privileged container has no filter, unless a profile was named for it.
    profile = UNCONFINED if spec.privileged and spec.seccomp is None else spec.seccomp
    return Bundle(
        process=Process(
            argv=_argv(spec, config),
            env=_merged_env(base, config.env, over=spec.env),
            user=config.user if spec.user is None else spec.user,
            workdir=spec.workdir or config.workdir or "/",
            capabilities=mask,
            no_new_privs=spec.no_new_privs,
            ulimits=spec.ulimits,
            filter=system_call_filter(
                profile, capabilities.names_in(mask), last=spec.no_new_privs, init=spec.init
            ),
            init=spec.init,
        ),
        hostname=hostname,
        binds=spec.binds,
        volumes=tuple(path for path in _volumes(config) if path not in covered),
        tmpfs=spec.tmpfs,
        build_step=spec.build_step,
        read_only=spec.read_only,
        privileged=spec.privileged,
        shm_bytes=spec.shm_bytes,
    )


def process(spec: ExecSpec, container: Process) -> Process:
    """Return one more process of the container that *container* is the first of (docker exec)."""
    return Process(
        argv=spec.argv,
        env=_merged_env(container.env, over=spec.env),
        user=container.user if spec.user is None else spec.user,
        workdir=spec.workdir or container.workdir,
        capabilities=container.capabilities,
        no_new_privs=container.no_new_privs,
        ulimits=container.ulimits,
        filter=container.filter,
    )
