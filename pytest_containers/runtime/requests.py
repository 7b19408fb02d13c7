"""What the supervisor answers to each request (floor 1)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import BinaryIO, Final, Literal

from pytest_containers.errors import EngineError, NotRunning, SpecInvalid, StartError
from pytest_containers.runtime import (
    difference,
    freezer,
    join,
    messages,
    mountpoints,
    openfiles,
    procfs,
    roots,
    snapshot,
    sockets,
    stopped,
    syscalls,
    transfer,
    volumes,
)
from pytest_containers.runtime.bundle import bundle, process
from pytest_containers.runtime.loop import Recipe, Wait
from pytest_containers.runtime.network.names import HOST_NAMES
from pytest_containers.runtime.sandbox import Run, Sandbox, remove, start
from pytest_containers.spec import (
    HOST_GATEWAY,
    ContainerSpec,
    ExecSpec,
    FileStat,
    Port,
    ProcessEntry,
    Stats,
)

__all__ = ["Answered", "Owner", "Requests"]

_ID_BYTES: Final = 32
_DEFAULT: Final = "default"
_LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer and the descriptors that go with it; they stay the supervisor's own."""

    noun: object
    descriptors: tuple[int, ...] = ()


class Owner:
    """What one connection made, to be torn down at its end.

    Networks are the connection's own: two workers of one run may both have a network "default"
    with a container "redis" on it, and neither sees the other's.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.containers: set[str] = set()
        self.networks: dict[str, str] = {}


class Requests:
    """The containers and networks of a run, by id and by name."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._sandboxes: dict[str, Sandbox] = {}
        self._run_owner = Owner(0)

    def answer(
        self, request: messages.Request[object], descriptors: list[int], owner: Owner
    ) -> Recipe[Answered]:
        """Carry out *request* for *owner*. Raises the errors it documents."""
        if isinstance(request, messages.Create | messages.Start | messages.ExecRequest):
            openfiles.require_room("the run's supervisor")
        if len(descriptors) < request.brings:
            raise EngineError(
                f"{type(request).__name__} came without its descriptors",
                seen=f"{len(descriptors)} of {request.brings}",
            )
        match request:
            case messages.Create():
                return self._create(request, descriptors, owner)
            case messages.Start():
                return (yield from self._start(request))
            case messages.ExecRequest():
                return (yield from self._exec(request, descriptors))
            case messages.Read() | messages.Write() | messages.Stat() | messages.Changes() | messages.Layer():
                return (yield from self._files(request, descriptors))
            case messages.State():
                sandbox = self._known(request.id)
                state = sandbox.state
                pidfds = (sandbox.child.pidfd,) if request.pidfd and sandbox.child else ()
                return Answered(noun=state, descriptors=pidfds)
            case messages.Signal():
                sandbox = self._known(request.id)
                sandbox.reap()
                sandbox.kill(request.number)
            case messages.Pause():
                yield from freezer.pause(self._known(request.id))
            case messages.Unpause():
                freezer.unpause(self._known(request.id))
            case messages.Measure():
                return Answered(noun=_stats(self._known(request.id)))
            case messages.Top():
                return Answered(noun=_processes(self._known(request.id)))
            case messages.Listening():
                return Answered(noun=self._listening(self._known(request.id)))
            case messages.Publish():
                if not 0 < request.port < 1 << 16:
                    raise SpecInvalid(f"{request.port} is not a port", mend="name one from 1 to 65535")
                endpoint = self._known(request.id).endpoint
                with socket.socket(fileno=os.dup(descriptors[0])) as listener:
                    self._run.switch.publish(endpoint, request.port, listener)
            case messages.Remove():
                owner.containers.discard(request.id)
                yield from self._abandon(request.id)
            case messages.CreateNetwork():
                if request.name in owner.networks:
                    raise SpecInvalid(f"network {request.name} is there already", mend="choose another name")
                return Answered(noun=self._create_network(owner, request.name, internal=request.internal))
            case messages.RemoveNetwork():
                self._run.switch.remove(self._network(owner, request.name))
                del owner.networks[request.name]
            case _:
                raise EngineError(f"nobody answers {type(request).__name__}")
        return Answered(noun=messages.Done())

    def _known(self, container_id: str) -> Sandbox:
        try:
            return self._sandboxes[container_id]
        except KeyError:
            raise EngineError(
                f"no container {container_id[:12]}",
                seen="it was removed",
                mend="do not use it after its scope",
            ) from None

    def _create_network(self, owner: Owner, name: str, *, internal: bool) -> messages.NetworkCreated:
        key = f"{name}.{owner.number}"
        subnet = self._run.switch.create(key, label=name, internal=internal)
        owner.networks[name] = key
        return messages.NetworkCreated(subnet=str(subnet))

    def _network(self, owner: Owner, name: str) -> str:
        """Return what the switch calls the owner's network *name*; "default" is made when it is wanted."""
        if name == _DEFAULT and name not in owner.networks:
            self._create_network(owner, name, internal=False)
            if owner is self._run_owner:
                self._run.switch.share(owner.networks[name])
        if name not in owner.networks:
            known = ", ".join(sorted(owner.networks)) or "none"
            raise SpecInvalid(f"there is no network {name}", seen=f"networks: {known}", mend="make it first")
        return owner.networks[name]

    def _create(self, request: messages.Create, descriptors: list[int], owner: Owner) -> Answered:
        spec = request.spec
        if spec.lifetime == "run":
            owner = self._run_owner
        for known in (self._sandboxes[one] for one in owner.containers):
            if known.spec.name == spec.name and known.spec.network == spec.network:
                if spec.lifetime == "run":
                    return _created(known, found=True)
                raise SpecInvalid(
                    f"container {spec.name} is there already",
                    seen=f"it is {known.state.status}, on network {spec.network}",
                    mend="choose another name=, or remove() that one first",
                )
        container_id = os.urandom(_ID_BYTES).hex()
        wanted = bundle(spec, request.config, container_id, held=self._run.held_capabilities)
        wanted = replace(wanted, roots=self._roots(spec), interfaces=request.interfaces)
        # What has no size of its own shares one ceiling: to fill all of them must not take more.
        ceiling = self._run.memory.ceiling_bytes() // (1 + sum(not size for size in spec.tmpfs.values()))
        wanted = replace(wanted, tmpfs={path: size or ceiling for path, size in spec.tmpfs.items()})
        if request.leased > len(descriptors):
            raise EngineError("Create came without the lease of its layers", seen="no descriptors")
        with contextlib.ExitStack() as undo:
            endpoint = self._run.switch.endpoint(self._network(owner, spec.network))
            undo.callback(self._run.switch.release, endpoint)
            if request.interfaces == "switch":
                self._run.switch.grant(endpoint, spec.host_access)
            disk = os.path.join(self._run.folder, "disk", container_id[:12]) if spec.storage == "disk" else ""
            files = snapshot.prepare(
                self._run.ground,
                container_id[:12],
                request.layers,
                limit_bytes=spec.limits.storage_bytes or ceiling,
                disk=disk,
                bare=request.bare,
            )
            undo.callback(snapshot.discard, files)
            group = self._run.groups.make(container_id[:12], spec.limits)
            undo.callback(self._run.groups.remove, group.folders if group else ())
            sandbox = Sandbox(self._run, container_id, spec, wanted, files, endpoint, group)
            undo.pop_all()
        with contextlib.ExitStack() as undo:
            undo.callback(sandbox.close)
            for number, descriptor in enumerate(descriptors[: 1 + request.leased]):
                if request.leased and number == 0:
                    sandbox.lease = os.dup(descriptor)
                else:
                    sandbox.seed = os.dup(descriptor)
            _write_etc(sandbox)
            undo.pop_all()
        self._sandboxes[container_id] = sandbox
        owner.containers.add(container_id)
        return _created(sandbox, found=False)

    def _roots(self, spec: ContainerSpec) -> dict[str, str]:
        """Return where the files of the containers are that *spec* mounts from."""
        return {one: self._known(one).snapshot.root for bind in spec.binds if (one := bind.container)}

    def _start(self, request: messages.Start) -> Recipe[Answered]:
        sandbox = self._known(request.id)
        while sandbox.starting:  # another worker's start of a container of the run
            yield Wait(sandbox.turn)
            sandbox = self._known(request.id)  # it may have been removed meanwhile
        if sandbox.state.status != "running":
            try:
                # Before its first process runs, which may ask for itself; its end takes them back.
                if sandbox.bundle.interfaces == "switch":
                    self._run.switch.name(sandbox.endpoint, _names(sandbox))
                yield from _in_turn(sandbox, volumes.seed(sandbox), start(sandbox))
            except BaseException:
                sandbox.unname()
                raise
        # A process that has ended already left no pidfd; its state says so.
        pidfds = (sandbox.child.pidfd,) if sandbox.child else ()
        return Answered(noun=messages.Started(started_at=sandbox.started_at), descriptors=pidfds)

    def _exec(self, request: messages.ExecRequest, descriptors: list[int]) -> Recipe[Answered]:
        sandbox = self._known(request.id)
        spec = ExecSpec(argv=request.argv, user=request.user, workdir=request.workdir, env=request.env)
        wanted = process(spec, sandbox.bundle.process)
        stdin, stdout, stderr = descriptors[:3]
        try:
            code = yield from join.execute(sandbox, wanted, (stdin, stdout, stderr), request.timeout_s)
        except StartError as error:
            return Answered(noun=messages.Exited(exit_code=error.exit_code, reason=str(error)))
        except TimeoutError:
            return Answered(noun=messages.Exited(exit_code=-1))
        return Answered(noun=messages.Exited(exit_code=code))

    def _files(
        self,
        request: messages.Read | messages.Write | messages.Stat | messages.Changes | messages.Layer,
        descriptors: list[int],
    ) -> Recipe[Answered]:
        sandbox = self._known(request.id)
        files = sandbox.snapshot
        match request:
            case messages.Read(path=path):
                yield from self._seeded(sandbox)
                look = _refusing(sandbox, path, "read")
                action = partial(_into, descriptors[0], partial(_then, look, partial(transfer.pack, path)))
                yield from join.within(sandbox, action, enter=partial(join.join, sandbox))
            case messages.Write(folder=folder):
                yield from self._seeded(sandbox)
                look = _refusing(sandbox, folder, "write")
                action = partial(
                    _out_of, descriptors[0], partial(_then, look, partial(transfer.unpack, folder))
                )
                yield from join.within(sandbox, action, enter=partial(join.join, sandbox))
            case messages.Layer():
                with difference.opened((*files.lowers, files.over)) as lowers:
                    write = partial(
                        difference.write_layer, "/", lowers=lowers, points=mountpoints.made(files)
                    )
                    action = partial(_into, descriptors[0], write)
                    yield from join.within(sandbox, action, enter=partial(roots.confine, files.upper))
            case messages.Stat(path=path):
                yield from self._seeded(sandbox)
                return (yield from self._stat(sandbox, path))
            case messages.Changes():
                return (yield from self._changes(sandbox))
        return Answered(noun=messages.Done())

    def _seeded(self, sandbox: Sandbox) -> Recipe[None]:
        """Let the volumes of a container that does not run be there; a start under way makes them itself."""
        while sandbox.starting:
            yield Wait(sandbox.turn)
            self._known(sandbox.id)
        if sandbox.bundle.volumes and not sandbox.bundle.build_step and sandbox.state.status != "running":
            yield from _in_turn(sandbox, volumes.seed(sandbox))

    def _stat(self, sandbox: Sandbox, path: str) -> Recipe[Answered]:
        with os.fdopen(os.memfd_create("stat", os.MFD_CLOEXEC), "w+b") as found:
            look = _refusing(sandbox, path, "read")

            def write() -> None:
                look()
                found.write(json.dumps(asdict(transfer.status(path))).encode())
                found.flush()

            yield from join.within(sandbox, write, enter=partial(join.join, sandbox))
            found.seek(0)
            return Answered(noun=messages.decode(FileStat, json.loads(found.read())))

    def _changes(self, sandbox: Sandbox) -> Recipe[Answered]:
        files = sandbox.snapshot
        with (
            os.fdopen(os.memfd_create("changes", os.MFD_CLOEXEC), "w+b") as found,
            difference.opened(files.lowers) as lowers,
        ):

            def write() -> None:
                found.write(json.dumps(difference.changes("/", lowers)).encode())
                found.flush()

            yield from join.within(sandbox, write, enter=partial(roots.confine, files.upper))
            found.seek(0)
            rows = json.loads(found.read())
        return Answered(noun=messages.decode(messages.Changed, {"changes": rows}))

    def _listening(self, sandbox: Sandbox) -> messages.Ports:
        child = sandbox.child if sandbox.state.status == "running" else None
        if child is None:
            return messages.Ports(ports=())
        # On this machine's own network the test reaches loopback as well.
        is_host = sandbox.bundle.interfaces == "host"
        ask = frozenset[Port] if is_host else partial(self._ipv6_only, child.pidfd)
        bound = sockets.bound_ports(child.pid, ask, loopback=is_host)
        aside = ((str(port), address) for port, address in sorted(bound.aside.items()))
        return messages.Ports(ports=tuple(map(str, sorted(bound.ports))), aside=tuple(aside))

    def _ipv6_only(self, pidfd: int) -> frozenset[Port]:
        """Ask the container's network namespace, where this process is for that moment (setns(2))."""
        try:
            syscalls.setns(pidfd, syscalls.CLONE_NEWNET)
        except OSError:  # it has ended meanwhile
            return frozenset()
        try:
            return sockets.ipv6_only_ports()
        finally:
            syscalls.setns(self._run.network, syscalls.CLONE_NEWNET)

    def _abandon(self, container_id: str) -> Recipe[None]:
        """End a container and forget it; nothing happens where that is done already."""
        sandbox = self._sandboxes.pop(container_id, None)
        if sandbox is not None:
            self._run_owner.containers.discard(container_id)
            # Whoever asked may go away meanwhile: the removal goes on, since nobody knows it any more.
            yield from self._run.loop.begin_apart(remove(sandbox))

    def release(self, owner: Owner) -> Recipe[None]:
        """Tear down all that *owner* made, all containers at once.

        Everything is tried. Raises ExceptionGroup with the errors of what failed.
        """
        errors: list[Exception] = []
        loop = self._run.loop
        waits = [loop.begin_apart(self._abandon(container_id)) for container_id in tuple(owner.containers)]
        for wait in waits:
            try:
                yield from wait
            except Exception as error:  # noqa: BLE001 - one failing removal does not keep the others
                errors.append(error)
        for key in owner.networks.values():
            try:
                self._run.switch.remove(key)
            except Exception as error:  # noqa: BLE001 - as above
                errors.append(error)
        if errors:
            raise ExceptionGroup("what a client has left is not removed completely", errors)


