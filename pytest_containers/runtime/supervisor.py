"""pid 1 of a run: owns the switch, the snapshots and every container (floor 1).

A fresh, small, single-threaded interpreter in a mount and a network namespace of its own. All of
a run's kernel objects hang on this process: when it ends, however it ends, the kernel takes them
down with its namespaces (pid_namespaces(7), network_namespaces(7), mount_namespaces(7)).
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from typing import NoReturn

from pytest_containers.errors import ContainersError, HostError, to_wire
from pytest_containers.runtime import (
    capabilities,
    cgroups,
    gateway,
    openfiles,
    refusals,
    roots,
    service,
    snapshot,
    syscalls,
)
from pytest_containers.runtime.loop import Loop
from pytest_containers.runtime.network.names import Line, report
from pytest_containers.runtime.network.switch import Switch
from pytest_containers.runtime.network.uplink import Host
from pytest_containers.runtime.sandbox import Run

__all__ = ["main"]


def main(folder: str, listener: socket.socket, *, janitor: int, words: int, lingers: bool) -> NoReturn:
    """Serve the run whose files lie in *folder* until its last connection has ended; never returns.

    *janitor* is a pidfd of our parent; *words* a pipe to it for the reason why there is no run.
    *lingers*: several processes share the run, so that it ends with its owner or when told to.
    """
    try:
        _tie_to(janitor)
        run, helper = _begin(folder)
        served = service.Service(run, listener, helper, lingers=lingers)
    except (ContainersError, OSError) as error:
        os.write(words, json.dumps(to_wire(_explained(error))).encode())
        os._exit(1)
    os.close(words)
    served.serve()
    os._exit(0)


def _tie_to(janitor: int) -> None:
    """End when the janitor does, also if it has ended already: of that no signal tells."""
    syscalls.parent_death_signal(signal.SIGKILL)
    # getppid(2) cannot say: our parent is outside of our pid namespace, and so 0 all along.
    poll = select.poll()  # select(2) takes no descriptor above 1023
    poll.register(janitor, select.POLLIN)
    if poll.poll(0):
        os._exit(1)
    os.close(janitor)


def _explained(error: ContainersError | OSError) -> ContainersError:
    """Return *error* as it is where it says enough, else what the machine refuses and the mend."""
    cause = error if isinstance(error, OSError) else error.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    if isinstance(error, ContainersError) and (error.mend or not refusals.is_refusal(number)):
        return error
    return HostError(
        "this machine does not let us make a run's namespaces",
        seen=str(error) if isinstance(error, OSError) else f"{error.what}: {error.seen}",
        mend=f"{refusals.hint(number, refusals.Standing.ours())}; `pytest-containers doctor` tests each step",
    )


def _begin(folder: str) -> tuple[Run, syscalls.Child]:
    """Make the run's namespaces and what lies in them, in the order the kernel needs."""
    open_files = openfiles.raise_soft_limit()
    os.umask(0o022)  # pytest's own may be 077, and a container's folders are everybody's
    os.mkdir(os.path.join(folder, "ground"))
    syscalls.join_session_keyring()  # an exec has the run's, a container's first process one of its own
    # First of all: no mount of ours may show in the host's namespace, and who joins must find our root.
    roots.leave_mount_namespace()
    syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last_capability = int(file.read())
    ground = snapshot.lay_ground(os.path.join(folder, "ground"))
    control, helper = _fork_gateway(os.path.join(folder, "ground"), last_capability)
    line, loop = Line(control), Loop()
    _relay(line, loop)
    host = Host()
    hosts_network = _own_network()
    syscalls.unshare(syscalls.CLONE_NEWNET)
    switch = Switch.open(host, line=line, routed=os.geteuid() == 0)
    host.close()
    mounted = cgroups.hierarchies()
    return Run(
        folder=folder,
        loop=loop,
        open_files=open_files,
        switch=switch,
        ground=ground,
        last_capability=last_capability,
        held_capabilities=capabilities.held(),
        network=_own_network(),
        hosts_network=hosts_network,
        memory=cgroups.Memory(mounted),
        groups=cgroups.Groups(folder, mounted),
        placement=cgroups.Placement(oom_score_adj=cgroups.raised_oom_score()),
    ), helper


def _own_network() -> int:
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _fork_gateway(mountpoint: str, last_capability: int) -> tuple[socket.socket, syscalls.Child]:
    """Fork the gateway while we are still in the host's network; it stays there when we leave."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = syscalls.clone(gateway.NAMESPACES)
    if child.pid == 0:
        code = 1
        try:
            ours.close()
            theirs, paths = gateway.confine(theirs, mountpoint=mountpoint, last_capability=last_capability)
            gateway.serve(theirs, paths)
            code = 0
        except Exception as error:  # noqa: BLE001 - the supervisor's next message fails, and tells this
            report(theirs, f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)
    theirs.close()
    return ours, child


def _relay(line: Line, loop: Loop) -> None:
    """Write what the gateway reports to our stderr; it has none of its own."""

    def relay() -> None:
        reports = line.reports()
        if reports is None:
            loop.forget(line.fileno(), relay)
            return
        for text in reports:
            os.write(2, f"gateway: {text}\n".encode())

    loop.watch(line.fileno(), relay)
