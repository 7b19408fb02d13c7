"""What this machine lets us do, found out by doing it (floor 1).

Asking for versions, modules and capabilities tells little: a seccomp filter, a security module or
a container around us may still refuse. So a small interpreter of its own takes each step that a
run takes, in namespaces that end with it, and says how it went.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pytest_containers.errors import ContainersError, EngineError, HostError
from pytest_containers.runtime import interpreter, refusals

__all__ = ["Check", "checks", "main"]

_PATIENCE_S: Final = 20.0
_START: Final = (
    "import os, sys; os.close(int(sys.argv[2])); sys.path.append(sys.argv[3]);"
    "from pytest_containers.runtime.preflight import main; main(sys.argv[1])"
)
_NEWER: Final = f"use Linux {refusals.OLDEST_KERNEL} or newer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One step: whether it works, what was seen, and the mend where it does not."""

    step: str
    ok: bool
    seen: str
    mend: str = ""


def checks(store: Path | None = None) -> tuple[Check, ...]:
    """Take every step that a run takes and return how each went; nothing is left of it.

    *store* is the image store, whose free space is told too.
    """
    with tempfile.TemporaryDirectory(prefix="pytest-containers-") as folder:
        tried = _tried(folder)
    return (
        *tried,
        _control_groups(),
        _system_calls(),
        _memory(),
        _disk(store or Path(tempfile.gettempdir())),
    )


