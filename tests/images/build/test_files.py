"""Whole Dockerfiles and what each says: every instruction with its lines and fields, or the refusal.

The expected structure stands beside the file as JSON. It was checked by reading: a change to it says that
the meaning of a file has changed.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.dockerfile import Dockerfile, parse
from pytest_containers.images.build.instruction import Instruction

FILES = sorted((Path(__file__).parent / "data" / "dockerfiles").glob("*.dockerfile"))
BUILDING = Path(__file__).parents[3] / "docs" / "build.md"


def plain(value: object) -> object:
    """Return *value* as JSON has it: a noun as its fields that are not at their defaults."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name))
            for field in fields(value)
            if field.default is MISSING or getattr(value, field.name) != field.default
            if field.name not in {"location", "text"} or not isinstance(value, Instruction)
        }
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def said(instruction: Instruction) -> dict[str, object]:
    """Return the keyword, the first and last line, and the fields of *instruction*."""
    at = instruction.location
    shape = plain(instruction)
    assert isinstance(shape, dict)
    return {instruction.keyword: [at.first, at.last], **shape}


def structure(found: Dockerfile) -> dict[str, object]:
    """Return all that *found* says, but for its own name."""
    return {
        "directives": {"syntax": found.syntax, "escape": found.escape, "check": found.check},
        "arguments": [said(argument) for argument in found.arguments],
        "stages": [[said(stage.begin), *map(said, stage.instructions)] for stage in found.stages],
        "notices": [[notice.rule, notice.location.first] for notice in found.notices],
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_says_what_stands_beside_it(file: Path) -> None:
    """Each file has the instructions, lines and fields of its JSON, or is refused with that sentence."""
    expected = json.loads(file.with_suffix(".json").read_text())
    if "refused" in expected:
        with pytest.raises(SpecInvalid) as caught:
            parse(file.read_bytes())
        assert caught.value.what == expected["refused"]
        return
    assert structure(parse(file.read_bytes())) == expected


def test_files_are_as_many_as_the_documentation_names() -> None:
    """No two files are the same, each JSON has its file, and docs/build.md counts them."""
    assert len({file.read_bytes() for file in FILES}) == len(FILES)
    assert sorted(FILES[0].parent.glob("*.json")) == [file.with_suffix(".json") for file in FILES]
    assert f"{len(FILES)} whole Dockerfiles" in BUILDING.read_text()
