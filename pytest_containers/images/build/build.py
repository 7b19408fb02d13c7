"""From a folder with a Dockerfile to a named image: the whole way of a build in one place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.bases import Bases, Pull
from pytest_containers.images.build.builder import Builder, Settings
from pytest_containers.images.build.demand import Demand, demands
from pytest_containers.images.build.dockerfile import parse
from pytest_containers.images.build.mounts import missing
from pytest_containers.images.build.runner import Runner
from pytest_containers.images.build.source import Notice, located
from pytest_containers.images.build.stages import Plan, plan
from pytest_containers.images.build.state import State
from pytest_containers.images.chains import HOST
from pytest_containers.images.commit import write_image
from pytest_containers.images.manifest import BASE_ANNOTATION, BASE_KEY_ANNOTATION
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.images.transport import Settings as TransportSettings
from pytest_containers.progress import BuildEvent, BuildWatch, Watch
from pytest_containers.spec import BuildSpec, BuiltFrom, ImageConfig, ImageRecord

__all__ = ["build"]

_NO_DOCKERFILE: Final = 'write one, or name it: images.build(folder, dockerfile="...")'
_REASONS: Final = (
    ("device", "devices are not handed to a build"),
    ("sctp", "there is no such transport here"),
    ("platform", "it is not this machine's, and foreign code is not emulated"),
    ("frontend", "only Docker's own syntax is known"),
)
# What a caller must allow, as `docker buildx build --allow` names it.
_ALLOWED: Final[Mapping[str, str]] = {"insecure": "security.insecure", "host network": "network.host"}


def build(
    store: Store,
    runner: Runner,
    spec: BuildSpec,
    *,
    pull: Pull,
    watch: BuildWatch,
    transfer: Watch | None = None,
    transport: TransportSettings | None = None,
) -> ImageRecord:
    """Build what *spec* says and give the image its names; return its record.

    *pull* gives the images that it needs, and *transfer* hears how far they are; *transport* is how
    ADD fetches URLs. *watch* hears of notices, then of each step.

    What cannot be had is refused, with its line, before the first step. Raises BuildFailed for a
    step that fails, SpecInvalid for a Dockerfile that means nothing, and what pulls raise.
    """
    path = _dockerfile(Path(spec.folder), spec.dockerfile)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SpecInvalid(
            f"there is no Dockerfile at {path}",
            seen=error.strerror or "",
            mend=_NO_DOCKERFILE,
        ) from error
    wanted = Platform.parse(spec.platform) if spec.platform else None
    dockerfile = parse(
        content, name=spec.dockerfile if path.name == Path(spec.dockerfile).name else path.name
    )
    building = plan(
        dockerfile, target=spec.target, build_args=dict(spec.args), platform=wanted, contexts=spec.contexts
    )
    for notice in _notices(building):
        watch(BuildEvent(step=str(notice), kind="notice"))
    with Bases(store, building, pull, transfer) as bases:
        building = _with_triggers(building, bases)
        for demand in demands(building):
            _refuse(demand, spec)
        return _build(store, runner, spec, building, bases, watch, transport or TransportSettings())


def _dockerfile(folder: Path, name: str) -> Path:
    """Return the Dockerfile; `dockerfile` is taken where the usual name was meant and is not there."""
    path = folder / name
    lower = folder / name.lower()
    return lower if name == "Dockerfile" and not path.exists() and lower.is_file() else path


def _build(
    store: Store,
    runner: Runner,
    spec: BuildSpec,
    building: Plan,
    bases: Bases,
    watch: BuildWatch,
    transport: TransportSettings,
) -> ImageRecord:
    settings = Settings(
        context=Path(spec.folder),
        dockerfile=spec.dockerfile,
        secrets=spec.secrets,
        use_cache=spec.use_cache,
        contexts=spec.contexts,
        ssh=spec.ssh,
        transport=transport,
    )
    state = Builder(store, runner, building, bases, settings, watch).build()
    return _name(store, state, building, spec)


def _with_triggers(building: Plan, bases: Bases) -> Plan:
    """Return the plan with the ONBUILD instructions of the images that its stages stand on.

    A trigger may need a stage that nothing needed before, whose image may have triggers again.
    """
    asked: set[int] = set()
    while waiting := [stage for stage in building.stages if stage.number not in asked]:
        bases.fetch(building)
        for stage in waiting:
            asked.add(stage.number)
            if triggers := bases.triggers(stage.base, building.platform_of(stage)):
                building = building.with_triggers(stage.number, triggers)
    return building


def _notices(building: Plan) -> tuple[Notice, ...]:
    """Return the notices that the Dockerfile does not skip, an unknown build argument first.

    Raises SpecInvalid where its ``# check=`` directive makes them errors
    (https://docs.docker.com/reference/dockerfile/#check).
    """
    rules = dict(part.strip().partition("=")[::2] for part in building.dockerfile.check.split(";"))
    skipped = {rule.strip().lower() for rule in rules.get("skip", "").split(",")}
    if "all" in skipped:
        return ()
    found = [notice for notice in building.notices if notice.rule.lower() not in skipped]
    if found and rules.get("error", "").strip().lower() == "true":
        raise SpecInvalid(
            f"{found[0].location}: {found[0].text}",
            seen=f"{building.dockerfile.name} says # check=error=true, and this is {found[0].rule}",
            mend=f"mend it, or write # check=skip={found[0].rule}",
        )
    return tuple(sorted(found, key=lambda notice: notice.rule != "UnusedBuildArgument"))


def _refuse(demand: Demand, spec: BuildSpec) -> None:
    """Raise SpecInvalid for a demand that cannot be met, or that the caller has not met or allowed."""
    if demand.feature == "git" and shutil.which("git") is None:
        raise demand.refusal("this machine has no git", mend="install git, or COPY a clone of it")
    for feature, reason in _REASONS:
        if demand.feature == feature:
            raise demand.refusal(reason)
    if demand.feature in _ALLOWED and _ALLOWED[demand.feature] not in spec.allow:
        entitlement = _ALLOWED[demand.feature]
        raise demand.refusal("it was not allowed", mend=f'pass allow={{"{entitlement}"}} if you trust it')
    if demand.required:
        with located(demand.location):
            if demand.feature == "secret" and demand.what not in spec.secrets:
                raise missing("secret", demand.what, spec.secrets)
            if demand.feature == "ssh" and demand.what not in spec.ssh:
                raise missing("ssh", demand.what, spec.ssh)


def _name(store: Store, state: State, building: Plan, spec: BuildSpec) -> ImageRecord:
    annotations: dict[str, str] = {}
    if state.base is not None:
        annotations = {BASE_ANNOTATION: HOST, BASE_KEY_ANNOTATION: state.base.partition(":")[2]}
    # A base's triggers are spent, those of this Dockerfile's own are for the next.
    config = replace(state.config, labels={**state.config.labels, **spec.labels})
    platform = building.stage(building.target).platform if spec.platform is None else building.platform
    if platform is not None:
        config = _meant_for(config, platform)
    first, *others = (Reference.parse(tag) for tag in spec.tags)
    record = write_image(
        store,
        first,
        layers=state.layers,
        diff_ids=state.diff_ids,
        config=config,
        history=state.history,
        annotations=annotations,
        built_from=_source(spec),
    )
    data, _ = store.manifest(first)
    for other in others:
        store.tag(other, data, local=True, built_from=_source(spec))
    return record


def _source(spec: BuildSpec) -> BuiltFrom:
    """Return what the image is built from; values are not kept, since arguments may be secrets."""
    given = (spec.args, spec.secrets, spec.labels, spec.ssh, spec.allow, spec.contexts)
    return BuiltFrom(
        folder=spec.folder, dockerfile=spec.dockerfile, target=spec.target, repeatable=not any(given)
    )


def _meant_for(config: ImageConfig, platform: Platform) -> ImageConfig:
    """Return *config* for the platform that was asked for (BuildKit, dockerfile2llb/convert.go).

    What the base says more exactly than was asked stays: arm64 may be its v8.
    """
    same = (config.os, config.architecture) == (platform.os, platform.architecture)
    return replace(
        config,
        os=platform.os,
        architecture=platform.architecture,
        variant=platform.variant or (config.variant if same else ""),
        os_version=config.os_version if same else "",
    )