def _created(sandbox: Sandbox, *, found: bool) -> Answered:
    noun = messages.Created(id=sandbox.id, ip=_ip(sandbox), found=found)
    return Answered(noun=noun, descriptors=(sandbox.log,))


def _first(sandbox: Sandbox, action: str) -> int:
    """Return the first process of a container that runs."""
    if sandbox.state.status != "running" or sandbox.child is None:
        raise NotRunning(
            f"container {sandbox.spec.name} does not run", mend=f"{action} while it runs, or start it first"
        )
    return sandbox.child.pid


def _stats(sandbox: Sandbox) -> Stats:
    first = _first(sandbox, "measure it")
    try:
        used = procfs.usage(procfs.processes(first))
        received, sent = procfs.network_bytes(first)
    except OSError:  # it may have ended between two looks
        _first(sandbox, "measure it")
        raise
    memory, cpu_s, pids = sandbox.group.usage() if sandbox.group else (None, None, None)
    return Stats(
        memory_bytes=used.memory_bytes if memory is None else memory,
        memory_limit_bytes=sandbox.spec.limits.memory_bytes,
        cpu_s=used.cpu_s if cpu_s is None else cpu_s,
        pids=used.tasks if pids is None else pids,
        received_bytes=received,
        sent_bytes=sent,
    )


