"""Laws of how a child becomes the process that was asked for, as the first one and by exec."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import pytest

from pytest_containers.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainersError,
    InterpreterMissing,
    StartError,
)
from pytest_containers.runtime.bundle import DEFAULT_PATH
from pytest_containers.spec import ContainerSpec, ExecSpec, ImageConfig

if TYPE_CHECKING:
    from tests.runtime.conftest import Boxes, Program

pytestmark = pytest.mark.kernel

_IDLE: Final = ("sleep", "1000")
_SPEC: Final = ContainerSpec(name="box", command=_IDLE)
DOCKER: Final = "00000000a80425fb"
NONE: Final = "0000000000000000"


class Run(Protocol):
    """Runs a line of shell in a container, as its first process or by exec, and returns its output."""

    def __call__(
        self, line: str, spec: ContainerSpec = _SPEC, *, layers: tuple[str, ...] = ("/",)
    ) -> str: ...


@pytest.fixture(params=["start", "exec"])
def run(request: pytest.FixtureRequest, boxes: Boxes) -> Run:
    """Return a way to run a line: both ways obey the same laws."""

    def by_start(line: str, spec: ContainerSpec = _SPEC, *, layers: tuple[str, ...] = ("/",)) -> str:
        return boxes.said(replace(spec, command=("/bin/sh", "-c", line)), layers=layers)

    def by_exec(line: str, spec: ContainerSpec = _SPEC, *, layers: tuple[str, ...] = ("/",)) -> str:
        box = boxes.start(spec, layers=layers)
        result = box.exec(ExecSpec(argv=("/bin/sh", "-c", line), timeout_s=20))
        box.remove()
        assert result.exit_code == 0, result
        return result.stdout

    return by_start if request.param == "start" else by_exec


def _fields(status: str) -> dict[str, str]:
    """Return the fields of /proc/self/status (proc_pid_status(5))."""
    return {name: text.strip() for name, _, text in (line.partition(":") for line in status.splitlines())}


def _status(run: Run, spec: ContainerSpec) -> dict[str, str]:
    return _fields(run("cat /proc/self/status", spec))


def _capabilities(fields: dict[str, str]) -> list[str]:
    return [fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (_SPEC, [NONE, DOCKER, DOCKER, DOCKER, NONE]),
        (replace(_SPEC, user="1000"), [NONE, NONE, NONE, DOCKER, NONE]),
        (replace(_SPEC, user="0:1000"), [NONE, DOCKER, DOCKER, DOCKER, NONE]),
        (replace(_SPEC, cap_drop=("ALL",)), [NONE] * 5),
        (
            replace(_SPEC, cap_add=("NET_ADMIN",), cap_drop=("MKNOD",)),
            [NONE, *["00000000a00435fb"] * 3, NONE],
        ),
        (replace(_SPEC, cap_add=("NET_ADMIN",), user="1000"), [NONE, NONE, NONE, "00000000a80435fb", NONE]),
    ],
    ids=["root", "user", "root of another group", "drop all", "add and drop", "add, as a user"],
)
def test_process_has_the_capabilities_of_docker(run: Run, spec: ContainerSpec, expected: list[str]) -> None:
    """Root has the set permitted and effective, others bounding; none is inheritable or ambient."""
    assert _capabilities(_status(run, spec)) == expected


def test_process_privileged_has_all_capabilities(run: Run) -> None:
    """A privileged container has what the machine's kernel knows, as far as we have it ourselves."""
    fields = _status(run, replace(_SPEC, privileged=True))
    ours = _fields(Path("/proc/self/status").read_text())["CapBnd"]
    assert _capabilities(fields) == [NONE, ours, ours, ours, NONE]


