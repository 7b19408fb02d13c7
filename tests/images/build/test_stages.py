"""The graph of stages: what is built, in which order, from where, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.dockerfile import Dockerfile
from pytest_containers.images.build.origins import Origin
from pytest_containers.images.build.stages import Plan, plan
from pytest_containers.images.platform import Platform

Lines = Callable[..., Dockerfile]
CONTEXT = Origin(kind="context")


def image(name: str) -> Origin:
    """Return the origin of an image."""
    return Origin(kind="image", name=name)


def stage(number: int, name: str) -> Origin:
    """Return the origin of a stage."""
    return Origin(kind="stage", number=number, name=name)


def refused(dockerfile: Dockerfile, word: str, *, target: str | None = None) -> SpecInvalid:
    """Return the error of planning *dockerfile*, which has *word*."""
    with pytest.raises(SpecInvalid) as caught:
        plan(dockerfile, target=target)
    assert word in caught.value.what
    return caught.value


@pytest.mark.parametrize(
    ("lines", "bases"),
    [
        (["FROM a"], [image("a")]),
        (["FROM scratch"], [Origin(kind="scratch")]),
        (["FROM host"], [Origin(kind="host")]),
        (["FROM a AS x", "FROM x"], [image("a"), stage(0, "x")]),
        (["FROM a AS x", "FROM b AS x", "FROM x"], [image("b"), stage(1, "x")]),
        (["FROM x", "FROM a AS x"], [image("a")]),
        (["FROM a AS scratch", "FROM scratch"], [image("a"), stage(0, "scratch")]),
        (["FROM a AS host", "FROM host"], [image("a"), stage(0, "host")]),
        (["FROM Scratch"], [image("Scratch")]),
        (["ARG V=1", "FROM a:$V"], [image("a:1")]),
        (["ARG V=1", "ARG W=x$V", "FROM ${W:-y}"], [image("x1")]),
        (["FROM ${V:-a}"], [image("a")]),
        (["FROM 'a'"], [image("a")]),
        (["ARG S=x", "FROM a AS x", "FROM $S"], [image("a"), stage(0, "x")]),
        (["FROM 0"], [image("0")]),
    ],
)
def test_stage_is_built_on_what_from_means(dockerfile: Lines, lines: list[str], bases: list[Origin]) -> None:
    """FROM means the nearest stage before it with that name, or nothing, the host or an image."""
    assert [planned.base for planned in plan(dockerfile(*lines)).stages] == bases


@pytest.mark.parametrize(
    ("step", "origins"),
    [
        ("COPY a b", [CONTEXT]),
        ("ADD a b", [CONTEXT]),
        ("COPY --from=x a b", [stage(0, "x")]),
        ("COPY --from=X a b", [stage(0, "x")]),
        ("COPY --from=0 a b", [stage(0, "0")]),
        ("COPY --from=1 a b", [stage(1, "1")]),
        ("COPY --from=+0 a b", [stage(0, "+0")]),
        ("COPY --from=other:1 a b", [image("other:1")]),
        ("COPY --from=scratch a b", [Origin(kind="scratch")]),
        ("COPY --from=host a b", [Origin(kind="host")]),
        ("COPY --from= a b", [CONTEXT]),
        ("RUN a", []),
        ("RUN --mount=target=/a a", [CONTEXT]),
        (
            "RUN --mount=target=/a,from=x --mount=type=cache,target=/b --mount=from=i,target=/c a",
            [stage(0, "x"), CONTEXT, image("i")],
        ),
        ("ENV a=b", []),
    ],
)
def test_step_takes_from_what_its_names_mean(dockerfile: Lines, step: str, origins: list[Origin]) -> None:
    """--from is a stage by name or number, or an image; a mount's from a stage or an image."""
    found = plan(dockerfile("FROM a AS x", "FROM b AS y", "FROM c", step))
    assert list(found.stages[-1].steps[0].origins) == origins


@pytest.mark.parametrize(
    ("lines", "target", "numbers"),
    [
        (["FROM a AS x", "FROM b AS y", "FROM c"], None, [2]),
        (["FROM a AS x", "FROM b AS y", "FROM c"], "x", [0]),
        (["FROM a AS x", "FROM b AS y", "FROM c"], "X", [0]),
        (["FROM a AS x", "FROM x AS y", "FROM y"], None, [0, 1, 2]),
        (["FROM a AS x", "FROM b AS y", "FROM c", "COPY --from=x . ."], None, [0, 2]),
        (["FROM a AS x", "FROM b AS y", "FROM c", "RUN --mount=from=y,target=/y z"], None, [1, 2]),
        (["FROM a AS x", "FROM x AS y", "FROM c", "COPY --from=1 . ."], None, [0, 1, 2]),
        (["FROM a AS x", "COPY --from=late . .", "FROM b AS late"], None, [1]),
    ],
)
def test_plan_has_what_the_target_needs(
    dockerfile: Lines, lines: list[str], target: str | None, numbers: list[int]
) -> None:
    """Only stages that the target stands on or takes from are built, the last one unless told otherwise."""
    found = plan(dockerfile(*lines), target=target)
    assert [planned.number for planned in found.stages] == numbers
    assert found.target == numbers[-1]


