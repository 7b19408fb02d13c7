"""Bad input gets one clear error and leaves nothing; docs/errors.md tells each as it is shown.

Every case is a test of a user's in a real run of pytest on the real engine. What the run shows is
held against the table of the page: class and text, where ``…`` stands for what differs each time.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.mistakes import containers, images, machines
from tests.mistakes.case import Case

if TYPE_CHECKING:
    from tests.plugins.faults import Faults

pytest_plugins = ("tests.plugins.faults",)
pytestmark = pytest.mark.kernel

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "errors.md"
SETTINGS: Final = f"[pytest]\npythonpath = {ROOT}\naddopts = -q -p no:cacheprovider -p no:xdist\n"
# More than any of these runs takes, less than anybody waits for one that hangs.
PATIENCE_S: Final = 120.0
QUOTING: Final = frozenset({"SpecInvalid", "UnknownKeyword", "UsageError"})
HEADING: Final = re.compile(r"^_+ test_(\d+) _+$", re.MULTILINE)
FIRST: Final = re.compile(r"^E +pytest_containers\.errors\.(\w+): (.*)$")
OWN_FRAME: Final = re.compile(r"pytest_containers/[\w/]+\.py:\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An error as it was shown: its class, and its lines without their indent."""

    kind: str
    lines: tuple[str, ...]


def _rows() -> Mapping[str, Told]:
    """Return the rows of the page's tables by their first column."""
    rows: dict[str, Told] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3 and re.fullmatch(r"`\w+`", cells[1]):
            assert cells[0] not in rows, f"two rows for {cells[0]!r}"
            lines = tuple(re.sub(r"^`+ ?| ?`+$", "", part.strip()) for part in cells[2].split("<br>"))
            rows[cells[0]] = Told(kind=cells[1].strip("`"), lines=lines)
    return rows


def _check(mistake: str, told: Told) -> None:
    """Hold what was shown against the law of errors, and against the page."""
    text = "\n".join(told.lines)
    labels = [line.partition(":")[0] for line in told.lines if line.startswith(("seen:", "mend:"))]
    assert labels.count("mend") >= 1, f"{mistake}: nothing to do about it:\n{text}"
    # The first line of these quotes what was given, which is all that there is to be seen.
    assert "seen" in labels or told.kind in {"SpecInvalid", "UnknownKeyword", "UsageError"}, (
        f"{mistake}:\n{text}"
    )
    assert len(set(told.lines)) == len(told.lines), f"{mistake}: it repeats itself:\n{text}"
    row = _rows().get(mistake)
    assert row is not None, f"docs/errors.md has no row:\n{_as_row(mistake, told)}"
    patterns = [".*".join(map(re.escape, line.split("…"))) for line in row.lines]
    fits = len(patterns) == len(told.lines) and all(map(re.fullmatch, patterns, told.lines))
    fits = fits and row.kind == told.kind
    assert fits, f"docs/errors.md tells another story than\n{_as_row(mistake, told)}"


def _as_row(mistake: str, told: Told) -> str:
    quoted = (f"`` {line} ``" if "`" in line else f"`{line}`" for line in told.lines)
    lines = "<br>".join(quoted).replace("|", "\\|")
    return f"| {mistake} | `{told.kind}` | {lines} |"


def _shown(output: str) -> Mapping[int, str]:
    """Return the report of each failed test by its number."""
    parts = HEADING.split(output.partition("short test summary info")[0])[1:]
    assert len(parts[::2]) == len(set(parts[::2])), "a test has failed twice:\n" + output
    return dict(zip(map(int, parts[::2]), parts[1::2], strict=True))


def _told(report: str) -> Told:
    """Return the one error that *report* shows."""
    lines = report.splitlines()
    (first,) = (number for number, line in enumerate(lines) if "pytest_containers.errors." in line)
    match = FIRST.fullmatch(lines[first])
    assert match is not None, report
    rest: list[str] = []
    for line in lines[first + 1 :]:
        if not line.startswith("E  "):
            break
        rest.append(line[1:].strip())
    return Told(kind=match[1], lines=(match[2], *rest))


