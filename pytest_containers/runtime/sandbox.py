"""One container as the supervisor sees it, and the parent's side of the start recipe (floor 1)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from pytest_containers.errors import ContainersError, EngineError
from pytest_containers.runtime import cgroups, init, logs, openfiles, process, snapshot, syscalls
from pytest_containers.runtime.bundle import Bundle
from pytest_containers.runtime.loop import Loop, Recipe, Wait
from pytest_containers.runtime.messages import parse
from pytest_containers.runtime.network import veth
from pytest_containers.runtime.network.addresses import Endpoint
from pytest_containers.runtime.network.switch import Switch
from pytest_containers.runtime.snapshot import Ground, Snapshot
from pytest_containers.spec import ContainerSpec, ContainerState, ExitStatus, Stream

__all__ = ["Run", "Sandbox", "discard_child", "raise_if_failed", "remove", "start", "wait_for"]

_NAMESPACES: Final = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWCGROUP
)
_MESSAGE_BYTES: Final = 1 << 16
_FIRST_NOT_STANDARD: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What every sandbox of the run shares; two descriptors: our network namespace and the host's.

    *placement* is where the processes of a container go that has no limits. *open_files* are the
    soft and the hard limit that pytest has, and so a container's processes.
    """

    folder: str
    loop: Loop
    open_files: tuple[int, int]
    switch: Switch
    ground: Ground
    last_capability: int
    held_capabilities: int
    network: int
    hosts_network: int
    memory: cgroups.Memory
    groups: cgroups.Groups
    placement: cgroups.Placement


class Sandbox:
    """A container: its files and its address for as long as it is known, its process while it runs."""

    def __init__(
        self,
        run: Run,
        container_id: str,
        spec: ContainerSpec,
        bundle: Bundle,
        files: Snapshot,
        endpoint: Endpoint,
        group: cgroups.Group | None = None,
    ) -> None:
        self.run = run
        self.id = container_id
        self.spec = spec
        self.bundle = bundle
        self.snapshot = files
        self.endpoint = endpoint
        self.group = group
        self.placement = group.placement(run.placement) if group else run.placement
        self.log = logs.create_log(run.folder)
        self.seed = -1
        self.lease = -1
        # The network namespace of the last start, -1 for none. It stays after the end of the processes, so
        # that their peers see what a dead process on a living host leaves: FIN or RST, and a refusal of
        # each new connection. Without the namespace they would see silence.
        self.network = -1
        self.starting = False
        # Readable while nobody is starting it (eventfd(2)).
        self.turn = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.child: syscalls.Child | None = None
        # Processes of ours at work on its files; whoever made one reaps it.
        self.workers: set[syscalls.Child] = set()
        self.exit: ExitStatus | None = None
        self.started_at = 0.0
        self.finished_at = 0.0
        self.paused = False
        self.freezer = ""
        # Execs whose process inside is not there yet.
        self.beginning = 0
        self._killed = False
        self._oom_kills = 0
        self._writer = logs.LogWriter(self.log)
        self._pipes: dict[int, Callable[[], None]] = {}

    @property
    def state(self) -> ContainerState:
        """The state as it is now; an end nobody has looked at yet is looked at first."""
        self.reap()
        status = "running" if self.child else "exited" if self.exit else "created"
        return ContainerState(
            status=status,  # type: ignore[arg-type]  # mypy widens the literals
            exit=self.exit,
            started_at=self.started_at,
            finished_at=self.finished_at,
            paused=self.paused,
        )

    def follow(self, pipes: tuple[tuple[int, Stream], ...]) -> None:
        """Move what the pipes bring into the log until their ends."""
        for pipe, stream in pipes:

            def drain(pipe: int = pipe, stream: Stream = stream) -> None:
                if self._writer.drain(pipe, stream):
                    self._end_pipe(pipe)

            self._pipes[pipe] = drain
            self.run.loop.watch(pipe, drain)

    def _end_pipe(self, pipe: int) -> None:
        drain = self._pipes.pop(pipe)
        self.run.loop.forget(pipe, drain)
        os.close(pipe)

    def born(self, child: syscalls.Child) -> None:
        """Note that the first process runs."""
        self.child, self.exit, self._killed = child, None, False
        self.started_at, self.finished_at = time.time(), 0.0
        self.run.loop.watch(child.pidfd, self.reap)

    def reap(self) -> None:
        """Collect the first process if it has ended, and the last of its output."""
        if self.child is None:
            return
        status = wait_for(self.child.pidfd)
        if status is None:
            return
        self.run.loop.forget(self.child.pidfd, self.reap)
        self.run.loop.close(self.child.pidfd)
        if self.paused and self.freezer:
            cgroups.freeze(self.freezer, frozen=False)  # what is started there next must run
        self.paused = False
        status = replace(status, oom_killed=self._out_of_memory(status))
        self.child, self.exit, self.finished_at = None, status, time.time()
        self.unname()
        # With pid 1 all processes of the namespace are dead, so the pipes hold the last of it.
        for pipe, drain in tuple(self._pipes.items()):
            drain()
            if pipe in self._pipes:  # a descriptor went out of the container; Docker waits no more either
                self._end_pipe(pipe)

    def _out_of_memory(self, status: ExitStatus) -> bool:
        """Return whether the kernel has killed a process of this start for want of memory.

        Without a memory group of its own that is told of a first process alone: one that was killed and
        not by us, while the kernel's count of such kills has risen.
        """
        if self.group is not None and self.group.has_memory:
            before, self._oom_kills = self._oom_kills, self.group.oom_kills()
            return self._oom_kills > before
        # With init=True pid 1 tells of its child's end by its own exit code.
        killed = status.code == 128 + signal.SIGKILL and (status.signal or self.spec.init)
        return bool(killed) and not self._killed and self.run.memory.take_oom_kill()

    def unname(self) -> None:
        """Let peers look its names up in vain, as those of any machine that is not there.

        The gateway tells nobody when it is gone, and then nobody asks it either.
        """
        with contextlib.suppress(EngineError):
            self.run.switch.unname(self.endpoint)

    def kill(self, number: int) -> None:
        """Signal the first process; one that has ended is left in peace."""
        if self.child is not None:
            self._killed = self._killed or number == signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.child.pidfd, number)

    def keep_network(self, pid: int) -> None:
        """Keep the network namespace of process *pid* until `forget_network`, whoever ends meanwhile."""
        self.forget_network()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended; so has its network
            self.network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def forget_network(self) -> None:
        """Let the network namespace of the last start go."""
        network, self.network = self.network, -1
        if network >= 0:
            os.close(network)

    def forget_seed(self) -> None:
        """Close the tar of files that the first start has written."""
        if self.seed >= 0:
            os.close(self.seed)
        self.seed = -1

    def close(self) -> None:
        """Drop the files, the log and the address; the process must have ended.

        Every step is tried. Raises ExceptionGroup with the errors of those that failed.
        """
        self._unwind((*self._steps(), partial(snapshot.discard, self.snapshot)))

    def close_but_files(self) -> None:
        """Do what `close` does, and leave the files to the caller."""
        self._unwind(self._steps())

    def _steps(self) -> tuple[Callable[[], object], ...]:
        lease, self.lease = self.lease, -1
        return (
            *(partial(self._end_pipe, pipe) for pipe in self._pipes),
            self.forget_seed,
            self.forget_network,
            *((partial(os.close, lease),) if lease >= 0 else ()),
            partial(os.close, self.log),
            partial(self.run.loop.close, self.turn),
            partial(
                self.run.groups.remove, {*(self.group.folders if self.group else ()), self.freezer} - {""}
            ),
            partial(self.run.switch.release, self.endpoint),
        )

    def _groups(self) -> set[str]:
        """Return the folders of the container's control groups."""
        return {*(self.group.folders if self.group else ()), *((self.freezer,) if self.freezer else ())}

    def _unwind(self, steps: tuple[Callable[[], object], ...]) -> None:
        errors: list[Exception] = []
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - one failing step does not keep the others
                errors.append(error)
        if errors:
            raise ExceptionGroup(f"container {self.spec.name} is not removed completely", errors)


