"""Names as containers look them up."""

from __future__ import annotations

import socket
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_containers.runtime.network import dns
from pytest_containers.runtime.network.names import Zone
from pytest_containers.runtime.network.resolver import answer_locally

if TYPE_CHECKING:
    from tests.runtime.network.conftest import Stage

AAAA = 28


def _question(name: str, kind: int = dns.A, *, flags: int = 0x0100, kind_class: int = 1) -> dns.Question:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    header = b"\x12\x67" + flags.to_bytes(2, "big") + b"\0\1\0\0\0\0\0\0"
    wire = header + labels + b"\0" + kind.to_bytes(2, "big") + kind_class.to_bytes(2, "big")
    question = dns.parse(wire)
    assert question is not None
    return question


def _zone(*, internal: bool = False) -> Zone:
    zone = Zone("default", IPv4Network("10.64.0.0/22"), internal=internal)
    zone.add("redis", "10.64.0.2")
    return zone


def _counts(message: bytes | None) -> tuple[int, int]:
    assert message is not None
    return dns.rcode(message), int.from_bytes(message[6:8], "big")


@pytest.mark.parametrize("name", ["redis", "REDIS", "redis.", "Redis.Default"])
def test_answer_knows_a_container_however_it_is_spelled(name: str) -> None:
    """Letter case, a closing dot and the network's name behind it do not matter."""
    assert _counts(answer_locally(_zone(), _question(name))) == (dns.NO_ERROR, 1)


def test_answer_has_no_data_for_other_types_of_a_container() -> None:
    """AAAA of a container is answered empty and without error, so that a client goes on with A."""
    assert _counts(answer_locally(_zone(), _question("redis", AAAA))) == (dns.NO_ERROR, 0)


def test_answer_hands_on_what_is_no_container() -> None:
    """A name of the world outside is not answered here."""
    assert answer_locally(_zone(), _question("example.org")) is None


def test_answer_denies_a_single_label_that_is_no_container() -> None:
    """A peer that does not exist is known not to exist, without asking anybody."""
    assert _counts(answer_locally(_zone(), _question("redis-2"))) == (dns.NAME_ERROR, 0)


def test_answer_denies_the_world_on_an_internal_network() -> None:
    """An internal network has its own names and no others."""
    assert _counts(answer_locally(_zone(internal=True), _question("example.org"))) == (dns.NAME_ERROR, 0)
    assert _counts(answer_locally(_zone(internal=True), _question("redis"))) == (dns.NO_ERROR, 1)


def test_answer_tells_the_name_of_an_address() -> None:
    """A reverse question for a container's address gives its name; one for a free address, none."""
    found = answer_locally(_zone(), _question("2.0.64.10.in-addr.arpa", dns.PTR))
    assert _counts(found) == (dns.NO_ERROR, 1)
    assert found is not None
    assert found.endswith(b"\x05redis\x07default\0")
    missing = answer_locally(_zone(), _question("9.0.64.10.in-addr.arpa", dns.PTR))
    assert _counts(missing) == (dns.NAME_ERROR, 0)


def test_answer_hands_on_the_name_of_a_foreign_address() -> None:
    """A reverse question for an address of the world outside is not answered here."""
    assert answer_locally(_zone(), _question("8.8.8.8.in-addr.arpa", dns.PTR)) is None


def test_answer_refuses_what_is_no_standard_query() -> None:
    """A zone transfer's or update's opcode is answered with NOTIMP (RFC 1035, section 4.1.1)."""
    assert _counts(answer_locally(_zone(), _question("redis", flags=0x2800))) == (dns.NOT_IMPLEMENTED, 0)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100), st.booleans())
def test_answer_survives_any_bytes(noise: bytes, internal: bool) -> None:
    """Whatever a container sends is a question with an answer, or none."""
    question = dns.parse(b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + noise)
    if question is not None:
        message = answer_locally(_zone(internal=internal), question)
        assert message is None or dns.rcode(message) >= 0


@pytest.mark.kernel
def test_container_finds_its_peers_by_name(stage: Stage) -> None:
    """A name and an alias lead to the address, from any container of the network."""
    server, client = stage.container("default", "redis-1", "cache"), stage.container()
    assert client.lookup("redis-1") == client.lookup("CACHE") == (server.ip,)
    assert server.lookup("redis-1") == (server.ip,)


