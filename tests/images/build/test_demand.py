"""What a plan asks of its builder: each feature with its line, before the first step."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_containers.images.build.demand import Demand, demands
from pytest_containers.images.build.dockerfile import Dockerfile, parse
from pytest_containers.images.build.source import Location
from pytest_containers.images.build.stages import plan
from pytest_containers.images.platform import Platform

Lines = Callable[..., Dockerfile]


@pytest.mark.parametrize(
    ("step", "feature", "what"),
    [
        ("RUN --device=gpu x", "device", "gpu"),
        ("RUN --security=insecure x", "insecure", "--security=insecure"),
        ("RUN --network=host x", "host network", "--network=host"),
        ("RUN --mount=type=ssh x", "ssh", "default"),
        ("RUN --mount=type=ssh,id=a x", "ssh", "a"),
        ("RUN --mount=type=secret,id=k x", "secret", "k"),
        ("RUN --mount=type=secret,target=/a/k x", "secret", "k"),
        ("ADD https://x/y z", "http", "https://x/y"),
        ("ADD https://x/y.git#v z", "git", "https://x/y.git"),
        ("EXPOSE 9/sctp", "sctp", "9/sctp"),
    ],
)
def test_demand_names_feature_and_line(dockerfile: Lines, step: str, feature: str, what: str) -> None:
    """What an ordinary sandbox does not have is listed with where it is asked for."""
    (demand,) = demands(plan(dockerfile("FROM a", "RUN b", step)))
    assert (demand.feature, demand.what, str(demand.location)) == (feature, what, "Dockerfile:3")


@pytest.mark.parametrize(
    "step",
    [
        "RUN x",
        "RUN --network=none --security=sandbox x",
        "RUN --mount=type=cache,target=/x --mount=type=tmpfs,target=/y --mount=target=/z w",
        "RUN --mount=type=$t,id=k x",
        "ADD a b",
        "ADD $u b",
        "COPY a b",
        "EXPOSE 80/udp",
        "HEALTHCHECK --start-interval=2s CMD x",
    ],
)
def test_demand_is_not_everything(dockerfile: Lines, step: str) -> None:
    """Commands, files, caches and what hides behind a variable demand nothing here."""
    assert demands(plan(dockerfile("FROM a", step))) == ()


def test_demand_is_of_stages_to_build(dockerfile: Lines) -> None:
    """A stage that nothing needs demands nothing, a trigger demands like any other step."""
    skipped = plan(dockerfile("FROM a AS x", "RUN --device=d y", "FROM b"))
    assert demands(skipped) == ()
    triggered = skipped.with_triggers(1, ["RUN --security=insecure z"])
    assert [demand.feature for demand in demands(triggered)] == ["insecure"]


def test_demand_for_a_platform(dockerfile: Lines) -> None:
    """A stage for another platform than the building one is a demand."""
    amd = Platform(os="linux", architecture="amd64")
    found = plan(dockerfile("FROM --platform=linux/arm64 a", "RUN x"), build_platform=amd)
    assert [(demand.feature, demand.what) for demand in demands(found)] == [("platform", "linux/arm64")]
    same = plan(dockerfile("FROM --platform=linux/amd64 a"), build_platform=amd)
    assert demands(same) == ()


@pytest.mark.parametrize(
    ("syntax", "demanded"),
    [
        ("docker/dockerfile", False),
        ("docker/dockerfile:1.7-labs", False),
        ("docker.io/docker/dockerfile:1@sha256:abc", False),
        ("example.org:5000/docker/dockerfile", True),
        ("my/frontend:1", True),
        ("", False),
    ],
)
def test_demand_for_another_frontend(syntax: str, demanded: bool) -> None:
    """A file written for another frontend than Docker's says so in its first lines."""
    content = f"# syntax={syntax}\nFROM a\n" if syntax else "FROM a\n"
    found = demands(plan(parse(content.encode())))
    assert [demand.what for demand in found] == ([syntax] if demanded else [])


def test_demand_can_be_refused() -> None:
    """A refusal has file, line, feature and reason."""
    demand = Demand(feature="device", location=Location(name="D", first=3, last=4), what="gpu")
    error = demand.refusal("this engine has no devices", mend="remove --device")
    assert error.what == "D:3: device gpu: this engine has no devices"
    assert error.mend == "remove --device"
