"""Names of the outside: asked of the host's resolvers, played by the test."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from pytest_containers.runtime.network import dns
from pytest_containers.runtime.network.upstream import nameservers
from tests.runtime.network.conftest import RESOLVERS, Stage

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from tests.runtime.network.conftest import Agent, Container

NAME = "example.org"


def _reply(query: bytes, code: int = dns.NO_ERROR, data: bytes = b"") -> bytes:
    count = bytes([0, 1]) if data else bytes(2)
    return query[:2] + bytes([0x81, 0x80 | code]) + query[4:6] + count + bytes(4) + query[12:] + data


def test_nameservers_are_those_of_resolv_conf() -> None:
    """Servers come in order, at most three, comments and options aside (resolv.conf(5))."""
    text = "# first\nsearch a.example\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\noptions ndots:2\n"
    assert nameservers(text) == ("192.0.2.1", "fe80::1%eth0")
    assert nameservers("".join(f"nameserver 192.0.2.{n}\n" for n in range(9))) == (
        "192.0.2.0",
        "192.0.2.1",
        "192.0.2.2",
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "search a.example\n",
        "nameserver\n",
        "#nameserver 192.0.2.1\n",
        "nameserver example.org\n",
        "nameserver \xff\n",
    ],
)
def test_nameservers_default_to_the_local_one(text: str) -> None:
    """A file that names no server means the one of this machine (resolv.conf(5))."""
    assert nameservers(text) == ("127.0.0.1",)


@pytest.mark.kernel
def test_query_is_answered_by_the_hosts_resolver(stage: Stage) -> None:
    """A foreign name is asked of the first resolver; its answer arrives with the client's number."""
    resolver = stage.host.udp(stage.resolvers[0], 53)
    line = stage.container().ask(stage.container().resolver, NAME)
    query, sender = resolver.recvfrom(512)
    assert query[2:] == stage.query_bytes(NAME)[2:]
    resolver.sendto(_reply(query, data=b"\xc0\x0c payload"), sender)
    reply = line.recv(512)
    assert reply[:2] == stage.query_bytes(NAME)[:2]
    assert reply.endswith(b" payload")


@pytest.mark.kernel
@pytest.mark.parametrize("linked", [False, True])
def test_resolvers_change_with_the_file_while_a_run_lasts(host: Agent, tmp_path: Path, linked: bool) -> None:
    """A resolv.conf that is replaced, in /etc or where its link leads, is read again by the gateway."""
    etc, run = tmp_path / "etc", tmp_path / "run"
    for folder in (etc, run):
        folder.mkdir()
    file = (run if linked else etc) / "resolv.conf"
    file.write_text(f"nameserver {RESOLVERS[0]}\n")
    if linked:
        (etc / "resolv.conf").symlink_to("../run/resolv.conf")
    for folder in (etc, run):
        host.ask("folder", source=str(folder), target=f"/{folder.name}")
    with contextlib.ExitStack() as scope:
        stage = Stage.build(host, scope)
        place = stage.container()
        first, second = (stage.host.udp(ip, 53) for ip in RESOLVERS)
        _answered(place, first)
        (file.parent / "new").write_text(f"nameserver {RESOLVERS[1]}\n")
        (file.parent / "new").rename(file)
        _answered(place, second)


def _answered(place: Container, resolver: socket.socket) -> None:
    """Ask for a name, and see that *resolver* gets the question."""
    line = place.ask(place.resolver, NAME)
    query, sender = resolver.recvfrom(512)
    resolver.sendto(_reply(query), sender)
    assert dns.rcode(line.recv(512)) == dns.NO_ERROR


@pytest.mark.kernel
def test_query_goes_to_the_next_resolver_when_one_refuses(stage: Stage) -> None:
    """Where nothing listens at the first resolver, the second one is asked at once."""
    second = stage.host.udp(stage.resolvers[1], 53)
    line = stage.container().ask(stage.container().resolver, NAME)
    query, sender = second.recvfrom(512)
    second.sendto(_reply(query), sender)
    assert dns.rcode(line.recv(512)) == dns.NO_ERROR