@pytest.mark.parametrize(("wanted", "expected"), [(False, "0"), (True, "1")])
def test_process_may_gain_privileges_unless_told_otherwise(run: Run, *, wanted: bool, expected: str) -> None:
    """As in Docker a set-user-ID program works, unless no_new_privs is asked for."""
    fields = _status(run, replace(_SPEC, no_new_privs=wanted))
    assert fields["NoNewPrivs"] == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (_SPEC, "2"),
        (replace(_SPEC, user="1000"), "2"),
        (replace(_SPEC, no_new_privs=True), "2"),
        (replace(_SPEC, cap_add=("SYS_ADMIN",)), "2"),
        (replace(_SPEC, seccomp='{"defaultAction": "SCMP_ACT_ALLOW"}'), "2"),
        (replace(_SPEC, seccomp="unconfined"), "0"),
        (replace(_SPEC, privileged=True), "0"),
        (replace(_SPEC, privileged=True, seccomp='{"defaultAction": "SCMP_ACT_ALLOW"}'), "2"),
    ],
    ids=["root", "user", "no new privileges", "admin", "profile", "unconfined", "privileged", "both"],
)
def test_process_has_a_filter_of_system_calls(run: Run, spec: ContainerSpec, expected: str) -> None:
    """Mode 2 is a filter; a privileged container has none unless a profile is named (seccomp(2))."""
    assert _status(run, spec)["Seccomp"] == expected


@pytest.mark.parametrize(("wanted", "expected"), [(False, "0"), (True, "1000")])
def test_set_user_id_program_works_unless_told_otherwise(
    run: Run, tmp_path: Path, *, wanted: bool, expected: str
) -> None:
    """What the bits on a program of the image say holds: its overlay is not mounted nosuid."""
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "whoami").write_bytes(Path("/usr/bin/id").read_bytes())
    (layer / "whoami").chmod(0o4755)
    spec = replace(_SPEC, user="1000", no_new_privs=wanted)
    assert run("/whoami -u", spec, layers=("/", str(layer))) == f"{expected}\n"


def test_process_begins_with_a_clean_slate(run: Run) -> None:
    """No signal is ignored, blocked or caught, the umask is 022, and the process leads its session."""
    fields = _status(run, _SPEC)
    assert {name: fields[name] for name in ("SigIgn", "SigBlk", "SigCgt")} == dict.fromkeys(
        ("SigIgn", "SigBlk", "SigCgt"), NONE
    )
    assert fields["Umask"] == "0022"
    assert fields["NSsid"] == fields["NSpgid"] == run("echo $$; :").strip()


def test_process_dies_of_a_broken_pipe(run: Run) -> None:
    """A writer whose reader is gone ends by SIGPIPE, which Python ignores for itself (signal(7))."""
    assert run("(yes; echo $? >&2) 2>/tmp/code | head -n 1; cat /tmp/code").split() == ["y", "141"]


def test_process_has_its_streams_and_no_other_descriptor(run: Run) -> None:
    """Nothing of ours is open in a container: not the run's sockets, not another container's log."""
    listing = run("ls -l /proc/$$/fd; :", replace(_SPEC, files={"/f": b"x"})).splitlines()[1:]
    found = {name.split()[-1]: target for name, _, target in (row.partition(" -> ") for row in listing)}
    assert set(found) == {"0", "1", "2"}
    assert [found[name].startswith("pipe:[") for name in ("1", "2")] == [True, True]


def test_process_first_reads_nothing(boxes: Boxes) -> None:
    """Standard input of the first process is /dev/null."""
    assert boxes.said(replace(_SPEC, command=("sh", "-c", "readlink /proc/self/fd/0; cat"))) == "/dev/null\n"


def test_process_user_may_open_its_streams_by_name(run: Run) -> None:
    """A user can write to /dev/stdout and /dev/stderr, as servers' logs are often told to do."""
    line = "echo out > /dev/stdout; echo err > /dev/stderr; echo end"
    assert run(line, replace(_SPEC, user="1000")).replace("err\n", "").split() == ["out", "end"]


def test_process_environment_is_what_was_said_and_no_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH, HOSTNAME and HOME are there, then what was asked for; nothing of pytest's own."""
    monkeypatch.setenv("SECRET_OF_THE_TEST_RUN", "secret")
    spec = replace(_SPEC, env={"A": "1", "MULTI": "two\nlines", "EMPTY": ""}, hostname="db")
    pairs = set(run("cat /proc/$$/environ; :", spec).rstrip("\0").split("\0"))
    config = {f"PATH={DEFAULT_PATH}"}
    assert pairs == {*config, "HOSTNAME=db", "HOME=/root", "A=1", "MULTI=two\nlines", "EMPTY="}


@pytest.mark.parametrize(
    ("spec", "home"),
    [
        (_SPEC, "/root"),
        (replace(_SPEC, user="daemon"), "/usr/sbin"),
        (replace(_SPEC, user="4711"), "/"),
        (replace(_SPEC, user="daemon", env={"HOME": "/mine"}), "/mine"),
    ],
)
def test_process_home_is_the_users(run: Run, spec: ContainerSpec, home: str) -> None:
    """HOME is what the container's passwd says, / for a user it does not know, or what was asked for."""
    assert run("echo $HOME", spec) == f"{home}\n"


