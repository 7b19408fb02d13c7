"""Probes: when a container counts as ready, and what is told when it does not."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pytest_containers import (
    ContainerExited,
    NotReady,
    Probe,
    SpecInvalid,
    all_of,
    any_of,
    command,
    exchange,
    exited,
    healthcheck,
    log,
    port,
    started,
)
from pytest_containers import (
    http as http_probe,
)
from pytest_containers.checks import Exposed
from pytest_containers.container import Container
from pytest_containers.probe import as_probe, default_probe, split
from pytest_containers.session import Session
from pytest_containers.spec import Address, Healthcheck, Port
from tests.engines.memory import MemoryEngine, MemoryHandle
from tests.engines.memory_files import HOST
from tests.engines.programs import server
from tests.engines.sessions import launch, open_session

SLEEP = ("sleep", "60")
PATIENT = 20.0


@pytest.fixture
def session() -> Iterator[Session]:
    """Return a session on an engine in memory."""
    session = open_session()
    yield session
    session.close()


@pytest.fixture
def sleeping(session: Session) -> Container:
    """Return a container that does nothing."""
    return launch(session, command=SLEEP)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return how to lead every address of a container to a port of this machine."""

    def lead(number: int) -> None:
        monkeypatch.setattr(MemoryHandle, "address", lambda *_: Address("127.0.0.1", number))

    return lead


@pytest.fixture
def web(at: Callable[[int], None]) -> Iterator[list[str]]:
    """Return the requests that a web server gets; it answers 503 to the first two."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(503 if len(seen) < 3 else 200)
            self.end_headers()
            self.wfile.write(f"health: {self.headers.get('X-Asked', 'green')}".encode())

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Be quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
        at(listener.server_port)
        yield seen
        listener.shutdown()


def _fails(container: Container, probe: Probe, *, timeout: float = 0.05) -> str:
    with pytest.raises(NotReady) as caught:
        container.wait_for(probe, timeout=timeout)
    return str(caught.value)


def test_port_holds_when_the_kernel_says_listen(session: Session) -> None:
    """A container is ready when its port is bound; nothing in the image is asked."""
    container = launch(session, command=server(7000), ready=port(7000))
    with socket.create_connection(container.address(7000), timeout=PATIENT) as client:
        client.sendall(b"now")
        assert client.recv(10) == b"+now"


def test_port_tells_what_is_bound_instead(session: Session) -> None:
    """A port that stays closed is told beside those that are open, and the way of loopback."""
    container = launch(session, command=server(7000), ready=port("7000/tcp"))
    said = _fails(container, port(7001, "53/udp"))
    assert "no listener on 7001/tcp, 53/udp (7000/tcp bound)" in said
    assert "within 0.05 s" in said
    assert "running" in said
    assert "stdout | listening" in said


def test_port_does_not_count_loopback(session: Session) -> None:
    """A listener that nobody can reach is none, and is told with its address and what to change."""
    container = launch(session, command=server(7000, host="127.0.0.1"), ready=log("listening"))
    said = _fails(container, port(7000, 7001))
    assert "no listener on 7001/tcp (nothing bound); 7000/tcp is bound to 127.0.0.1 alone" in said
    assert "mend: let the server listen on 0.0.0.0" in said


def test_http_asks_again_until_the_status_is_right(sleeping: Container, web: list[str]) -> None:
    """An answer with another status is not ready yet."""
    sleeping.wait_for(http_probe(80, "health"), timeout=PATIENT)
    assert web == ["/health"] * 3


def test_http_takes_the_statuses_it_is_given(sleeping: Container, web: list[str]) -> None:
    """Any status of the collection is ready."""
    sleeping.wait_for(http_probe(80, status={200, 503}), timeout=PATIENT)
    assert web == ["/"]


def test_http_reads_the_body(sleeping: Container, web: list[str]) -> None:
    """A pattern for the body has to be found in it; headers are sent."""
    sleeping.wait_for(http_probe(80, headers={"X-Asked": "blue"}, expect=rb"h: blue"), timeout=PATIENT)
    assert "answered b'health: green'" in _fails(sleeping, http_probe(80, expect=b"red"))


def test_http_tells_why_nobody_answers(sleeping: Container) -> None:
    """A refused connection is a reason, told with address and error."""
    assert "127.0.0.1:1/: ConnectionRefusedError" in _fails(sleeping, http_probe(80))


def test_http_over_tls_fails_on_a_plain_server(sleeping: Container, web: list[str]) -> None:
    """With tls a handshake is made, which a plain server cannot answer."""
    assert "SSL" in _fails(sleeping, http_probe(80, tls=True), timeout=0.2)
    assert web == []


def test_exchange_waits_for_the_answer(session: Session) -> None:
    """What is sent has to be answered by what is expected."""
    container = launch(session, command=server(7000), ready=exchange(7000, send=b"PING", expect=rb"^\+PING$"))
    said = _fails(container, exchange(7000, send=b"PING", expect=b"PONG"), timeout=0.1)
    assert "answered b'+PING'" in said
    assert "an answer like b'PONG' on 7000/tcp" in said


def test_exchange_without_expectation_needs_a_connection(session: Session) -> None:
    """A connection is enough where nothing is expected."""
    container = launch(session, command=server(7000), ready=exchange(7000))
    assert "ConnectionRefusedError" in _fails(container, exchange(7001))


def test_log_counts_lines_of_its_stream(session: Session) -> None:
    """As many lines as asked have to match, in the stream that was named."""
    container = launch(session, command=["sh", "-c", "echo ready; echo ready >&2; echo Ready; sleep 60"])
    container.wait_for(log("ready", times=2), timeout=PATIENT)
    container.wait_for(log("ready", stream="stderr"), timeout=PATIENT)
    container.wait_for(log("(?i)ready", times=3), timeout=PATIENT)
    said = _fails(container, log("ready", times=2, stream="stdout"))
    assert "1 of 2 lines matched" in said
    assert "'ready' in stdout 2 times" in said


def test_log_reads_each_byte_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often one looks, only what is new is read."""
    container = launch(session, command=["sh", "-c", "echo a; echo b; sleep 60"], ready=log("b"))
    asked: list[int] = []
    whole = MemoryHandle.logs

    def logs(self: MemoryHandle, since: int = 0, *, limit_bytes: int | None = None) -> object:
        asked.append(since)
        return whole(self, since, limit_bytes=limit_bytes)

    monkeypatch.setattr(MemoryHandle, "logs", logs)
    _fails(container, log("never"), timeout=0.1)
    assert asked[:2] == [0, 2]
    assert set(asked[2:]) <= {2}


