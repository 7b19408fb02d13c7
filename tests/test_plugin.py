"""pytest's face, black box: fixtures, scopes, markers, and what they cost."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The engine of every inner run: in memory, and at its end it says what was left.
CONFTEST = """
import sys
import pytest
from pytest_containers import container_fixture, log
from tests.engines.memory import MemoryEngine

ENGINES = []

def pytest_containers_engine(config):
    ENGINES.append(MemoryEngine())
    return ENGINES[-1]

@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    for engine in ENGINES:
        print("left:", sorted(engine.run.containers), sorted(engine.run.networks), file=sys.stderr)

@pytest.fixture
def alive():
    return lambda: sorted(one.spec.name for one in ENGINES[0].run.containers.values())
"""

LEFT_NOTHING = "left: [] []"


@pytest.fixture(autouse=True)
def _inner_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare the folder of the inner run: our plugin, once, and the engine in memory."""
    entries = importlib.metadata.entry_points(group="pytest11")
    if not any(entry.value == "pytest_containers.plugin" for entry in entries):
        pytester.plugins = ["pytest_containers.plugin"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(ROOT))
    for name in ("ENGINE", "PULL", "OFFLINE", "STORE", "TIMEOUT", "LOGS"):
        monkeypatch.delenv(f"PYTEST_CONTAINERS_{name}", raising=False)
    pytester.makeconftest(CONFTEST)


def _plugin(pytester: pytest.Pytester) -> list[str]:
    loaded = [part for plugin in pytester.plugins for part in ("-p", str(plugin))]
    return [*loaded, "-p", "no:cacheprovider", "-p", "no:xdist"]


def _passes(pytester: pytest.Pytester, text: str, *options: str, count: int = 0) -> pytest.RunResult:
    pytester.makepyfile(text)
    result = pytester.runpytest_inprocess(*_plugin(pytester), *options)
    if count:
        result.assert_outcomes(passed=count)
        assert LEFT_NOTHING in result.errlines
    return result


def test_container_lives_as_long_as_the_test(pytester: pytest.Pytester) -> None:
    """What a test starts is gone after it."""
    _passes(
        pytester,
        """
        def test_one(container, alive):
            box = container("host", command=["sleep", "60"])
            assert box.exec("echo hello").stdout == "hello\\n"
            assert alive() == ["host-1"]

        def test_two(container, alive):
            assert alive() == []
        """,
        count=2,
    )


def test_container_of_a_fixture_lives_as_long_as_the_fixture(pytester: pytest.Pytester) -> None:
    """Without a scope, the caller's is meant; its teardown still finds the container alive."""
    _passes(
        pytester,
        """
        import pytest

        @pytest.fixture(scope="module")
        def box(container):
            made = container("host", name="box", command=["sleep", "60"])
            yield made
            assert made.exec("echo bye").exit_code == 0

        def test_one(box, container, alive):
            container("host", command=["sleep", "60"])
            assert alive() == ["box", "host-1"]

        def test_two(box, alive):
            assert box.state == "running" and alive() == ["box"]
        """,
        count=2,
    )


@pytest.mark.parametrize(
    ("scope", "seen"),
    [
        ("function", [True, True, True, True]),
        ("class", [True, False, True, True]),
        ("module", [True, False, False, True]),
        ("package", [True, False, False, True]),
        ("session", [True, False, False, False]),
        ("run", [True, False, False, False]),
    ],
)
def test_scope_shares_the_same_order(pytester: pytest.Pytester, scope: str, seen: list[bool]) -> None:
    """In a wider scope the same words are the same container, until the scope ends."""
    case = f"""
        IDS = set()

        def new(container):
            box = container("host", command=["sleep", "60"], scope="{scope}")
            IDS.add(box.id)
            return box.id
        """
    pytester.makepyfile(shared=case)
    for package in ("a", "b"):
        pytester.mkpydir(package)
    (pytester.path / "a" / "test_a.py").write_text(
        "from shared import new\n"
        "class TestA:\n"
        "    def test_one(self, container): print('id:', new(container))\n"
        "    def test_two(self, container): print('id:', new(container))\n"
        "def test_three(container): print('id:', new(container))\n"
    )
    (pytester.path / "b" / "test_b.py").write_text(
        "from shared import new\ndef test_four(container): print('id:', new(container))\n"
    )
    result = pytester.runpytest_inprocess(*_plugin(pytester), "-s")
    result.assert_outcomes(passed=4)
    ids = [line.partition("id: ")[2] for line in result.outlines if "id: " in line]
    assert [one not in ids[:at] for at, one in enumerate(ids)] == seen
    assert LEFT_NOTHING in result.errlines