PASSWD: Final = "root:x:0:0:root:/root:/bin/sh\napp:x:1234:1235:App:/home/app:/bin/sh\n"
GROUP: Final = "root:x:0:\napp:x:1235:\nextra:x:77:app\nmore:x:88:other,app\n"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("app", "1234 1235 77 88 1235"),
        ("1234", "1234 1235 77 88 1235"),
        ("app:extra", "1234 77 77"),
        ("app:99", "1234 99 99"),
        ("4711", "4711 0 0"),
        ("4711:4712", "4711 4712 4712"),
        ("", "0 0 0"),
    ],
)
def test_process_user_is_looked_up_in_the_container(
    run: Run, tmp_path: Path, user: str, expected: str
) -> None:
    """Names are those of the image's passwd and group, never of the machine's (image-spec, config.md)."""
    (tmp_path / "layer/etc").mkdir(parents=True)
    (tmp_path / "layer/etc/passwd").write_text(PASSWD)
    (tmp_path / "layer/etc/group").write_text(GROUP)
    spec = replace(_SPEC, user=user)
    fields = _fields(run("cat /proc/self/status", spec, layers=("/", str(tmp_path / "layer"))))
    found = [fields["Uid"].split()[0], fields["Gid"].split()[0], *fields["Groups"].split()]
    assert found == expected.split()


def test_process_user_unknown_is_refused(boxes: Boxes, tmp_path: Path) -> None:
    """A user of the machine's that the image does not name is a StartError; nothing ran."""
    (tmp_path / "layer/etc").mkdir(parents=True)
    (tmp_path / "layer/etc/passwd").write_text(PASSWD)
    box = boxes.create(replace(_SPEC, user="daemon"), layers=("/", str(tmp_path / "layer")))
    with pytest.raises(StartError, match="no user 'daemon' in the image"):
        box.start()
    assert box.state().status == "created"


def test_process_stands_in_its_working_folder(run: Run) -> None:
    """The folder is made where missing, by root and for all, and is / where nobody says otherwise."""
    assert run("pwd") == "/\n"
    spec = replace(_SPEC, workdir="/new/deep", user="1000")
    assert run("pwd; stat -c '%a %u' /new /new/deep", spec).split() == ["/new/deep", "755", "0", "755", "0"]


@pytest.mark.parametrize("workdir", ["/etc/passwd", "/etc/passwd/below", "/proc/self/fd/3", "relative/\0"])
def test_process_working_folder_that_is_none_is_refused(boxes: Boxes, workdir: str) -> None:
    """A file, a descriptor of ours or a name that cannot be is a StartError."""
    box = boxes.create(replace(_SPEC, workdir=workdir))
    with pytest.raises(StartError):
        box.start()
    assert box.state().status == "created"


def test_process_has_its_arguments_as_given(boxes: Boxes) -> None:
    """Words arrive unchanged, with blanks, line ends and bytes that are no text."""
    words = ("", "a b", "x\ny", "$HOME", os.fsdecode(b"\xff"))
    box = boxes.start(replace(_SPEC, command=("printf", "%s|", *words)))
    box.wait(10)
    assert b"".join(chunk.content for chunk in box.logs()[0]) == b"|a b|x\ny|$HOME|\xff|"


Make = Callable[[Path], None]


def _script(text: str, mode: int = 0o755) -> Make:
    def make(path: Path) -> None:
        path.write_text(text)
        path.chmod(mode)

    return make


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


_FAILURES: Final = [
    (None, CommandNotFound, "no command '/tool'"),
    (_script("#!/bin/sh\n", 0o644), CommandNotExecutable, "Permission denied"),
    (_folder, CommandNotExecutable, "Permission denied"),
    (_script("neither a program nor a script\n"), CommandNotExecutable, "Exec format error"),
    (_script("\x7fELF\x01\x01\x01" + "x" * 100), CommandNotExecutable, "Exec format error"),
    (_loop, CommandNotExecutable, "Too many levels"),
    (_script("#!/no/such/shell -x\n"), InterpreterMissing, "its first line names '/no/such/shell'"),
    (_script("#!\t /no/such/shell\n"), InterpreterMissing, "its first line names '/no/such/shell'"),
    (_script("#!/bin/sh\r\nexit 0\r\n"), InterpreterMissing, r"its first line names '/bin/sh\r'"),
    (_script("#!/no/such/shell\n", 0o111), InterpreterMissing, ""),
]
_NAMES: Final = "missing,mode,folder,format,foreign,loop,script,blanks,line ends,not readable".split(",")


