"""The sources of package, tests and examples, parsed: what the laws of the house judge."""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = "pytest_containers"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One Python file; *module* is its dotted name below the folder it was found in."""

    path: Path
    module: str
    text: str
    tree: ast.Module

    def at(self, node: ast.AST | int, what: str) -> str:
        """Return *what* with the place in front, as editors read it."""
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return f"{self.path.relative_to(ROOT)}:{line}: {what}"

    def within(self, *prefixes: str) -> bool:
        """Return whether the module is one of *prefixes* or below it."""
        return any(self.module == prefix or self.module.startswith(prefix + ".") for prefix in prefixes)

    def functions(self) -> Iterator[Function]:
        """Yield every function, nested ones and methods included."""
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))

    def statements(self, *, typing: bool = True) -> Iterator[ast.stmt]:
        """Yield what runs at import, the insides of ``if``, ``try`` and ``with`` included.

        Without *typing*, what stands there for annotations alone is left out.
        """
        waiting: list[ast.stmt] = list(self.tree.body)
        while waiting:
            node = waiting.pop(0)
            yield node
            told = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
            if isinstance(node, ast.If | ast.Try | ast.With) and (typing or not told):
                for block in ("body", "orelse", "finalbody", "handlers"):
                    for part in getattr(node, block, []):
                        waiting += part.body if isinstance(part, ast.ExceptHandler) else [part]

    def imports(self, *, at_once: bool = False) -> Iterator[tuple[ast.AST, str]]:
        """Yield every imported module; with *at_once* only those that are imported with this one."""
        for node in self.statements(typing=False) if at_once else ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                names = {f"{base}.{alias.name}" for alias in node.names}
                yield from ((node, name) for name in sorted({n for n in names if _is_ours(n)} or {base}))
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                yield from ((node, str(a.value)) for a in node.args if isinstance(a, ast.Constant))

    def public(self) -> Iterator[Function | ast.ClassDef]:
        """Yield public classes and functions, and the public methods of the former."""
        for node in self.tree.body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                yield node
                below = node.body if isinstance(node, ast.ClassDef) else []
                yield from (n for n in below if isinstance(n, Function) and not n.name.startswith("_"))

    def prose(self) -> Iterator[tuple[int, str]]:
        """Yield the comments and docstrings with their first lines."""
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Module | ast.ClassDef | Function) and (text := ast.get_docstring(node)):
                yield getattr(node, "lineno", 1), text


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """All the Python there is; *tests* holds the examples too."""

    root: Path
    package: tuple[Source, ...]
    tests: tuple[Source, ...]

    @property
    def everything(self) -> tuple[Source, ...]:
        """The package and its tests."""
        return (*self.package, *self.tests)


@functools.cache
def _is_ours(dotted: str) -> bool:
    place = ROOT.joinpath(*dotted.split("."))
    return dotted.startswith(PACKAGE) and (place.with_suffix(".py").exists() or place.is_dir())


def _read(folder: str) -> tuple[Source, ...]:
    found: list[Source] = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        dotted = ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
        text = path.read_text(encoding="utf-8")
        module = dotted.removesuffix(".__init__").removesuffix("__init__")
        found.append(Source(path=path, module=module, text=text, tree=ast.parse(text, str(path))))
    return tuple(found)


@pytest.fixture(scope="session")
def house() -> House:
    """Return the parsed sources."""
    return House(root=ROOT, package=_read(PACKAGE), tests=(*_read("tests"), *_read("examples")))