def test_scope_that_cannot_be_meant_is_told(pytester: pytest.Pytester) -> None:
    """A scope that is none, or ends before its caller, is refused with the mend."""
    result = _passes(
        pytester,
        """
        import pytest

        @pytest.fixture(scope="module")
        def box(container):
            return container("host", scope="function")

        def test_narrow(box): pass

        def test_none(container):
            container("host", scope="forever")
        """,
    )
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*fixture box lives as long as its module; scope 'function' ends before that"]
    )
    result.stdout.fnmatch_lines(["*'forever' is not a scope"])


def test_container_fixture_is_a_fixture_with_a_name(pytester: pytest.Pytester) -> None:
    """A declared fixture is one container of its scope."""
    _passes(
        pytester,
        """
        from pytest_containers import container_fixture, log

        quick = container_fixture("host", command="sleep 60")
        loud = ["sh", "-c", "echo up; sleep 60"]
        slow = container_fixture("host", scope="session", command=loud, ready=log("up"))
        shared = container_fixture("host", scope="run", command="sleep 60")
        seen = []

        def test_one(quick, slow, shared):
            seen.extend([quick.id, slow.id, shared.id])

        def test_two(quick, slow, shared):
            assert [one.id in seen for one in (quick, slow, shared)] == [False, True, True]
        """,
        count=2,
    )


def test_marker_starts_a_container(pytester: pytest.Pytester) -> None:
    """A marked test finds its containers by image or name, those of the module first."""
    _passes(
        pytester,
        """
        import pytest

        pytestmark = pytest.mark.container("host", name="first", command="sleep 60")

        @pytest.mark.container("host", name="second", command="sleep 60")
        def test_two(container, alive):
            assert alive() == ["first", "second"]
            assert container["first"].exec("getent hosts second").exit_code == 0
            assert container["host"] is container["second"]

        def test_one(alive):
            assert alive() == ["first"]
        """,
        count=2,
    )


@pytest.mark.parametrize(
    ("marker", "registered"),
    [
        ("@pytest.mark.container", False),
        ("@pytest.mark.container()", False),
        ("@pytest.mark.container('needs a docker daemon')", False),
        ("@pytest.mark.container(reason='slow')", False),
        ("@pytest.mark.container('one', 'two')", False),
        ("@pytest.mark.container(7)", False),
        ("@pytest.mark.container(name='db')", False),
        ("@pytest.mark.container('slow')", True),
    ],
)
def test_marker_of_the_project_is_left_alone(
    pytester: pytest.Pytester, marker: str, registered: bool
) -> None:
    """A marker named container that names no image starts nothing, and no engine either."""
    if registered:
        pytester.makeini("[pytest]\nmarkers = container: of the project's own")
    pytester.makepyfile(f"import pytest\n{marker}\ndef test_one(): pass\n")
    result = pytester.runpytest_inprocess(*_plugin(pytester))
    result.assert_outcomes(passed=1)
    assert "left:" not in result.stderr.str()


def test_marker_of_the_project_does_not_hide_ours(pytester: pytest.Pytester) -> None:
    """Beside a project's own marker of that name, one that names an image starts it."""
    _passes(
        pytester,
        """
        import pytest

        pytestmark = pytest.mark.container

        @pytest.mark.container("host", name="box", command="sleep 60")
        def test_one(alive):
            assert alive() == ["box"]

        @pytest.mark.container(image="host", name="other", command="sleep 60")
        def test_two(alive):
            assert alive() == ["other"]
        """,
        count=2,
    )


