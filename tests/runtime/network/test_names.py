"""Names on a network, and the control socket that carries them."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from pytest_containers.errors import EngineError
from pytest_containers.runtime.network.names import Directory, Line, Record, Zone, receive, report

SUBNET = IPv4Network("10.64.0.0/22")


@pytest.fixture
def zone() -> Zone:
    """Return an empty zone called ``default``."""
    return Zone("default", SUBNET, internal=False)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return both ends of a control socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_zone_finds_a_name_in_any_spelling(zone: Zone) -> None:
    """Letter case, a closing dot and the network's own name do not count."""
    zone.add("Redis-1", "10.64.0.2")
    for name in ("redis-1", "REDIS-1.", "redis-1.default", "redis-1.DEFAULT."):
        assert zone.knows(name)
        assert zone.addresses(name) == ("10.64.0.2",)
    assert not zone.knows("redis-1.other")


def test_zone_turns_the_addresses_of_a_shared_name(zone: Zone) -> None:
    """Each call begins with the next address, and none is lost."""
    for last in (2, 3, 4):
        zone.add("web", f"10.64.0.{last}")
    first, second, third, again = (zone.addresses("web") for _ in range(4))
    assert [first[0], second[0], third[0]] == ["10.64.0.2", "10.64.0.3", "10.64.0.4"]
    assert again == first
    assert set(first) == set(second) == set(third)


def test_zone_forgets_every_name_of_an_address(zone: Zone) -> None:
    """Names go with their address; a shared one keeps its other addresses."""
    zone.add("redis", "10.64.0.2")
    zone.add("cache", "10.64.0.2")
    zone.add("cache", "10.64.0.3")
    zone.forget("10.64.0.2")
    zone.forget("10.64.0.2")
    assert not zone.knows("redis")
    assert zone.addresses("cache") == ("10.64.0.3",)
    assert zone.name_of("10.64.0.2") is None


def test_zone_names_an_address_once_however_often_it_is_added(zone: Zone) -> None:
    """Adding what is there changes nothing."""
    zone.add("redis", "10.64.0.2")
    zone.add("REDIS", "10.64.0.2")
    assert zone.addresses("redis") == ("10.64.0.2",)
    zone.forget("10.64.0.2")
    assert not zone.knows("redis")


def test_zone_tells_the_first_name_of_an_address(zone: Zone) -> None:
    """An address is called by its first name and the network."""
    zone.add("redis-1", "10.64.0.2")
    zone.add("cache", "10.64.0.2")
    assert zone.name_of("10.64.0.2") == "redis-1.default"


def test_zone_is_known_to_its_containers_by_the_networks_name() -> None:
    """What tells a network from another worker's of the same name is no part of any answer."""
    directory = Directory()
    for number in (1, 2):
        subnet = IPv4Network(f"10.64.{number}.0/24")
        directory.open(Zone("default", subnet, internal=False, key=f"default.{number}"))
    directory.add([Record(network="default.2", name="my_db", ip="10.64.2.2")])
    first, second = directory.zone("default.1"), directory.zone("default.2")
    assert first is not None
    assert second is not None
    assert second.addresses("my_db.default") == ("10.64.2.2",)
    assert second.name_of("10.64.2.2") == "my_db.default"
    assert not second.knows("my_db.default.2")
    assert not first.knows("my_db")
    assert directory.zone("default") is None


def test_directory_drops_names_of_a_network_that_is_closed() -> None:
    """A late message about a removed network does no harm."""
    directory = Directory()
    directory.open(Zone("default", SUBNET, internal=False))
    directory.add([Record(network=network, name="a", ip="10.64.0.2") for network in ("default", "gone")])
    default = directory.zone("default")
    assert default is not None
    assert default.knows("a")
    assert directory.zone("gone") is None
    directory.close("default")
    directory.close("default")
    assert directory.zone("default") is None