@pytest.mark.parametrize(("make", "kind", "words"), _FAILURES, ids=_NAMES)
@pytest.mark.parametrize("user", ["0", "1000"])
def test_command_that_cannot_run_says_why(
    boxes: Boxes, tmp_path: Path, make: Make | None, kind: type[ContainersError], words: str, user: str
) -> None:
    """What is missing, what is forbidden and what lacks its interpreter are three errors, as in a shell."""
    layer = tmp_path / "layer"
    layer.mkdir()
    if make is not None:
        make(layer / "tool")
    layers = ("/", str(layer))
    box = boxes.create(replace(_SPEC, command=("/tool",), user=user), layers=layers)
    with pytest.raises(StartError) as caught:
        box.start()
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert box.state().status == "created"
    box.remove()
    idle = boxes.start(_SPEC, layers=layers)
    result = idle.exec(ExecSpec(argv=("/tool",), user=user))
    assert (result.exit_code, result.stdout) == (kind.exit_code, "")
    assert words in result.stderr


@pytest.mark.parametrize("loader", ["/lib/ld-nowhere.so.1", "/" + "deep/" * 30 + "ld.so"])
def test_command_names_the_loader_it_lacks(
    boxes: Boxes, program: Program, tmp_path: Path, loader: str
) -> None:
    """A program linked for another C library says which loader it wants (elf(5), PT_INTERP)."""
    (tmp_path / "layer").mkdir()
    program(tmp_path / "layer/tool", loader=loader)
    box = boxes.create(replace(_SPEC, command=("/tool",)), layers=("/", str(tmp_path / "layer")))
    with pytest.raises(InterpreterMissing, match="/tool is there, but what runs it is not") as caught:
        box.start()
    assert f"linked for the loader {loader}," in caught.value.seen


def test_command_is_searched_in_the_containers_path(boxes: Boxes, tmp_path: Path) -> None:
    """The first that can be executed wins; one that cannot is passed over, and told where none can."""
    for name, mode in (("one", 0o644), ("two", 0o755), ("three", 0o755)):
        (tmp_path / "layer" / name).mkdir(parents=True)
        _script(f"#!/bin/sh\necho {name}\n", mode)(tmp_path / "layer" / name / "tool")
    layers = ("/", str(tmp_path / "layer"))
    spec = replace(_SPEC, command=("tool",), env={"PATH": "/missing:/one:/etc/passwd:/two:/three"})
    assert boxes.said(spec, layers=layers) == "two\n"
    for path, kind in (("/missing:/one", CommandNotExecutable), ("/missing", CommandNotFound)):
        box = boxes.create(replace(spec, env={"PATH": path}), layers=layers)
        with pytest.raises(kind):
            box.start()
        box.remove()


def test_command_relative_is_found_from_the_working_folder(boxes: Boxes, tmp_path: Path) -> None:
    """A name with a slash is a path, and an empty part of PATH is the working folder."""
    (tmp_path / "layer/app").mkdir(parents=True)
    _script("#!/bin/sh\necho found\n")(tmp_path / "layer/app/tool")
    layers = ("/", str(tmp_path / "layer"))
    for command, env in ((("./tool",), {}), (("tool",), {"PATH": "/missing:"})):
        spec = replace(_SPEC, command=command, env=env, workdir="/app")
        assert boxes.said(spec, layers=layers) == "found\n"


def test_command_of_the_image_is_used(boxes: Boxes) -> None:
    """What the image's config says about user, folder, environment and command is done."""
    config = ImageConfig(
        entrypoint=("sh", "-c"),
        command=("id -u; pwd; echo $COLOUR",),
        user="1000",
        workdir="/srv",
        env=("COLOUR=green",),
    )
    box = boxes.start(ContainerSpec(name="box"), config=config)
    box.wait(10)
    assert b"".join(chunk.content for chunk in box.logs()[0]).split() == [b"1000", b"/srv", b"green"]