def test_fixtures_of_the_project_start_no_engine(pytester: pytest.Pytester) -> None:
    """A project's own fixtures named container, network and images are its own."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def container(): return {"db": 1}

        @pytest.fixture
        def network(): return 2

        @pytest.fixture
        def images(): return 3

        def test_one(container, network, images):
            assert (container, network, images) == ({"db": 1}, 2, 3)
        """
    )
    result = pytester.runpytest_inprocess(*_plugin(pytester))
    result.assert_outcomes(passed=1)
    assert "left:" not in result.stderr.str()


def test_container_fixture_and_marker_work_beside_a_fixture_of_the_project(
    pytester: pytest.Pytester,
) -> None:
    """What a project calls container changes neither a fixture that is a container nor the marker."""
    _passes(
        pytester,
        """
        import pytest
        from pytest_containers import container_fixture

        box = container_fixture("host", name="box", command="sleep 60")

        @pytest.fixture
        def container():
            return {"db": "of the project's own"}

        def test_both(box, container, alive):
            assert box.exec("true").exit_code == 0 and "db" in container and alive() == ["box"]

        @pytest.mark.container("host", name="marked", command="sleep 60")
        def test_marker(container, alive):
            assert "db" in container and alive() == ["marked"]
        """,
        count=2,
    )


def test_container_by_an_unknown_name_is_told(pytester: pytest.Pytester) -> None:
    """A name that the test does not have is told with those it has."""
    result = _passes(
        pytester,
        """
        def test_one(container):
            container("host", command="sleep 60")
            container["redis"]
        """,
    )
    result.stdout.fnmatch_lines(["*this test has no container 'redis'", "*seen: host-1 (host)"])


def test_networks_end_with_their_scope(pytester: pytest.Pytester) -> None:
    """A network is there for the test, and goes after its containers."""
    _passes(
        pytester,
        """
        import pytest
        from pytest_containers import SpecInvalid

        def test_one(container, network):
            apart = network()
            named = network("named", internal=True)
            one = container("host", name="box", command="sleep 60", network=apart)
            two = container("host", name="box", command="sleep 60", network="named")
            assert one.ip != two.ip

        def test_two(network):
            network("named", scope="module")
            with pytest.raises(SpecInvalid, match="scope='run'"):
                network(scope="run")
        """,
        count=2,
    )


def test_images_fixture_names_and_lists(pytester: pytest.Pytester) -> None:
    """The shelf of images is there for tests and fixtures of every scope."""
    _passes(
        pytester,
        """
        import pytest

        @pytest.fixture(scope="session")
        def made(container, images):
            container("host", command="sleep 60", files={"/srv/a": "x"}).commit("made:1")
            images.tag("made:1", "made:2")
            return "made:2"

        def test_one(made, images, container):
            assert [record.reference for record in images.list()] == ["made:1", "made:2"]
            assert container(made).read_text("/srv/a") == "x"
        """,
        count=1,
    )


def test_engine_starts_as_soon_as_it_is_wanted(pytester: pytest.Pytester) -> None:
    """After collection the engine begins to start, unless nobody wants it or nothing is run."""
    check = """
        import conftest
        def test_one({0}):
            assert [engine.prepared for engine in conftest.ENGINES] == {1}
        """
    pytester.makepyfile(test_plain=check.format("", []))
    options = _plugin(pytester)
    pytester.runpytest_inprocess(*options, "test_plain.py").assert_outcomes(passed=1)
    pytester.makepyfile(test_wants=check.format("container", [1]))
    pytester.runpytest_inprocess(*options, "test_wants.py").assert_outcomes(passed=1)
    assert LEFT_NOTHING not in pytester.runpytest_inprocess(*options, "--collect-only").errlines


