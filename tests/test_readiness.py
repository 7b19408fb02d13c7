"""Readiness on the real kernel: what listens where, who is asked, and what is told at the deadline."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers import NotReady, command, healthcheck, log, port, started

if TYPE_CHECKING:
    from pytest_containers import Container, ContainerFactory, ImageRecord, Shelf

pytestmark = pytest.mark.kernel

# Each word of argv is SECONDS:FAMILY:KIND:ADDRESS:PORT, bound when these seconds have passed.
SERVE: Final = """
import signal, socket, sys, time
kept, began = [], time.monotonic()
for word in sys.argv[1:]:
    wait, family, kind, address, number = word.split("/")
    time.sleep(max(0, began + float(wait) - time.monotonic()))
    one = socket.socket(getattr(socket, f"AF_{family}"), getattr(socket, f"SOCK_{kind}"))
    if family == "INET6":
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address == "::")
    one.bind((address, int(number)))
    if kind == "STREAM":
        one.listen()
    kept.append(one)
print("serving", flush=True)
signal.pause()
"""
# Answers the first client as a redis does that still loads its data, the second as one that is there.
REDIS: Final = """
import signal, socket
listener = socket.create_server(("", 6379))
for answer in (b"-LOADING\\r\\n", b"+PONG\\r\\n"):
    client, _ = listener.accept()
    client.recv(9)
    client.sendall(answer)