def test_log_of_an_earlier_life_does_not_count(session: Session) -> None:
    """After a restart only what is written since then makes ready."""
    container = launch(session, command=["sh", "-c", "echo ready; sleep 60"], ready=log("ready"))
    container.kill()
    container.start()
    assert container.logs() == "ready\nready\n"
    assert "1 of 2 lines" in _fails(container, log("ready", times=2))


def test_log_counts_what_a_process_wrote_before_its_end(session: Session) -> None:
    """A process that says it and ends has said it."""
    container = launch(session, command=["echo", "done"], ready=log("done"))
    assert container.wait(timeout=PATIENT) == 0


def test_command_asks_inside(sleeping: Container) -> None:
    """A command is run in the container until it ends as it should."""
    sleeping.wait_for(command("ls /etc"), timeout=PATIENT)
    sleeping.wait_for(command(["false"], exit_code=1), timeout=PATIENT)
    assert "ls ended with 1: ls: cannot access /srv/none" in _fails(sleeping, command("ls /srv/none"))
    assert "sleep was cut off by the deadline after 0.05 s" in _fails(sleeping, command("sleep 60"))


def test_exited_waits_for_the_end(session: Session) -> None:
    """The end of the process is what is waited for, with its code or any."""
    launch(session, command=["true"], ready=exited(0))
    container = launch(session, command=["sh", "-c", "exit 3"], ready=exited())
    assert container.exit_code == 3
    assert "the process is running" in _fails(launch(session, command=SLEEP), exited(0))


