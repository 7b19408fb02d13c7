"""The laws of the house's words: names, docstrings, cited sources, and how a test is written."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugins.sources import Function, House, Source

# What counts as a cited source, in comments and docstrings.
_SOURCE: Final = re.compile(
    r"https?://\S+"
    r"|\b[a-z_][\w.+-]*\([1-9]\)"  # a manual page: openat2(2)
    r"|\bRFC ?[0-9]{3,}"
    r"|\b(?:image|runtime|distribution)-spec\b"
    r"|\b(?:Documentation|include|kernel|fs|net|mm|security|drivers|lib)/[\w./-]+\.(?:c|h|rst)\b"
)
SOURCES_PER_1000_LINES: Final = 6
SOURCES_PER_1000_LINES_IN_RUNTIME: Final = 10

# Words that say nothing about the thing they name.
_EMPTY: Final = re.compile(
    r"Manager|Helper|Util|Wrapper|Info(?![a-z])|(?:^|_)(?:do|get)_[a-z]|(?:^|_)utils?(?:_|$)"
)
# The brackets keep this line out of its own law.
_PROMISES: Final = re.compile(r"\b(?:T[O]DO|FIXM[E]|XX[X]|HAC[K])\b")
_TOLD_ELSEWHERE: Final = re.compile(r"\b(?:issue|pull request|PR) ?#[0-9]+", re.IGNORECASE)
_TEXTS: Final = (".py", ".md", ".toml", ".ini", ".yml", ".yaml", ".sh", "run")
_EXEMPT_DECORATORS: Final = frozenset({"override", "overload", "setter"})


def _judge(broken: Iterable[str], law: str) -> None:
    if places := list(broken):
        pytest.fail(f"{law}\n" + "\n".join(places), pytrace=False)


def _bound(source: Source) -> set[str]:
    """Return the names a module has after its import, those for annotations alone included."""
    names: set[str] = set()
    for node in source.statements():
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
    return names


def _exported(source: Source) -> list[str] | None:
    for node in source.statements():
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(ast.unparse(target) == "__all__" for target in targets):
                return list(ast.literal_eval(node.value))
    return None


def test_module_says_what_it_offers(house: House) -> None:
    """`__all__` stands in every module, names only what exists, and leaves out nothing public."""
    broken: list[str] = []
    for source in house.package:
        exported = _exported(source)
        if exported is None and len(source.tree.body) > 1:
            broken.append(source.at(1, "no __all__"))
        exported, bound = exported or [], _bound(source)
        broken += [source.at(1, f"__all__ names {name}, which is not here") for name in set(exported) - bound]
        broken += [
            source.at(node, f"{node.name} is public and not in __all__")
            for node in source.tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and not node.name.startswith(("_", "pytest_"))
            and node.name not in exported
        ]
    _judge(broken, "list what others may use; an underscore in front of the rest")


def _decorators(node: Function | ast.ClassDef) -> set[str]:
    return {ast.unparse(mark).partition("(")[0].rpartition(".")[2] for mark in node.decorator_list}


def test_public_name_has_a_docstring(house: House) -> None:
    """Modules, public classes, functions and methods say what they do; an override inherits it."""
    broken = [s.at(1, "the module says nothing") for s in house.everything if not ast.get_docstring(s.tree)]
    broken += [
        source.at(node, f"{node.name} says nothing")
        for source in house.package
        for node in source.public()
        if not ast.get_docstring(node) and not _decorators(node) & _EXEMPT_DECORATORS
    ]
    _judge(broken, "one imperative line: what it does and returns")


def _sources(sources: Iterable[Source]) -> tuple[int, int]:
    """Return how many sources are cited and how many lines there are."""
    cited = lines = 0
    for source in sources:
        lines += source.text.count("\n")
        cited += sum(len(_SOURCE.findall(text)) for _, text in source.prose())
    return cited, lines


def test_sources_are_cited(house: House) -> None:
    """At least six sources per thousand lines say where the knowledge is from."""
    cited, lines = _sources(house.package)
    assert cited * 1000 >= SOURCES_PER_1000_LINES * lines, f"{cited} sources in {lines} lines"


def test_kernel_sources_are_cited(house: House) -> None:
    """Beside the kernel it is ten per thousand lines."""
    cited, lines = _sources(source for source in house.package if source.within("runtime"))
    assert cited * 1000 >= SOURCES_PER_1000_LINES_IN_RUNTIME * lines, f"{cited} sources in {lines} lines"


def _names(source: Source) -> Iterator[tuple[ast.AST, str]]:
    yield from ((node, node.name) for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef))
    yield from ((node, node.name) for node in source.functions())


def test_name_is_the_fields_term(house: House) -> None:
    """No class, function or module bears a word that would fit any other as well."""
    broken = [s.at(1, s.module) for s in house.package if _EMPTY.search(s.module.rpartition(".")[2])]
    broken += [s.at(node, name) for s in house.package for node, name in _names(s) if _EMPTY.search(name)]
    _judge(broken, "never Manager, Helper, Util, Wrapper, Info, do_ or get_: take the field's term")


def _texts(root: Path) -> Iterator[tuple[Path, int, str]]:
    for top in ("pytest_containers", "tests", "examples", "docs", "benchmarks", ".ci", ""):
        for path in sorted((root / top).rglob("*") if top else root.glob("*")):
            if path.is_file() and path.name.endswith(_TEXTS) and "__pycache__" not in path.parts:
                lines = path.read_text(encoding="utf-8").splitlines()
                yield from ((path, number, line) for number, line in enumerate(lines, 1))


def test_text_promises_nothing(house: House) -> None:
    """What is missing is written in no comment: it is done, or it is not there."""
    _judge(
        (
            f"{path.relative_to(house.root)}:{n}: {line.strip()}"
            for path, n, line in _texts(house.root)
            if _PROMISES.search(line) or _TOLD_ELSEWHERE.search(line)
        ),
        "do it now; the reason stands here and not behind a number",
    )


def test_text_names_no_machine(house: House) -> None:
    """No file knows the folder it was checked out into."""
    _judge(
        (
            f"{path.relative_to(house.root)}:{n}: {line.strip()}"
            for path, n, line in _texts(house.root)
            if str(house.root) in line
        ),
        "write a path relative to the checkout",
    )


def _laws(house: House) -> Iterator[tuple[Source, Function]]:
    for source in house.tests:
        yield from ((source, node) for node in source.functions() if node.name.startswith("test"))


def test_test_states_its_law(house: House) -> None:
    """A test's docstring is one sentence, and its name begins with test_ and its subject."""
    broken: list[str] = []
    for source, node in _laws(house):
        law = ast.get_docstring(node) or ""
        if not law.endswith(".") or "\n\n" in law or re.search(r"[.!?] [A-Z]", law):
            broken.append(source.at(node, f"{node.name}: {law or 'no docstring'}"))
        elif not re.fullmatch(r"test(_[a-z0-9]+)+", node.name):
            broken.append(source.at(node, f"{node.name} is not test_<subject>_<what>"))
    _judge(broken, "one sentence that says the law")


