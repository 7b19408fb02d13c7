"""What a failure shows: containers with state and output, our errors without our frames; options."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFTEST = """
from tests.engines.memory import MemoryEngine

def pytest_containers_engine(config):
    return MemoryEngine()
"""
LOUD = '["sh", "-c", "echo first; echo second; echo third >&2; sleep 60"]'


@pytest.fixture(autouse=True)
def _inner_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare the folder of the inner run: our plugin, once, and the engine in memory."""
    entries = importlib.metadata.entry_points(group="pytest11")
    if not any(entry.value == "pytest_containers.plugin" for entry in entries):
        pytester.plugins = ["pytest_containers.plugin"]
    monkeypatch.syspath_prepend(str(ROOT))
    for name in ("ENGINE", "PULL", "OFFLINE", "STORE", "TIMEOUT", "LOGS"):
        monkeypatch.delenv(f"PYTEST_CONTAINERS_{name}", raising=False)
    pytester.makeconftest(CONFTEST)


def _run(pytester: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(text)
    loaded = [part for plugin in pytester.plugins for part in ("-p", str(plugin))]
    return pytester.runpytest_inprocess(*loaded, "-p", "no:cacheprovider", "-p", "no:xdist", *options)


def _fails_with(pytester: pytest.Pytester, text: str, *options: str) -> str:
    result = _run(pytester, text, *options)
    outcomes = result.parseoutcomes()
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == 1, result.stdout.str()
    return result.stdout.str()


@pytest.mark.parametrize("phase", ["call", "setup"])
def test_junit_file_has_the_sections(pytester: pytest.Pytester, phase: str) -> None:
    """What a CI shows of a failure has the containers' sections, the terminal has them once."""
    fails = "assert False, 'on purpose'"
    said = _fails_with(
        pytester,
        f"""
        import pytest
        from pytest_containers import log

        @pytest.fixture
        def loud(container):
            container("host", name="loud", command={LOUD}, ready=log("third"))
            {fails if phase == "setup" else "pass"}

        def test_one(loud):
            {fails}
        """,
        "--junitxml=report.xml",
    )
    assert said.count("Container loud (host)") == 1
    assert said.count("stdout | first") == 1
    (case,) = ElementTree.parse(pytester.path / "report.xml").iter("testcase")
    (failure,) = case
    assert "Container loud (host)" in str(failure.text)
    assert "stderr | third" in str(failure.text)


def test_failed_test_shows_its_containers(pytester: pytest.Pytester) -> None:
    """A failing test's report has a section for each of its containers, with state and output."""
    said = _fails_with(
        pytester,
        f"""
        from pytest_containers import log

        def test_one(container):
            container("host", name="loud", command={LOUD}, ready=log("third"))
            container("host", name="ended", command=["sh", "-c", "exit 3"]).wait()
            assert False, "on purpose"
        """,
    )
    assert "Container loud (host)" in said
    assert "running\n" in said
    assert "stdout | first" in said
    assert "stderr | third" in said
    assert "Container ended (host)" in said
    assert "exited: code 3" in said


def test_passing_test_shows_nothing(pytester: pytest.Pytester) -> None:
    """Containers are shown for failures alone, and only those of the failed test."""
    said = _fails_with(
        pytester,
        """
        def test_one(container):
            container("host", name="quiet", command="sleep 60", scope="module")

        def test_two():
            assert False
        """,
        "-rA",
    )
    assert "Container" not in said.replace("Containers", "")


def test_wider_containers_are_shown_where_they_are_used(pytester: pytest.Pytester) -> None:
    """A container of a session fixture is shown by every failing test that asks for it."""
    said = _fails_with(
        pytester,
        """
        import pytest

        @pytest.fixture(scope="session")
        def box(container):
            return container("host", name="box", command="sleep 60")

        @pytest.fixture
        def client(box):
            return box.address(80)

        def test_one(box):
            container_is_up = box.state == "running"
            assert container_is_up

        def test_two(client):
            assert not client
        """,
    )
    assert said.count("Container box (host)") == 1


def test_lines_are_as_many_as_asked(pytester: pytest.Pytester) -> None:
    """The number of lines is an option."""
    text = f"""
        from pytest_containers import log

        def test_one(container):
            container("host", command={LOUD}, ready=log("third"))
            assert False
        """
    said = _fails_with(pytester, text, "--containers-logs=2")
    assert "stdout | second" in said
    assert "stdout | first" not in said


def test_failed_setup_shows_its_containers(pytester: pytest.Pytester) -> None:
    """A fixture that fails after its container has started shows it."""
    said = _fails_with(
        pytester,
        """
        import pytest

        @pytest.fixture
        def box(container):
            container("host", name="box", command="sleep 60")
            raise RuntimeError("on purpose")

        def test_one(box): pass
        """,
    )
    assert "Container box (host)" in said


def test_failed_teardown_shows_its_containers(pytester: pytest.Pytester) -> None:
    """A fixture that fails while it is torn down shows its container, which is gone by then."""
    said = _fails_with(
        pytester,
        f"""
        import pytest
        from pytest_containers import log

        @pytest.fixture
        def box(container):
            yield container("host", name="box", command={LOUD}, ready=log("third"))
            raise RuntimeError("on purpose")

        def test_one(box): pass
        """,
    )
    assert "Container box (host)" in said
    assert "stdout | second" in said


def test_error_in_a_test_shows_the_test_s_line_alone(pytester: pytest.Pytester) -> None:
    """The traceback of our error ends at the line of the test, with message, seen and mend."""
    said = _fails_with(
        pytester,
        """
        def test_one(container):
            container("host", command="no-such-command")
        """,
    )
    assert "> " in said
    assert 'container("host", command="no-such-command")' in said
    assert "E       pytest_containers.errors.CommandNotFound: no command no-such-command" in said
    assert "session.py" not in said
    assert "memory.py" not in said


def test_error_in_a_fixture_shows_the_fixture_s_line(pytester: pytest.Pytester) -> None:
    """In a fixture of a test's own, its line is the last that is shown."""
    said = _fails_with(
        pytester,
        """
        import pytest

        @pytest.fixture
        def box(container):
            return container("host", command="no-such-command")

        def test_one(box): pass
        """,
    )
    assert '>       return container("host", command="no-such-command")' in said
    assert "session.py" not in said


def test_error_s_cause_is_shown_where_everything_is(pytester: pytest.Pytester) -> None:
    """With --full-trace nothing is cut."""
    text = """
        def test_one(container):
            box = container("host", command="true")
            box.wait()
            box.exec("true")
        """
    short = _fails_with(pytester, text)
    assert "cannot exec: host-1 does not run" in short
    assert "direct cause" not in short
    whole = _fails_with(pytester, text, "--full-trace")
    assert "direct cause" in whole
    assert "container.py" in whole


def test_error_can_be_caught_in_a_test(pytester: pytest.Pytester) -> None:
    """In a test's body our errors are exceptions like others."""
    result = _run(
        pytester,
        """
        import pytest
        from pytest_containers import ContainersError, NotReady, port

        def test_one(container):
            with pytest.raises(NotReady, match="within 0.01 s"):
                container("host", command="sleep 60", ready=port(1), timeout=0.01)
            try:
                container("host", nonsense=True)
            except TypeError as error:
                assert "no keyword 'nonsense'" in str(error)
        """,
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "text",
    [
        """
        import pytest

        @pytest.mark.container("host", command="no-such-command")
        def test_one(): pass
        """,
        """
        from pytest_containers import container_fixture

        box = container_fixture("host", command="no-such-command")

        def test_one(box): pass
        """,
    ],
)
def test_error_without_a_line_of_the_test_is_told_alone(pytester: pytest.Pytester, text: str) -> None:
    """Where no line of the test's own is at fault, the message stands alone."""
    said = _fails_with(pytester, text)
    assert "no command no-such-command in the container\n" in said
    assert "seen: PATH=" in said
    assert "plugin.py" not in said
    assert "Traceback" not in said
    assert "hidden" not in said


@pytest.mark.parametrize("where", ["option", "environment", "ini"])
def test_option_is_read_from_three_places(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Each option is an option, a variable of the environment, and an ini key, in this order."""
    pytester.makeini(
        f"[pytest]\ncontainers_timeout = {'0.25' if where == 'ini' else '7'}\ncontainers_pull = never"
    )
    if where != "ini":
        monkeypatch.setenv("PYTEST_CONTAINERS_TIMEOUT", "0.25" if where == "environment" else "7")
    options = ["--containers-timeout=0.25", "--containers-offline"] if where == "option" else []
    text = """
        import pytest
        from pytest_containers import NotReady, port

        def test_one(container):
            with pytest.raises(NotReady, match="within 0.25 s"):
                container("host", command="sleep 60", ready=port(1))
        """
    _run(pytester, text, *options).assert_outcomes(passed=1)


def test_wrong_option_is_a_usage_error(pytester: pytest.Pytester) -> None:
    """A value that cannot be meant ends the run before the first test, in one clear line."""
    result = _run(pytester, "def test_one(container): pass", "--containers-timeout=soon")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: containers_timeout is 'soon'*"])


def test_engine_that_cannot_start_fails_the_tests_that_want_it(pytester: pytest.Pytester) -> None:
    """An engine that is not there is told by every test that wants it; the others run."""
    pytester.makeconftest("")
    text = """
        def test_plain(): pass

        def test_one(container):
            container("host")
        """
    result = _run(pytester, text, "--containers-engine=docker")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*Unsupported: there is no engine 'docker'", "*seen: built in: native"])


def test_options_are_told(pytester: pytest.Pytester) -> None:
    """The help names every option with its variable, the list of markers our marker."""
    said = _run(pytester, "", "--help").stdout.str()
    for name in ("engine", "pull", "offline", "store", "timeout", "logs"):
        assert f"--containers-{name}" in said
        assert f"PYTEST_CONTAINERS_{name.upper()}" in said
    assert "@pytest.mark.container(image" in _run(pytester, "", "--markers").stdout.str()


def test_keyword_that_a_function_does_not_have_is_told_with_what_was_meant(pytester: pytest.Pytester) -> None:
    """Probes, methods and the images fixture say which keyword was meant; other errors stay as they are."""
    output = _run(
        pytester,
        """
        from pytest_containers import http, log

        def test_probe(container): http(80, pth="/")
        def test_images(images): images.build(".", build_args={})
        def test_method(container): container("host", command="sleep 60").exec("true", environment={})
        def test_own(container):
            def own(a): return a
            own(b=1)
        """,
    ).stdout.str()
    assert "did you mean path=? http() takes port, path" in output
    assert "did you mean args={...}? build() takes folder, tag" in output
    assert "did you mean env={...}? exec() takes argv, user" in output
    assert "own() takes" not in output
