"""pytest's face: options, fixtures, markers and reports (floor 5, the only door to pytest).

Every pytest run of every project imports this module, so at its top stands nothing but pytest and
what pytest has loaded anyway; the rest comes with the first test that asks for a container.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

import pytest

from pytest_containers.options import LOCK_NAME, OPTIONS, PATHS, SEVERAL, variable

if TYPE_CHECKING:
    from typing import Unpack

    from pytest_containers.container import Container
    from pytest_containers.engines.base import Engine
    from pytest_containers.factory import ContainerFactory, Keep, NetworkFactory, Place
    from pytest_containers.ledger import Claim, Ledger
    from pytest_containers.order import Options, Scope
    from pytest_containers.session import RunPlace, Session
    from pytest_containers.shelf import Shelf

__all__ = ["EngineHook", "RunPlugin", "container", "container_fixture", "images", "network"]

# What a fixture of ours asks for, and a project's own fixture of the same name does not.
_RUN = "_pytest_containers_run"
_MARKED = "containers_of_markers"
# A path, or what can be a reference (distribution, reference/regexp.go); a reason is not in this shape.
_IMAGE = re.compile(r"[.~/]\S*|[a-z0-9][a-z0-9._/:@+-]*", re.IGNORECASE)
_REGISTERED = re.compile(r"\s*container\s*(\(|:|$)")
_WORKER_KEY = "containers_run"
_MARKER = (
    "container(image, **options): start a container for this test; the test reaches it as"
    " container[image] or container[name]"
)


class EngineHook:
    """The hook by which another plugin brings an engine."""

    @pytest.hookspec(firstresult=True)
    def pytest_containers_engine(self, config: pytest.Config) -> Engine | None:
        """Return the engine of this process, opened cheaply, or None to leave it to others."""


class _Node(Protocol):
    """An xdist worker, as its controller sees it."""

    workerinput: dict[str, object]


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hook of `EngineHook`."""
    pluginmanager.add_hookspecs(EngineHook)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add each option with its ini key; `_given` reads the environment beside them."""
    group = parser.getgroup("containers", "containers")
    for name, metavar, text in OPTIONS:
        told = f"{text} [{variable(name)}]"
        if metavar:
            group.addoption(
                f"--containers-{name}",
                dest=f"containers_{name}",
                metavar=metavar,
                help=told,
                action="append" if name in SEVERAL else "store",
            )
        else:
            group.addoption(
                f"--containers-{name}",
                dest=f"containers_{name}",
                action="store_true",
                default=None,
                help=told,
            )
        if name in SEVERAL:
            parser.addini(f"containers_{name}", told, type="args")
        else:
            parser.addini(f"containers_{name}", told)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and this run's own plugin."""
    config.addinivalue_line("markers", _MARKER)
    plugin = RunPlugin(config)
    config.stash[_PLUGIN] = plugin
    config.pluginmanager.register(plugin, "containers-run")


def _given(config: pytest.Config) -> Mapping[str, str]:
    """Return the options as text: command line over environment over ini file."""
    given: dict[str, str] = {}
    for name, _, _ in OPTIONS:
        flag = config.getoption(f"containers_{name}")
        words = " ".join(flag) if isinstance(flag, list) else "true" if flag is True else flag
        given[name] = str(words or os.environ.get(variable(name)) or _of_ini(config, name))
    if not given["lock"] and (config.rootpath / LOCK_NAME).is_file():
        given["lock"] = str(config.rootpath / LOCK_NAME)
    return given


def _of_ini(config: pytest.Config, name: str) -> str:
    value: str | list[str] = config.getini(f"containers_{name}")
    words = value if isinstance(value, list) else [value] if value else []
    if name in PATHS:
        words = [str(config.rootpath / os.path.expanduser(word)) for word in words]
    return " ".join(words)


