"""The gateway: the one process of a run that lives in the host's network namespace.

It is forked from the supervisor before that leaves the host's namespace, gets every socket it
serves over its control socket, and ends with it. Containers reach the outside through it alone:
TCP by `egress`, names by `resolver`, ports of the host by `hostaccess`. It reads what containers
and foreign name servers send, so it gives away all that it does not need for that (`confine`).
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import traceback
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from pytest_containers.runtime import capabilities, syscalls
from pytest_containers.runtime.network.addresses import host_address
from pytest_containers.runtime.network.egress import Egress, Routes
from pytest_containers.runtime.network.flows import Flows
from pytest_containers.runtime.network.hostaccess import Door, HostAccess
from pytest_containers.runtime.network.ingress import Ingress
from pytest_containers.runtime.network.names import Directory, Message, Zone, receive, report
from pytest_containers.runtime.network.reactor import READ, Reactor
from pytest_containers.runtime.network.resolver import Resolver
from pytest_containers.runtime.network.upstream import Upstream

__all__ = ["NAMESPACES", "confine", "serve"]

# Of its own: files, processes, System V IPC and host name. The network is the host's.
NAMESPACES: Final = (
    syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
)
_RESOLV_CONF: Final = "/etc/resolv.conf"
_CONTROL: Final = 3
# "nobody" (kernel documentation, admin-guide/sysctl/fs.rst, overflowuid): it owns no files.
_NOBODY: Final = 65534
_LIMITS_OF_NOTHING: Final = (
    *(resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK),
)
_MAX_QUERIES: Final = 512
_MAX_SESSIONS: Final = 256
_MAX_ASSOCIATIONS: Final = 256
_SPARE_DESCRIPTORS: Final = 128
_LEAST_FLOWS: Final = 64
_MAX_REPORTS: Final = 100
_WITH_SOCKETS: Final = frozenset(("egress", "open", "publish", "grant"))


def confine(
    control: socket.socket, *, mountpoint: str, last_capability: int
) -> tuple[socket.socket, tuple[str, ...]]:
    """Leave this process no files, no privilege and no descriptor but *control*.

    Runs in a child that was cloned into `NAMESPACES`, as root. *mountpoint* is any folder. Its root is
    afterwards an empty, read-only file system with the folders that resolv.conf(5) lies in, and its
    user is nobody. Returns *control*, which has another number now, and the paths where the host's
    resolv.conf is found. Raises OSError with the step that the kernel refused.
    """
    number = control.detach()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.dup2(number, _CONTROL, inheritable=False)
    syscalls.close_range(_CONTROL + 1)
    paths = tuple(dict.fromkeys((_RESOLV_CONF, os.path.realpath(_RESOLV_CONF))))
    _change_root(mountpoint, [os.path.dirname(path) for path in paths])
    with contextlib.suppress(OSError):  # without SETPCAP; no_new_privs below says the same
        capabilities.apply_bounding(0, last=last_capability)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    for limit in _LIMITS_OF_NOTHING:
        resource.setrlimit(limit, (0, 0))
    syscalls.capset(0, 0, 0)
    syscalls.no_new_privileges()
    syscalls.hide_from_tracers()
    return socket.socket(fileno=_CONTROL), paths


def _change_root(mountpoint: str, folders: list[str]) -> None:
    """Make a tmpfs on *mountpoint* the root, with *folders* of the host at their places in it."""
    trees = [(folder, syscalls.open_tree(folder, recursive=True)) for folder in dict.fromkeys(folders)]
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("tmpfs", mountpoint, "tmpfs", flags, "size=64k,mode=755")
    for folder, tree in trees:
        with contextlib.suppress(OSError):  # before Linux 5.12; whoever is nobody writes nothing there
            syscalls.restrict_tree(tree, flags | syscalls.MS_RDONLY)
        os.makedirs(mountpoint + folder, exist_ok=True)
        syscalls.attach_tree(tree, mountpoint + folder)
    syscalls.mount(
        "none", mountpoint, None, syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | flags
    )
    os.chdir(mountpoint)
    try:
        # The old root is put over the new one and taken off again (pivot_root(2), "NOTES").
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.MNT_DETACH)
    except OSError:
        os.chroot(".")  # the root is the initial ramfs, which cannot be put elsewhere
    os.chdir("/")


def serve(control: socket.socket, resolv_conf: tuple[str, ...] = (_RESOLV_CONF,)) -> None:
    """Serve until the other end of *control* is closed; runs in a process of its own.

    Raises the soft limit of open files to the hard one: each connection needs two.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    reports = iter(range(_MAX_REPORTS))

    def told(error: Exception) -> None:
        if next(reports, None) is not None:
            report(control, "".join(traceback.format_exception(error)))

    reactor = Reactor(told)
    gateway = _Gateway(reactor, control, resolv_conf, files=hard, told=told)
    reactor.watch(control, READ, lambda _: gateway.take_in())
    try:
        reactor.run()
    finally:
        gateway.close()
        reactor.close_all()


