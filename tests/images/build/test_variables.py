"""Names: automatic and global arguments, and the scope inside a stage."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.dockerfile import Dockerfile
from pytest_containers.images.build.expand import expand
from pytest_containers.images.build.instruction import Instruction, User
from pytest_containers.images.build.variables import (
    DEFAULT_PATH,
    Scope,
    global_variables,
    platform_variables,
    source_date_epoch,
)
from pytest_containers.images.platform import Platform

AMD = Platform(os="linux", architecture="amd64")
ARM = Platform(os="linux", architecture="arm", variant="v7")


def test_platform_arguments_say_what_and_where() -> None:
    """Both platforms are there whole and in parts, with the name of the target stage."""
    assert platform_variables(target=ARM, build=AMD, stage="") == {
        "BUILDPLATFORM": "linux/amd64",
        "BUILDOS": "linux",
        "BUILDOSVERSION": "",
        "BUILDARCH": "amd64",
        "BUILDVARIANT": "",
        "TARGETPLATFORM": "linux/arm/v7",
        "TARGETOS": "linux",
        "TARGETOSVERSION": "",
        "TARGETARCH": "arm",
        "TARGETVARIANT": "v7",
        "TARGETSTAGE": "default",
    }


@pytest.mark.parametrize(
    ("lines", "build_args", "expected"),
    [
        (["ARG A=1"], {}, {"A": "1"}),
        (["ARG A=1"], {"A": "2"}, {"A": "2"}),
        (["ARG A=1"], {"A": ""}, {"A": ""}),
        (["ARG A"], {}, {}),
        (["ARG A"], {"A": "2"}, {"A": "2"}),
        (["ARG A=1", "ARG B=${A}x"], {}, {"A": "1", "B": "1x"}),
        (["ARG A=1", "ARG B=${A}x"], {"A": "3"}, {"A": "3", "B": "3x"}),
        (["ARG A=1 B=$A"], {}, {"A": "1", "B": "1"}),
        (["ARG A=1", "ARG A=2"], {}, {"A": "2"}),
        (["ARG A=1", "ARG A=${A}2"], {}, {"A": "12"}),
        (['ARG A="1 2"'], {}, {"A": "1 2"}),
        (["ARG A=$P"], {}, {"A": "auto"}),
        (["ARG A=$A"], {"A": "$B"}, {"A": "$B"}),
        (["ARG P"], {}, {}),
        ([], {"P": "mine"}, {"P": "mine"}),
        ([], {"A": "1"}, {}),
    ],
)
def test_global_arguments_are_read_in_order(
    dockerfile: Callable[..., Dockerfile],
    lines: list[str],
    build_args: dict[str, str],
    expected: dict[str, str],
) -> None:
    """A build argument beats a default, a default sees what stands before it, and only ARG declares."""
    found = dockerfile(*lines, "FROM a")
    assert global_variables(found.arguments, {"P": "auto"}, build_args, "\\") == {"P": "auto", **expected}


def test_global_argument_error_names_its_line(dockerfile: Callable[..., Dockerfile]) -> None:
    """A default that cannot be expanded is refused where it stands."""
    found = dockerfile("ARG A=1", "ARG B=${A", "FROM a")
    with pytest.raises(SpecInvalid, match=r"^Dockerfile:2: "):
        global_variables(found.arguments, {}, {}, "\\")


def walk(dockerfile: Dockerfile, scope: Scope) -> Scope:
    """Return the scope behind the only stage of *dockerfile*."""
    for instruction in dockerfile.stages[0].instructions:
        scope = scope.after(expand(instruction, scope))
    return scope


@pytest.mark.parametrize(
    ("lines", "build_args", "outer", "value"),
    [
        (["ARG A=1"], {}, {}, "1"),
        (["ARG A"], {}, {}, None),
        (["ARG A"], {"A": "2"}, {}, "2"),
        (["ARG A=1"], {"A": "2"}, {}, "2"),
        (["ARG A"], {}, {"A": "3"}, "3"),
        (["ARG A=1"], {}, {"A": "3"}, "1"),
        (["ARG A"], {"A": "2"}, {"A": "3"}, "2"),
        ([], {"A": "2"}, {"A": "3"}, None),
        (["ARG B=x", "ARG A=$B"], {}, {}, "x"),
        (["ARG B=x A=$B"], {}, {}, "x"),
        (["ENV A=e"], {}, {}, "e"),
        (["ARG A=1", "ENV A=e"], {"A": "2"}, {}, "e"),
        (["ARG A=1", "ENV A=$A"], {"A": "2"}, {}, "2"),
        (["ENV A=e", "ARG A=1"], {}, {}, "1"),
        (["ENV A=e", "ARG A"], {}, {}, "e"),
        (["ENV A=e", "ARG A"], {"A": "2"}, {}, "2"),
        (["ENV A=${A:-d}"], {"A": "2"}, {}, "d"),
        (["ENV A=1", "ENV A=${A}2"], {}, {}, "12"),
        (["ARG A=b", "ARG A=${A}c"], {}, {}, "bc"),
    ],
)
def test_scope_has_the_last_declaration(
    dockerfile: Callable[..., Dockerfile],
    lines: list[str],
    build_args: dict[str, str],
    outer: dict[str, str],
    value: str | None,
) -> None:
    """ARG takes the build argument, its default or the global value; a later ARG or ENV hides it."""
    scope = walk(dockerfile("FROM a", *lines), Scope(outer=outer, build_args=build_args).begin([]))
    assert scope.variables.get("A") == value


def test_scope_keeps_only_env_in_the_image(dockerfile: Callable[..., Dockerfile]) -> None:
    """The image's environment has the base's and each ENV, changed in place, and no ARG."""
    scope = walk(
        dockerfile("FROM a", "ENV B=2 A=3", "ARG C=4", "ENV D=$C", "ARG A=9"),
        Scope().begin(["PATH=/p", "A=1"]),
    )
    assert scope.env == ("PATH=/p", "A=3", "B=2", "D=4")
    assert scope.command_env() == ("PATH=/p", "A=9", "B=2", "C=4", "D=4")


def test_scope_always_has_a_path() -> None:
    """A base without PATH gets Docker's."""
    assert Scope().begin([]).env == (f"PATH={DEFAULT_PATH}",)
    assert Scope().begin(["A=1", "PATH="]).env == ("A=1", "PATH=")