@pytest.mark.kernel
def test_query_goes_to_the_next_resolver_when_one_is_silent(stage: Stage) -> None:
    """A resolver that says nothing costs two seconds, not the answer."""
    first, second = (stage.host.udp(ip, 53) for ip in stage.resolvers)
    line = stage.container().ask(stage.container().resolver, NAME)
    first.recv(512)
    query, sender = second.recvfrom(512)
    second.sendto(_reply(query), sender)
    assert dns.rcode(line.recv(512)) == dns.NO_ERROR


@pytest.mark.kernel
def test_query_goes_to_the_next_resolver_when_one_fails(stage: Stage) -> None:
    """SERVFAIL of one resolver is not the last word."""
    first, second = (stage.host.udp(ip, 53) for ip in stage.resolvers)
    line = stage.container().ask(stage.container().resolver, NAME)
    query, sender = first.recvfrom(512)
    first.sendto(_reply(query, dns.SERVER_FAILURE), sender)
    query, sender = second.recvfrom(512)
    second.sendto(_reply(query, dns.NAME_ERROR), sender)
    assert dns.rcode(line.recv(512)) == dns.NAME_ERROR


@pytest.mark.kernel
def test_query_fails_at_once_when_no_resolver_listens(stage: Stage) -> None:
    """Without any resolver the client is told so (SERVFAIL) and does not wait."""
    place = stage.container()
    line = place.ask(place.resolver, NAME)
    line.settimeout(1.5)
    assert dns.rcode(line.recv(512)) == dns.SERVER_FAILURE


@pytest.mark.kernel
def test_query_takes_no_answer_with_another_number_or_question(stage: Stage) -> None:
    """Forged answers are passed over and the true one is still awaited (RFC 5452)."""
    resolver = stage.host.udp(stage.resolvers[0], 53)
    line = stage.container().ask(stage.container().resolver, NAME)
    query, sender = resolver.recvfrom(512)
    other_number = (int.from_bytes(query[:2], "big") ^ 1).to_bytes(2, "big")
    resolver.sendto(_reply(other_number + query[2:], data=b"forged"), sender)
    other_question = query[:2] + stage.query_bytes("evil.example")[2:]
    resolver.sendto(_reply(other_question, data=b"forged"), sender)
    resolver.sendto(_reply(query, data=b"\xc0\x0c true"), sender)
    assert line.recv(512).endswith(b" true")


@pytest.mark.kernel
def test_query_by_tcp_is_asked_by_tcp(stage: Stage) -> None:
    """Who asks by TCP, after a truncated answer, gets what the resolver says by TCP."""
    listener = stage.host.listen(stage.resolvers[0], 53)
    place = stage.container()
    line = place.connect(place.resolver, 53)
    query = stage.query_bytes(NAME)
    line.sendall(len(query).to_bytes(2, "big") + query)
    served = stage.host.accept(listener)
    size = int.from_bytes(stage.host.read(served, 2), "big")
    asked = stage.host.read(served, size)
    answer = _reply(asked, data=b"\xc0\x0c" + b"long" * 4000)
    for piece in (b"", len(answer).to_bytes(2, "big")[:1], len(answer).to_bytes(2, "big")[1:], answer):
        served.sendall(piece)
    got = stage.host.read(line, 2 + len(answer))
    assert got[2:4] == query[:2]
    assert got[4:] == answer[2:]


@pytest.mark.kernel
def test_queries_beside_each_other_get_their_own_answers(stage: Stage) -> None:
    """Answers may come in any order."""
    resolver = stage.host.udp(stage.resolvers[0], 53)
    place = stage.container()
    names = [f"host{n}.example" for n in range(50)]
    lines = [place.ask(place.resolver, name) for name in names]
    asked = [resolver.recvfrom(512) for _ in names]
    for query, sender in reversed(asked):
        resolver.sendto(_reply(query), sender)
    for name, line in zip(names, lines, strict=True):
        assert name.split(".", maxsplit=1)[0].encode() in line.recv(512)
