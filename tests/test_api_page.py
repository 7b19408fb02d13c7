"""docs/api.md names what a test can hold: all of it, and nothing else."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import pytest_containers
from pytest_containers.factory import ScopedOptions
from pytest_containers.order import Options

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "api.md"
SPAN: Final = re.compile(r"`([^`]+)`")
PROBES: Final = "all_of any_of command exchange exited healthcheck http log port started".split()


def _section(heading: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def _firsts(heading: str) -> Iterator[str]:
    """Yield what stands in the first column of a section's table."""
    for line in _section(heading).splitlines():
        if line.startswith("| `"):
            yield from SPAN.findall(line.split(" | ")[0])


def _calls(spans: Iterator[str]) -> dict[str, list[str]]:
    """Return the arguments of each ``name(a, b=1)``, none for a bare name."""
    found: dict[str, list[str]] = {}
    for span in spans:
        name, _, arguments = span.rstrip(")").partition("(")
        words = [word.partition("=")[0].strip().lstrip("*") for word in arguments.split(",")]
        found[name] = [word for word in words if word]
    return found


def _members(kind: type[object]) -> dict[str, list[str]]:
    """Return the public members of a class, with the arguments of its methods."""
    found: dict[str, list[str]] = {}
    for name, member in inspect.getmembers(kind):
        if not name.startswith("_"):
            taken = list(inspect.signature(member).parameters)[1:] if callable(member) else []
            found[name] = taken
    return found


def test_page_has_every_keyword_of_a_container() -> None:
    """The table of options is that of the code."""
    listed = sorted(_firsts("Options of a container"))
    assert listed == sorted({*Options.__annotations__, *ScopedOptions.__annotations__})


@pytest.mark.parametrize("name", ["Container", "Network", "Shelf"])
def test_page_has_every_member_with_its_arguments(name: str) -> None:
    """Each attribute and method of what a fixture returns is in its table."""
    kind: type[object] = getattr(pytest_containers, name)
    assert _calls(_firsts(name)) == _members(kind)


def test_page_has_every_probe_with_its_arguments() -> None:
    """Each probe is named with what it takes."""
    spans = (span for span in SPAN.findall(_section("Probes")) if "(" in span)
    probes = {name: list(inspect.signature(getattr(pytest_containers, name)).parameters) for name in PROBES}
    assert _calls(iter(spans)) == probes


def test_page_has_every_fixture() -> None:
    """The fixtures and the marker of the plugin are in the first table."""
    listed = " ".join(_firsts("Fixtures and the marker"))
    from pytest_containers import plugin

    for name in ("container", "network", "images", "container_fixture"):
        assert name in plugin.__all__
        assert name in listed
