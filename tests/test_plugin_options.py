"""How registries are reached, said to pytest: by options, environment and ini file."""

from __future__ import annotations

import importlib.metadata

import pytest

SHOW = """
from pytest_containers.plugin import _PLUGIN

def test_show(pytestconfig, container):
    settings = pytestconfig.stash[_PLUGIN].session().settings
    access = settings.access
    print("mirrors:", access.mirrors)
    print("insecure:", sorted(access.insecure))
    print("certificates:", access.certificates)
    print("lock:", settings.lock)
"""


@pytest.fixture(autouse=True)
def _inner_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load our plugin once, and clear the environment of its options."""
    entries = importlib.metadata.entry_points(group="pytest11")
    if not any(entry.value == "pytest_containers.plugin" for entry in entries):
        pytester.plugins = ["pytest_containers.plugin"]
    for name in ("MIRROR", "INSECURE", "CERTIFICATES", "LOCK"):
        monkeypatch.delenv(f"PYTEST_CONTAINERS_{name}", raising=False)
    # A run that starts the native engine in the background would outlast this test.
    pytester.makeconftest(
        "from tests.engines.memory import MemoryEngine\n"
        "def pytest_containers_engine(config): return MemoryEngine()\n"
    )
    pytester.makepyfile(SHOW)


def _run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    loaded = [part for plugin in pytester.plugins for part in ("-p", str(plugin))]
    result = pytester.runpytest_inprocess(*loaded, "-s", "-p", "no:cacheprovider", "-p", "no:xdist", *options)
    result.assert_outcomes(passed=1)
    return result


def test_option_wins_over_environment_and_ini_file(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mirrors may be given several times; the ini file's are blank-separated, or a list in TOML."""
    pytester.makepyprojecttoml(
        '[tool.pytest.ini_options]\ncontainers_mirror = ["one.example", "quay.io=two.example"]\n'
        'containers_insecure = "plain.example:5000"\n'
    )
    both = "mirrors: (('docker.io', 'one.example'), ('quay.io', 'two.example'))"
    _run(pytester).stdout.fnmatch_lines(["*" + both, "insecure: *'plain.example:5000'*"])
    monkeypatch.setenv("PYTEST_CONTAINERS_MIRROR", "three.example,quay.io=four.example/hub")
    told = "*mirrors: (('docker.io', 'three.example'), ('quay.io', 'four.example/hub'))"
    _run(pytester).stdout.fnmatch_lines([told])
    given = ("--containers-mirror=a.example", "--containers-mirror=b.example")
    told = "*mirrors: (('docker.io', 'a.example'), ('docker.io', 'b.example'))"
    _run(pytester, *given).stdout.fnmatch_lines([told])


def test_lock_file_of_the_root_folder_is_used(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no option; another one is named, from the ini file relative to the root folder."""
    _run(pytester).stdout.fnmatch_lines(["lock: "])
    pytester.path.joinpath("containers.lock").write_text("version = 1\n")
    _run(pytester).stdout.fnmatch_lines([f"lock: {pytester.path / 'containers.lock'}"])
    (pytester.path / "ci").mkdir()
    (pytester.path / "ci" / "other.lock").write_text("version = 1\n")
    pytester.makeini("[pytest]\ncontainers_lock = ci/other.lock\ncontainers_certificates = ci\n")
    other, folder = pytester.path / "ci" / "other.lock", pytester.path / "ci"
    monkeypatch.chdir(folder)
    result = _run(pytester, "--rootdir", str(pytester.path), "-c", "../tox.ini", "..")
    result.stdout.fnmatch_lines([f"certificates: ('{folder}',)", f"lock: {other}"])
