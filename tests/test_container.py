"""What a test holds: its attributes, its processes, its output, its end."""

from __future__ import annotations

import datetime
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from pytest_containers import (
    Address,
    CommandNotFound,
    ContainerExited,
    ExecFailed,
    NotReady,
    NotRunning,
    Port,
    SpecInvalid,
    log,
    port,
)
from pytest_containers.container import Container, laid_over
from pytest_containers.probe import as_probe
from pytest_containers.session import Session
from pytest_containers.spec import ContainerSpec, ContainerState, ImageConfig
from tests.engines.memory import MemoryEngine, MemoryHandle
from tests.engines.memory_files import HOST
from tests.engines.programs import HANDLES_TERM, server
from tests.engines.sessions import launch, open_session

SLEEP = ("sleep", "60")
PATIENT = 20.0
CONFIG = ImageConfig(
    entrypoint=("echo",),
    command=("image",),
    env=("PATH=/usr/bin", "COLOUR=red"),
    user="nobody",
    workdir="/srv",
    ports=(Port(80), Port(53, "udp")),
    labels={"who": "image"},
    stop_signal="SIGQUIT",
)


@pytest.fixture
def engine() -> MemoryEngine:
    """Return an engine with the image ``full:1``, whose config says everything."""
    engine = MemoryEngine()
    engine.images.put("full:1", HOST, CONFIG)
    return engine


@pytest.fixture
def session(engine: MemoryEngine) -> Iterator[Session]:
    """Return a session on the engine."""
    session = open_session(engine)
    yield session
    session.close()


def test_container_tells_what_it_is(session: Session) -> None:
    """The attributes are the image's configuration with the test's words over it."""
    box = launch(session, "full:1", name="box", entrypoint=SLEEP, ready=lambda _: True)
    assert (box.name, box.image.reference, box.state, box.exit_code) == ("box", "full:1", "running", None)
    assert (box.entrypoint, box.command, box.user, box.workdir) == (SLEEP, (), "nobody", "/srv")
    assert (box.ports, box.labels) == ((Port(80), Port(53, "udp")), {"who": "image"})
    assert box.env == {"PATH": "/usr/bin", "COLOUR": "red"}
    assert box.hostname == box.id[:12]
    assert repr(box) == f"<Container box full:1 {box.ip}>"


def test_words_of_the_test_lie_over_the_image_s(session: Session) -> None:
    """Every part of the configuration can be said anew; ports and labels add up."""
    box = launch(
        session,
        "full:1",
        entrypoint="sleep",
        command="60",
        env={"COLOUR": "blue", "SHAPE": "round"},
        user="1:1",
        workdir="/tmp",
        ports=["80/tcp", 6379],
        labels={"what": "test"},
        hostname="box.example",
        ready=lambda _: True,
    )
    assert (box.entrypoint, box.command, box.user, box.workdir) == (("sleep",), ("60",), "1:1", "/tmp")
    assert box.env == {"PATH": "/usr/bin", "COLOUR": "blue", "SHAPE": "round"}
    assert box.ports == (Port(80), Port(53, "udp"), Port(6379))
    assert box.labels == {"who": "image", "what": "test"}
    assert box.exec("cat /etc/hostname").stdout == f"{box.hostname}\n" == "box.example\n"


def test_entrypoint_of_the_test_drops_the_image_s_command() -> None:
    """As docker run does; with a command of its own, that one stays."""
    spec = ContainerSpec(name="", entrypoint=("sh",))
    assert laid_over(spec, CONFIG).command == ()
    assert laid_over(replace(spec, command=("-c",)), CONFIG).command == ("-c",)
    assert laid_over(ContainerSpec(name=""), CONFIG).command == ("image",)


def test_address_leads_to_the_port(session: Session) -> None:
    """An address is a tuple for a socket and a text for a person; the only exposed port needs no name."""
    box = launch(session, command=server(7000), ports=[7000])
    address = box.address(7000)
    host, number = address
    assert address == box.address() == box.address("7000/tcp") == Address(host, number)
    assert str(address) == f"{host}:{number}"
    assert box.address(published=True).host == "127.0.0.1"
    assert box.url(path="/health") == f"http://{host}:{number}/health"
    assert box.url("redis", 7000) == f"redis://{host}:{number}"


def test_address_without_a_port_needs_one_exposed_port(session: Session) -> None:
    """With none or several exposed ports, the error names them."""
    with pytest.raises(SpecInvalid, match="exposes no port"):
        launch(session, command=SLEEP).address()
    box = launch(session, "full:1", entrypoint=SLEEP, ports=[81], ready=lambda _: True)
    with pytest.raises(SpecInvalid, match="exposes 80/tcp, 81/tcp"):
        box.url()
    assert isinstance(box.address(protocol="udp"), Address)


