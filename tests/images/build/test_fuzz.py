"""Whatever the bytes, the front end ends, and raises nothing but SpecInvalid with file and line."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.demand import demands
from pytest_containers.images.build.dockerfile import parse
from pytest_containers.images.build.expand import expand
from pytest_containers.images.build.instruction import Run
from pytest_containers.images.build.stages import plan

KEYWORDS = (
    "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL"
    " USER VOLUME WORKDIR"
).split()
PIECES = (
    "a b $A ${A:-b} ${A#*x} ${A//x/y} 'q' \"q\" \\ ` = , --from=a --from=0 --mount=type=cache,target=/x"
    " --mount=type=secret,id=k --mount=from=a,target=b --chmod=u+x --chmod=755 --chown=1 --network=none"
    " --link --exclude=*.x --interval=1s --platform=$TARGETPLATFORM --checksum=x <<E <<-E <<'E' 3<<E"
    ' ["a"] ["a","b"]'
    " [1] [ CMD NONE AS as a=b A=$A 80 80-90/udp SIGTERM https://x/y https://x/y.git#r:s -- # \t é \u2028"
).split(" ")
ENDS = ("\n", "\n", "\n", "\\\n", " \\\n", "\r\n", "\nE\n", "\n\tE\n", "\n\n", "`\n")


def exercise(content: bytes) -> None:
    """Take *content* all the way from its bytes to expanded instructions."""
    building = plan(parse(content), build_args={"A": "1"})
    demands(building)
    scope = building.scope.begin(["PATH=/bin"])
    for stage in building.stages:
        for step in stage.steps:
            instruction = expand(step.instruction, scope)
            scope = scope.after(instruction)
            if isinstance(instruction, Run):
                assert len(step.origins) == len(instruction.mounts)
                assert instruction.execution(()).argv
                for number, mount in enumerate(instruction.mounts):
                    mount.resolved("/w", number)


def judge(content: bytes) -> None:
    """Fail where *content* raises anything but a SpecInvalid."""
    with suppress(SpecInvalid):
        exercise(content)


lines = st.tuples(
    st.sampled_from(KEYWORDS), st.lists(st.sampled_from(PIECES), max_size=5), st.sampled_from(ENDS)
).map(lambda parts: " ".join([parts[0], *parts[1]]) + parts[2])


@given(st.lists(lines, max_size=6))
@settings(max_examples=400, deadline=None)
def test_frontend_takes_any_lines(body: list[str]) -> None:
    """Instructions of likely pieces are built into a plan, or refused."""
    judge(("ARG A\nFROM scratch AS a\n" + "".join(body)).encode())


@given(st.binary(max_size=200))
@example(b"\xff\xfe")
@example(b"FROM a\n\x00")
@example(b"\\\n\\\n\\")
@example(b"FROM " + b"${A:-" * 3000)
@example(b"FROM a\nRUN " + b"[" * 50_000)
@example(b"FROM a\nCMD [" + b"9" * 5000 + b"]")
@settings(max_examples=300, deadline=None)
def test_frontend_takes_any_bytes(content: bytes) -> None:
    """Bytes that mean nothing are refused."""
    judge(content)


@given(st.text(alphabet="FROMRUNCPYa$\\{}'\"<>-=[], \t\n#:`E", max_size=120))
@settings(max_examples=400, deadline=None)
def test_parser_errors_begin_with_file_and_line(content: str) -> None:
    """Every error of the parser says where."""
    said = "D:1:"
    try:
        parse(content.encode(), name="D")
    except SpecInvalid as error:
        said = error.what
    assert re.match(r"D:[0-9]+:", said)


@pytest.mark.parametrize(
    "content",
    [
        b"FROM a\n" + b"RUN x \\\n" * 20_000,
        b"FROM a\n" + b"ENV a=b\n" * 5_000,
        b"FROM a\nRUN <<E\n" + b"line\n" * 100_000 + b"E\n",
        b"FROM a\nENV a=" + b"x" * 200_000,
        b"#" * 300_000 + b"\nFROM a\n",
    ],
)
def test_frontend_takes_large_files(content: bytes) -> None:
    """A long file, line or heredoc is parsed like a short one."""
    exercise(content)