def test_exited_with_another_code_is_told_at_once(session: Session) -> None:
    """A wrong exit code never becomes a right one."""
    with pytest.raises(ContainerExited, match=r"exit code 3"):
        launch(session, command=["sh", "-c", "exit 3"], ready=exited(0), timeout=600)


def test_all_of_and_any_of_combine(sleeping: Container) -> None:
    """All have to hold, or one of them; the reason is that of those that do not."""
    yes, no = command("true"), command("false")
    sleeping.wait_for(all_of(yes, yes), timeout=PATIENT)
    sleeping.wait_for(any_of(no, yes), timeout=PATIENT)
    assert "true to end with 0 and false to end with 0" in _fails(sleeping, all_of(yes, no))
    assert "false ended with 1; false ended with 1" in _fails(sleeping, any_of(no, no))


def test_callable_is_a_probe(sleeping: Container) -> None:
    """Any callable is asked with the container until it returns something true."""
    answers = iter((False, None, 0, "yes"))
    seen: list[Container] = []

    def ask(container: Container) -> object:
        seen.append(container)
        return next(answers)

    sleeping.wait_for(ask, timeout=PATIENT)
    assert seen == [sleeping] * 4


def test_callable_s_error_is_a_reason(sleeping: Container) -> None:
    """Whatever a client library raises means: not yet."""

    def refuse(container: Container) -> bool:
        raise ConnectionError(f"no {container.name}")

    said = _fails(sleeping, as_probe(refuse))
    assert "it raised ConnectionError: no host-1" in said
    assert "refuse() to be true" in said


def test_callable_s_mistake_is_raised_at_once(sleeping: Container) -> None:
    """A slip of the pen in a callable is no reason to wait."""
    with pytest.raises(AttributeError, match="nonsense"):
        sleeping.wait_for(lambda container: getattr(container, "nonsense"), timeout=600)  # noqa: B009


def test_callable_that_outlasts_the_wait_is_asked_once(session: Session) -> None:
    """After the deadline nothing is asked again, also where the container has ended meanwhile."""
    container = launch(session, command=("sleep", "0.1"))
    asked: list[float] = []

    def slow(container: Container) -> bool:
        asked.append(time.monotonic())
        container.wait(timeout=PATIENT)
        while time.monotonic() < asked[0] + 0.7:
            threading.Event().wait(0.05)
        return False

    with pytest.raises(ContainerExited) as caught:
        container.wait_for(slow, timeout=0.05)
    assert len(asked) == 1
    assert "after the deadline" in str(caught.value)
    assert "it returned False" in str(caught.value)


@pytest.mark.parametrize("kind", [TypeError, NameError, ImportError, SyntaxError, AttributeError])
def test_mistake_of_any_kind_is_raised_at_once(sleeping: Container, kind: type[Exception]) -> None:
    """What no waiting mends is not waited for."""

    def mistaken(_: Container) -> bool:
        raise kind("a mistake")

    with pytest.raises(kind, match="a mistake"):
        sleeping.wait_for(mistaken, timeout=600)


def test_command_in_a_container_that_has_ended_is_told(session: Session) -> None:
    """A command cannot run there, which is a reason and no error of its own."""
    container = launch(session, command=["true"], ready=exited(0))
    with pytest.raises(ContainerExited, match="the container does not run"):
        container.wait_for(command("true"), timeout=600)


def test_coroutine_function_is_a_probe(sleeping: Container) -> None:
    """An async callable is awaited, within a running event loop as well, and its answer counts."""
    answers = itertools.chain((False, True), itertools.repeat(False))

    async def ask(container: Container) -> bool:
        ready = asyncio.Event()
        asyncio.get_running_loop().call_soon(ready.set)
        await ready.wait()
        assert container is sleeping
        return next(answers)

    sleeping.wait_for(ask, timeout=PATIENT)

    async def within() -> str:
        return _fails(sleeping, as_probe(ask), timeout=0.3)

    assert "it returned False" in asyncio.run(within())