class Runs:
    """Runs users' tests as a user does, on a store of their own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester
        self._names: dict[str, str] = {}
        self.store = pytester.path / "store"

    def know(self, **names: str) -> None:
        """Let the tests know these constants."""
        self._names.update(names)

    def tell(
        self, cases: Iterable[Case], *options: str, prefix: tuple[str, ...] = (), watched: bool = True
    ) -> str:
        """Let a run make the mistakes of *cases*, check what each is told, and return what it shows.

        *prefix* is a command that starts pytest. *watched* lets each test fail that leaves something
        inside of the run, which takes a machine where a run can begin.
        """
        numbered = dict(enumerate(cases))
        output = self.run(numbered, *options, prefix=prefix, watched=watched)
        reports = _shown(output)
        assert reports.keys() == numbered.keys(), output
        for number, made in numbered.items():
            assert OWN_FRAME.search(reports[number]) is None, reports[number]
            told = _told(reports[number])
            assert told.kind == made.kind, reports[number]
            assert [word for word in made.words if word not in "\n".join(told.lines)] == [], reports[number]
            _check(made.mistake, told)
        return output

    def run(
        self, cases: Mapping[int, Case], *options: str, prefix: tuple[str, ...] = (), watched: bool = False
    ) -> str:
        """Return what a run shows of which every test must fail, and nothing else."""
        names = "".join(f"{name} = {value!r}\n" for name, value in self._names.items())
        bodies = (f"def test_{n}({one.fixtures}):\n        {one.body.strip()}\n" for n, one in cases.items())
        header = "from pytest_containers import *\nfrom pytest_containers.spec import Limits\n"
        self._pytester.makepyfile(header + names + "\n".join(bodies))
        guard = ("-p", "tests.plugins.insides") if watched else ()
        argv = (*prefix, sys.executable, "-m", "pytest", *guard, f"--containers-store={self.store}", *options)
        result = self._pytester.run(*argv, timeout=PATIENCE_S)
        result.assert_outcomes(failed=len(cases))
        return result.stdout.str()

    def left(self) -> tuple[list[str], list[str], list[str]]:
        """Return what the store holds: names, unpacked chains, and what is on its way."""
        index = self.store / "index.json"
        entries = json.loads(index.read_text())["manifests"] if index.exists() else []
        names = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries]
        chains = [str(path) for path in self.store.glob("chains/*/*")]
        return names, chains, [path.name for path in self.store.glob("ingest/*")]


@pytest.fixture
def runs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, faults: Faults) -> Runs:
    """Return what runs users' tests; they know the registry of broken images."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    for name in list(os.environ):
        if name.startswith(("PYTEST_ADDOPTS", "PYTEST_CONTAINERS_")):
            monkeypatch.delenv(name)
    pytester.makeini(SETTINGS)
    made = Runs(pytester)
    made.know(FAULTS=faults.host, DIGEST=faults.digests["wrong-manifest"])
    return made


@pytest.fixture
def known(runs: Runs, registry: str) -> Runs:
    """Return what runs users' tests; they know a real, empty registry as well."""
    runs.know(REGISTRY=registry)
    return runs


def test_page_has_a_row_for_each_mistake_and_no_other() -> None:
    """docs/errors.md tells the mistakes that are tried here, in this order."""
    of_images = (*images.IMAGES, *images.PUSH, *images.OFFLINE)
    of_containers = (*containers.COMMANDS, *containers.SERVICES, *containers.ARGUMENTS, *containers.LACKING)
    tried = (*of_images, *of_containers, *images.FULL, *machines.MACHINES, *machines.PLACES)
    assert list(_rows()) == [*(made.mistake for made in tried), *machines.OPTIONS]


def test_image_that_cannot_be_had_is_told(known: Runs) -> None:
    """A wrong name, a registry that is not there or breaks its word, a layer that cannot be used."""
    known.tell(images.IMAGES)
    assert known.left() == ([], [], [])


def test_image_that_cannot_be_named_or_sent_is_told(known: Runs) -> None:
    """What stands on this machine stays here, and a name must be one."""
    known.tell(images.PUSH)
    assert [name.rpartition("/")[2] for name in known.left()[0]] == ["mine:1", "mine:1"]


def test_offline_run_says_so(known: Runs) -> None:
    """Without a network nothing is asked, and what is missing is named."""
    known.tell(images.OFFLINE, "--containers-offline")
    assert known.left() == ([], [], [])