class RunPlugin:
    """What one pytest process keeps for its containers, and its hooks."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._session: Session | None = None
        self._run_name = os.urandom(4).hex()
        self._run_is_shared = False
        self._item: pytest.Item | None = None
        self._setups: list[pytest.FixtureRequest] = []
        self._ledger: Ledger | None = None

    # No property: pytest 8.0 looks at every attribute of a plugin, in search of fixtures.
    def session(self) -> Session:
        """Return this process's session, made when first asked for. Raises SpecInvalid for a bad option."""
        if self._session is None:
            from pytest_containers.catalog import Catalog
            from pytest_containers.notice import notice
            from pytest_containers.session import Session, Settings

            plugins = self._config.pluginmanager
            self._session = Session(
                settings=Settings.of(_given(self._config)),
                catalog=Catalog.read(self._config.rootpath),
                open_engine=self._open_engine,
                telling=notice(
                    plugins.getplugin("terminalreporter"),
                    plugins.getplugin("capturemanager"),
                    quiet=self._config.getoption("verbose") < 0,
                ),
            )
        return self._session

    def ledger(self) -> Ledger:
        """Return what this process's tests hold."""
        if self._ledger is None:
            from pytest_containers.ledger import Ledger

            self._ledger = Ledger()
        return self._ledger

    def _open_engine(self) -> Engine:
        engine: Engine = self._config.hook.pytest_containers_engine(config=self._config)
        return engine

    @pytest.hookimpl(trylast=True)
    def pytest_containers_engine(self) -> Engine:
        """Open the engine that the options name."""
        from pytest_containers.session import native_engine

        return native_engine(self.session().settings, self._place_of_run())

    # --- One run of many processes: the controller names it, its workers join it and tell if they did.

    def _place_of_run(self) -> RunPlace:
        from pytest_containers.session import run_place

        told: Mapping[str, tuple[str, int]] = getattr(self._config, "workerinput", {})
        return run_place(*told.get(_WORKER_KEY, (self._run_name, os.getpid())))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: _Node) -> None:
        """Tell an xdist worker which run it belongs to."""
        node.workerinput[_WORKER_KEY] = (self._run_name, os.getpid())

    def pytest_sessionfinish(self) -> None:
        """Tell the controller that there is a run to end."""
        output: dict[str, object] | None = getattr(self._config, "workeroutput", None)
        if output is not None and self._session is not None:
            output[_WORKER_KEY] = True

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: _Node, error: object) -> None:
        """Note that a worker has, or may have, started the run."""
        output: Mapping[str, object] = getattr(node, "workeroutput", {})
        self._run_is_shared |= error is not None or _WORKER_KEY in output

    def pytest_unconfigure(self) -> None:
        """End what this process started; as the controller of workers, end the run."""
        if self._session is not None:
            self._session.close()
        elif self._run_is_shared and self._place_of_run().folder.exists():
            self._open_engine().close()

    # --- Collection: who wants containers?

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Let a test with the marker ask for the fixture that starts its containers."""
        names: list[str] | None = getattr(item, "fixturenames", None)
        if names is not None and _MARKED not in names and next(_marks(item), None) is not None:
            names.insert(0, _MARKED)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Begin to start the engine as soon as a collected test wants it."""
        if self._config.getoption("collectonly") or not any(map(_wants_containers, session.items)):
            return
        from pytest_containers.errors import ContainersError, SpecInvalid

        try:
            self.session().prepare()
        except SpecInvalid as error:
            raise pytest.UsageError(str(error)) from None
        except ContainersError:
            # The first test that asks for a container is told; the others can still run.
            return

    # --- Where are we? What is called without a scope lives as long as its caller.

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Know the running test."""
        self._item = item
        if self._ledger is not None:
            self._ledger.begin_test()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, request: pytest.FixtureRequest) -> Generator[None, object, object]:
        """Know the fixture that is being set up."""
        self._setups.append(request)
        try:
            return (yield)
        finally:
            self._setups.remove(request)

    def place(self, scope: Scope | None) -> Place:
        """Return where something lives that is asked for now. Raises SpecInvalid for a wrong *scope*."""
        from pytest_containers.errors import SpecInvalid
        from pytest_containers.factory import Keep, Place, judge_scope

        item, caller = self._item, self._setups[-1] if self._setups else None
        if item is None:
            raise SpecInvalid("no test is running", mend="ask for containers in a test or in a fixture")
        if scope is None or (scope == "function" and caller is None):
            at_end = caller.addfinalizer if caller else item.addfinalizer
            return Place(lifetime="owner", at_end=at_end, keep=None, claim=self._claim)
        judge_scope(scope, caller.scope if caller else "function", caller.fixturename if caller else None)
        node = _node(item, scope)
        return Place(
            lifetime="run" if scope == "run" else "owner",
            at_end=node.addfinalizer,
            keep=node.stash.setdefault(_KEEP, Keep()),
            claim=self._claim,
        )

    def _claim(self, claim: Claim) -> None:
        self.ledger().claim(claim, [request.fixturename or "" for request in self._setups])

    def claims(self) -> tuple[Claim, ...]:
        """Return what the running test uses."""
        return self.ledger().claims(self._names())

    # --- The end of a scope, and what a failure shows.

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Remove what ended with this test, after everything else that ends with it."""
        if self._ledger is None:
            return (yield)
        with self._ledger.teardown():
            try:
                return (yield)
            except BaseException:
                item.stash[_SECTIONS] = self._sections()
                raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Show the containers of a test that failed, and our errors without our own frames."""
        if call.excinfo and self._ledger and not self._config.getoption("fulltrace"):
            from pytest_containers.ledger import cut_at_the_test, hint

            cut_at_the_test(call.excinfo.value)
            hint(call.excinfo.value)
        report = yield
        if report.failed:
            shown: list[tuple[str, str]] = item.stash.get(_SECTIONS, [])
            self._show(report, shown or self._sections())
        return report

    def _show(self, report: pytest.TestReport, sections: list[tuple[str, str]]) -> None:
        """Add sections to a report; a junit file has of them what belongs to the failure's own text."""
        add = getattr(report.longrepr, "addsection", None)
        if add is None or not self._config.getoption("xmlpath", None):
            report.sections.extend(sections)
            return
        for title, text in sections:
            add(title, text)

    def _names(self) -> Iterable[str]:
        names: Iterable[str] = getattr(self._item, "fixturenames", ())
        return names

    def _sections(self) -> list[tuple[str, str]]:
        if self._ledger is None:
            return []
        return self._ledger.sections(self._names(), self.session().settings.log_lines)