def test_coroutine_is_cut_off_by_the_deadline(sleeping: Container) -> None:
    """An answer that does not come in time is told as that, with the last one that came."""
    asked: list[int] = []

    async def ask(_: Container) -> bool:
        asked.append(1)
        if len(asked) > 1:
            await asyncio.Event().wait()
        return False

    said = _fails(sleeping, as_probe(ask), timeout=0.3)
    assert "it was cut off by the deadline after 0." in said
    assert "the last answer was: it returned False" in said


def test_coroutine_s_error_is_a_reason_and_its_mistake_is_raised(sleeping: Container) -> None:
    """What is raised while it is awaited counts as what a plain callable raises."""

    async def refuse(container: Container) -> bool:
        raise ConnectionError(f"no {container.name}")

    async def mistaken(container: Container) -> bool:
        return bool(getattr(container, "nonsense"))  # noqa: B009

    assert "it raised ConnectionError: no host-1" in _fails(sleeping, as_probe(refuse))
    with pytest.raises(AttributeError, match="nonsense"):
        sleeping.wait_for(mistaken, timeout=600)


def test_wait_without_time_looks_once(sleeping: Container) -> None:
    """`timeout=0` is one look, which may hold."""
    asked: list[int] = []

    def ask(_: Container) -> bool:
        asked.append(1)
        return False

    sleeping.wait_for(started(), timeout=0)
    with pytest.raises(NotReady, match="within 0 s"):
        sleeping.wait_for(ask, timeout=0)
    assert len(asked) == 1


def test_last_lines_are_twenty(session: Session) -> None:
    """An error shows the last twenty lines of output, not all."""
    lines = "; ".join(f"echo line-{n}." for n in range(25))
    container = launch(session, command=["sh", "-c", f"{lines}; sleep 60"], ready=log("line-24"))
    said = _fails(container, port(1))
    assert "last 20 lines of output" in said
    assert [n for n in range(25) if f"line-{n}." in said] == list(range(5, 25))


