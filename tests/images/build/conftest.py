"""What the tests of the build's front end share: a Dockerfile written in a line or two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_containers.images.build.dockerfile import Dockerfile, parse
from pytest_containers.images.build.instruction import Instruction
from tests.images.build.plain import Site


@pytest.fixture
def dockerfile() -> Callable[..., Dockerfile]:
    """Return a function that parses the lines it is given."""

    def build(*lines: str) -> Dockerfile:
        return parse("\n".join(lines).encode())

    return build


@pytest.fixture
def instruction() -> Callable[[str], Instruction]:
    """Return a function that parses one instruction, on the second line of a file."""

    def build(text: str) -> Instruction:
        if text.upper().startswith("FROM"):
            return parse(f"#\n{text}\n".encode()).stages[0].begin
        (found,) = parse(f"FROM scratch\n{text}\n".encode()).stages[0].instructions
        return found

    return build


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a context to build from, on a store with the image ``base``; nothing can be run."""
    return Site(tmp_path)
