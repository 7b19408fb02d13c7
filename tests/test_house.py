"""The laws of the house: who may import whom, and what the code must not do.

Only syntax trees are read and nothing of the package is imported, so these tests run anywhere in
a second or two. A law that is broken names file and line. The reasons stand in
docs/how-it-works.md, "The house"; the laws of its words are in test_house_words.py.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.plugins.sources import House

PACKAGE: Final = "pytest_containers"

# A module's floor is that of the first prefix its dotted name stands under.
FLOORS: Final = (
    ("spec", 0),
    ("seccomp_profile", 0),
    ("errors", 0),
    ("progress", 0),
    ("inventory", 0),
    ("spelling", 0),
    ("_files", 0),
    ("_tar", 0),
    ("images", 1),
    ("runtime", 1),
    ("engines", 2),
    ("container", 3),
    ("cluster", 3),
    ("probe", 3),
    ("checks", 3),
    ("exchanges", 3),
    ("exits", 3),
    ("output", 3),
    ("transfer", 3),
    ("variables", 3),
    ("session", 4),
    ("catalog", 4),
    ("names", 4),
    ("options", 4),
    ("order", 4),
    ("resources", 4),
    ("hosts", 4),
    ("factory", 4),
    ("ledger", 4),
    ("shelf", 4),
    ("plugin", 5),
    ("cli", 5),
    ("commands", 5),
    ("notice", 5),
    ("__main__", 5),
)
WINGS: Final = ("images", "runtime")
# What stands outside the standard library (and ctypes), and the only modules that may see it.
DOORS: Final = (
    ("pytest", ("plugin",)),
    ("_pytest", ()),
    ("ctypes", ("runtime.syscalls",)),
    ("filelock", ("_files",)),
    ("tenacity", ("probe", "images.transport")),
    ("urllib3", ("images.transport",)),
    ("rich", ("commands.terminal",)),
    ("argcomplete", ("commands.completion",)),
    ("zstandard", ("images.decompress",)),
    ("isal", ("images.deflate",)),
)
# Where a process of ours begins, or a container's start: what these load, every test waits for.
ENTRANCES: Final = ("plugin", "cli", "session", "container", "engines.native", "runtime.supervisor")
# pytest is there before its plugin; ctypes is what the runtime is made of.
LOADED_ANYWAY: Final = frozenset({"pytest", "ctypes"})

_MUTABLE: Final = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_MUTABLE_CALLS: Final = frozenset(
    "list dict set bytearray defaultdict OrderedDict Counter deque Lock RLock local ContextVar".split()
)
_READ_ONLY: Final = frozenset("Mapping Sequence Collection Set AbstractSet tuple frozenset".split())
_NOBODYS: Final = frozenset("print exit quit breakpoint".split())


def _judge(broken: Iterable[str], law: str) -> None:
    if places := list(broken):
        pytest.fail(f"{law}\n" + "\n".join(places), pytrace=False)


def _under(module: str, prefixes: Iterable[str]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def _floor(module: str) -> int | None:
    return next((floor for prefix, floor in FLOORS if _under(module, (prefix,))), None)


def _own(imported: str) -> str | None:
    """Return the dotted name below the package, or None for somebody else's module."""
    if imported == PACKAGE or imported.startswith(PACKAGE + "."):
        return imported.removeprefix(PACKAGE).removeprefix(".")
    return None