def test_exec_takes_words_or_a_string(session: Session) -> None:
    """Both forms run the same, and no shell sees the string."""
    box = launch(session, command=SLEEP)
    assert (
        box.exec("echo 'a  b' $HOME").stdout == box.exec(["echo", "a  b", "$HOME"]).stdout == "a  b $HOME\n"
    )


def test_exec_passes_its_arguments(session: Session) -> None:
    """User, folder, environment and input reach the process."""
    box = launch(session, command=SLEEP)
    assert box.exec("id -u", user="nobody").stdout == "65534\n"
    assert box.exec("pwd", workdir=PurePosixPath("/srv")).stdout == "/srv\n"
    assert "N=1" in box.exec("env", env={"N": "1"}).stdout
    assert (box.exec("cat", stdin="é").stdout_bytes, box.exec("cat", stdin=b"\0").stdout) == (
        b"\xc3\xa9",
        "\0",
    )


def test_exec_checks_where_asked(session: Session) -> None:
    """With check, another exit code than 0 is an error with the output in it."""
    box = launch(session, command=SLEEP)
    assert box.exec("false").exit_code == 1
    with pytest.raises(ExecFailed, match="exit code 5") as caught:
        box.exec(["sh", "-c", "echo out; echo err >&2; exit 5"], check=True)
    assert caught.value.seen == "out\nerr"


def test_exec_ends_at_its_timeout(session: Session) -> None:
    """An exec that takes too long is a TimeoutError."""
    with pytest.raises(TimeoutError, match="sleep"):
        launch(session, command=SLEEP).exec("sleep 60", timeout=0.05)


def test_exec_in_an_exited_container_tells_how_it_ended(session: Session) -> None:
    """The error of an exec that comes too late has exit code and last lines."""
    box = launch(session, command=["sh", "-c", "echo goodbye; exit 4"])
    box.wait()
    with pytest.raises(NotRunning, match="cannot exec: host-1 does not run") as caught:
        box.exec("true")
    assert "code 4" in caught.value.seen
    assert "stdout | goodbye" in caught.value.seen


def test_logs_choose_stream_and_time(session: Session) -> None:
    """The output is that of both streams, of one, or of the time since."""
    box = launch(session, command=["sh", "-c", "echo out; echo err >&2"])
    box.wait()
    assert (box.logs(), box.logs(stream="stdout"), box.logs(stream="stderr")) == (
        "out\nerr\n",
        "out\n",
        "err\n",
    )
    assert box.logs(since=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)) == ""


def test_log_lines_are_those_up_to_now(session: Session) -> None:
    """Without follow, the lines so far are all, the one that has not ended among them."""
    box = launch(session, command=["sh", "-c", "echo a; echo b; sleep 60"], ready=log("b"))
    assert [(line.stream, line.text) for line in box.log_lines()] == [("stdout", "a"), ("stdout", "b")]


def test_log_lines_follow_until_the_exit(session: Session) -> None:
    """With follow, lines come as they are written, and end with the container."""
    box = launch(session, command=["sh", "-c", "trap 'echo bye; exit 7' TERM; echo hello; sleep 60 & wait"])
    lines = box.log_lines(follow=True)
    assert next(lines).text == "hello"
    box.signal("TERM")
    assert [line.text for line in lines] == ["bye"]
    assert box.wait() == 7


def test_log_lines_follow_to_the_last_byte(session: Session) -> None:
    """What a process wrote before its end without a line end is a line, with follow and without."""
    box = launch(session, command=["sh", "-c", "echo hello; cat /srv/bye"], files={"/srv/bye": "bye"})
    assert [line.text for line in box.log_lines(follow=True)] == ["hello", "bye"]
    assert [line.text for line in box.log_lines()] == ["hello", "bye"]


def test_logs_tail_is_the_last_lines(session: Session) -> None:
    """As many lines as asked for, of one stream or of both, whole ones however far they reach back."""
    script = "echo a; echo b >&2; echo c; cat /srv/long; cat /srv/end"
    long = "x" * 3_000_000
    box = launch(session, command=["sh", "-c", script], files={"/srv/long": f"{long}\n", "/srv/end": "end"})
    box.wait(timeout=PATIENT)
    assert [box.logs(tail=count) for count in (0, 1, 2)] == ["", "end", f"{long}\nend"]
    assert box.logs(tail=1, stream="stderr") == "b\n"
    assert box.logs(tail=9) == box.logs() == f"a\nb\nc\n{long}\nend"
    with pytest.raises(SpecInvalid, match="tail=-1"):
        box.logs(tail=-1)


