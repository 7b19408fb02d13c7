"""The documentation tells the truth: its code runs, its links lead somewhere, its names exist.

A Python block is a whole test file and is run; one marked ``notest`` is compiled only. A code
span that looks like a Python file must be one, below the root or below the package, and
``file.py:Class.method`` or ``file.py::test_name`` must name what that file holds.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = ROOT / "pytest_containers"

_FENCE: Final = re.compile(r"^```(?P<mark>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\[[^\]]+\]\((?P<target>[^)\s]+)\)")
_SPAN: Final = re.compile(r"`(?P<text>[^`\n]+)`")
_NAMED: Final = re.compile(r"(?P<path>[\w./-]+\.(?:py|toml|ini|md))(?:::?(?P<name>[A-Za-z_][\w.]*))?")
_OPTION: Final = re.compile(r"--containers-[a-z-]+[a-z]")
_HEADING: Final = re.compile(r"^#+ +(?P<text>.+)$", re.MULTILINE)

# Files of a reader's project, which the pages speak of as well.
_READERS: Final = frozenset({"conftest.py", "pyproject.toml", "pytest.ini"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block; *mark* is what stands behind the first fence."""

    page: Path
    line: int
    mark: str
    code: str

    @property
    def place(self) -> str:
        """File and line, as editors read it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def _pages() -> tuple[Path, ...]:
    return (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))


def _blocks() -> Iterator[Block]:
    for page in _pages():
        text = page.read_text(encoding="utf-8")
        for found in _FENCE.finditer(text):
            line = text.count("\n", 0, found.start()) + 2
            yield Block(page=page, line=line, mark=found["mark"].strip(), code=found["code"])


def _prose(page: Path) -> str:
    """Return the page with its fenced blocks blanked, line numbers kept."""
    return _FENCE.sub(lambda found: "\n" * found[0].count("\n"), page.read_text(encoding="utf-8"))


def _judge(broken: Iterable[str], law: str) -> None:
    if places := list(broken):
        pytest.fail(f"{law}\n" + "\n".join(places), pytrace=False)


def _places(pattern: re.Pattern[str], page: Path) -> Iterator[tuple[str, re.Match[str]]]:
    text = _prose(page)
    for found in pattern.finditer(text):
        yield f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, found.start()) + 1}", found


def test_python_block_compiles() -> None:
    """Every Python block is Python, and one that is to be run holds a test."""
    broken: list[str] = []
    for block in _blocks():
        if not block.mark.startswith("python"):
            continue
        try:
            tree = ast.parse(block.code)
        except SyntaxError as error:
            broken.append(f"{block.place}: {error}")
            continue
        tests = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
        if block.mark == "python" and not tests:
            broken.append(f"{block.place}: no test in it; mark it `notest` if it is a part of one")
        elif block.mark not in {"python", "python notest"}:
            broken.append(f"{block.place}: {block.mark!r} is neither `python` nor `python notest`")
    _judge(broken, "a Python block is a test file, or a marked part of one")


@pytest.mark.kernel
def test_python_block_runs(pytester: pytest.Pytester) -> None:
    """Every Python block passes as the test file that it is."""
    blocks = [block for block in _blocks() if block.mark == "python"]
    for block in blocks:
        name = re.sub(r"\W", "_", block.place.removesuffix(".md"))
        pytester.path.joinpath(f"test_{name}.py").write_text(block.code, encoding="utf-8")
    result = pytester.runpytest_subprocess("-q", "--import-mode=importlib")
    tests = sum(len(re.findall(r"^ *def test_", block.code, re.MULTILINE)) for block in blocks)
    outcomes = result.parseoutcomes()
    assert outcomes.keys() == {"passed"}
    assert outcomes["passed"] >= tests > 0


def _slug(heading: str) -> str:
    """Return the anchor that a heading gets on the common hosts of Markdown."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_link_leads_somewhere() -> None:
    """A relative link names a file that is there, and an anchor a heading of it."""
    broken: list[str] = []
    for page in _pages():
        for place, found in _places(_LINK, page):
            if re.match(r"[a-z]+:", found["target"]):
                continue
            file, _, anchor = found["target"].partition("#")
            target = (page.parent / file).resolve() if file else page
            if not target.exists():
                broken.append(f"{place}: no {found['target']}")
            elif anchor and anchor not in map(_slug, _HEADING.findall(_prose(target))):
                broken.append(f"{place}: no heading for #{anchor}")
    _judge(broken, "mend the link")