def wait_for(pidfd: int) -> ExitStatus | None:
    """Reap the child behind *pidfd*; None while it runs (waitid(2), P_PIDFD)."""
    seen = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if seen is None:
        return None
    if seen.si_code == os.CLD_EXITED:
        return ExitStatus(code=seen.si_status)
    return ExitStatus(code=128 + seen.si_status, signal=seen.si_status)


def discard_child(child: syscalls.Child) -> None:
    """Kill and reap a child that nobody needs any more."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    os.close(child.pidfd)


def raise_if_failed(ours: socket.socket) -> None:
    """Raise what the child wrote before its end; the exec's silence is success."""
    try:
        news = ours.recv(_MESSAGE_BYTES)
    except ConnectionResetError:
        # It ended without reading what we sent: that is told once, before its own words (unix(7)).
        news = ours.recv(_MESSAGE_BYTES)
    if news:
        _, error = parse(b'{"id":0,"error":' + news + b"}")
        raise error if isinstance(error, ContainersError) else EngineError("a child spoke in riddles")


def _pipe(undo: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    """Return a pipe's two ends; the reading one does not block."""
    ours, other = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(ours, False)
    undo.callback(os.close, ours)
    theirs.callback(os.close, other)
    return ours, other


def start(sandbox: Sandbox) -> Recipe[None]:
    """Run the first process: clone into fresh namespaces, give it a network, wait for its exec.

    Parent and child meet twice: the child waits for the network's configuration before it goes
    on, the parent for the end of the socket, which the exec itself closes.
    """
    run = sandbox.run
    with contextlib.ExitStack() as scope, contextlib.ExitStack() as undo:
        theirs = scope.enter_context(contextlib.ExitStack())
        ours, sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        scope.enter_context(ours)
        theirs.enter_context(sync)
        out, out_theirs = _pipe(undo, theirs)
        err, err_theirs = _pipe(undo, theirs)
        # Not the machine's: mode and owner of what a process has open are its to change (fchmod(2)).
        null = os.open(f"{run.ground.devices}/null", os.O_RDWR | os.O_CLOEXEC)
        theirs.callback(os.close, null)
        if sandbox.seed >= 0:
            os.lseek(sandbox.seed, 0, os.SEEK_SET)
        child = _clone(sandbox)
        if child.pid == 0:
            process.take_descriptors(null, out_theirs, err_theirs, sync.fileno(), sandbox.seed)
            openfiles.restore(run.open_files)
            init.enter(
                sandbox.bundle,
                sandbox.snapshot,
                run.ground,
                sandbox.placement,
                last_capability=run.last_capability,
            )
        undo.callback(discard_child, child)
        theirs.close()
        if sandbox.bundle.interfaces == "switch":
            _connect(sandbox, child, ours)
        yield Wait(ours.fileno())
        raise_if_failed(ours)
        sandbox.follow(((out, "stdout"), (err, "stderr")))
        sandbox.born(child)
        undo.pop_all()
    sandbox.forget_seed()


def _clone(sandbox: Sandbox) -> syscalls.Child:
    """Clone the child; one on the host's network inherits it from us, who go there for that moment."""
    # With groups of its own it goes there first, and only then into a control group namespace.
    placement = sandbox.placement
    namespaces = _NAMESPACES if placement.is_plain else _NAMESPACES & ~syscalls.CLONE_NEWCGROUP
    if sandbox.bundle.interfaces != "host":
        return placement.clone(namespaces)
    syscalls.setns(sandbox.run.hosts_network, syscalls.CLONE_NEWNET)
    child = None
    try:
        child = placement.clone(namespaces & ~syscalls.CLONE_NEWNET)
    finally:
        if child is None or child.pid:
            syscalls.setns(sandbox.run.network, syscalls.CLONE_NEWNET)
    return child


def _connect(sandbox: Sandbox, child: syscalls.Child, ours: socket.socket) -> None:
    """Give the child its interface, and tell it; a child that failed before has told us why."""
    sandbox.keep_network(child.pid)
    try:
        sandbox.run.switch.attach(sandbox.endpoint, child.pid)
    except EngineError:
        # Its namespaces are gone with it, which is all that the kernel can say (ESRCH).
        poll = select.poll()  # select(2) takes no descriptor above 1023
        poll.register(ours, select.POLLIN)
        if poll.poll(0):
            raise_if_failed(ours)
        raise
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        ours.send(veth.configuration(sandbox.endpoint))


def remove(sandbox: Sandbox) -> Recipe[None]:
    """Kill what runs, wait for its end, and drop the rest; a start under way is let through first.

    Work on its files is cut off: whoever asked for it gets an error.
    """
    while sandbox.starting:
        yield Wait(sandbox.turn)
    sandbox.kill(signal.SIGKILL)
    for worker in sandbox.workers:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)
    while sandbox.state.status == "running" and sandbox.child is not None:
        yield Wait(sandbox.child.pidfd)
    if _is_light(sandbox):
        sandbox.close()
        return
    errors: list[Exception] = []
    try:
        sandbox.close_but_files()
    except ExceptionGroup as group:
        errors.extend(group.exceptions)
    try:
        yield from _discard_apart(sandbox)
    except (ContainersError, ExceptionGroup) as error:
        errors.append(error)
    if errors:
        raise ExceptionGroup(f"container {sandbox.spec.name} is not removed completely", errors)


def _is_light(sandbox: Sandbox) -> bool:
    try:
        return snapshot.is_light(sandbox.snapshot)
    except OSError:  # a folder that is gone is light to drop
        return True


def _discard_apart(sandbox: Sandbox) -> Recipe[None]:
    """Drop the files in a process of its own: to free gigabytes or many thousand files takes long."""
    try:
        child = syscalls.clone(0)
    except OSError:  # EAGAIN, ENOMEM: then it takes as long as it takes
        snapshot.discard(sandbox.snapshot)
        return
    if child.pid == 0:
        code = 1
        try:
            syscalls.close_range(_FIRST_NOT_STANDARD)  # other containers' pipes end without us
            snapshot.discard(sandbox.snapshot)
            code = 0
        finally:
            os._exit(code)
    try:
        while (status := wait_for(child.pidfd)) is None:
            yield Wait(child.pidfd)
    finally:
        os.close(child.pidfd)
    if status.code:
        raise EngineError(
            f"the files of container {sandbox.spec.name} are not dropped",
            seen=f"the process that dropped them ended with code {status.code}",
            mend="they go with the end of the run",
        )