_PLUGIN: pytest.StashKey[RunPlugin] = pytest.StashKey()
_KEEP: pytest.StashKey[Keep] = pytest.StashKey()
_SECTIONS: pytest.StashKey[list[tuple[str, str]]] = pytest.StashKey()


def _wants_containers(item: pytest.Item) -> bool:
    names: Iterable[str] = getattr(item, "fixturenames", ())
    return _RUN in names or _MARKED in names


def _marks(item: pytest.Item) -> Iterator[pytest.Mark]:
    """Yield the test's ``container`` markers that name an image, the closest first.

    A project may have a marker of that name with a meaning of its own: without an argument, or with
    the reason of a skip. Where it has registered that name, a single word is not an image either.
    """
    registered = [line for line in item.config.getini("markers") if _REGISTERED.match(line)]
    is_shared = any(line != _MARKER for line in registered)
    for mark in item.iter_markers("container"):
        image = mark.args[0] if len(mark.args) == 1 else None if mark.args else mark.kwargs.get("image")
        if isinstance(image, str):
            has_parts = any(sign in image for sign in ":/@.~")
            if _IMAGE.fullmatch(image) and (has_parts or not is_shared):
                yield mark
        elif image is not None and isinstance(image, os.PathLike):
            yield mark


def _node(item: pytest.Item, scope: Scope) -> pytest.Item | pytest.Collector:
    """Return the node with whose end a scope ends, as pytest chooses it for fixtures."""
    kinds: Mapping[str, type[pytest.Collector]] = {
        "class": pytest.Class,
        "module": pytest.Module,
        "package": pytest.Package,
    }
    parent = item.getparent(kinds[scope]) if scope in kinds else None
    return parent or (item if scope in ("function", "class", "module") else item.session)


@contextlib.contextmanager
def _told_without_frames() -> Iterator[None]:
    """Fail with the message alone, where all the frames would be ours."""
    from pytest_containers.errors import ContainersError

    try:
        yield
    except ContainersError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.fixture(scope="session", name=_RUN)
def _run(pytestconfig: pytest.Config) -> RunPlugin:
    """Return what this process keeps for its containers."""
    return pytestconfig.stash[_PLUGIN]


def _factory(plugin: RunPlugin) -> ContainerFactory:
    from pytest_containers.factory import ContainerFactory

    with _told_without_frames():
        return ContainerFactory(plugin.session(), plugin.ledger(), plugin.place, plugin.claims)


@pytest.fixture(scope="session")
def container(_pytest_containers_run: RunPlugin) -> ContainerFactory:
    """Start containers: ``container("redis:7")`` returns one that is ready, gone after the test.

    Called in a fixture, it lives as long as that fixture; ``scope=`` says otherwise.
    """
    return _factory(_pytest_containers_run)


@pytest.fixture(scope="session")
def network(_pytest_containers_run: RunPlugin) -> NetworkFactory:
    """Make private networks: ``container("redis:7", network=network())``."""
    from pytest_containers.factory import NetworkFactory

    plugin = _pytest_containers_run
    with _told_without_frames():
        return NetworkFactory(plugin.session(), plugin.ledger(), plugin.place)


@pytest.fixture(scope="session")
def images(_pytest_containers_run: RunPlugin) -> Shelf:
    """Pull, push, tag, list, remove and load images."""
    with _told_without_frames():
        return _pytest_containers_run.session().images


@pytest.fixture(name=_MARKED)
def _containers_of_markers(request: pytest.FixtureRequest, _pytest_containers_run: RunPlugin) -> None:
    """Start the containers of the test's ``container`` markers, those of the module first."""
    start = _factory(_pytest_containers_run)
    with _told_without_frames():
        for mark in reversed(list(_marks(request.node))):
            start(*mark.args, **mark.kwargs)


def container_fixture(
    image: str | os.PathLike[str], *, scope: Scope = "function", **options: Unpack[Options]
) -> Callable[[RunPlugin], Container]:
    """Return a fixture that is a container, for a name in a conftest.

    ``redis = container_fixture("redis:7", scope="session")``. *scope* is a scope of pytest's
    fixtures, or ``"run"`` for one container for all processes of the run. The other keywords are
    those of ``container()``.
    """

    # Not by the fixture `container`, which may be the project's own.
    def start(_pytest_containers_run: RunPlugin) -> Container:
        factory = _factory(_pytest_containers_run)
        with _told_without_frames():
            return factory(image, scope="run" if scope == "run" else None, **options)

    start.__doc__ = f"A container of {os.fspath(image)}."
    fixture = pytest.fixture(scope="session" if scope == "run" else scope)
    made: Callable[[RunPlugin], Container] = fixture(start)
    return made
