"""The contract of engines/base.py: what a process sees, and one more process beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import SpecInvalid, Unsupported
from pytest_containers.spec import ContainerSpec, ExecSpec, Limits

if TYPE_CHECKING:
    from pytest_containers.engines.base import Handle
    from tests.engines.conftest import Bench

SLEEP = ("sleep", "60")


def _run(handle: Handle, *argv: str) -> str:
    result = handle.exec(ExecSpec(argv=argv))
    assert result.exit_code == 0, result
    return result.stdout


@pytest.fixture
def running(bench: Bench) -> Handle:
    """Return a container that runs."""
    return bench.start(ContainerSpec(name="one", command=SLEEP, env={"COLOUR": "green"}, workdir="/var"))


def test_exec_splits_the_streams(running: Handle) -> None:
    """An exec's output and error come apart, with its exit code."""
    result = running.exec(ExecSpec(argv=("sh", "-c", "echo out; echo err >&2; exit 5")))
    assert (result.exit_code, result.stdout, result.stderr) == (5, "out\n", "err\n")
    assert result.argv == ("sh", "-c", "echo out; echo err >&2; exit 5")


def test_exec_is_not_in_the_log(running: Handle) -> None:
    """The log is the first process's alone."""
    _run(running, "echo", "aside")
    assert running.logs()[0] == ()


def test_exec_hands_over_its_input(running: Handle) -> None:
    """The standard input comes whole, any byte and more than a pipe holds, and ends."""
    content = bytes(range(256)) * 2000
    result = running.exec(ExecSpec(argv=("cat",), stdin=content))
    assert (result.exit_code, result.stdout_bytes) == (0, content)


def test_exec_without_input_reads_its_end(running: Handle) -> None:
    """Without an input, reading ends at once."""
    assert running.exec(ExecSpec(argv=("cat",))).stdout_bytes == b""


def test_exec_replaces_bytes_that_are_no_text(running: Handle) -> None:
    """Text is UTF-8 with what cannot be decoded replaced; the bytes stay."""
    result = running.exec(ExecSpec(argv=("cat",), stdin=b"caf\xc3\xa9 \xff"))
    assert result.stdout == "café \ufffd"


def test_exec_lays_its_environment_over_the_container_s(running: Handle) -> None:
    """An exec sees the container's environment with its own over it."""
    result = running.exec(ExecSpec(argv=("env",), env={"SHAPE": "round", "COLOUR": "blue"}))
    assert {"SHAPE=round", "COLOUR=blue"} < set(result.stdout.splitlines())
    assert "COLOUR=green" in _run(running, "env").splitlines()


def test_environment_has_path_and_hostname(running: Handle) -> None:
    """A process finds programs and knows its host's name (docker run, "Environment variables")."""
    env = dict(line.split("=", 1) for line in _run(running, "env").splitlines())
    assert "/usr/bin" in env["PATH"].split(":")
    assert env["HOSTNAME"] == running.id[:12]


def test_exec_begins_in_its_folder(running: Handle) -> None:
    """The working folder is the container's, or the exec's own."""
    assert _run(running, "pwd") == "/var\n"
    assert running.exec(ExecSpec(argv=("pwd",), workdir="/tmp")).stdout == "/tmp\n"


def test_workdir_is_made_where_missing(bench: Bench) -> None:
    """A working folder that the image does not have is made."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP, workdir="/made/for/it"))
    assert _run(handle, "pwd") == "/made/for/it\n"


def test_exec_runs_as_its_user(running: Handle) -> None:
    """Users go by name in the container's own passwd, by number, and with a group."""
    assert _run(running, "id", "-u") == "0\n"
    assert running.exec(ExecSpec(argv=("id", "-u"), user="nobody")).stdout == "65534\n"
    assert running.exec(ExecSpec(argv=("id", "-u"), user="12345")).stdout == "12345\n"
    assert running.exec(ExecSpec(argv=("id", "-g"), user="12345:54321")).stdout == "54321\n"


def test_user_of_the_container_is_the_user_of_its_processes(bench: Bench) -> None:
    """The container's user is that of its first process and of every exec."""
    handle = bench.start(ContainerSpec(name="one", command=("sh", "-c", "id -u; sleep 60"), user="nobody"))
    bench.until(handle, lambda: bool(handle.logs()[0]))
    assert handle.logs()[0][0].content == b"65534\n"
    assert _run(handle, "id", "-u") == "65534\n"


def test_hostname_is_the_test_s(bench: Bench) -> None:
    """The host name is what the test asks for, else the id's first twelve digits."""
    named = bench.start(ContainerSpec(name="one", command=SLEEP, hostname="box.example"))
    plain = bench.start(ContainerSpec(name="two", command=SLEEP))
    assert _run(named, "cat", "/etc/hostname") == "box.example\n"
    assert _run(plain, "cat", "/etc/hostname") == f"{plain.id[:12]}\n"


def test_exec_of_a_command_that_is_not_found_is_127(running: Handle) -> None:
    """A command that is missing is a result with the reason, not an error."""
    result = running.exec(ExecSpec(argv=("no-such-command",)))
    assert result.exit_code == 127
    assert "no-such-command" in result.stderr


def test_exec_of_a_folder_is_126(running: Handle) -> None:
    """What cannot be executed is a result with the reason, not an error."""
    result = running.exec(ExecSpec(argv=("/tmp",)))
    assert result.exit_code == 126
    assert "/tmp" in result.stderr


def test_exec_that_is_killed_ends_with_128_and_the_signal(running: Handle) -> None:
    """An end by a signal is 128 plus its number."""
    assert running.exec(ExecSpec(argv=("sh", "-c", "kill -9 $$"))).exit_code == 137


def test_exec_ends_at_its_timeout(running: Handle) -> None:
    """Past its time an exec is killed and raises; the container goes on."""
    with pytest.raises(TimeoutError):
        running.exec(ExecSpec(argv=("sleep", "60"), timeout_s=0.1))
    assert running.state().status == "running"
    assert _run(running, "echo", "on") == "on\n"


def test_entrypoint_and_command_come_together(bench: Bench) -> None:
    """What is run is the entrypoint with the command behind it."""
    spec = ContainerSpec(name="one", entrypoint=("echo", "first"), command=("second",))
    handle = bench.start(spec)
    handle.wait()
    assert handle.logs()[0][0].content == b"first second\n"


def test_container_without_a_command_is_refused(bench: Bench) -> None:
    """An entrypoint of nothing drops the image's command, so nothing is left to run."""
    with pytest.raises(Exception, match="command"):
        bench.start(ContainerSpec(name="one", entrypoint=()))


def test_feature_that_is_missing_is_refused(bench: Bench) -> None:
    """What an engine does not declare it refuses by name, and makes nothing."""
    asked = {
        "init": ContainerSpec(name="one", command=SLEEP, init=True),
        "limits": ContainerSpec(name="one", command=SLEEP, limits=Limits(memory_bytes=1 << 26)),
    }
    for feature, spec in asked.items():
        if feature in bench.engine.features:
            bench.start(spec).remove()
        else:
            with pytest.raises(Unsupported, match=feature):
                bench.create(spec)
    bench.create(ContainerSpec(name="one", command=SLEEP))


def test_name_that_is_taken_is_refused(bench: Bench) -> None:
    """Two containers of one network cannot have one name."""
    bench.create(ContainerSpec(name="one", command=SLEEP))
    with pytest.raises(SpecInvalid, match="one"):
        bench.create(ContainerSpec(name="one", command=SLEEP))