def test_test_is_annotated(house: House) -> None:
    """Every function of a test file says what it takes and returns, and a test returns None."""
    broken: list[str] = []
    for source in house.tests:
        for node in source.functions():
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [a.arg for a in arguments if a.annotation is None and a.arg not in {"self", "cls"}]
            if bare or node.returns is None:
                broken.append(source.at(node, f"{node.name}: {bare or 'no return type'}"))
            elif node.name.startswith("test_") and ast.unparse(node.returns) != "None":
                broken.append(source.at(node, f"{node.name} returns {ast.unparse(node.returns)}"))
    _judge(broken, "annotate it")


def test_test_never_sleeps(house: House) -> None:
    """A test waits for what it needs, with a deadline, and for nothing else."""
    broken: list[str] = []
    for source in house.tests:
        for node in ast.walk(source.tree):
            slept = isinstance(node, ast.Attribute) and ast.unparse(node) in {"time.sleep", "asyncio.sleep"}
            if slept or (isinstance(node, ast.ImportFrom) and any(a.name == "sleep" for a in node.names)):
                broken.append(source.at(node, "sleeps"))
    _judge(broken, "poll with a deadline; threading.Event().wait() between two looks")


def test_law_is_never_skipped(house: House) -> None:
    """No test is switched off: skip and xfail without a condition are not used."""
    broken = (
        source.at(node, ast.unparse(node))
        for source in house.tests
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in {"pytest.mark.skip", "pytest.mark.xfail", "pytest.xfail"}
    )
    _judge(broken, "mend it or remove it")