print("asked", flush=True)
signal.pause()
"""
SLEEP: Final = ["sleep", "infinity"]


def _serve(*words: str) -> list[str]:
    return ["/usr/bin/python3", "-c", SERVE, *words]


@pytest.fixture
def exposing(images: Shelf, tmp_path: Path) -> Callable[..., ImageRecord]:
    """Return how to make an image of the lines of a Dockerfile."""

    def make(*lines: str) -> ImageRecord:
        (tmp_path / "Dockerfile").write_text("\n".join(("FROM host", *lines, "")))
        return images.build(tmp_path, tag=f"readiness-{abs(hash(lines))}:1")

    return make


def test_udp_port_is_waited_for(container: ContainerFactory) -> None:
    """A container whose only port is one of UDP is ready when it is bound; the first datagram arrives."""
    box = container("host", command=_serve("0.4/INET/DGRAM/0.0.0.0/5000"), ports=["5000/udp"])
    assert box.address() == box.address("5000/udp")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(box.address())
        client.send(b"x")
        client.send(b"y")  # would raise ConnectionRefusedError where nobody has bound the port


def test_udp_port_of_an_image_is_waited_for(
    container: ContainerFactory, exposing: Callable[..., ImageRecord]
) -> None:
    """EXPOSE of UDP ports alone is waited for as well."""
    image = exposing("EXPOSE 5000/udp")
    box = container(image.reference, command=_serve("0.4/INET/DGRAM/0.0.0.0/5000"))
    assert box.address().port == 5000
    with pytest.raises(NotReady, match="no listener on 5000/udp"):
        container(image.reference, command=SLEEP, timeout=0.2)


def _reason(box: Container, number: int) -> str:
    with pytest.raises(NotReady) as caught:
        box.wait_for(port(number), timeout=0.1)
    return str(caught.value)


def test_listener_that_the_test_cannot_reach_is_told_with_its_address(container: ContainerFactory) -> None:
    """Loopback, and a socket for IPv6 alone, are no listeners; the reason says where they are bound."""
    words = ("0/INET/STREAM/127.0.0.1/81", "0/INET6/STREAM/::1/82", "0/INET6/STREAM/::/83")
    box = container("host", command=_serve(*words, "0/INET6/STREAM/::ffff:0.0.0.0/84"), ready=log("serving"))
    assert "81/tcp is bound to 127.0.0.1 alone" in _reason(box, 81)
    assert "82/tcp is bound to ::1 alone" in _reason(box, 82)
    assert "83/tcp is bound to :: for IPv6 alone" in _reason(box, 83)
    assert "mend: let the server listen on 0.0.0.0" in _reason(box, 83)
    box.wait_for(port(84), timeout=0)


def test_dual_stack_listener_counts(container: ContainerFactory) -> None:
    """A socket on :: that takes IPv4 too is ready, and is reached by the address of the container."""
    script = "import socket, signal; s = socket.create_server(('::', 80), family=socket.AF_INET6,"
    script += " dualstack_ipv6=True); signal.pause()"
    box = container("host", command=["/usr/bin/python3", "-c", script], ports=[80])
    socket.create_connection(box.address(), timeout=5).close()


def test_exposed_port_that_nobody_binds_does_not_hold_up(
    container: ContainerFactory, exposing: Callable[..., ImageRecord]
) -> None:
    """Of the ports that an image exposes one is enough, once no other has come for a while."""
    image = exposing("EXPOSE 8000 9000 7000")
    began = time.monotonic()
    box = container(image.reference, command=_serve("0/INET/STREAM/0.0.0.0/8000"), timeout=30)
    assert 1.0 <= time.monotonic() - began < 30
    assert box.state == "running"


def test_exposed_ports_that_come_one_after_the_other_are_waited_for(
    container: ContainerFactory, exposing: Callable[..., ImageRecord]
) -> None:
    """A port that follows within a moment is waited for, and then nothing more is."""
    image = exposing("EXPOSE 8000 9000")
    words = ("0/INET/STREAM/0.0.0.0/9000", "0.5/INET/STREAM/0.0.0.0/8000")
    box = container(image.reference, command=_serve(*words))
    socket.create_connection(box.address(8000), timeout=5).close()


def test_ports_that_are_missing_are_told(
    container: ContainerFactory, exposing: Callable[..., ImageRecord]
) -> None:
    """The reason names the ports that are bound and those that may still come."""
    image = exposing("EXPOSE 8000 9000")
    with pytest.raises(NotReady) as caught:
        container(image.reference, command=_serve("0/INET/STREAM/0.0.0.0/8000"), timeout=0.8)
    said = str(caught.value)
    assert "8000/tcp bound for 0." in said
    assert "no listener on 9000/tcp, which may still come" in said
    assert "ready=port(...)" in said


def test_port_that_the_test_names_has_to_be_bound(
    container: ContainerFactory, exposing: Callable[..., ImageRecord]
) -> None:
    """`ports=` is waited for; what else the image exposes is not, where the test names one of these."""
    image = exposing("EXPOSE 8000 9000")
    began = time.monotonic()
    container(image.reference, command=_serve("0/INET/STREAM/0.0.0.0/8000"), ports=[8000])
    assert time.monotonic() - began < 30
    with pytest.raises(NotReady, match="no listener on 9000/tcp"):
        container(image.reference, command=_serve("0/INET/STREAM/0.0.0.0/8000"), ports=[9000], timeout=0.3)


def test_started_waits_for_nothing(container: ContainerFactory) -> None:
    """`started()` holds whatever the image or the test exposes."""
    box = container("host", command=SLEEP, ports=[9000], ready=started())
    assert box.state == "running"


def test_shared_container_is_ready_by_the_probe_of_each_order(container: ContainerFactory) -> None:
    """The same container with another ready= is waited for with that; the wait is not made twice."""
    late = _serve("0.5/INET/STREAM/0.0.0.0/8000")
    first = container("host", command=late, ready=started(), scope="class")
    second = container("host", command=late, ready=port(8000), scope="class")
    assert first is second
    socket.create_connection(second.address(8000), timeout=5).close()
    with pytest.raises(NotReady, match=r"within 0\.2 s"):
        container("host", command=late, ready=log("never"), timeout=0.2, scope="class")


def test_command_probe_runs_as_the_user_that_was_named(container: ContainerFactory) -> None:
    """`command(user=)` is the user of the command, not of the container."""
    ask = ["sh", "-c", "test $(id -u) = 1234"]
    box = container("host", command=SLEEP)
    box.wait_for(command(ask, user="1234"), timeout=20)
    with pytest.raises(NotReady, match="sh ended with 1"):
        box.wait_for(command(ask), timeout=0.1)


def test_reason_quotes_the_end_of_what_a_command_says(container: ContainerFactory) -> None:
    """The last 200 characters of standard error, else of standard output."""
    box = container("host", command=SLEEP)
    with pytest.raises(NotReady) as caught:
        box.wait_for(command(["sh", "-c", "printf 'a%.0s' $(seq 300) >&2; echo b >&2; exit 3"]), timeout=0.5)
    assert f"sh ended with 3: {'a' * 199}b\n" in str(caught.value)


def test_command_that_the_deadline_cuts_off_tells_what_came_before(container: ContainerFactory) -> None:
    """A command that runs when the time is over is told as cut off, with the last one that ended."""
    script = "test -e /tmp/asked && sleep 60; touch /tmp/asked; echo 'not yet'; exit 2"
    box = container("host", command=SLEEP)
    with pytest.raises(NotReady) as caught:
        box.wait_for(command(["sh", "-c", script]), timeout=0.5)
    assert "sh was cut off by the deadline after 0." in str(caught.value)
    assert "the last answer was: sh ended with 2: not yet" in str(caught.value)


def test_healthcheck_is_cut_off_by_its_own_timeout(
    container: ContainerFactory, exposing: Callable[..., ImageRecord]
) -> None:
    """A HEALTHCHECK that hangs is ended after its timeout, and made again."""
    image = exposing(
        "HEALTHCHECK --timeout=1s CMD test -e /tmp/asked && exit 0; touch /tmp/asked; exec sleep 60"
    )
    began = time.monotonic()
    box = container(image.reference, command=SLEEP, timeout=30)
    assert 1.0 <= time.monotonic() - began < 20
    assert box.state == "running"


def test_healthcheck_by_shell_uses_the_shell_of_the_image(
    container: ContainerFactory, exposing: Callable[..., ImageRecord]
) -> None:
    """SHELL of the Dockerfile runs a HEALTHCHECK that is written as a line."""
    image = exposing('SHELL ["/bin/bash", "-c"]', "HEALTHCHECK CMD [[ $BASH_VERSION ]]")
    assert container(image.reference, command=SLEEP, ready=healthcheck(), timeout=20).state == "running"


def test_service_s_probe_can_be_named(
    container: ContainerFactory, exposing: Callable[..., ImageRecord]
) -> None:
    """`ready="redis"` waits as the catalog does for redis, whatever the image is called."""
    script = "import socket\ns = socket.create_server(('', 6379))\n"
    script += (
        "for answer in (b'-LOADING\\r\\n', b'+PONG\\r\\n'):\n c, _ = s.accept(); c.recv(9); c.sendall(answer)"
    )
    script += "\nprint('asked', flush=True)\nimport signal; signal.pause()"
    box = container("host", command=["/usr/bin/python3", "-c", script], ready="redis")
    box.wait_for(log("asked"), timeout=5)