class _Gateway:
    """Carries out what the supervisor says, with at most *files* descriptors."""

    def __init__(
        self,
        reactor: Reactor,
        control: socket.socket,
        resolv_conf: tuple[str, ...],
        *,
        files: int,
        told: Callable[[Exception], None],
    ) -> None:
        self._reactor = reactor
        self._told = told
        self._control = control
        queries, sessions = min(_MAX_QUERIES, files // 8), min(_MAX_SESSIONS, files // 16)
        associations = min(_MAX_ASSOCIATIONS, files // 16)
        left = files - queries - sessions - associations - _SPARE_DESCRIPTORS
        self._flows = Flows(reactor, max(_LEAST_FLOWS, left // 2))
        self._directory = Directory()
        self._host = HostAccess(reactor, self._flows, associations)
        self._host_address: str | None = None
        self._resolver = Resolver(
            reactor,
            self._directory,
            Upstream(reactor, limit=queries, paths=resolv_conf),
            self.take_in,
            host=lambda ip: self._host_address if self._host.admits(ip) else None,
            sessions=sessions,
        )
        self._routes = Routes()
        self._egress: Egress | None = None
        self._ingress = Ingress(reactor, self._flows)

    def close(self) -> None:
        """Close what the loop does not watch."""
        self._routes.close()

    def take_in(self) -> None:
        """Read every message that waits; report those that make no sense, and go on."""
        while True:
            try:
                message = receive(self._control)
            except BlockingIOError:
                return
            except ConnectionError:
                message = None
            except ValueError as error:
                self._told(error)
                continue
            if message is None:
                self._reactor.stop()
                return
            try:
                self._obey(message)
            except (ValueError, KeyError, OSError) as error:
                for one in message.sockets:
                    self._reactor.close(one)
                self._told(error)

    def _obey(self, message: Message) -> None:
        words = message.words
        if message.verb not in _WITH_SOCKETS:
            _expected(message)
        match message.verb:
            case "egress":
                (listener,) = _expected(message, socket.SOCK_STREAM)
                subnet = IPv4Network(words["subnet"])
                self._host_address = str(host_address(subnet))
                self._egress = Egress(self._reactor, listener, subnet, self._flows, self._routes)
            case "open":
                self._open(message)
            case "close":
                self._close(words["network"])
            case "add":
                self._directory.add(message.records)
            case "share":
                self._directory.share(words["network"])
            case "publish":
                (listener,) = _expected(message, socket.SOCK_STREAM)
                self._ingress.open(listener, str(IPv4Address(words["ip"])), int(words["port"]))
            case "grant":
                kind = socket.SOCK_STREAM if words["transport"] == "tcp" else socket.SOCK_DGRAM
                found = _expected(message, *([kind] if message.sockets else []))
                door = Door(words["transport"], int(words["port"]))
                self._host.grant(words["ip"], door, found[0] if found else None)
            case "unname":
                if zone := self._directory.zone(words["network"]):
                    zone.forget(words["ip"])
            case "forget":
                self._forget(words["network"], words["ip"])
            case _:
                raise ValueError(f"no such control message: {message.verb}")

    def _open(self, message: Message) -> None:
        words = message.words
        found = _expected(message, *([socket.SOCK_DGRAM, socket.SOCK_STREAM] if message.sockets else []))
        zone = Zone(
            words["label"],
            IPv4Network(words["subnet"]),
            internal=bool(words["internal"]),
            key=words["network"],
        )
        self._directory.open(zone)
        if found:
            self._resolver.open(zone.subnet, *found)

    def _close(self, network: str) -> None:
        if zone := self._directory.zone(network):
            self._directory.close(network)
            self._resolver.hang_up(zone.subnet)

    def _forget(self, network: str, ip: str) -> None:
        if zone := self._directory.zone(network):
            zone.forget(ip)
        self._ingress.drop(ip)
        self._host.revoke(ip)
        self._flows.drop(ip)


def _expected(message: Message, *kinds: socket.SocketKind) -> tuple[socket.socket, ...]:
    """Return the sockets of *message*. Raises ValueError where they are not IPv4 sockets of *kinds*."""
    found = [(one.family, one.type) for one in message.sockets]
    if found != [(socket.AF_INET, kind) for kind in kinds]:
        raise ValueError(f"the control message {message.verb} came with the sockets {found}")
    return message.sockets