def test_interrupt_leaves_nothing(pytester: pytest.Pytester) -> None:
    """Ctrl-C in a test removes its containers and those of wider scopes."""
    pytester.makepyfile(
        """
        def test_one(container):
            container("host", command="sleep 60", scope="session")
            container("host", command="sleep 61")
            raise KeyboardInterrupt
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist")
    assert LEFT_NOTHING in result.errlines


def test_workers_join_one_run(pytester: pytest.Pytester) -> None:
    """The controller names the run, and its workers are told its folder and its owner."""
    pytester.makeconftest(
        CONFTEST
        + """
def pytest_collection_finish(session):
    told = getattr(session.config, "workerinput", {}).get("containers_run")
    if told:
        with open("told", "a") as file:
            file.write(f"{told[0]} {told[1]}\\n")
"""
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", range(4))
        def test_one(container, n):
            box = container("host", command="sleep 60")
            assert box.exec("getent hosts " + box.name).exit_code == 0
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n", "2")
    result.assert_outcomes(passed=4)
    told = (pytester.path / "told").read_text().splitlines()
    assert len(told) == 2
    assert len(set(told)) == 1


@pytest.mark.kernel
def test_workers_share_what_belongs_to_the_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the native engine the workers join one run, share its containers, and leave nothing."""
    monkeypatch.setenv("PYTEST_CONTAINERS_STORE", str(pytester.path / "store"))
    pytester.makeconftest("")
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.parametrize("n", range(4))
        def test_one(container, n):
            shared = container("host", command="sleep 60", scope="run")
            own = container("host", name="own", command="sleep 60")
            assert own.exec("getent hosts own").stdout.split()[0] == own.ip
            with open("seen", "a") as file:
                file.write(f"{os.getpid()} {shared.id}\\n")
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n", "2")
    result.assert_outcomes(passed=4)
    seen = [line.split() for line in (pytester.path / "seen").read_text().splitlines()]
    assert (len(seen), len({worker for worker, _ in seen}), len({one for _, one in seen})) == (4, 2, 1)


def test_import_of_the_plugin_loads_nothing(tmp_path: Path) -> None:
    """pytest's start pays for two small modules: all else is loaded when a test wants it."""
    script = (
        "import sys, pytest, _pytest.config; before = set(sys.modules);"
        "import pytest_containers.plugin; print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert loaded == ["pytest_containers", "pytest_containers.options", "pytest_containers.plugin"]


def test_run_without_containers_loads_nothing(pytester: pytest.Pytester) -> None:
    """A whole run of a project that uses no container loads none of the rest, either."""
    pytester.makeconftest("")
    pytester.makepyfile("def test_one(): pass")
    script = (
        "import sys, pytest; pytest.main([]);"
        "print('loaded:', *sorted(m for m in sys.modules if m.startswith('pytest_containers')));"
        "print('heavy:', *sorted({'pyroute2', 'urllib3', 'tenacity', 'filelock'} & set(sys.modules)))"
    )
    result = pytester.run(sys.executable, "-c", script.replace("main([])", f"main({_plugin(pytester)})"))
    ours = "pytest_containers pytest_containers.options pytest_containers.plugin"
    result.stdout.fnmatch_lines([f"loaded: {ours}", "heavy:"])


def test_every_error_is_exported() -> None:
    """What can be raised can be caught: each class of the tree is a public name."""
    import pytest_containers
    from pytest_containers.errors import ContainersError

    tree = [ContainersError]
    for kind in tree:
        tree.extend(child for child in kind.__subclasses__() if child.__module__ == kind.__module__)
    assert len(tree) > 20
    assert [kind.__name__ for kind in tree if kind.__name__ not in pytest_containers.__all__] == []
    assert all(getattr(pytest_containers, kind.__name__) is kind for kind in tree)


def test_public_names_are_all_there() -> None:
    """Every name of the package's __all__ can be imported, and no other one."""
    import pytest_containers

    for name in pytest_containers.__all__:
        assert getattr(pytest_containers, name).__name__ == name or name == "Probe"
    assert set(pytest_containers.__all__) <= set(dir(pytest_containers))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        getattr(pytest_containers, "nonsense")  # noqa: B009