def test_scope_is_inherited_by_a_stage_on_a_stage(dockerfile: Callable[..., Dockerfile]) -> None:
    """Arguments of the base stage stay in scope; its ENV hides an ARG of the same name."""
    base = walk(dockerfile("FROM a", "ENV A=env", "ARG A=arg", "ARG B=b"), Scope().begin(["PATH=/p"]))
    child = base.begin(base.env)
    assert child.variables == {"PATH": "/p", "A": "env", "B": "b"}
    assert child.history_arguments() == ("|2", "A=env", "B=b")


@pytest.mark.parametrize(
    ("lines", "build_args", "expected"),
    [
        ([], {"A": "1"}, ()),
        (["ARG A=1 B"], {}, ("|2", "A=1", "B=")),
        (["ARG A=1", "ENV A=2"], {}, ("|1", "A=2")),
        (["ARG A=1", "ARG B=x y=z", "ARG A=3"], {}, ("|3", "A=3", "B=x", "y=z")),
        ([], {"HTTP_PROXY": "http://user:secret@p"}, ()),
    ],
)
def test_history_names_declared_arguments(
    dockerfile: Callable[..., Dockerfile],
    lines: list[str],
    build_args: dict[str, str],
    expected: tuple[str, ...],
) -> None:
    """The history has each ARG once with its value in force, and nothing undeclared."""
    scope = walk(dockerfile("FROM a", "USER x", *lines), Scope(build_args=build_args).begin([]))
    assert scope.history_arguments() == expected


def test_proxies_need_no_declaration() -> None:
    """A proxy given as a build argument reaches commands in both spellings, beside their own environment."""
    scope = Scope(build_args={"https_proxy": "s", "HTTP_PROXY": "h", "NO_PROXY": "", "OTHER": "o"}).begin(
        ["PATH=/p"]
    )
    assert scope.proxy_env() == ("HTTP_PROXY=h", "http_proxy=h", "HTTPS_PROXY=s", "https_proxy=s")
    assert scope.command_env() == ("PATH=/p",)


def test_proxy_never_shows() -> None:
    """What was given as a build argument stands in no text of the scope."""
    assert "secret" not in repr(Scope(build_args={"HTTP_PROXY": "http://user:secret@p"}).begin([]))


def test_scope_hides_builder_arguments(dockerfile: Callable[..., Dockerfile]) -> None:
    """An argument that speaks to the builder is no variable of a command."""
    scope = walk(dockerfile("FROM a", "ARG BUILDKIT_SBOM_SCAN_STAGE=true"), Scope().begin(["PATH=/p"]))
    assert scope.command_env() == ("PATH=/p",)


def test_scope_obeys_the_escape_character(instruction: Callable[[str], Instruction]) -> None:
    """The file's escape character is the one that keeps a dollar."""
    found = expand(instruction("USER a`$A"), Scope(variables={"A": "1"}, escape="`"))
    assert isinstance(found, User)
    assert found.user == "a$A"


@pytest.mark.parametrize(
    ("variables", "build_args", "epoch"),
    [
        ({}, {}, None),
        ({}, {"SOURCE_DATE_EPOCH": "1700000000"}, 1700000000),
        ({"SOURCE_DATE_EPOCH": "5"}, {}, 5),
        ({"SOURCE_DATE_EPOCH": "5"}, {"SOURCE_DATE_EPOCH": "6"}, 6),
        ({"SOURCE_DATE_EPOCH": "5"}, {"SOURCE_DATE_EPOCH": ""}, None),
        ({}, {"SOURCE_DATE_EPOCH": "0"}, 0),
    ],
)
def test_epoch_is_a_build_argument(
    variables: dict[str, str], build_args: dict[str, str], epoch: int | None
) -> None:
    """SOURCE_DATE_EPOCH is seconds, given by the caller or by a global ARG."""
    assert source_date_epoch(variables, build_args) == epoch


@pytest.mark.parametrize("text", ["now", "-1", "1.5", "9" * 20, "٣"])
def test_epoch_is_a_number(text: str) -> None:
    """Anything but a plain number of seconds is refused."""
    with pytest.raises(SpecInvalid, match="SOURCE_DATE_EPOCH"):
        source_date_epoch({}, {"SOURCE_DATE_EPOCH": text})