def _last(node: ast.AST) -> str:
    """Return the last part of a dotted name, call or subscript: ``Final`` of ``typing.Final[int]``."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def test_module_has_a_floor(house: House) -> None:
    """Every module of the package stands on a floor that this file names."""
    _judge(
        (s.at(1, "no floor") for s in house.package if s.module and _floor(s.module) is None),
        "give the module its floor in FLOORS, and the reason in docs/how-it-works.md",
    )


def test_floor_imports_only_floors_below(house: House) -> None:
    """No import goes upwards, and nothing inside goes through the public door."""
    broken: list[str] = []
    for source in house.package:
        own = _floor(source.module)
        for node, imported in source.imports() if own is not None else ():
            inside = _own(imported)
            floor = None if inside is None else _floor(inside)
            if inside is not None and (floor is None or floor > (own or 0)):
                broken.append(source.at(node, f"floor {own} imports {imported} (floor {floor})"))
    _judge(broken, "a floor imports its own and those below")


def test_wings_never_see_each_other(house: House) -> None:
    """The image wing and the runtime wing meet in engines/ alone; the floors above see neither."""
    broken: list[str] = []
    for source in house.package:
        allowed = WINGS if source.within("engines") else tuple(w for w in WINGS if source.within(w))
        for node, imported in source.imports():
            inside = _own(imported) or ""
            if _under(inside, WINGS) and not _under(inside, allowed):
                broken.append(source.at(node, f"sees {imported}"))
    _judge(broken, "images/ and runtime/ are joined in engines/ and nowhere else")


def test_engine_is_chosen_in_one_place(house: House) -> None:
    """Above the seam only session.py knows that there is more than engines/base.py."""
    broken = (
        source.at(node, f"sees {imported}")
        for source in house.package
        if (_floor(source.module) or 0) > 2 and source.module != "session"
        for node, imported in source.imports()
        if _under(_own(imported) or "", ("engines",)) and _own(imported) != "engines.base"
    )
    _judge(broken, "what a test holds sees engines/base.py only")


def test_dependency_has_one_door(house: House) -> None:
    """Each dependency is imported where DOORS says, and what DOORS does not name is not imported."""
    doors = dict(DOORS)
    broken: list[str] = []
    for source in house.package:
        for node, imported in source.imports():
            top = imported.partition(".")[0]
            free = top == PACKAGE or (top in sys.stdlib_module_names and top not in doors)
            if not free and not source.within(*doors.get(top, ())):
                broken.append(
                    source.at(node, f"imports {imported}; its door: {doors.get(top, ()) or 'none'}")
                )
    _judge(broken, "one door per dependency")


def test_dependency_is_imported_late(house: House) -> None:
    """No import statement leads from an entrance to a third-party module: that takes a call."""
    sources = {source.module: source for source in house.package}
    waiting: list[tuple[str, str]] = [(name, name) for name in ENTRANCES if name in sources]
    seen: set[str] = set(ENTRANCES)
    broken: list[str] = []
    while waiting:
        module, chain = waiting.pop()
        for node, imported in sources[module].imports(at_once=True):
            inside = _own(imported)
            if imported.partition(".")[0] in dict(DOORS).keys() - LOADED_ANYWAY:
                broken.append(sources[module].at(node, f"{chain} -> {imported}"))
            elif inside in sources and inside not in seen:
                seen.add(inside)
                waiting.append((inside, f"{chain} -> {inside}"))
    _judge(broken, "import it, or the module that leads there, where it is first used")


def test_imports_make_no_ring(house: House) -> None:
    """Following the imports that run at import time never leads back."""
    edges = {
        source.module: {
            inside
            for _, imported in source.imports(at_once=True)
            if (inside := _own(imported)) and inside != source.module
        }
        for source in house.package
    }
    while leaves := {module for module, targets in edges.items() if not targets & edges.keys()}:
        edges = {module: targets for module, targets in edges.items() if module not in leaves}
    assert not edges, f"an import ring is among {sorted(edges)}"


def test_function_says_what_it_takes(house: House) -> None:
    """Nothing of the package takes keyword arguments it does not name, and nothing is typed as Any."""
    broken: list[str] = []
    for source in house.package:
        for node in source.functions():
            bag = node.args.kwarg
            if bag is not None and _last(bag.annotation or bag) != "Unpack":
                broken.append(source.at(node, f"{node.name} takes **{bag.arg}"))
    for source in house.everything:
        for part in ast.walk(source.tree):
            named = isinstance(part, ast.Name | ast.Attribute) and _last(part) == "Any"
            if named or (isinstance(part, ast.alias) and part.name == "Any"):
                broken.append(source.at(part, "Any"))
    _judge(broken, "name the arguments; write the type")


def _mutable(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that *statement* binds to something that can change under everybody's feet."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = [ast.unparse(target) for target in targets if ast.unparse(target) != "__all__"]
    changeable = isinstance(statement.value, _MUTABLE) or (
        isinstance(statement.value, ast.Call) and _last(statement.value) in _MUTABLE_CALLS
    )
    annotation = statement.annotation if isinstance(statement, ast.AnnAssign) else None
    if isinstance(annotation, ast.Subscript) and _last(annotation) == "Final":
        annotation = annotation.slice
    if changeable and not (annotation and _last(annotation) in _READ_ONLY):
        yield from names


def test_module_keeps_no_state(house: House) -> None:
    """A module's names are constants: a table is a tuple, or typed as Mapping; nothing is `global`."""
    broken: list[str] = []
    for source in house.package:
        broken += [
            source.at(statement, f"{name} can be changed")
            for statement in source.statements()
            for name in _mutable(statement)
        ]
        broken += [source.at(n, "global") for n in ast.walk(source.tree) if isinstance(n, ast.Global)]
    _judge(broken, "make it a tuple or frozenset, annotate Final[Mapping[...]], or give it an owner")


def test_settings_are_not_read_at_import(house: House) -> None:
    """The environment is read when something is done, never when a module is loaded."""
    broken: list[str] = []
    for source in house.package:
        for statement in source.statements():
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            broken += [
                source.at(node, ast.unparse(node))
                for node in ast.walk(statement)
                if _last(node) in {"environ", "getenv", "environb"}
            ]
    _judge(broken, "read it in the function that needs it")


def _is_program(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


def test_package_neither_prints_nor_asserts_nor_exits(house: House) -> None:
    """Errors are raised and results returned; ending the process is for ``if __name__`` alone."""
    broken: list[str] = []
    for source in house.package:
        own = {id(n) for statement in source.tree.body if _is_program(statement) for n in ast.walk(statement)}
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Assert):
                broken.append(source.at(node, "assert"))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in _NOBODYS:
                broken.append(source.at(node, ast.unparse(node.func)))
            elif id(node) not in own and (
                (isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.exit")
                or (isinstance(node, ast.Name) and node.id == "SystemExit")
            ):
                broken.append(source.at(node, ast.unparse(node)))
    _judge(broken, "raise an error of errors.py, or return")


def test_noun_is_frozen(house: House) -> None:
    """A dataclass has slots, and a frozen one, which is a noun, takes its fields by name."""
    broken: list[str] = []
    for source in house.package:
        for node in ast.walk(source.tree):
            for mark in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                given = {k.arg for k in mark.keywords} if isinstance(mark, ast.Call) else set()
                wanted = {"slots", "kw_only"} if "frozen" in given else {"slots"}
                if _last(mark) == "dataclass" and not wanted <= given:
                    broken.append(source.at(node, f"{getattr(node, 'name', '')}: {wanted - given}"))
    _judge(broken, "@dataclass(frozen=True, slots=True, kw_only=True)")
