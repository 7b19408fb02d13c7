"""A process of the stage: lives in network namespaces of its own and does what a test says.

The first one leaves the machine's mount and network namespace and plays the host. It forks the
others: the switch with its gateway, and containers. A test holds one socket to each; an agent
ends when that is closed.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from pytest_containers.errors import ContainersError, to_wire
from pytest_containers.runtime import gateway, syscalls
from pytest_containers.runtime.network import firewall, links, sysctl, veth
from pytest_containers.runtime.network.addresses import Endpoint, host_address
from pytest_containers.runtime.network.names import Line
from pytest_containers.runtime.network.netlink import Channel
from pytest_containers.runtime.network.switch import Switch
from pytest_containers.runtime.network.uplink import Host
from pytest_containers.spec import Port

__all__: list[str] = []

Words = dict[str, str]
Answer = tuple[object, tuple[socket.socket, ...]]


def _fork(run: Callable[[], None], namespaces: int = 0) -> int:
    pid, pidfd = syscalls.clone(namespaces)
    if pid:
        os.close(pidfd)
        return pid
    code = 1
    try:
        run()
        code = 0
    finally:
        os._exit(code)


class Agent:
    """Obeys one control socket."""

    def __init__(self, control: socket.socket, switch: Switch | None = None) -> None:
        self._control = control
        self._switch = switch

    def obey(self) -> None:
        """Carry out messages until the test hangs up."""
        while data := self._control.recv(1 << 16):
            words: Words = json.loads(data)
            made: tuple[socket.socket, ...] = ()
            try:
                value, made = getattr(self, "on_" + words.pop("verb"))(**words)
                reply: dict[str, object] = {"value": value}
            except ContainersError as error:
                reply = {"error": to_wire(error)}
            except OSError as error:
                reply = {"error": to_wire(ContainersError("an agent could not do it", seen=str(error)))}
            message = json.dumps(reply).encode()
            socket.send_fds(self._control, [message], [one.fileno() for one in made])
            for one in made:
                one.close()

    def _hatch(self, begin: Callable[[], Switch | None]) -> tuple[dict[str, int], tuple[socket.socket, ...]]:
        """Fork an agent that runs *begin* first, and hand over its socket when that is done."""
        test, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        done, ready = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def live() -> None:
            test.close()
            done.close()
            self._control.close()
            try:
                child = Agent(ours, begin())
            except ContainersError as error:
                ready.send(str(error).encode())
                raise
            ready.send(b"ready")
            ready.close()
            child.obey()

        pid = _fork(live)
        ours.close()
        ready.close()
        with done:
            word = done.recv(1 << 16).decode()
        if word != "ready":
            raise ContainersError("an agent did not come up", seen=word)
        return {"pid": pid}, (test,)

    def on_container(self) -> Answer:
        """Fork an agent with an empty network namespace."""
        return self._hatch(lambda: syscalls.unshare(syscalls.CLONE_NEWNET))

    def on_switch(self, routed: str, files: str = "", confined: str = "yes") -> Answer:
        """Fork a gateway, which stays here and may open *files* descriptors, and a switch."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def serve() -> None:
            ours.close()
            with open("/proc/sys/kernel/cap_last_cap") as file:
                last = int(file.read())
            if not confined:
                gateway.serve(theirs)
                return
            control, paths = gateway.confine(theirs, mountpoint="/mnt", last_capability=last)
            if files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), int(files)))
            gateway.serve(control, paths)

        def begin() -> Switch:
            theirs.close()
            with Host() as host:
                syscalls.unshare(syscalls.CLONE_NEWNET)
                return Switch.open(host, line=Line(ours), routed=bool(routed))

        pid = _fork(serve, gateway.NAMESPACES)
        with ours, theirs:
            value, sockets = self._hatch(begin)
        return {**value, "gateway": pid}, sockets

    @staticmethod
    def on_socket(kind: str) -> Answer:
        """Make a socket of this namespace and give it away; ``icmp`` is one that sends echo requests."""
        if kind == "icmp":
            Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
            return {}, (socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),)
        number = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
        return {}, (socket.socket(socket.AF_INET, number),)

    @staticmethod
    def on_own(address: str) -> Answer:
        """Give loopback one more address."""
        with Channel() as channel:
            channel.run(links.loopback_up(), links.address(IPv4Interface(address), links.LOOPBACK, "lo"))
        return {}, ()

    @staticmethod
    def on_resolvers(path: str) -> Answer:
        """Show the file *path* as /etc/resolv.conf in this mount namespace."""
        syscalls.mount(path, os.path.realpath("/etc/resolv.conf"), None, syscalls.MS_BIND)
        return {}, ()

    @staticmethod
    def on_folder(source: str, target: str) -> Answer:
        """Show the folder *source* at *target* in this mount namespace."""
        syscalls.mount(source, target, None, syscalls.MS_BIND)
        return {}, ()

    @staticmethod
    def on_seen() -> Answer:
        """Tell the links, routes and descriptors of this process."""
        routes = Path("/proc/net/route").read_text().splitlines()[1:]
        return {
            "links": {name: index for index, name in socket.if_nameindex()},
            "routes": [line.split()[0] for line in routes],
            "descriptors": len(os.listdir("/proc/self/fd")),
        }, ()

    @staticmethod
    def on_read(path: str) -> Answer:
        """Read a file of /proc, which shows this namespace."""
        return Path(path).read_text(), ()

    @staticmethod
    def on_write(path: str, text: str) -> Answer:
        """Write a file of /proc, which changes this namespace."""
        return Path(path).write_text(text), ()

    @staticmethod
    def on_configure(messages: str, patient: str = "") -> Answer:
        """Take an address, as a container's first process does."""
        if patient:
            sysctl.write("ipv4.neigh.eth0.retrans_time_ms", "300000")
        veth.configure(bytes.fromhex(messages))
        return {}, ()

    @staticmethod
    def on_rules(subnet: str) -> Answer:
        """Lay the firewall down in this namespace."""
        run = IPv4Network(subnet)
        firewall.lay_down(run, egress_port=4000, uplink="uplink", host=host_address(run))
        return {}, ()

    @staticmethod
    def on_taken() -> Answer:
        """Tell what the host of this namespace would route already."""
        with Host() as host:
            return [str(network) for network in host.networks()], ()

    def _opened(self) -> Switch:
        if self._switch is None:
            raise ContainersError("this agent is no switch")
        return self._switch

    def on_subnet(self) -> Answer:
        """Tell the subnet of the run."""
        return str(self._opened().subnet), ()

    def on_create(self, network: str, internal: str, label: str = "") -> Answer:
        """Make a network."""
        return str(self._opened().create(network, label=label, internal=bool(internal))), ()

    def on_remove(self, network: str) -> Answer:
        """Remove a network."""
        self._opened().remove(network)
        return {}, ()

    def on_endpoint(self, network: str) -> Answer:
        """Take a place on a network; tell its messages too."""
        endpoint = self._opened().endpoint(network)
        return {"endpoint": asdict(endpoint), "messages": veth.configuration(endpoint).hex()}, ()

    def on_name(self, endpoint: str, names: str) -> Answer:
        """Make names known."""
        self._opened().name(Endpoint(**json.loads(endpoint)), names.split())
        return {}, ()

    def on_unname(self, endpoint: str) -> Answer:
        """Make names unknown."""
        self._opened().unname(Endpoint(**json.loads(endpoint)))
        return {}, ()

    def on_grant(self, endpoint: str, ports: str) -> Answer:
        """Let a container reach ports of the host; tell the host's address."""
        opened = self._opened()
        opened.grant(Endpoint(**json.loads(endpoint)), map(Port.parse, ports.split()))
        return str(opened.host), ()

    def on_attach(self, endpoint: str, pid: str) -> Answer:
        """Make a container's interface."""
        self._opened().attach(Endpoint(**json.loads(endpoint)), int(pid))
        return {}, ()

    def on_release(self, endpoint: str) -> Answer:
        """Give a place back."""
        self._opened().release(Endpoint(**json.loads(endpoint)))
        return {}, ()


def _main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    # Nobody waits for forked agents; the kernel takes them away (sigaction(2), SIGCHLD).
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.unshare(syscalls.CLONE_NEWNET)
    Agent(control).obey()


if __name__ == "__main__":
    _main()
