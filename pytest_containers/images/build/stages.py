"""What of a Dockerfile is built, in which order, and what each step takes from where.

`plan` is the way in, for a `dockerfile.Dockerfile`. Stages: https://docs.docker.com/build/building/multi-stage/;
``--from``: https://docs.docker.com/reference/dockerfile/#copy---from. A stage is built where the
target needs it, and stages that do not need each other may be built at once.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.dockerfile import Dockerfile, Stage, parse_trigger
from pytest_containers.images.build.expand import expand, is_constant
from pytest_containers.images.build.instruction import Add, Arg, Copy, Instruction, Onbuild, Run
from pytest_containers.images.build.origins import Names, Origin
from pytest_containers.images.build.source import Location, Notice, located
from pytest_containers.images.build.values import nearest
from pytest_containers.images.build.variables import (
    PREDEFINED,
    Scope,
    global_variables,
    platform_variables,
    source_date_epoch,
)
from pytest_containers.images.build.words import Expansion, Rules
from pytest_containers.images.build.words import expand as expand_words
from pytest_containers.images.platform import Platform

__all__ = ["Plan", "PlannedStage", "Step", "plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An instruction and where it takes files from.

    *origins* has one for a COPY or ADD and one per ``--mount`` for a RUN, in their order; a mount
    without ``from`` has the build context there, and whether its kind uses it is known after
    expansion. *triggered* is true for an ONBUILD of the base.
    """

    instruction: Instruction
    origins: tuple[Origin, ...] = ()
    triggered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """A stage as it is to be built: its FROM expanded, its triggers in front of its own steps.

    *title* is its name, or ``stage-N``. *platform* is None where FROM names none.
    """

    number: int
    title: str
    location: Location
    text: str
    base: Origin
    steps: tuple[Step, ...]
    name: str = ""
    platform: Platform | None = None

    @property
    def needs(self) -> frozenset[int]:
        """The numbers of the stages that must be built before this one."""
        origins = (self.base, *(origin for step in self.steps for origin in step.origins))
        return frozenset(origin.number for origin in origins if origin.kind == "stage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to build.

    *stages* are those the target needs, itself the last, each behind what it needs. *scope* is
    what every stage on an image begins with (`Scope.begin`). *epoch_s* is SOURCE_DATE_EPOCH.
    *notices* are those of the Dockerfile and of its arguments.
    """

    dockerfile: Dockerfile
    stages: tuple[PlannedStage, ...]
    target: int
    scope: Scope
    platform: Platform
    build_platform: Platform
    epoch_s: int | None = None
    notices: tuple[Notice, ...] = ()
    everything: tuple[PlannedStage, ...] = field(default=(), repr=False)
    contexts: Mapping[str, str] = field(default_factory=dict)

    def graph(self) -> Mapping[int, frozenset[int]]:
        """Return the stages to build with what each needs: the graph of `graphlib.TopologicalSorter`."""
        return {stage.number: stage.needs for stage in self.stages}

    def waves(self) -> tuple[tuple[int, ...], ...]:
        """Return the stages in groups: those of one group may be built at once, behind the groups before."""
        sorter = graphlib.TopologicalSorter(self.graph())
        sorter.prepare()
        waves: list[tuple[int, ...]] = []
        while sorter.is_active():
            ready = sorter.get_ready()
            sorter.done(*ready)
            waves.append(tuple(sorted(ready)))
        return tuple(waves)

    def stage(self, number: int) -> PlannedStage:
        """Return the stage of that number, needed or not."""
        return self.everything[number]

    def platform_of(self, stage: PlannedStage) -> Platform:
        """Return what the files of *stage* are for: as its FROM says, as its base stage, or the target."""
        while stage.platform is None and stage.base.kind == "stage":
            stage = self.everything[stage.base.number]
        return stage.platform or self.platform

    def with_triggers(self, number: int, triggers: Iterable[str]) -> Plan:
        """Return the plan with the ONBUILD *triggers* of the image that stage *number* is built on.

        They run before the stage's own steps, and may need stages that nothing needed before.
        The image's config is known only when it is there, so the caller asks this, once for each
        stage on an image. Raises SpecInvalid where a trigger cannot be read or named.
        """
        old = self.everything[number]
        names = Names.of(self.dockerfile.stages, self.contexts)
        steps = tuple(_triggered(triggers, old.location, names))
        _check_constant(steps, self.dockerfile.escape)
        stages = list(self.everything)
        stages[number] = replace(old, steps=(*steps, *old.steps))
        needed = _needed(stages, self.target)
        return replace(self, stages=needed, everything=tuple(stages))


def plan(
    dockerfile: Dockerfile,
    *,
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
    platform: Platform | None = None,
    build_platform: Platform | None = None,
    contexts: Mapping[str, str] | None = None,
) -> Plan:
    """Return what to build of *dockerfile* for *target*, a stage's name; None is the last stage.

    *platform* is what is built for and *build_platform* what builds; both default to this
    machine's. *contexts* are the named contexts, each a folder or an image's reference: one hides
    the stage and the image of that name. Instructions stay unexpanded but for FROM; those without
    variables are checked here, so that they fail before the first step. Raises SpecInvalid, with
    file and line, for an unknown target, a stage named before it stands, and everything
    `expand.expand` refuses.
    """
    here = Platform.host()
    build_args = dict(build_args or {})
    last = dockerfile.stages[-1].begin.name
    automatic = platform_variables(
        target=platform or here, build=build_platform or here, stage=last if target is None else target
    )
    outer = global_variables(dockerfile.arguments, automatic, build_args, dockerfile.escape)
    names = Names.of(dockerfile.stages, contexts or {})
    stages = [_plan_stage(stage, dockerfile, outer, names) for stage in dockerfile.stages]
    number = _target(stages, target)
    needed = _needed(stages, number)
    for planned in needed:
        _check_constant(planned.steps, dockerfile.escape)
    return Plan(
        dockerfile=dockerfile,
        stages=needed,
        everything=tuple(stages),
        target=number,
        scope=Scope(outer=outer, build_args=build_args, escape=dockerfile.escape),
        platform=platform or here,
        build_platform=build_platform or here,
        epoch_s=source_date_epoch(outer, build_args),
        notices=(*dockerfile.notices, *_unused(dockerfile, stages, build_args, automatic)),
        contexts=dict(contexts or {}),
    )


def _plan_stage(stage: Stage, dockerfile: Dockerfile, outer: Mapping[str, str], names: Names) -> PlannedStage:
    begin = stage.begin
    planned = PlannedStage(
        number=stage.number,
        title=begin.name or f"stage-{stage.number}",
        location=begin.location,
        text=begin.text,
        base=Origin(kind="scratch"),
        steps=(),
        name=begin.name,
    )
    if begin.name in names.contexts:
        return replace(planned, base=names.contexts[begin.name])
    with located(begin.location):
        base = names.base(_image_name(begin.base, outer, dockerfile.escape), stage.number)
        platform = _platform(begin.platform, outer, dockerfile.escape)
    inherited = _triggered(_inherited(dockerfile, base), begin.location, names)
    own = (_step(instruction, names) for instruction in stage.instructions)
    return replace(planned, base=base, platform=platform, steps=(*inherited, *own))


def _image_name(base: str, outer: Mapping[str, str], escape: str) -> str:
    found = _expand_global(base, outer, escape)
    if not found.text:
        unset = ", ".join(sorted(found.unmatched))
        raise SpecInvalid(
            f"FROM {base} names no image",
            seen=f"{unset} is not set in the global scope" if unset else "",
            mend=f"write ARG {unset}=... before the first FROM" if unset else "write the name of an image",
        )
    return found.text


def _expand_global(text: str, outer: Mapping[str, str], escape: str) -> Expansion:
    return expand_words(text, outer, Rules(escape=escape))


def _platform(text: str, outer: Mapping[str, str], escape: str) -> Platform | None:
    if not text:
        return None
    name = _expand_global(text, outer, escape).text
    if not name:
        raise SpecInvalid(
            f"--platform={text} is empty", mend="a variable in it is not set in the global scope"
        )
    return Platform.parse(name)


def _inherited(dockerfile: Dockerfile, base: Origin) -> Iterator[str]:
    """Yield the ONBUILD triggers of a base that is a stage of this file; those of its own base are spent."""
    if base.kind == "stage":
        for instruction in dockerfile.stages[base.number].instructions:
            if isinstance(instruction, Onbuild):
                yield instruction.trigger


def _triggered(triggers: Iterable[str], location: Location, names: Names) -> Iterator[Step]:
    for trigger in triggers:
        yield replace(_step(parse_trigger(trigger, location), names), triggered=True)


def _step(instruction: Instruction, names: Names) -> Step:
    with located(instruction.location):
        match instruction:
            case Copy() if instruction.origin:
                return Step(instruction=instruction, origins=(names.copied(instruction.origin),))
            case Copy() | Add():
                return Step(instruction=instruction, origins=(Origin(kind="context"),))
            case Run():
                origins = tuple(names.mounted(flag.origin) for flag in instruction.flags)
                return Step(instruction=instruction, origins=origins)
            case _:
                return Step(instruction=instruction)


def _target(stages: Sequence[PlannedStage], target: str | None) -> int:
    if target is None:
        return len(stages) - 1
    numbers = {stage.name: stage.number for stage in stages if stage.name}
    if target.lower() not in numbers:
        named = ", ".join(numbers) or "none has a name"
        raise SpecInvalid(
            f"there is no stage {target} in {stages[0].location.name}",
            seen=f"the stages: {named}",
            mend=nearest(target.lower(), numbers),
        )
    return numbers[target.lower()]


def _needed(stages: Sequence[PlannedStage], target: int) -> tuple[PlannedStage, ...]:
    """Return the stages that *target* needs, in the file's order, which is one to build them in."""
    needed: set[int] = set()
    waiting = [target]
    while waiting:
        number = waiting.pop()
        if number not in needed:
            needed.add(number)
            _check_order(stages[number], stages)
            waiting += stages[number].needs
    return tuple(stages[number] for number in sorted(needed))


def _check_order(stage: PlannedStage, stages: Sequence[PlannedStage]) -> None:
    """Raise SpecInvalid where a step takes from its own stage or a later one: so there are no rings."""
    for step in stage.steps:
        for origin in step.origins:
            if origin.kind == "stage" and origin.number >= stage.number:
                other = stages[origin.number]
                itself = origin.number == stage.number
                raise SpecInvalid(
                    f"{step.instruction.location}: the stage {other.title} is not built yet",
                    seen="it is this stage itself" if itself else f"it begins at {other.location}",
                    mend="take from a stage that stands before this one",
                )


def _check_constant(steps: Iterable[Step], escape: str) -> None:
    """Raise SpecInvalid for what no scope can make right."""
    for step in steps:
        if is_constant(step.instruction):
            expand(step.instruction, Scope(escape=escape))


def _unused(
    dockerfile: Dockerfile,
    stages: Sequence[PlannedStage],
    build_args: Mapping[str, str],
    automatic: Mapping[str, str],
) -> Iterator[Notice]:
    """Yield a notice for each build argument that no ARG takes."""
    own = (step.instruction for stage in stages for step in stage.steps)
    declared = {
        argument.name
        for instruction in (*dockerfile.arguments, *own)
        if isinstance(instruction, Arg)
        for argument in instruction.arguments
    }
    for name in sorted(build_args.keys() - declared - PREDEFINED - automatic.keys()):
        if name.startswith("BUILDKIT_"):
            continue
        text = f"no ARG takes the build argument {name}"
        mend = nearest(name, declared)
        location = dockerfile.stages[0].begin.location
        yield Notice(rule="UnusedBuildArgument", location=location, text=f"{text}: {mend}" if mend else text)