def test_command_that_cannot_run_is_told(runs: Runs) -> None:
    """Not found, not executable and without an interpreter are told apart; so are user and folder."""
    runs.tell(containers.COMMANDS)
    names, chains, coming = runs.left()
    assert len(names) == len(chains) == 1
    assert coming == []


def test_command_that_cannot_run_has_its_exit_code(
    runs: Runs, pytester: pytest.Pytester, faults: Faults
) -> None:
    """126 and 127 are a shell's, and Docker's (docker run, "Exit status")."""
    for command, code in (("no-such", 127), ("plain", 126), ("old", 127), ("script", 127)):
        argv = ("-m", "pytest_containers", "--store", runs.store, "run", f"{faults.host}/odd:1", command)
        ended = pytester.run(sys.executable, *argv, timeout=PATIENCE_S)
        assert (ended.ret, ended.outlines) == (code, [])
        assert ended.errlines[0].startswith("pytest-containers: ")
        assert command in ended.errlines[0]
        assert "Traceback" not in ended.stderr.str()


def test_service_that_does_not_come_up_is_told(runs: Runs) -> None:
    """What was waited for, what was there instead, how it ended, and its last words."""
    runs.tell(containers.SERVICES)


def test_argument_that_cannot_be_meant_is_told(runs: Runs) -> None:
    """A slip of the pen is quoted, with what to write in its place."""
    runs.tell(containers.ARGUMENTS)


def test_feature_that_is_missing_is_told_before_anything_starts(runs: Runs) -> None:
    """What the engine lacks is told without a look at image or registry."""
    runs.tell(containers.LACKING)
    assert runs.left() == ([], [], [])


def test_full_store_is_told(runs: Runs) -> None:
    """A disk without room is told with its place, and what did not fit gives its room back."""
    kept = re.search(r"^kept (\d+) KiB$", runs.tell(images.FULL, prefix=machines.SMALL_STORE), re.MULTILINE)
    assert kept is not None
    assert int(kept[1]) < 1024


@pytest.mark.parametrize("made", machines.MACHINES, ids=lambda made: made.mistake)
def test_machine_that_refuses_is_told(runs: Runs, made: Case) -> None:
    """Without the privileges for a run, the mend names them."""
    runs.store.mkdir(mode=0o777)
    runs.store.chmod(0o777)
    runs.tell((made,), prefix=machines.MACHINES[made], watched=False)
    assert runs.left() == ([], [], [])


@pytest.mark.parametrize("made", machines.PLACES, ids=lambda made: made.mistake)
def test_run_that_cannot_begin_is_told(runs: Runs, made: Case) -> None:
    """An option that this machine cannot follow is told by the first test that needs it."""
    runs.tell((made,), machines.PLACES[made], watched=False)


@pytest.mark.parametrize("mistake", machines.OPTIONS)
def test_option_that_cannot_be_meant_is_told(runs: Runs, pytester: pytest.Pytester, mistake: str) -> None:
    """A wrong option ends the run before its first test."""
    pytester.makepyfile("def test_one(container): pass")
    result = pytester.runpytest_subprocess(machines.OPTIONS[mistake])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    first, *rest = filter(None, result.stderr.lines)
    assert first.startswith("ERROR: ")
    _check(mistake, Told(kind="UsageError", lines=(first, *(line.strip() for line in rest))))


def test_guard_fails_a_test_that_leaves_something_in_its_run(runs: Runs, pytester: pytest.Pytester) -> None:
    """What watches these runs sees the processes, files and interfaces of a container that stays."""
    pytester.makepyfile(
        """
        def test_one(container): container("host", command="sleep 60", scope="session")
        def test_two(): pass
        """
    )
    argv = (sys.executable, "-m", "pytest", "-p", "tests.plugins.insides", f"--containers-store={runs.store}")
    result = pytester.run(*argv, timeout=PATIENCE_S)
    result.assert_outcomes(passed=2, errors=1)
    left = ("process *: sleep 60*", "mount of *overlay*", "descriptor *", "interface of *")
    for line in left:
        result.stdout.fnmatch_lines_random([f"*{line}"])