def test_plan_groups_independent_stages(dockerfile: Lines) -> None:
    """Stages that do not need each other are in one wave, and the graph says who waits for whom."""
    found = plan(
        dockerfile(
            "FROM a AS base",
            "FROM base AS left",
            "FROM base AS right",
            "FROM other AS alone",
            "FROM left",
            "COPY --from=right /r /r",
            "COPY --from=alone /a /a",
        )
    )
    assert found.waves() == ((0, 3), (1, 2), (4,))
    assert found.graph() == {
        0: frozenset(),
        1: frozenset({0}),
        2: frozenset({0}),
        3: frozenset(),
        4: frozenset({1, 2, 3}),
    }
    order = [planned.number for planned in found.stages]
    assert order == sorted(order)
    assert set(TopologicalSorter(found.graph()).static_order()) == set(order)


@pytest.mark.parametrize(
    ("lines", "word", "seen"),
    [
        (["FROM a AS x", "COPY --from=x . ."], "stage x is not built yet", "this stage itself"),
        (["FROM a", "COPY --from=0 . ."], "stage stage-0 is not built yet", "this stage itself"),
        (
            ["FROM a", "COPY --from=y . .", "FROM b AS y", "COPY --from=0 . ."],
            "stage y is not built yet",
            "Dockerfile:3",
        ),
        (["FROM a AS x", "RUN --mount=from=x,target=/a b"], "stage x is not built yet", "this stage itself"),
        (
            ["FROM a AS x", "FROM b", "COPY --from=x . .", "FROM c AS x", "COPY --from=1 . ."],
            "x is not built yet",
            "",
        ),
    ],
)
def test_stage_takes_from_stages_before_it(dockerfile: Lines, lines: list[str], word: str, seen: str) -> None:
    """What takes from its own or a later stage is refused where it stands, so stages form no ring."""
    error = refused(dockerfile(*lines), word)
    assert error.what.startswith("Dockerfile:")
    assert seen in error.seen


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        (["FROM a", "COPY --from=1 . ."], "Dockerfile:2: there is no stage number 1"),
        (["FROM a", "COPY --from=-1 . ."], "Dockerfile:2: there is no stage number -1"),
        (["FROM a", "COPY --from=9 . .", "FROM b"], "Dockerfile:2: there is no stage number 9"),
        (
            ["FROM a", "FROM b", "RUN --mount=from=0,target=/x y"],
            "Dockerfile:3: a mount cannot come from stage number 0",
        ),
        (["FROM $X"], "Dockerfile:1: FROM $X names no image"),
        (["FROM ${X"], "Dockerfile:1: cannot expand"),
        (["FROM --platform=$X a"], "Dockerfile:1: --platform=$X is empty"),
        (["FROM --platform=a/b/c/d a"], "Dockerfile:1: 'a/b/c/d' is not a platform"),
        (["FROM a AS x", "FROM X"], "Dockerfile:2: FROM X is no image"),
        (["FROM a", "STOPSIGNAL nope"], "Dockerfile:2: 'nope' is not a signal"),
        (["FROM a", "EXPOSE http"], "Dockerfile:2: 'http' is not a port"),
        (["FROM a", "RUN --mount=type=bund,target=/x y"], "Dockerfile:2: a mount's type cannot be 'bund'"),
        (["FROM a", "COPY --chmod=999 x y"], "Dockerfile:2: the mode cannot be '999'"),
        (["FROM a", "COPY https://x/y z"], "Dockerfile:2: COPY cannot copy from a URL"),
        (["FROM a", "WORKDIR 'x"], "Dockerfile:2: cannot expand"),
    ],
)
def test_plan_refuses_before_the_first_step(dockerfile: Lines, lines: list[str], word: str) -> None:
    """Wrong numbers, empty names and every instruction without variables are judged at once."""
    refused(dockerfile(*lines), word)


def test_plan_judges_only_what_is_built(dockerfile: Lines) -> None:
    """A stage that nothing needs may be wrong."""
    found = plan(dockerfile("FROM a", "STOPSIGNAL nope", "FROM b"))
    assert [planned.number for planned in found.stages] == [1]


def test_plan_judges_with_the_files_escape_character(dockerfile: Lines) -> None:
    """What is judged early is read with the escape character of its file."""
    assert plan(dockerfile("# escape=`", "FROM a", 'LABEL x="a`"b"', "WORKDIR C:\\'x'")).stages[0].steps