def _processes(sandbox: Sandbox) -> messages.Processes:
    first = _first(sandbox, "list its processes")
    try:
        found = procfs.entries(first)
    except OSError:
        _first(sandbox, "list its processes")
        raise
    entries = (ProcessEntry(pid=one.inside, user=str(one.uid), command=one.command) for one in found)
    return messages.Processes(processes=tuple(entries))


def _ip(sandbox: Sandbox) -> str:
    """Return where a container is reached: nowhere, where it has no interface but lo."""
    match sandbox.bundle.interfaces:
        case "host":
            return _LOOPBACK
        case "none":
            return ""
        case _:
            return sandbox.endpoint.ip


def _names(sandbox: Sandbox) -> tuple[str, ...]:
    """Return what peers may call a container: its name, its aliases, its host name, its short id."""
    wanted = (sandbox.spec.name, *sandbox.spec.aliases, sandbox.bundle.hostname, sandbox.id[:12])
    return tuple(dict.fromkeys(name.lower() for name in wanted))


def _own_names(sandbox: Sandbox) -> str:
    return " ".join(dict.fromkeys((sandbox.bundle.hostname, sandbox.spec.name)))


def _other_hosts(sandbox: Sandbox) -> str:
    """Return the lines of hosts(5) for what the test names, and for the host where it may be reached."""
    spec = sandbox.spec
    shares = sandbox.bundle.interfaces == "host"  # its loopback is the host's own
    host = "127.0.0.1" if shares else str(sandbox.run.switch.host)
    names = {name: host if ip == HOST_GATEWAY else ip for name, ip in spec.extra_hosts.items()}
    if spec.host_access:
        names = {**dict.fromkeys(HOST_NAMES, host), **names}
    return "".join(f"{ip} {name}\n" for name, ip in names.items())


