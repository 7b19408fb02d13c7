"""The contract of engines/base.py: networks, names, ports, and processes that share a run."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import ContainersError, EngineError, SpecInvalid, Unsupported
from pytest_containers.spec import ContainerSpec, ExecSpec, Port
from tests.engines.programs import server

if TYPE_CHECKING:
    from pytest_containers.engines.base import Handle
    from tests.engines.conftest import Bench

SLEEP = ("sleep", "60")


def _lookup(handle: Handle, name: str) -> str:
    result = handle.exec(ExecSpec(argv=("getent", "hosts", name)))
    return result.stdout.split()[0] if result.exit_code == 0 else ""


def _ask(handle: Handle, port: int) -> bytes:
    with socket.create_connection(handle.address(Port(port)), timeout=20) as client:
        client.sendall(b"hello")
        return client.recv(100)


def test_address_lies_in_the_network(bench: Bench) -> None:
    """A network has a subnet, and its containers' addresses are in it."""
    network = bench.network("apart")
    assert network.name == "apart"
    handle = bench.create(ContainerSpec(name="one", command=SLEEP, network="apart"))
    assert ipaddress.ip_address(handle.ip) in ipaddress.ip_network(network.subnet)
    other = bench.create(ContainerSpec(name="one", command=SLEEP))
    assert ipaddress.ip_address(other.ip) not in ipaddress.ip_network(network.subnet)


def test_network_name_that_is_taken_is_refused(bench: Bench) -> None:
    """Two networks of a run cannot have one name."""
    bench.network("apart")
    with pytest.raises(SpecInvalid, match="apart"):
        bench.engine.network("apart")


def test_network_in_use_is_not_removed(bench: Bench) -> None:
    """A network with containers on it stays; without them it goes, and its name is free."""
    network = bench.engine.network("brief")
    handle = bench.create(ContainerSpec(name="one", command=SLEEP, network="brief"))
    with pytest.raises(EngineError, match="brief"):
        network.remove()
    handle.remove()
    network.remove()
    bench.network("brief")


def test_network_that_is_missing_is_told(bench: Bench) -> None:
    """A container on a network that nobody made is refused."""
    with pytest.raises(ContainersError, match="nowhere"):
        bench.create(ContainerSpec(name="one", command=SLEEP, network="nowhere"))


def test_names_lead_to_addresses(bench: Bench) -> None:
    """Peers know each other by name and alias, and themselves by their host name."""
    one = bench.start(ContainerSpec(name="one", command=SLEEP, aliases=("first",)))
    two = bench.start(ContainerSpec(name="two", command=SLEEP, hostname="second"))
    assert (_lookup(one, "two"), _lookup(two, "one"), _lookup(two, "first")) == (two.ip, one.ip, one.ip)
    assert _lookup(two, "second") == two.ip


def test_name_of_another_network_is_unknown(bench: Bench) -> None:
    """Names are a network's own: the same name may stand on two, and leads to one's own."""
    bench.network("left")
    bench.network("right")
    left = bench.start(ContainerSpec(name="box", command=SLEEP, network="left"))
    right = bench.start(ContainerSpec(name="box", command=SLEEP, network="right"))
    alone = bench.start(ContainerSpec(name="alone", command=SLEEP, network="left"))
    assert (_lookup(alone, "box"), _lookup(left, "alone")) == (left.ip, alone.ip)
    assert _lookup(right, "alone") != alone.ip


def test_name_goes_with_its_container(bench: Bench) -> None:
    """A container that was removed is found no more."""
    one = bench.start(ContainerSpec(name="one", command=SLEEP))
    two = bench.start(ContainerSpec(name="two", command=SLEEP))
    assert _lookup(one, "two") == two.ip
    two.remove()
    assert _lookup(one, "two") != two.ip


def test_listener_is_seen_and_reached(bench: Bench) -> None:
    """A port in LISTEN is told, and answers at its address; before the start there is none."""
    handle = bench.create(ContainerSpec(name="one", command=server(7000)))
    assert handle.listening() == frozenset()
    handle.start()
    bench.until(handle, lambda: Port(7000) in handle.listening())
    assert handle.listening() == {Port(7000)}
    assert _ask(handle, 7000) == b"+hello"