def test_timeout_of_zero_is_no_time(session: Session) -> None:
    """A time of 0 is taken as it is, and not as the container's own."""
    box = launch(session, command=SLEEP, timeout=600, stop_timeout=600)
    began = time.monotonic()
    with pytest.raises(NotReady, match=r"was not ready within 0 s"):
        box.wait_for(log("never"), timeout=0)
    with pytest.raises(NotReady, match=r"did not exit within 0 s"):
        box.wait(timeout=0)
    box.stop(timeout=0)
    assert box.exit_code == 137
    assert time.monotonic() - began < PATIENT


def test_wait_for_the_end_of_what_never_began(engine: MemoryEngine) -> None:
    """A container that was made and not started has no end to wait for."""
    image, spec = engine.images.pull("host"), ContainerSpec(name="new", command=SLEEP)
    box = Container(
        handle=engine.create(spec, image),
        spec=spec,
        image=image,
        ready=as_probe(lambda _: True),
        timeout_s=1.0,
    )
    with pytest.raises(NotRunning, match="cannot wait for the end: new does not run"):
        box.wait(timeout=PATIENT)


def test_wait_returns_the_exit_code(session: Session) -> None:
    """A wait for the end returns its code, or tells that there was none in time."""
    assert launch(session, command=["sh", "-c", "exit 6"]).wait(timeout=PATIENT) == 6
    with pytest.raises(NotReady, match=r"did not exit within 0\.05 s"):
        launch(session, command=SLEEP).wait(timeout=0.05)


def test_stop_asks_first(session: Session) -> None:
    """A process that handles the stop signal ends by itself."""
    box = launch(session, command=HANDLES_TERM, ready=log("ready"))
    box.stop(timeout=PATIENT)
    assert (box.state, box.exit_code) == ("exited", 7)
    box.stop()


def test_stop_kills_after_the_grace(session: Session) -> None:
    """A process that does not end in time is killed, after the test's time or the call's."""
    box = launch(session, command=SLEEP, stop_timeout=0.05)
    box.stop()
    assert box.exit_code == 137
    box.start()
    box.stop(timeout=0)
    assert box.exit_code == 137