def test_plan_waits_for_variables(dockerfile: Lines) -> None:
    """What depends on a variable is not judged before its value is known."""
    assert plan(dockerfile("FROM a", "STOPSIGNAL $S", "COPY --chmod=$M a b")).stages[0].steps


def test_from_says_which_argument_is_missing(dockerfile: Lines) -> None:
    """A base that is empty names the argument that would fill it."""
    error = refused(dockerfile("FROM $VERSION"), "names no image")
    assert "VERSION" in error.seen
    assert "ARG VERSION" in error.mend


def test_target_must_exist(dockerfile: Lines) -> None:
    """An unknown target is refused with the names there are and the nearest one."""
    error = refused(
        dockerfile("FROM a AS build", "FROM b AS test", "FROM c"), "no stage biuld", target="biuld"
    )
    assert error.seen == "the stages: build, test"
    assert error.mend == "did you mean build?"


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("a", Origin(kind="context", name="a")),
        ("A", Origin(kind="context", name="a")),
        ("scratch", image("a")),
    ],
)
def test_named_context_hides_an_image(dockerfile: Lines, name: str, base: Origin) -> None:
    """A named context stands in for the image or stage of that name, but for scratch and context."""
    assert plan(dockerfile("FROM a"), contexts={name: "/folder"}).stages[0].base == base


@pytest.mark.parametrize(
    ("place", "origin"),
    [
        ("./missing", Origin(kind="context", name="a")),
        ("docker-image://alpine:3", image("alpine:3")),
        ("team/base:1", image("team/base:1")),
        ("host", Origin(kind="host")),
    ],
)
def test_named_context_is_a_folder_or_an_image(dockerfile: Lines, place: str, origin: Origin) -> None:
    """What looks like a path is a folder, what buildx would call an image or cannot be a folder is one."""
    assert plan(dockerfile("FROM a"), contexts={"a": place}).stages[0].base == origin