def test_published_port_is_on_loopback(bench: Bench) -> None:
    """A published port answers on 127.0.0.1, at the same port however often it is asked for; UDP has none."""
    handle = bench.start(ContainerSpec(name="one", command=server(7000)))
    bench.until(handle, lambda: Port(7000) in handle.listening())
    address = handle.address(Port(7000), published=True)
    assert address.host == "127.0.0.1"
    assert handle.address(Port(7000), published=True) == address
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"+hello"
    with pytest.raises(Unsupported):
        handle.address(Port(7000, "udp"), published=True)


def test_listener_on_udp_is_seen(bench: Bench) -> None:
    """A bound UDP port is told with its transport."""
    handle = bench.start(ContainerSpec(name="one", command=server(7000, kind="udp")))
    bench.until(handle, lambda: bool(handle.listening()))
    assert handle.listening() == {Port(7000, "udp")}


def test_listener_on_loopback_does_not_count(bench: Bench) -> None:
    """A port that is bound to loopback alone can be reached by nobody."""
    handle = bench.start(ContainerSpec(name="one", command=server(7000, host="127.0.0.1")))
    bench.until(handle, lambda: bool(handle.logs()[0]))
    assert handle.listening() == frozenset()
    assert handle.unreachable() == {Port(7000): "127.0.0.1"}


def test_containers_bind_the_same_port(bench: Bench) -> None:
    """Every container has its ports for itself."""
    handles = [bench.start(ContainerSpec(name=f"same-{n}", command=server(7000))) for n in range(3)]
    for handle in handles:
        bench.until(handle, lambda handle=handle: Port(7000) in handle.listening())  # type: ignore[misc]
    assert [_ask(handle, 7000) for handle in handles] == [b"+hello"] * 3


def test_listeners_end_with_the_process(bench: Bench) -> None:
    """Nothing listens in a container that has exited."""
    handle = bench.start(ContainerSpec(name="one", command=server(7000)))
    bench.until(handle, lambda: Port(7000) in handle.listening())
    handle.signal(9)
    handle.wait()
    assert handle.listening() == frozenset()


def test_close_ends_what_was_made_and_may_be_done_twice(bench: Bench) -> None:
    """What a process made ends with it, and nothing of the others' does."""
    other = bench.join()
    theirs = other.create(ContainerSpec(name="brief", command=SLEEP), other.images.pull("host"))
    theirs.start()
    ours = bench.start(ContainerSpec(name="brief", command=SLEEP))
    other.close()
    other.close()
    with pytest.raises(EngineError):
        theirs.state()
    assert ours.exec(ExecSpec(argv=("echo", "on"))).stdout == "on\n"


def test_names_are_a_process_s_own(bench: Bench) -> None:
    """Two processes of a run use the same names of networks and containers, and each finds its own."""
    other = bench.join()
    host = other.images.pull("host")
    bench.network("apart")
    assert other.network("apart").name == "apart"
    for network in ("default", "apart"):
        spec = ContainerSpec(name=f"box-{network}", command=SLEEP, network=network)
        ours, theirs = bench.start(spec), other.create(spec, host)
        theirs.start()
        assert ours.ip != theirs.ip
        assert (_lookup(ours, spec.name), _lookup(theirs, spec.name)) == (ours.ip, theirs.ip)
        theirs.remove()


def test_container_of_the_run_is_shared_by_name(bench: Bench) -> None:
    """With the lifetime of the run, the same name is the same container for every process."""
    assert "run-lifetime" in bench.engine.features
    spec = ContainerSpec(name="shared", command=("sh", "-c", "echo begun; sleep 60"), lifetime="run")
    other = bench.join()
    theirs = other.create(spec, other.images.pull("host"))
    theirs.start()
    ours = bench.start(spec)
    assert (ours.id, ours.ip) == (theirs.id, theirs.ip)
    bench.until(ours, lambda: bool(ours.logs()[0]))
    other.close()
    assert ours.state().status == "running"
    assert ours.exec(ExecSpec(argv=("echo", "on"))).stdout == "on\n"
    assert b"".join(chunk.content for chunk in ours.logs()[0]) == b"begun\n"