class _Talker:
    """A server that gives the n-th client the n-th answer, and keeps every connection open."""

    def __init__(self, *answers: bytes | None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._answers = iter(answers)
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self._kept.append(client)
                if answer := next(self._answers, None):
                    client.sendall(answer)

    def close(self) -> None:
        """Close every socket."""
        self.listener.close()
        for one in self._kept:
            one.close()


@pytest.fixture
def talker(at: Callable[[int], None]) -> Iterator[Callable[..., _Talker]]:
    """Return how to start a server that stands at every address of a container."""
    made: list[_Talker] = []

    def start(*answers: bytes | None) -> _Talker:
        made.append(_Talker(*answers))
        at(made[-1].listener.getsockname()[1])
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_exchange_asks_again_soon_after_a_wrong_answer(
    sleeping: Container, talker: Callable[..., _Talker]
) -> None:
    """A wrong answer on a connection that stays open costs a moment, not a whole look."""
    talker(b"-LOADING\r\n", b"-LOADING\r\n", b"+PONG\r\n")
    began = time.monotonic()
    sleeping.wait_for(exchange(7, expect=rb"\+PONG"), timeout=PATIENT)
    assert time.monotonic() - began < 2.5


def test_exchange_tells_the_last_answer(sleeping: Container, talker: Callable[..., _Talker]) -> None:
    """Silence at the deadline is told with the last answer that was one."""
    talker(b"-LOADING\r\n")
    said = _fails(sleeping, exchange(7, expect=rb"\+PONG"), timeout=0.6)
    assert "no answer when the deadline cut it off" in said
    assert r"the last answer was: 127.0.0.1:" in said
    assert r"answered b'-LOADING\r\n'" in said


def test_http_tells_the_last_answer(sleeping: Container, talker: Callable[..., _Talker]) -> None:
    """A request that is not answered does not hide the answer before."""
    talker(b"HTTP/1.0 500 Oops\r\nContent-Length: 4\r\n\r\nboom")
    said = _fails(sleeping, http_probe(80, "/health"), timeout=0.5)
    assert "no answer when the deadline cut it off" in said
    assert "/health answered 500: b'boom'" in said


def test_exit_ends_the_wait_at_once(session: Session) -> None:
    """A container that has ended is told with code, time, reason and last lines, long before the timeout."""
    with pytest.raises(ContainerExited) as caught:
        launch(session, command=["sh", "-c", "echo 'no config' >&2; exit 3"], ready=port(7000), timeout=600)
    said = str(caught.value)
    assert said.startswith("host-1 exited before it was ready")
    assert "exited: code 3, after" in said
    assert "waited for a listener on 7000/tcp: no listener on 7000/tcp" in said
    assert "stderr | no config" in said


def test_exit_during_the_wait_is_told_with_its_signal(sleeping: Container) -> None:
    """The end of the container wakes the wait."""
    threading.Timer(0.1, sleeping.kill).start()
    with pytest.raises(ContainerExited, match="code 137, SIGKILL"):
        sleeping.wait_for(port(7000), timeout=600)


def test_healthcheck_is_the_image_s(engine_with_health: MemoryEngine) -> None:
    """Both forms of a HEALTHCHECK are run, and make ready by default."""
    session = open_session(engine_with_health)
    container = launch(session, "healthy:1", command=["sh", "-c", "touch /srv/up; sleep 60"])
    assert container.diff()
    launch(session, "shell:1", command=["sh", "-c", "touch /srv/up; sleep 60"])
    assert "ls: cannot access /srv/up" in _fails(
        launch(session, "healthy:1", command=SLEEP, ready=command("true")), healthcheck()
    )
    assert "has no HEALTHCHECK" in _fails(launch(session, command=SLEEP), healthcheck())
    session.close()


@pytest.fixture
def engine_with_health() -> MemoryEngine:
    """Return an engine whose images have a HEALTHCHECK."""
    engine = MemoryEngine()
    config = replace(
        engine.images.pull("host").config, healthcheck=Healthcheck(test=("CMD", "ls", "/srv/up"))
    )
    shell = replace(config, healthcheck=Healthcheck(test=("CMD-SHELL", "ls /srv/up")))
    engine.images.put("healthy:1", HOST, config)
    engine.images.put("shell:1", HOST, shell)
    return engine


def test_default_probe_prefers_health_then_ports() -> None:
    """HEALTHCHECK, then the ports of the test and of the image, then the process alone."""
    ports = (Port(81), Port(53, "udp"), Port(80))
    assert default_probe(Healthcheck(test=("CMD", "true")), ports) == healthcheck()
    exposed = Exposed(ports=(Port(80), Port(81)))
    assert default_probe(Healthcheck(test=("NONE",)), ports) == exposed
    assert default_probe(Healthcheck(test=()), ports) == exposed
    assert default_probe(None, ()) == started()
    assert default_probe(None, (Port(53, "udp"),)) == Exposed(ports=(Port(53, "udp"),))
    assert default_probe(None, ports, (Port(80),)) == port(80)
    assert default_probe(None, (), (Port(53, "udp"),)) == port("53/udp")
    assert default_probe(None, ports, (Port(9),)) == all_of(port(9), exposed)


def test_probe_that_cannot_be_meant_is_refused() -> None:
    """A slip of the pen is told when the probe is written, not when it is used."""
    wrong: list[Callable[[], Probe]] = [port, any_of, lambda: port("x"), lambda: log("(")]
    wrong += [lambda: exchange(1, expect=b"["), lambda: http_probe(1, expect=b"*")]
    for make in wrong:
        with pytest.raises(SpecInvalid):
            make()
    with pytest.raises(SpecInvalid, match="is not a probe"):
        as_probe(8080)  # type: ignore[arg-type]


def test_split_cuts_words_and_runs_no_shell() -> None:
    """A string becomes words as a shell cuts them; variables and operators stay what they are."""
    assert split("echo 'a b' $HOME | cat") == ("echo", "a b", "$HOME", "|", "cat")
    assert split(["a b"]) == ("a b",)
    for wrong in ("", "'open", [], [1]):
        with pytest.raises(SpecInvalid):
            split(wrong)  # type: ignore[arg-type]