def test_named_context_is_a_folder_where_one_is(
    dockerfile: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path without a dot is a folder where there is one of that name."""
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    assert plan(dockerfile("FROM a"), contexts={"a": "base"}).stages[0].base.kind == "context"


def test_named_context_hides_a_stage(dockerfile: Lines) -> None:
    """A stage with the name of a context is that context: nothing of it is built."""
    found = plan(
        dockerfile("FROM a AS x", "RUN b", "FROM c", "COPY --from=x . .", "RUN --mount=from=X,target=/x y"),
        contexts={"x": "/folder"},
    )
    origin = Origin(kind="context", name="x")
    assert [planned.number for planned in found.stages] == [1]
    assert [step.origins for step in found.stages[0].steps] == [(origin,), (origin,)]
    assert (found.stage(0).base, found.stage(0).steps) == (origin, ())


def test_platform_of_a_stage_is_expanded(dockerfile: Lines) -> None:
    """--platform may name the automatic arguments; without it the stage has none of its own."""
    amd = Platform(os="linux", architecture="amd64")
    arm = Platform(os="linux", architecture="arm64")
    found = plan(
        dockerfile(
            "FROM --platform=$BUILDPLATFORM a AS x",
            "FROM --platform=linux/$TARGETARCH x2",
            "COPY --from=x . .",
        ),
        platform=arm,
        build_platform=amd,
    )
    assert [planned.platform for planned in found.stages] == [amd, arm]
    assert (found.platform, found.build_platform) == (arm, amd)
    assert plan(dockerfile("FROM a")).stages[0].platform is None


@pytest.mark.parametrize(
    ("lines", "target", "stage_name"),
    [
        (["FROM a"], None, "default"),
        (["FROM a AS x"], None, "x"),
        (["FROM a AS x", "FROM b AS y"], "x", "x"),
    ],
)
def test_target_stage_is_an_argument(
    dockerfile: Lines, lines: list[str], target: str | None, stage_name: str
) -> None:
    """TARGETSTAGE is the name of what is built."""
    assert plan(dockerfile(*lines), target=target).scope.outer["TARGETSTAGE"] == stage_name


def test_stage_has_a_title(dockerfile: Lines) -> None:
    """A stage is called by its name, or by its number."""
    assert [planned.title for planned in plan(dockerfile("FROM a AS x", "FROM x")).stages] == ["x", "stage-1"]


def texts(found: Plan, number: int) -> list[tuple[str, bool]]:
    """Return the steps of a stage as text, and whether each was triggered."""
    return [(step.instruction.text, step.triggered) for step in found.stage(number).steps]


def test_triggers_of_a_stage_run_first(dockerfile: Lines) -> None:
    """The ONBUILDs of a base stage run in front of its child's steps, and not in its grandchild."""
    found = plan(
        dockerfile("FROM a AS x", "ONBUILD RUN 1", "ONBUILD RUN 2", "FROM x AS y", "RUN 3", "FROM y", "RUN 4")
    )
    assert texts(found, 1) == [("RUN 1", True), ("RUN 2", True), ("RUN 3", False)]
    assert texts(found, 2) == [("RUN 4", False)]
    assert found.stage(1).steps[0].instruction.location.first == 4


def test_trigger_of_a_stage_has_needs(dockerfile: Lines) -> None:
    """A trigger may take from a stage that only it needs."""
    found = plan(dockerfile("FROM t AS tool", "FROM a AS x", "ONBUILD COPY --from=tool /t /t", "FROM x"))
    assert [planned.number for planned in found.stages] == [0, 1, 2]


def test_triggers_of_an_image_are_added(dockerfile: Lines) -> None:
    """What an image's config triggers runs first, and may bring stages in."""
    before = plan(dockerfile("FROM t AS tool", "FROM a", "RUN 1"))
    assert [planned.number for planned in before.stages] == [1]
    after = before.with_triggers(1, ["RUN 0", "COPY --from=tool /t /t"])
    assert [planned.number for planned in after.stages] == [0, 1]
    assert texts(after, 1) == [("RUN 0", True), ("COPY --from=tool /t /t", True), ("RUN 1", False)]
    assert texts(before, 1) == [("RUN 1", False)]


def test_trigger_of_an_image_takes_from_a_named_context(dockerfile: Lines) -> None:
    """A name in a trigger is a context before it is a stage or an image, as anywhere in the file."""
    contexts = {"tool": "/folder", "more": "docker-image://alpine:3"}
    found = plan(dockerfile("FROM t AS tool", "FROM a"), contexts=contexts)
    after = found.with_triggers(1, ["COPY --from=tool /t /t", "COPY --from=more /t /t"])
    assert [planned.number for planned in after.stages] == [1]
    origins = [step.origins for step in after.stage(1).steps]
    assert origins == [(Origin(kind="context", name="tool"),), (image("alpine:3"),)]


@pytest.mark.parametrize(
    ("trigger", "word"),
    [
        ("RNU x", "unknown instruction RNU"),
        ("FROM x", "cannot be FROM"),
        ("COPY --from=7 a b", "no stage number 7"),
        ("COPY --from=late a b", "stage late is not built yet"),
        ("STOPSIGNAL x", "is not a signal"),
    ],
)
def test_trigger_of_an_image_is_judged(dockerfile: Lines, trigger: str, word: str) -> None:
    """A trigger that cannot run is refused at the FROM that brought it."""
    found = plan(dockerfile("#", "FROM a AS x", "FROM b AS late"), target="x")
    with pytest.raises(SpecInvalid) as caught:
        found.with_triggers(0, [trigger])
    assert word in caught.value.what
    assert caught.value.what.startswith("Dockerfile:2: ")


@pytest.mark.parametrize(
    ("build_args", "unused"),
    [
        ({"A": "1", "B": "2"}, []),
        ({"C": "1"}, ["C"]),
        ({"HTTP_PROXY": "1", "no_proxy": "2", "SOURCE_DATE_EPOCH": "3"}, []),
        ({"TARGETARCH": "x", "BUILDKIT_INLINE_CACHE": "1"}, []),
        ({"Z": "1", "Y": "1"}, ["Y", "Z"]),
    ],
)
def test_plan_notices_unused_build_arguments(
    dockerfile: Lines, build_args: dict[str, str], unused: list[str]
) -> None:
    """A build argument that no ARG of the file takes is noticed, the predefined ones are not."""
    found = plan(dockerfile("ARG A", "FROM a", "FROM b", "ARG B"), build_args=build_args)
    named = [notice.text.removeprefix("no ARG takes the build argument ")[0] for notice in found.notices]
    assert named == unused
    assert {notice.rule for notice in found.notices} <= {"UnusedBuildArgument"}


def test_plan_keeps_the_notices_of_the_file(dockerfile: Lines) -> None:
    """What parsing noticed is in the plan."""
    assert [notice.rule for notice in plan(dockerfile("FROM a", "MAINTAINER b")).notices] == [
        "MaintainerDeprecated"
    ]


def test_plan_has_the_epoch(dockerfile: Lines) -> None:
    """SOURCE_DATE_EPOCH is known to the plan, from the caller or from a global argument."""
    assert plan(dockerfile("FROM a")).epoch_s is None
    assert plan(dockerfile("FROM a"), build_args={"SOURCE_DATE_EPOCH": "7"}).epoch_s == 7
    assert plan(dockerfile("ARG SOURCE_DATE_EPOCH=8", "FROM a")).epoch_s == 8