def _defined(tree: ast.Module) -> set[str]:
    """Return the names a module defines, methods and fields as ``Class.member``."""
    names: set[str] = set()
    for node in tree.body:
        for outer in _bound(node):
            names.add(outer)
            below = node.body if isinstance(node, ast.ClassDef) else []
            names |= {f"{outer}.{inner}" for item in below for inner in _bound(item)}
    return names


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {target.id for target in targets if isinstance(target, ast.Name)}
    return set()


def test_named_file_and_function_exist() -> None:
    """A file or function that a page names is in the tree, under that name."""
    broken: list[str] = []
    for page in _pages():
        for place, span in _places(_SPAN, page):
            named = _NAMED.fullmatch(span["text"])
            if named is None or named["path"] in _READERS:
                continue
            files = [f for f in (ROOT / named["path"], PACKAGE / named["path"]) if f.is_file()]
            if not files:
                broken.append(f"{place}: no file {named['path']}")
            elif named["name"] and named["name"] not in _defined(ast.parse(files[0].read_text("utf-8"))):
                broken.append(f"{place}: no {named['name']} in {named['path']}")
    _judge(broken, "the page tells of what was; tell of what is")


def test_story_of_the_house_names_its_rooms() -> None:
    """The way of one value through the house names functions on every floor."""
    named = [_NAMED.fullmatch(s["text"]) for _, s in _places(_SPAN, ROOT / "docs" / "how-it-works.md")]
    rooms = {found["path"].partition("/")[0] for found in named if found and found["name"]}
    assert {"images", "runtime", "engines", "container.py", "session.py", "plugin.py"} <= rooms


def test_options_page_is_complete() -> None:
    """docs/options.md tells every option of the plugin, and no page tells another."""
    argv = [sys.executable, "-m", "pytest", "--help"]
    known = set(_OPTION.findall(subprocess.run(argv, check=True, capture_output=True, text=True).stdout))
    told = {page: set(_OPTION.findall(page.read_text(encoding="utf-8"))) for page in _pages()}
    assert known, "the plugin is on and has options"
    assert told[ROOT / "docs" / "options.md"] >= known
    assert set().union(*told.values()) <= known


def test_dependencies_page_is_complete() -> None:
    """docs/dependencies.md gives a heading, and so a reason, to each dependency and to no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["test"], *extras["dev"]]
    names = {re.split(r"[<>=!~\[; ]", want)[0] for want in wanted} - {"pytest-containers"}
    page = _prose(ROOT / "docs" / "dependencies.md")
    assert {text for text in _HEADING.findall(page) if text.islower()} == names


def _first_column(page: str, heading: str) -> list[str]:
    """Return what stands in the first column of the first table below a heading."""
    below = _prose(ROOT / "docs" / page).partition(f"## {heading}\n")[2].partition("\n## ")[0]
    table = re.search(r"^\|.*\|\n\|[-|]+\|\n(?P<rows>(?:\|.*\|\n)+)", below, re.MULTILINE)
    assert table is not None, f"{page} has no table below {heading!r}"
    return [row.split("|")[1].strip() for row in table["rows"].splitlines()]


@pytest.mark.parametrize(
    ("page", "heading", "module", "names"),
    [
        ("store.md", "Hostile layers", "tests.images.registry.test_hostile", ["CASES"]),
        ("store.md", "What the fuzzers tried", "tests.fuzz.targets", ["TARGETS"]),
        (
            "registries.md",
            "What was done to it",
            "tests.images.registry.test_fault_proxy",
            ["PASSING", "LASTING"],
        ),
    ],
)
def test_table_tells_what_was_tried(page: str, heading: str, module: str, names: list[str]) -> None:
    """A table of what was tried has a row for each, in their order, and no other."""
    tried = importlib.import_module(module)
    assert _first_column(page, heading) == [case for name in names for case in getattr(tried, name)]
