"""What a plan asks of whoever builds it, beyond running commands in a sandbox and copying files.

The builder refuses, before its first step, each demand that it cannot meet or may not
(https://docs.docker.com/reference/dockerfile/#run---security and its neighbours).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.expand import expand, is_constant
from pytest_containers.images.build.instruction import Add, Expose, Run
from pytest_containers.images.build.remote import GitSource, read_remote
from pytest_containers.images.build.source import Location
from pytest_containers.images.build.stages import Plan, Step
from pytest_containers.images.build.variables import Scope

__all__ = ["Demand", "Feature", "demands"]

Feature = Literal[
    "device",
    "insecure",
    "host network",
    "ssh",
    "secret",
    "http",
    "git",
    "sctp",
    "platform",
    "frontend",
]

_FRONTENDS: Final = ("docker/dockerfile", "docker.io/docker/dockerfile", "docker/dockerfile-upstream")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One feature, where it is asked for, and what exactly: a device, a secret's id, a URL, a platform.

    A secret or an agent that is not *required* may be missing.
    """

    feature: Feature
    location: Location
    what: str
    required: bool = False

    def refusal(self, reason: str, *, mend: str = "") -> SpecInvalid:
        """Return the error that says that it cannot be had, and why."""
        return SpecInvalid(f"{self.location}: {self.feature} {self.what}: {reason}", mend=mend)


def demands(plan: Plan) -> tuple[Demand, ...]:
    """Return what the stages to build ask for, in the file's order.

    What hides behind a variable is not seen here: the builder looks at the expanded instruction.
    """
    found = list(_of_frontend(plan))
    for stage in plan.stages:
        platform = plan.platform_of(stage)
        foreign = not plan.build_platform.runs(platform)
        if foreign and stage.base.kind == "host":
            found.append(Demand(feature="platform", location=stage.location, what=str(platform)))
        for step in stage.steps:
            # Files are copied for any platform; commands run where the processor knows them.
            if foreign and isinstance(step.instruction, Run):
                location = step.instruction.location
                found.append(Demand(feature="platform", location=location, what=str(platform)))
            found += _of_step(step, plan.dockerfile.escape)
    return tuple(found)


def _of_frontend(plan: Plan) -> Iterator[Demand]:
    syntax = plan.dockerfile.syntax
    image = syntax.partition("@")[0]
    image = image if image.rfind(":") < image.rfind("/") else image.rpartition(":")[0]
    if syntax and image not in _FRONTENDS:
        location = Location(name=plan.dockerfile.name, first=1, last=1)
        yield Demand(feature="frontend", location=location, what=syntax)


def _of_step(step: Step, escape: str) -> Iterator[Demand]:
    instruction = step.instruction
    match instruction:
        case Run():
            yield from _of_run(instruction, escape)
        case Add():
            yield from _of_add(instruction)
        case Expose():
            for port in instruction.ports:
                if port.lower().endswith("/sctp"):
                    yield Demand(feature="sctp", location=instruction.location, what=port)


def _of_run(run: Run, escape: str) -> Iterator[Demand]:
    for device in run.devices:
        yield Demand(feature="device", location=run.location, what=device.name)
    if run.security == "insecure":
        yield Demand(feature="insecure", location=run.location, what="--security=insecure")
    if run.network == "host":
        yield Demand(feature="host network", location=run.location, what="--network=host")
    expanded = expand(run, Scope(escape=escape)) if is_constant(run) else run
    for mount in expanded.mounts if isinstance(expanded, Run) else ():
        if mount.kind == "ssh":
            what = mount.id or "default"
            yield Demand(feature="ssh", location=run.location, what=what, required=mount.required)
        elif mount.kind == "secret":
            what = mount.resolved("/").id
            yield Demand(feature="secret", location=run.location, what=what, required=mount.required)


def _of_add(add: Add) -> Iterator[Demand]:
    for source in add.sources:
        remote = read_remote(source) if "$" not in source else None
        if isinstance(remote, GitSource):
            yield Demand(feature="git", location=add.location, what=remote.remote)
        elif remote is not None:
            yield Demand(feature="http", location=add.location, what=remote.url)