def test_line_carries_sockets_and_words(ends: tuple[socket.socket, socket.socket]) -> None:
    """What the supervisor hands over arrives as it was, sockets as sockets that no exec inherits."""
    line = Line(ends[0])
    with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        line.open("back.1", subnet=SUBNET, internal=True, label="back", sockets=(udp, tcp))
        message = receive(ends[1])
    assert message is not None
    assert message.verb == "open"
    assert message.words == {
        "network": "back.1",
        "label": "back",
        "subnet": "10.64.0.0/22",
        "internal": "yes",
    }
    assert [one.type for one in message.sockets] == [socket.SOCK_DGRAM, socket.SOCK_STREAM]
    assert not any(os.get_inheritable(one.fileno()) for one in message.sockets)
    for one in message.sockets:
        one.close()


def test_line_carries_many_long_names(ends: tuple[socket.socket, socket.socket]) -> None:
    """However many names there are and however long, all arrive, in order."""
    records = [Record(network="n" * 63, name=f"{n:0250}", ip="10.64.3.254") for n in range(300)]
    Line(ends[0]).add(records)
    seen: list[Record] = []
    while len(seen) < len(records):
        message = receive(ends[1])
        assert message is not None
        seen += message.records
    assert seen == records


@pytest.mark.parametrize(
    "message",
    [
        b"{",
        b"[]",
        b"1",
        b"\xff\xfe",
        b'{"verb": "add", "words": {}}',
        b'{"verb": "add", "words": [], "records": []}',
        b'{"verb": "add", "words": {}, "records": [["a", "b"]]}',
        b'{"verb": "add", "words": {}, "records": 7}',
        b"[" * 100_000,
    ],
)
def test_receive_refuses_what_is_no_message_and_closes_what_came_with_it(
    ends: tuple[socket.socket, socket.socket], message: bytes
) -> None:
    """A message of any other form is a ValueError, and its descriptors are not kept."""
    reading, writing = os.pipe()
    with socket.socket() as tcp:
        socket.send_fds(ends[0], [message], [tcp.fileno(), writing])
    os.close(writing)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match="cannot be read"):
        receive(ends[1])
    assert os.read(reading, 1) == b""  # nobody has the other end any more
    os.close(reading)
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_line_reads_what_the_gateway_reports(ends: tuple[socket.socket, socket.socket]) -> None:
    """Reports arrive in order and cut to a size; a closed end is None, after what was said before it."""
    line = Line(ends[0])
    assert line.reports() == ()
    report(ends[1], "first")
    report(ends[1], "x" * 100_000)
    first, second = line.reports() or ()
    assert (first, second.strip("x")) == ("first", "")
    report(ends[1], "last")
    ends[1].close()
    assert line.reports() == ("last",)
    assert line.reports() is None


def test_receive_tells_silence_from_the_end(ends: tuple[socket.socket, socket.socket]) -> None:
    """Nothing there is BlockingIOError, a closed end is None."""
    with pytest.raises(BlockingIOError):
        receive(ends[1])
    ends[0].close()
    assert receive(ends[1]) is None


def test_line_waits_for_a_gateway_that_reads(ends: tuple[socket.socket, socket.socket]) -> None:
    """More messages than the socket holds are sent as fast as they are read, and all arrive in order."""
    seen: list[str] = []

    def read() -> None:
        while len(seen) < 2000:
            select.select([ends[1]], [], [], 10)
            message = receive(ends[1])
            assert message is not None
            seen.append(message.words["ip"])

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(2000):
        Line(ends[0]).forget("default", str(number))
    reader.join(10)
    assert seen == [str(number) for number in range(2000)]


def test_line_raises_when_nobody_reads(ends: tuple[socket.socket, socket.socket]) -> None:
    """A gateway that hangs makes an error, and no supervisor that hangs too."""
    with pytest.raises(EngineError, match="the gateway could not be told to forget"):
        _forget_for_ever(Line(ends[0]))


def _forget_for_ever(line: Line) -> None:
    while True:
        line.forget("default", "10.64.0.2")


def test_line_raises_when_the_gateway_is_gone(ends: tuple[socket.socket, socket.socket]) -> None:
    """A dead gateway is an error with a name, and no signal."""
    ends[1].close()
    with pytest.raises(EngineError, match="the gateway could not be told to add"):
        Line(ends[0]).add([Record(network="default", name="a", ip="10.64.0.2")])