def _write_etc(sandbox: Sandbox) -> None:
    """Write the files that the start recipe binds over the image's (hosts(5), resolv.conf(5))."""
    endpoint, hostname = sandbox.endpoint, sandbox.bundle.hostname
    own = "" if sandbox.spec.build_step else f"{_ip(sandbox) or _LOOPBACK} {_own_names(sandbox)}\n"
    own += _other_hosts(sandbox)
    local = f" {hostname}" if sandbox.spec.build_step else ""
    contents = {
        "hosts": f"127.0.0.1 localhost{local}\n::1 localhost ip6-localhost ip6-loopback\n{own}",
        "hostname": f"{hostname}\n",
        "resolv.conf": f"nameserver {endpoint.gateway}\nsearch .\n",
    }
    if sandbox.bundle.interfaces == "host":
        with contextlib.suppress(FileNotFoundError), open("/etc/resolv.conf", errors="replace") as file:
            contents["resolv.conf"] = file.read()
    for name, text in contents.items():
        path = os.path.join(sandbox.snapshot.etc, name)
        with open(path, "w", encoding="ascii", errors="replace") as file:
            file.write(text)
        os.chmod(path, 0o644)


def _in_turn(sandbox: Sandbox, *steps: Recipe[None]) -> Recipe[None]:
    """Run *steps* while nobody else starts the container or makes its volumes; it is nobody's turn now."""
    sandbox.starting = True
    os.eventfd_read(sandbox.turn)
    try:
        for step in steps:
            yield from step
    finally:
        sandbox.starting = False
        os.eventfd_write(sandbox.turn, 1)


def _refusing(sandbox: Sandbox, path: str, action: Literal["read", "write"]) -> Callable[[], None]:
    """Return what refuses a path that has no content now, to be called inside the container's root."""
    if sandbox.child is not None or sandbox.bundle.build_step:
        return lambda: None
    return partial(stopped.refuse, sandbox.bundle, path, action)


def _then(look: Callable[[], None], action: Callable[[BinaryIO], None], stream: BinaryIO) -> None:
    look()
    action(stream)


def _into(descriptor: int, action: Callable[[BinaryIO], None]) -> None:
    with os.fdopen(descriptor, "wb") as out:
        action(out)


def _out_of(descriptor: int, action: Callable[[BinaryIO], None]) -> None:
    with os.fdopen(descriptor, "rb") as source:
        action(source)