def _tried(folder: str) -> tuple[Check, ...]:
    view = -1
    try:
        view = interpreter.open_view()
        arguments = (folder, str(view), str(Path(__file__).resolve().parents[2]))
        begun = interpreter.invocation(view, "-I", "-S", "-X", "utf8", "-c", _START, *arguments)
        ended = subprocess.run(
            begun.arguments,
            executable=begun.executable,
            pass_fds=(view,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            env={"PATH": os.defpath},
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said, seen = str(error.stdout or b"", "utf-8"), f"no answer within {_PATIENCE_S:g} s"
    except (OSError, HostError) as error:
        said, seen = "", str(error)
    else:
        said, seen = ended.stdout, ended.stderr.strip()[-2000:]
    finally:
        if view >= 0:
            os.close(view)
    found = tuple(Check(**json.loads(line)) for line in said.splitlines())
    if len(found) == len(_STEPS):
        return found
    mend = "report this as a fault of the engine, with these lines"
    return (*found, Check(step=_STEPS[len(found)].name, ok=False, seen=seen or "it was killed", mend=mend))


class _Trial:
    """The steps in the order of a run; each stands on what those before it have made."""

    def __init__(self, folder: str) -> None:
        from pytest_containers.runtime import syscalls

        self._kernel = syscalls
        self._folder = folder

    def pid_namespace(self) -> str:
        """Go on in a child that is pid 1; the parent ends with it."""
        child = self._kernel.clone(self._kernel.CLONE_NEWPID)
        if child.pid:
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
            os._exit(0)
        self._kernel.parent_death_signal(signal.SIGKILL)
        return f"pid {os.getpid()} of its own"

    def mount_namespace(self) -> str:
        """Leave the host's mounts for a private copy."""
        from pytest_containers.runtime import roots

        roots.leave_mount_namespace()
        return "private"

    def proc(self) -> str:
        """Mount the /proc of our pid namespace."""
        self._kernel.mount("proc", "/proc", "proc", self._kernel.MS_NOSUID)
        return f"{sum(name.isdecimal() for name in os.listdir('/proc'))} process in it"

    def copy_on_write(self) -> str:
        """Lay a root file system of a container over the host's, and write into it."""
        from pytest_containers.runtime import snapshot

        self._ground = snapshot.lay_ground(self._folder)
        files = snapshot.prepare(self._ground, "preflight", ("/",))
        Path(files.root, "etc", "preflight").write_text("ours alone", encoding="ascii")
        return "tmpfs over overlayfs over the host's files"

    def network_namespace(self) -> str:
        """Leave the host's network, with a foothold in it kept."""
        from pytest_containers.runtime.network.uplink import Host

        self._host = Host()
        self._kernel.unshare(self._kernel.CLONE_NEWNET)
        return "empty"

    def switch(self) -> str:
        """Build bridge, firewall and the link to the host."""
        from pytest_containers.runtime.network.names import Line
        from pytest_containers.runtime.network.switch import Switch

        ours, self._gateway = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._switch = Switch.open(self._host, line=Line(ours), routed=os.geteuid() == 0)
        subnet = self._switch.create("preflight")
        return f"bridge with {subnet}, redirection of what leaves, veth to the host"

    def container(self) -> str:
        """Clone a process into namespaces of its own and give it an interface."""
        k = self._kernel
        self._child = k.clone(
            k.CLONE_NEWNS
            | k.CLONE_NEWUTS
            | k.CLONE_NEWIPC
            | k.CLONE_NEWPID
            | k.CLONE_NEWNET
            | k.CLONE_NEWCGROUP
        )
        if self._child.pid == 0:
            k.parent_death_signal(signal.SIGKILL)
            signal.pause()
        self._switch.attach(self._switch.endpoint("preflight"), self._child.pid)
        return "six namespaces, a veth"

    def joining(self) -> str:
        """Enter the container's namespaces by its pidfd, as an exec does."""
        k = self._kernel
        joiner = k.clone(0)
        if joiner.pid == 0:
            code = 1
            try:
                k.setns(self._child.pidfd, k.CLONE_NEWNS | k.CLONE_NEWPID | k.CLONE_NEWNET)
                code = 0
            except OSError as error:
                code = error.errno or 1
            finally:
                os._exit(code)
        ended = os.waitid(os.P_PIDFD, joiner.pidfd, os.WEXITED)
        if ended is not None and ended.si_status:
            raise OSError(ended.si_status, f"setns: {os.strerror(ended.si_status)}")
        return "by pidfd"

    def safe_paths(self) -> str:
        """Open a path that must not leave a folder."""
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(self._kernel.openat2_in_root(root, "../../etc", os.O_PATH | os.O_DIRECTORY))
        finally:
            os.close(root)
        return "openat2 with RESOLVE_IN_ROOT"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    name: str
    take: Callable[[_Trial], str]
    needs: tuple[str, ...] = ()
    mend: str = _NEWER


_LIMITS: Final = f"raise the limits below /proc/sys/user (max_*_namespaces), or {_NEWER}"
_STEPS: Final = (
    _Step(name="pid namespace", take=_Trial.pid_namespace, mend=_LIMITS),
    _Step(name="mount namespace", take=_Trial.mount_namespace, mend=_LIMITS),
    _Step(name="proc", take=_Trial.proc, needs=("pid namespace", "mount namespace")),
    _Step(
        name="copy-on-write files",
        take=_Trial.copy_on_write,
        needs=("mount namespace",),
        mend="load the module overlay (modprobe overlay); see the kernel's log (dmesg) for its reason",
    ),
    _Step(name="network namespace", take=_Trial.network_namespace, mend=_LIMITS),
    _Step(
        name="switch",
        take=_Trial.switch,
        needs=("network namespace",),
        mend="load the modules veth, bridge, nf_tables and nft_redir (modprobe), or build them in",
    ),
    _Step(name="container", take=_Trial.container, needs=("pid namespace", "switch"), mend=_LIMITS),
    _Step(name="joining a container", take=_Trial.joining, needs=("container",)),
    _Step(name="safe paths", take=_Trial.safe_paths),
)


def main(folder: str) -> None:
    """Take the steps with the empty folder *folder*; write one JSON object a step on standard output."""
    trial = _Trial(folder)
    failed: set[str] = set()
    for step in _STEPS:
        missing = [name for name in step.needs if name in failed]
        if missing:
            check = Check(step=step.name, ok=False, seen=f"not tried: it needs the {missing[0]}")
        else:
            check = _taken(step, trial)
        if not check.ok:
            failed.add(step.name)
        os.write(1, json.dumps(asdict(check)).encode() + b"\n")


def _taken(step: _Step, trial: _Trial) -> Check:
    try:
        return Check(step=step.name, ok=True, seen=step.take(trial))
    except OSError as error:
        number, seen = error.errno, str(error)
    except ContainersError as error:
        cause = error.__cause__
        number = cause.errno if isinstance(cause, OSError) else _number(error)
        seen = f"{error.what}: {error.seen}" if error.seen else error.what
    standing = refusals.Standing.ours()
    # In a user namespace some steps fail with other errors, as overlayfs with EINVAL of a root whose
    # mounts are locked (mount_namespaces(7)).
    refused = refusals.is_refusal(number) or not standing.initial
    mend = refusals.hint(number, standing) if refused else step.mend
    return Check(step=step.name, ok=False, seen=seen, mend=mend)


def _number(error: ContainersError) -> int | None:
    from pytest_containers.runtime.network.netlink import errno_of

    return errno_of(error) if isinstance(error, EngineError) else None


def _control_groups() -> Check:
    """Tell which hierarchies there are (cgroups(7)), and whether limits= can be held; no run needs it."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        seen = "version 2"
    elif Path("/sys/fs/cgroup/unified/cgroup.procs").exists():
        seen = "version 1, with version 2 beside it"
    else:
        seen = "version 1" if Path("/proc/self/cgroup").exists() else "none"
    held, mend = _limits_held()
    return Check(step="control groups", ok=True, seen=f"{seen}; {held}", mend=mend)


def _limits_held() -> tuple[str, str]:
    """Make a group with each limit, remove it, and return how that went, and the mend where it failed."""
    from pytest_containers.runtime import cgroups
    from pytest_containers.spec import Limits

    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        groups = cgroups.Groups(folder, cgroups.hierarchies())
        try:
            groups.make("trial", Limits(memory_bytes=64 << 20, cpus=1.0, pids=100))
        except HostError as error:
            return f"{error.what}: {error.seen}", error.mend
        finally:
            cgroups.remove_listed(folder)
    return "limits of memory, processors and processes can be held", ""


def _system_calls() -> Check:
    """Tell whether containers get a filter of system calls (seccomp(2)); they run without one too."""
    from pytest_containers.runtime import syscalls
    from pytest_containers.runtime.seccomp.numbers import AUDIT_ARCH

    machine = os.uname().machine
    seen = f"filtered on {machine}"
    if machine not in AUDIT_ARCH:
        seen = f"not filtered: no table of the calls of {machine}"
    elif not syscalls.has_seccomp_filters():
        seen = "not filtered: the kernel has no filters"
    return Check(step="system calls", ok=True, seen=seen)


def _memory() -> Check:
    """Tell how much memory is free for containers: the machine's, or what is left of our group's limit."""
    from pytest_containers.runtime import cgroups

    free = cgroups.Memory(cgroups.hierarchies()).free_bytes()
    return Check(step="memory", ok=True, seen=f"{free >> 20} MiB available")


def _disk(store: Path) -> Check:
    while not store.exists():
        store = store.parent
    return Check(step="disk", ok=True, seen=f"{shutil.disk_usage(store).free >> 20} MiB free at {store}")
