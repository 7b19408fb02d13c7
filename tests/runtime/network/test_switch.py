"""The switch as containers and the host see it, on a real kernel."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import ContainersError, EngineError, SpecInvalid

if TYPE_CHECKING:
    from tests.runtime.network.conftest import Agent, Stage

    Eventually = Callable[[Callable[[], bool]], None]

pytestmark = pytest.mark.kernel


def test_switch_lets_containers_of_one_network_connect(stage: Stage) -> None:
    """Containers of one network reach each other's ports."""
    left, right = stage.container(), stage.container()
    listener = left.listen(left.ip, 6379)
    line = right.connect(left.ip, 6379)
    served = left.accept(listener)
    line.sendall(b"PING")
    assert served.recv(4) == b"PING"
    assert served.getpeername()[0] == right.ip


def test_switch_carries_udp_within_a_network(stage: Stage) -> None:
    """UDP between containers of one network is not touched by the rules for what leaves."""
    left, right = stage.container(), stage.container()
    server = left.udp(left.ip, 53)
    right.udp().sendto(b"mine", (left.ip, 53))
    content, sender = server.recvfrom(16)
    assert (content, sender[0]) == (b"mine", right.ip)


def test_switch_lets_all_containers_bind_one_port(stage: Stage) -> None:
    """Every container has the whole port range to itself."""
    places = [stage.container() for _ in range(5)]
    listeners = [place.listen("0.0.0.0", 6379) for place in places]
    for place, listener in zip(places, listeners, strict=True):
        line = stage.host.connect(place.ip, 6379)
        place.accept(listener).sendall(place.ip.encode())
        assert line.recv(64).decode() == place.ip


def test_switch_gives_each_container_its_own_address_in_the_subnet(stage: Stage) -> None:
    """Addresses are distinct and of the network's subnet."""
    ips = [stage.container().ip for _ in range(3)]
    assert len(set(ips)) == 3
    assert all(IPv4Network(f"{ip}/32").subnet_of(IPv4Network(stage.default)) for ip in ips)


def test_switch_lets_the_host_reach_every_container(stage: Stage) -> None:
    """The host has a direct route to containers of every network, an internal one among them."""
    stage.create("back", internal=True)
    for network in ("default", "back"):
        place = stage.container(network)
        listener = place.listen(place.ip, 80)
        line = stage.host.connect(place.ip, 80)
        place.accept(listener).sendall(b"hello")
        assert line.recv(5) == b"hello"


def test_switch_gives_the_host_one_link_and_its_routes(stage: Stage) -> None:
    """On the host there is one link more, named ptc and eight digits, and routes by it only."""
    seen = stage.host.agent.seen()
    (name,) = (name for name in seen["links"] if name.startswith("ptc"))
    assert len(name) == 11
    assert seen["routes"] == [name, name]


def test_switch_keeps_networks_apart(stage: Stage) -> None:
    """A container cannot connect to one of another network."""
    stage.create("other")
    here, there = stage.container(), stage.container("other")
    there.listen(there.ip, 80)
    with pytest.raises(OSError, match="No route to host"):
        here.connect(there.ip, 80)


def test_switch_keeps_a_container_from_the_host_by_its_uplink(stage: Stage) -> None:
    """The address that the host has for its containers is none that they can connect to."""
    place = stage.container()
    ours = stage.host.connect(place.ip, place.listen(place.ip, 80).getsockname()[1]).getsockname()[0]
    stage.host.listen(ours, 8080)
    with pytest.raises(OSError, match="No route to host"):
        place.connect(ours, 8080)


def test_switch_keeps_networks_apart_when_a_bridge_calls_the_firewall(stage: Stage) -> None:
    """Switched packets pass, routed ones do not, also where br_netfilter is on."""
    with contextlib.suppress(ContainersError):
        stage.switch.ask("write", path="/proc/sys/net/bridge/bridge-nf-call-iptables", text="1")
    left, right = stage.container(), stage.container()
    left.listen(left.ip, 80)
    assert right.connect(left.ip, 80).getpeername() == (left.ip, 80)
    stage.create("other")
    other = stage.container("other")
    with pytest.raises(OSError, match="No route to host"):
        other.connect(left.ip, 80)


def test_switch_answers_udp_to_the_outside_with_unreachable(stage: Stage) -> None:
    """A datagram that cannot leave is refused at once, not swallowed."""
    line = stage.container().udp()
    line.connect((stage.outside, 123))
    line.send(b"what time is it")
    with pytest.raises(OSError, match="No route to host"):
        line.recv(16)


def test_switch_leaves_nothing_when_its_process_is_killed(stage: Stage, eventually: Eventually) -> None:
    """kill -9 of the process that has the switch takes link and routes from the host."""
    place = stage.container()
    place.listen(place.ip, 80)
    stage.host.connect(place.ip, 80)
    os.kill(stage.switch.pid, signal.SIGKILL)
    os.kill(place.agent.pid, signal.SIGKILL)
    eventually(lambda: stage.host.agent.seen() == {"links": ["lo"], "routes": []})


def test_switch_leaves_nothing_of_a_container_that_is_killed(stage: Stage, eventually: Eventually) -> None:
    """A container's link in the switch goes with its namespace."""
    before = stage.switch.seen()["links"]
    place = stage.container()
    assert len(stage.switch.seen()["links"]) == len(before) + 1
    os.kill(place.agent.pid, signal.SIGKILL)
    eventually(lambda: stage.switch.seen()["links"] == before)


def test_switch_can_attach_again_to_an_address_whose_last_user_just_died(stage: Stage) -> None:
    """A container that is started again keeps its address, whether or not the kernel has tidied up."""
    place = stage.container()
    for _ in range(5):
        os.kill(place.agent.pid, signal.SIGKILL)
        again = stage.restart(place)
        again.listen(again.ip, 80)
        assert stage.host.connect(place.ip, 80).getpeername() == (place.ip, 80)
        place = again