@pytest.mark.kernel
def test_container_gets_every_address_of_a_shared_name_in_turn(stage: Stage) -> None:
    """An alias of two containers has both addresses, and begins with the other one each time."""
    one, two = stage.container("default", "web"), stage.container("default", "web")
    client = stage.container()
    first, second = client.lookup("web"), client.lookup("web")
    assert set(first) == {one.ip, two.ip}
    assert second == first[::-1]


@pytest.mark.kernel
def test_container_does_not_find_names_of_other_networks(stage: Stage) -> None:
    """A name belongs to its network."""
    stage.create("other")
    stage.container("other", "secret")
    assert stage.container().query("secret")[0] == dns.NAME_ERROR


@pytest.mark.kernel
def test_container_does_not_find_a_peer_that_was_released(stage: Stage) -> None:
    """With its address a container loses its names."""
    server, client = stage.container("default", "redis"), stage.container()
    stage.release(server)
    assert client.query("redis")[0] == dns.NAME_ERROR


@pytest.mark.kernel
def test_container_cannot_ask_the_resolver_of_another_network(stage: Stage) -> None:
    """Names of a network are told to its own containers only."""
    stage.create("other")
    other = stage.container("other", "secret")
    line = stage.container().ask(other.resolver, "secret")
    with pytest.raises(OSError, match="No route to host"):
        line.recv(512)


@pytest.mark.kernel
def test_container_asks_by_tcp(stage: Stage) -> None:
    """The resolver answers on TCP too, several questions on one connection."""
    server = stage.container("default", "redis")
    line = server.connect(server.resolver, 53)
    query = stage.query_bytes("redis")
    message = len(query).to_bytes(2, "big") + query
    line.sendall(message + message[:5])
    for rest in (message[5:], b""):
        reply = stage.host.read(line, 2 + len(query) + 16)
        assert reply[-4:] == socket.inet_aton(server.ip)
        line.sendall(rest)


@pytest.mark.kernel
def test_container_gets_long_answers_by_tcp(stage: Stage) -> None:
    """An answer that does not fit a datagram says so, and is whole by TCP."""
    query = stage.query_bytes("web")
    members = [stage.container("default", "web") for _ in range(33)]
    code, reply = members[0].query("web")
    assert code == dns.NO_ERROR
    assert reply[2] & 0x02, "TC is set"
    assert len(reply) <= 512
    line = members[0].connect(members[0].resolver, 53)
    line.sendall(len(query).to_bytes(2, "big") + query)
    whole = stage.host.read(line, 2 + len(query) + 33 * 16)
    assert int.from_bytes(whole[8:10], "big") == 33


@pytest.mark.kernel
def test_container_is_told_of_a_query_that_cannot_be_read(stage: Stage) -> None:
    """A broken query gets FORMERR, and the next one its answer."""
    server = stage.container("default", "redis")
    with server.udp() as line:
        line.sendto(b"\x00\x07" + b"\x01\x00" + b"\xff" * 20, (server.resolver, 53))
        assert dns.rcode(line.recv(512)) == dns.FORMAT_ERROR
        line.sendto(b"short", (server.resolver, 53))
    assert server.lookup("redis") == (server.ip,)


@pytest.mark.kernel
def test_query_to_another_server_is_none_of_the_resolvers(stage: Stage) -> None:
    """By UDP it is refused at once, as all that leaves; by TCP it reaches the server that was meant."""
    place = stage.container("default", "redis")
    line = place.ask(stage.outside, "redis")
    with pytest.raises(OSError, match="No route to host"):
        line.recv(512)
    listener = stage.host.listen(stage.outside, 53)
    place.connect(stage.outside, 53).sendall(b"\0\1x")
    assert stage.host.read(stage.host.accept(listener), 3) == b"\0\1x"


@pytest.mark.kernel
def test_container_on_an_internal_network_has_names_and_no_way_out(stage: Stage) -> None:
    """An internal network resolves its peers, denies the world, and lets no connection leave."""
    stage.create("back", internal=True)
    server, client = stage.container("back", "db"), stage.container("back")
    stage.host.listen(stage.outside, 80)
    assert client.lookup("db") == (server.ip,)
    assert client.query("example.org")[0] == dns.NAME_ERROR
    with pytest.raises(OSError, match="No route to host"):
        client.connect(stage.outside, 80)
