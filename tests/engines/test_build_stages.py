"""Stages of one build that do not need each other: built at once, ended together, told in order."""

from __future__ import annotations

import os
from itertools import groupby

import pytest

from pytest_containers.errors import BuildFailed, SpecInvalid
from tests.engines.sites import Site

pytestmark = pytest.mark.kernel


def _meeting(site: Site) -> str:
    """Return the flag of a folder that the stages of one test share and no other test has."""
    return f"--mount=type=cache,target=/meet,id={site.folder}"


def test_stages_that_need_each_other_not_are_built_at_once(site: Site) -> None:
    """Two stages that each wait for the other to begin both end."""
    meet = _meeting(site)
    # Opening a FIFO waits for the other end (fifo(7)): neither stage could end before the other began.
    image = site.build(
        f"FROM host AS one\nRUN {meet} mkfifo /meet/to-two; timeout 30 sh -c 'echo one > /meet/to-two'\n"
        f"FROM host AS two\nRUN {meet} test -p /meet/to-two || mkfifo /meet/to-two;"
        " timeout 30 cat /meet/to-two > /srv/heard\n"
        "FROM host\nCOPY --from=two /srv/heard /srv/\nCOPY --from=one /etc/hostname /srv/\n",
        use_cache=False,
    )
    assert site.run(image, "cat", "/srv/heard") == "one\n"


def test_equal_stages_are_made_once(site: Site) -> None:
    """Of two stages with the same steps, built at once, one makes the layer and the other finds it."""
    step = "RUN head -c 8 /dev/urandom > /srv/random"
    image = site.build(
        f"FROM host AS one\n{step}\nFROM host AS two\n{step}\n"
        "FROM host\nCOPY --from=one /srv/random /srv/1\nCOPY --from=two /srv/random /srv/2\n"
    )
    assert site.cached == 1
    assert site.run(image, "cmp", "/srv/1", "/srv/2") == ""


def test_failed_stage_ends_the_others(site: Site) -> None:
    """The first failure is told, and a command of another stage that would never end is ended."""
    meet = _meeting(site)
    with pytest.raises(BuildFailed, match="exit code 3") as caught:
        site.build(
            f"FROM host AS waits\nRUN {meet} mkfifo /meet/begun; echo > /meet/begun; exec cat /meet/begun\n"
            f"FROM host AS fails\nRUN {meet} test -p /meet/begun || mkfifo /meet/begun;"
            " timeout 30 cat /meet/begun; exit 3\n"
            "FROM host\nCOPY --from=waits / /a/\nCOPY --from=fails / /b/\n",
            use_cache=False,
        )
    assert caught.value.what.startswith("Dockerfile:4:")
    ends = {event.step.partition(" ")[0]: event.kind for event in site.told}
    assert ends == {"[waits": "failed", "[fails": "failed"}


def test_mistake_in_one_stage_is_told_with_its_line(site: Site) -> None:
    """A mistake that shows while other stages are built is told as it is in a file of one stage."""
    with pytest.raises(SpecInvalid, match=r"^Dockerfile:4: no missing in the build context"):
        site.build(
            "FROM host AS one\nRUN true\nFROM host AS two\nCOPY missing /srv/\n"
            "FROM host\nCOPY --from=one / /a/\nCOPY --from=two / /b/\n"
        )


def test_stages_tell_their_steps_in_order(site: Site) -> None:
    """Whatever stages are built at once, each step begins once, then ends once, and in its stage's order."""
    lines = [f"FROM host AS s{number}\nRUN echo {os.urandom(4).hex()}\nRUN true\n" for number in range(6)]
    copies = "".join(f"COPY --from=s{number} /etc/hostname /srv/{number}\n" for number in range(6))
    site.build("".join(lines) + "FROM host\n" + copies)
    told = sorted(
        ((event.step.partition(" ")[0], event) for event in site.told if event.kind != "output"),
        key=lambda one: one[0],
    )
    for stage, events in groupby(told, key=lambda one: one[0]):
        kinds = [(event.step.partition(" ")[2][0], event.kind == "begin") for _, event in events]
        steps = 6 if stage == "[stage-6" else 2
        expected = [(str(number), begin) for number in range(1, steps + 1) for begin in (True, False)]
        assert kinds == expected