def test_switch_refuses_a_name_twice(stage: Stage) -> None:
    """Two networks of one name are a mistake of the caller."""
    with pytest.raises(SpecInvalid, match="default is there already"):
        stage.create("default")


def test_switch_refuses_to_remove_a_network_in_use(stage: Stage) -> None:
    """A network is not taken from under its containers."""
    stage.create("other")
    place = stage.container("other")
    with pytest.raises(EngineError, match="in use"):
        stage.switch.ask("remove", network="other")
    stage.release(place)
    stage.switch.ask("remove", network="other")


def test_switch_builds_a_removed_network_again(stage: Stage) -> None:
    """Name, subnet and bridge are free after removal, and work."""
    bridges = stage.bridges()
    for _ in range(3):
        stage.create("other")
        left, right = stage.container("other", "left"), stage.container("other")
        left.listen(left.ip, 80)
        assert right.lookup("left") == (left.ip,)
        right.connect(left.ip, 80)
        stage.release(left)
        stage.release(right)
        stage.switch.ask("remove", network="other")
    assert len(stage.bridges()) == len(bridges) + 1


def test_switch_does_not_pass_a_way_out_on_to_an_internal_network(stage: Stage) -> None:
    """A network made where another one was has its own rules, not those of that one."""
    stage.host.listen(stage.outside, 80)
    for internal in (False, True, False):
        stage.create("other", internal=internal)
        place = stage.container("other")
        if internal:
            with pytest.raises(OSError, match="No route to host"):
                place.connect(stage.outside, 80)
        else:
            assert place.connect(stage.outside, 80).getpeername() == (stage.outside, 80)
        stage.release(place)
        stage.switch.ask("remove", network="other")


def test_container_loses_no_packet_from_its_first_moment_on(stage: Stage) -> None:
    """What is sent as soon as the address is there arrives: no SYN is sent twice, and no ARP question."""
    # A lost SYN is counted by the kernel (tcp(7), TCP_INFO). A lost ARP question is repeated after a
    # second, here only after five minutes (arp(7), retrans_time_ms): long after the test has failed.
    (link,) = (name for name in stage.host.agent.seen()["links"] if name.startswith("ptc"))
    _ask_once(stage.host.agent, link)
    _ask_once(stage.switch, "uplink")
    _ask_once(stage.switch, *stage.bridges())
    outside = stage.host.listen(stage.outside, 443)
    for _ in range(30):
        place = stage.container(patient=True)
        back = stage.host.connect(place.ip, place.listen(place.ip, 80).getsockname()[1])
        out = place.connect(stage.outside, 443)
        assert [_retransmissions(line) for line in (out, back)] == [0, 0]
        stage.host.accept(outside)


def _ask_once(agent: Agent, *links: str) -> None:
    for link in links:
        agent.ask("write", path=f"/proc/sys/net/ipv4/neigh/{link}/retrans_time_ms", text="300000")


def _retransmissions(line: socket.socket) -> int:
    """Return tcpi_total_retrans of struct tcp_info (linux/tcp.h)."""
    return int.from_bytes(line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[100:], sys.byteorder)


def test_switch_opens_no_descriptor_for_a_container(stage: Stage) -> None:
    """Many starts do not make the supervisor's table of open files grow."""
    before = stage.switch.descriptors()
    for _ in range(20):
        stage.release(stage.container("default", "passing"))
    assert stage.switch.descriptors() == before


def test_switch_changes_no_setting_of_the_host(host: Agent) -> None:
    """The host forwards no packet and keeps IPv6 as it was."""
    files = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/disable_ipv6")
    before = [host.ask("read", path=path) for path in files]
    _, control = host.hatch("switch", routed="yes")
    with control:
        assert [host.ask("read", path=path) for path in files] == before


def test_switch_without_a_route_touches_the_host_in_nothing(host: Agent) -> None:
    """Where the host shall have no link, its links and routes stay as they were."""
    before = host.seen()
    _, control = host.hatch("switch", routed="")
    with control:
        assert host.seen() == before


def test_switches_beside_each_other_have_different_subnets(host: Agent) -> None:
    """Parallel runs on one host do not take each other's addresses."""
    subnets: set[str] = set()
    with contextlib.ExitStack() as scope:
        for _ in range(4):
            _, control = host.hatch("switch", routed="yes")
            scope.enter_context(control)
            control.send(json.dumps({"verb": "subnet"}).encode())
            subnets.add(json.loads(control.recv(4096))["value"])
    assert len(subnets) == 4


def test_container_has_lo_and_eth0_and_no_ipv6_address_outside_of_lo(stage: Stage) -> None:
    """A container sees its loopback and one interface, which announces nothing by IPv6."""
    place = stage.container()
    names = [name for name in place.agent.seen()["links"] if name in {"lo", "eth0"}]
    assert names == ["eth0", "lo"]
    lines = place.agent.ask("read", path="/proc/net/if_inet6").split("\n")
    assert [line.split()[-1] for line in lines if line] in ([], ["lo"])


def test_container_can_bind_loopback(stage: Stage) -> None:
    """127.0.0.1 works inside a container and is its own."""
    place, other = stage.container(), stage.container()
    place.listen("127.0.0.1", 80)
    assert place.connect("127.0.0.1", 80).getpeername() == ("127.0.0.1", 80)
    with pytest.raises(ConnectionRefusedError):
        other.connect("127.0.0.1", 80)
    with pytest.raises(ConnectionRefusedError):
        other.connect(place.ip, 80)