def test_stop_of_what_ends_in_the_moment_after_the_grace(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends by itself between the end of the grace and the kill has been stopped."""
    box = launch(session, command=SLEEP)
    wait, waits = MemoryHandle.wait, []

    def and_then_it_ends(handle: MemoryHandle, timeout_s: float | None = None) -> ContainerState:
        state = wait(handle, timeout_s)
        waits.append(state.status)
        if len(waits) == 1:
            handle.signal(signal.SIGKILL)
            wait(handle, PATIENT)
        return state

    monkeypatch.setattr(MemoryHandle, "wait", and_then_it_ends)
    box.stop(timeout=0)
    assert waits[0] == "running"
    assert box.state == "exited"


@pytest.mark.parametrize(
    ("image", "asked", "sent"), [("host", None, 15), ("full:1", None, 3), ("full:1", "SIGUSR1", 10)]
)
def test_stop_signal_is_the_test_s_then_the_image_s(
    session: Session, monkeypatch: pytest.MonkeyPatch, image: str, asked: str | None, sent: int
) -> None:
    """The stop signal is what the test says, else what the image says, else SIGTERM."""
    seen: list[int] = []
    whole = MemoryHandle.signal

    def note(self: MemoryHandle, number: int) -> None:
        seen.append(number)
        whole(self, number)

    monkeypatch.setattr(MemoryHandle, "signal", note)
    box = launch(session, image, entrypoint=SLEEP, stop_signal=asked, ready=lambda _: True)
    box.stop(timeout=0)
    assert seen == [sent, signal.SIGKILL]


def test_kill_returns_when_it_is_over(session: Session) -> None:
    """After kill the container has exited; another signal is only sent."""
    box = launch(session, command=HANDLES_TERM, ready=log("ready"))
    box.kill("SIGUSR1")
    assert box.state == "running"
    box.kill()
    assert (box.state, box.exit_code) == ("exited", 137)
    with pytest.raises(NotRunning, match="cannot send SIGKILL: host-1 does not run"):
        box.kill()
    with pytest.raises(NotRunning, match="cannot send SIGTERM"):
        box.signal("TERM")


def test_restart_is_ready_again(session: Session) -> None:
    """A restart keeps files and address, and waits until the service is back."""
    box = launch(session, command=server(7000), ports=[7000])
    box.write_text("/srv/kept", "yes")
    before = box.ip
    box.restart(timeout=0)
    assert (box.ip, box.read_text("/srv/kept"), box.state) == (before, "yes", "running")
    box.wait_for(port(7000), timeout=PATIENT)


def test_start_that_is_not_ready_raises_again(session: Session) -> None:
    """A container that does not come back is told as at its first start."""
    box = launch(
        session, command=["sh", "-c", "cat /srv/flag; sleep 60"], files={"/srv/flag": "up\n"}, ready=log("up")
    )
    box.write_text("/srv/flag", "down\n")
    box.kill()
    threading.Timer(0.1, lambda: box.signal(9)).start()
    with pytest.raises(ContainerExited, match="0 of 1 lines matched"):
        box.start()


def test_files_are_read_and_written_as_bytes_and_text(session: Session) -> None:
    """Text is UTF-8; both work on a running and on an exited container."""
    box = launch(session, command=SLEEP)
    box.write_text("/srv/new/file", "é\n")
    assert box.read_bytes(PurePosixPath("/srv/new/file")) == b"\xc3\xa9\n"
    box.kill()
    box.write_bytes("/srv/late", b"\0\xff")
    assert box.read_bytes("/srv/late") == b"\0\xff"
    assert [box._handle.tree.stat(path).mode for path in ("/srv/new/file", "/srv/late")] == [0o644, 0o644]
    box.write_bytes("/srv/late", b"", mode=0o4750)
    box.write_text("/srv/new/file", "", mode=0o600)
    assert [box._handle.tree.stat(path).mode for path in ("/srv/new/file", "/srv/late")] == [0o600, 0o4750]


def test_commit_is_the_container_s_configuration(session: Session) -> None:
    """A commit keeps what the container was started with, and the arguments are laid over it."""
    box = launch(
        session, "full:1", entrypoint=SLEEP, env={"SHAPE": "round"}, ports=[81], ready=lambda _: True
    )
    box.write_text("/srv/made", "here")
    record = box.commit(
        "made:1",
        entrypoint="",
        command="cat /srv/made",
        env={"COLOUR": "gold"},
        user="root",
        workdir="/",
        ports=[82],
        labels={"what": "made"},
        stop_signal="INT",
    )
    config = record.config
    assert (config.entrypoint, config.command, config.user, config.workdir) == (
        (),
        ("cat", "/srv/made"),
        "root",
        "/",
    )
    assert config.env == ("PATH=/usr/bin", "COLOUR=gold", "SHAPE=round")
    assert config.ports == (Port(80), Port(53, "udp"), Port(81), Port(82))
    assert (config.labels, config.stop_signal) == ({"who": "image", "what": "made"}, "SIGINT")
    made = launch(session, "made:1", ready=log("here"))
    assert made.logs() == "here"


def test_commit_of_an_entrypoint_keeps_the_command(session: Session) -> None:
    """As docker container commit, and unlike docker run: each argument changes what it names alone."""
    box = launch(session, "full:1", command="one two", entrypoint=SLEEP, ready=lambda _: True)
    config = box.commit("kept:1", entrypoint="echo").config
    assert (config.entrypoint, config.command) == (("echo",), ("one", "two"))
    config = box.commit("kept:2", command="three").config
    assert (config.entrypoint, config.command) == (SLEEP, ("three",))


def test_commit_without_arguments_runs_what_ran(session: Session) -> None:
    """As docker container commit: the image's command is the container's."""
    box = launch(session, command=SLEEP)
    assert box.commit("same:1").config.command == SLEEP
    assert {str(change) for change in box.diff()} == set()


def test_removed_container_is_gone(session: Session, engine: MemoryEngine) -> None:
    """Removing frees name and address, and may be done twice."""
    box = launch(session, command=SLEEP, name="box")
    box.remove()
    box.remove()
    assert engine.run.containers == {}
    again = launch(session, command=SLEEP, name="box")
    assert (box.removed, again.removed) == (True, False)


def test_command_that_is_missing_leaves_nothing(session: Session, engine: MemoryEngine) -> None:
    """A container that cannot be started is removed before the test is told."""
    with pytest.raises(CommandNotFound, match="no-such-command"):
        launch(session, command="no-such-command")
    assert engine.run.containers == {}


def test_report_has_state_and_last_lines(session: Session) -> None:
    """A report is the state, then the last lines with time and stream."""
    box = launch(session, command=["sh", "-c", "echo a; echo b; echo c >&2; exit 1"])
    box.wait()
    state, *lines = box.report(2).splitlines()
    assert state.startswith("exited: code 1, after")
    assert [line.partition(" ")[2] for line in lines] == ["stdout | b", "stderr | c"]
    assert launch(session, command=SLEEP).report(5) == "running\nno output"
