"""What is installed: metadata, entry points, the cost of an unused plugin, and the README's commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.plugins.sources import House

ROOT: Final = Path(__file__).resolve().parents[1]
# What a test run that starts no container must not pay for.
HEAVY: Final = ("ctypes", "urllib3", "tenacity", "filelock", "asyncio", "tarfile", "http.client", "tomllib")


def _output(*argv: str) -> str:
    return subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_plugin_is_found_by_its_entry_point() -> None:
    """An installed plugin is on, and the command is beside it."""
    plugin = next(iter(entry_points(group="pytest11", name="containers")))
    command = next(iter(entry_points(group="console_scripts", name="pytest-containers")))
    assert (plugin.value, command.value) == ("pytest_containers.plugin", "pytest_containers.cli:main")
    assert callable(command.load())


def test_plugin_import_is_lean() -> None:
    """Loading the plugin loads nothing that only a container needs."""
    program = "import pytest, sys; before = set(sys.modules); import pytest_containers.plugin; "
    program += "print(*sorted(set(sys.modules) - before))"
    loaded = _output(sys.executable, "-c", program).split()
    heavy = [
        name for name in loaded if name in HEAVY or re.match(r"pytest_containers\.(runtime|images)", name)
    ]
    assert not heavy


def test_dependencies_are_those_imported(house: House) -> None:
    """What the package imports and what it declares are one list."""
    imported = {
        top
        for source in house.package
        for _, name in source.imports()
        if (top := name.partition(".")[0]) not in sys.stdlib_module_names and top != "pytest_containers"
    }
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert {re.split(r"[<>=!~\[; ]", want)[0] for want in wanted} == imported


def test_python_versions_are_those_of_tox() -> None:
    """The versions that the metadata names are the versions that are tried."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = {c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)}
    tried = re.findall(r"\bpy3(\d+)\b", (ROOT / "tox.ini").read_text(encoding="utf-8"))
    assert told == {f"3.{minor}" for minor in tried}


@pytest.mark.slow
def test_wheel_is_pure_python(tmp_path: Path) -> None:
    """The wheel runs on any Linux, is typed, and holds the package alone."""
    _output(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path)),
        str(ROOT),
    )
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    here = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "pytest_containers").rglob("*")
        if path.suffix in {".py", ".toml", ".typed", ".json"} or path.name == "py.typed"
    }
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "pytest_containers/py.typed" in here
    assert {name for name in names if ".dist-info/" not in name} == here


def _marked_block() -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- \.ci/run [^\n]*-->\n```sh\n(.*?)\n```", readme, re.DOTALL)
    assert found, "README.md marks the block that .ci/run runs"
    return found[1]


def test_ci_runs_the_command_of_the_readme() -> None:
    """.ci/run takes the command from README.md, whole and unchanged."""
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    taken = next(line for line in run.splitlines() if line.startswith("tests=$("))
    assert _output("bash", "-c", f'{taken}; printf %s "$tests"') == _marked_block()
    assert re.search(r'^eval "\$tests"', run, re.MULTILINE)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_commands_of_the_readme_are_commands() -> None:
    """Each shell block of README.md is read by a shell without complaint."""
    blocks = re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2, "two commands do all the set-up"
    for block in blocks:
        _output("bash", "-n", "-c", block)
