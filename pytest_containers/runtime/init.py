"""The child's side of the start recipe: from the first moment in new namespaces to the exec (floor 1).

`enter` reads from top to bottom in the order the kernel needs; each step has a name, which an
error carries to the parent. Everything is imported before: after the pivot the standard library
is out of reach. Defaults are Docker's, item by item.
"""

from __future__ import annotations

import errno
import os
import posixpath
import socket
import stat
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple, NoReturn

from pytest_containers.errors import ContainersError, StartError
from pytest_containers.runtime import mountpoints, process, roots, syscalls, transfer
from pytest_containers.runtime.bundle import KERNEL_FOLDERS, Bundle, kernel_files
from pytest_containers.runtime.cgroups import Placement
from pytest_containers.runtime.network import veth
from pytest_containers.runtime.snapshot import DEVICES, PLACES, Ground, Snapshot, tmpfs_size
from pytest_containers.spec import Bind

__all__ = ["detach", "enter", "lay", "lay_etc", "look_at_places"]

_SECURE: Final = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
_KEPT: Final = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC  # each has the number of its MS_
_MESSAGE_BYTES: Final = 1 << 16
_DEV_BYTES: Final = 64 << 20
_FILES: Final = 4

# https://github.com/moby/moby/blob/v28.0.0/daemon/pkg/oci/defaults.go, "ReadonlyPaths"
_READ_ONLY: Final = tuple(f"/proc/{name}" for name in "bus fs irq sys sysrq-trigger".split())
_NULL: Final = os.makedev(*DEVICES["null"])
_LINKS: Final = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
)


_ASKED_FOR_BY: Final[Mapping[str, str]] = {
    "mounts": "volumes= and tmpfs=",
    "files": "files=",
}


class _Tree(NamedTuple):
    """A bind whose source is detached already."""

    descriptor: int
    target: str
    read_only: bool


def enter(
    bundle: Bundle, snapshot: Snapshot, ground: Ground, placement: Placement, *, last_capability: int
) -> NoReturn:
    """Make the world of *bundle* and become its first process; never returns.

    Descriptors 0 to 3 (and 4: a tar of files to write) are in their places already. The parent
    sends one message, the network's configuration, when our interface exists.
    """
    root = snapshot.root
    trees: list[_Tree] = []
    points: list[int] = []
    step = "begin"

    def at(name: str, action: Callable[[], object]) -> None:
        nonlocal step
        step = name
        action()

    try:
        at("imports", roots.forbid_imports)
        at("out-of-memory score and control groups", placement.take)
        if not placement.is_plain:
            # Made here and not at the clone: its root is the group that its first process is in.
            at("control group namespace", lambda: syscalls.unshare(syscalls.CLONE_NEWCGROUP))
        at("keyring", syscalls.join_session_keyring)
        at("binds: detach from the host's files", lambda: trees.extend(detach(bundle)))
        at("mount points", lambda: points.append(mountpoints.open_list(snapshot)))
        at("places of our mounts", lambda: look_at_places(root))
        at("proc", lambda: syscalls.mount("proc", f"{root}/proc", "proc", _SECURE))
        at("dev", lambda: _dev(root, ground, bundle.shm_bytes))
        at("sys", lambda: _sys(root, bundle))
        at("etc", lambda: lay_etc(root, snapshot, read_only=bundle.build_step))
        at("network: sysctls", lambda: None if bundle.interfaces == "host" else _sysctls(root))
        # All that guards the host is in its place before anything of image or test is mounted.
        at("masked and read-only paths", lambda: None if bundle.privileged else _mask(root, ground))
        at("pivot", lambda: _pivot(snapshot))
        at("standard input", _open_null)
        at("hostname", lambda: socket.sethostname(bundle.hostname))
        at("network: wait for the interface", lambda: _network(bundle))
        at("mounts", lambda: lay(bundle, trees, points[0]))
        at("files", _files)
        at("read-only root", lambda: _seal(bundle))
        # Control groups have their place here: the parent puts us into the group before the exec.
        at("process", lambda: process.become(bundle.process, last_capability=last_capability))
    except ContainersError as error:
        process.fail(error)
    except BaseException as error:  # noqa: BLE001 - the parent tells the world; we must not run on
        process.fail(_failed(step, error))
    os._exit(125)


def _failed(step: str, error: BaseException) -> StartError:
    """Return what went wrong at *step*, with the argument that most likely asks for it."""
    argument = _ASKED_FOR_BY.get(step)
    mend = "`pytest-containers doctor` tests what a start needs of this machine"
    if argument and isinstance(error, OSError):
        mend = f"check the paths of {argument}: folders are made where missing, and no file may be in the way"
    return StartError(
        f"the start failed at step {step!r}", seen=f"{type(error).__name__}: {error}", mend=mend
    )


def _network(bundle: Bundle) -> None:
    """Wait until the parent has made our interface; it sends the messages that configure it."""
    if bundle.interfaces == "switch":
        veth.configure(os.read(process.SYNC, _MESSAGE_BYTES))
    elif bundle.interfaces == "none":
        veth.isolate()


def detach(bundle: Bundle) -> list[_Tree]:
    """Take a detached copy of each bind's source while the host's files can be named (open_tree(2))."""
    found: list[_Tree] = []
    for bind in bundle.binds:
        try:
            tree = _inside(bundle.roots[bind.container], bind) if bind.container else _outside(bind)
            found.append(_Tree(tree, bind.target, bind.read_only))
        except OSError as error:
            where, mend = "on the host", "make it first, or drop it from volumes="
            if bind.container:
                where, mend = "in the files", "name a path that is there"
            raise StartError(
                f"no {bind.source} {where} to mount at {bind.target}", seen=str(error), mend=mend
            ) from error
    return found


def _outside(bind: Bind) -> int:
    return syscalls.open_tree(bind.source, recursive=True)


def _inside(root: str, bind: Bind) -> int:
    """Detach a bind of another container's files; no link leads out of them."""
    with ExitStack() as scope:
        top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        scope.callback(os.close, top)
        found = syscalls.openat2_in_root(top, bind.source, os.O_PATH)
        scope.callback(os.close, found)
        return syscalls.open_tree(found, recursive=True)


def look_at_places(root: str) -> None:
    """Raise StartError where a place that we mount on before the pivot is a link: it would lead out.

    The init layer has real folders and files there, and no container can replace what is mounted on; but one
    with SYS_ADMIN may unmount it first, and is started again.
    """
    with ExitStack() as scope:
        top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        scope.callback(os.close, top)
        for name in PLACES:
            try:
                os.close(syscalls.open_plain(name, os.O_PATH, folder=top))
            except OSError as error:
                raise StartError(
                    f"/{name} in the container is not what it was at first",
                    seen=f"{error.strerror}; an earlier start of it had the right to unmount and replace it",
                    mend="make a new container instead of starting this one again",
                ) from error


def _dev(root: str, ground: Ground, shm_bytes: int) -> None:
    """Lay out /dev (runtime-spec, config-linux.md, "Default Devices" and "Dev symbolic links").

    The nodes are binds onto a mount that refuses devices, so that what mknod(2) makes here opens
    nothing: there is no devices cgroup to say so (fs/namei.c, may_open_dev).
    """
    dev = f"{root}/dev"
    size = tmpfs_size(_DEV_BYTES)
    syscalls.mount("tmpfs", dev, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, f"mode=0755,{size}")
    for name in DEVICES:
        os.close(os.open(f"{dev}/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        syscalls.mount(f"{ground.devices}/{name}", f"{dev}/{name}", None, syscalls.MS_BIND)
    for text, name in _LINKS:
        os.symlink(text, f"{dev}/{name}")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{dev}/{name}", 0o755)
    options = "newinstance,ptmxmode=0666,mode=0620,gid=5"
    syscalls.mount("devpts", f"{dev}/pts", "devpts", syscalls.MS_NOSUID | syscalls.MS_NOEXEC, options)
    syscalls.mount("shm", f"{dev}/shm", "tmpfs", _SECURE, f"mode=1777,{tmpfs_size(shm_bytes)}")
    with suppress(OSError):  # POSIX message queues are a kernel option (mq_overview(7))
        syscalls.mount("mqueue", f"{dev}/mqueue", "mqueue", _SECURE)


def _sys(root: str, bundle: Bundle) -> None:
    flags = _SECURE | (0 if bundle.privileged else syscalls.MS_RDONLY)
    syscalls.mount("sysfs", f"{root}/sys", "sysfs", flags)
    with suppress(OSError):  # a kernel without the unified hierarchy (cgroups(7))
        syscalls.mount("cgroup2", f"{root}/sys/fs/cgroup", "cgroup2", flags)


def lay_etc(root: str, snapshot: Snapshot, *, read_only: bool = False) -> None:
    """Bind the container's own hosts, hostname and resolv.conf: no commit carries them along.

    *read_only*, for a step of a build: what it wrote there would be lost without a word, so it fails
    as under BuildKit (executor/oci/spec.go, withROBind).
    """
    for name in ("hosts", "hostname", "resolv.conf"):
        target = f"{root}/etc/{name}"
        syscalls.mount(f"{snapshot.etc}/{name}", target, None, syscalls.MS_BIND)
        if read_only:
            flags = _SECURE | syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY
            syscalls.mount("none", target, None, flags)


def _pivot(snapshot: Snapshot) -> None:
    """Make the snapshot all there is: the old root lies on top and is taken off (pivot_root(2), NOTES)."""
    os.chdir(snapshot.root)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", syscalls.MNT_DETACH)
    os.chdir("/")
    roots.confirm(snapshot.identity, "the container")


def _open_null() -> None:
    """Put the container's own /dev/null, on which nothing is mounted yet, at descriptor 0 under that name."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)


def _sysctls(root: str) -> None:
    """Open low ports and ping to every user, as Docker does in its network namespaces (ip-sysctl)."""
    for name, text in (("ip_unprivileged_port_start", b"0"), ("ping_group_range", b"0 2147483647")):
        descriptor = os.open(f"{root}/proc/sys/net/ipv4/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text)
        finally:
            os.close(descriptor)


def lay(bundle: Bundle, trees: list[_Tree], points: int) -> None:
    """Mount binds and tmpfs, a folder before what is mounted in it.

    We have pivoted, so a hostile symbolic link in a target stays inside.
    """
    mounts: list[tuple[str, _Tree | int]] = [*bundle.tmpfs.items(), *((tree.target, tree) for tree in trees)]
    for target, mounted in sorted(mounts, key=lambda one: posixpath.normpath(one[0]).count("/")):
        folder = isinstance(mounted, int) or stat.S_ISDIR(os.fstat(mounted.descriptor).st_mode)
        mountpoints.make(target, points, folder=folder)
        place = _place(bundle, target)
        try:
            if isinstance(mounted, int):
                _tmpfs(place, mounted, executable=bundle.build_step)
            else:
                _attach(mounted, place)
        except OSError as error:
            error.filename = target
            raise
        finally:
            os.close(place)
    os.close(points)


def _place(bundle: Bundle, target: str) -> int:
    """Open what *target* leads to, to be mounted over; raise StartError where the kernel's own files are.

    A mount there could take the place of what hides the host's /proc, or of a device (CVE-2025-31133,
    CVE-2025-52565), so an image may have none, by a symbolic link neither. What a test names by its real path
    may lie in /dev or /sys, as in Docker. The path that was looked at has no link in it any more when it is
    opened, whatever another container does to it meanwhile.
    """
    real, named = os.path.realpath(target), posixpath.normpath(target)
    if kernel_files(real) and not bundle.privileged:
        if named != real or target in bundle.image_volumes:
            raise StartError(
                f"nothing of the image's or the test's can be mounted at {target}",
                seen=f"it leads to {real}, where the kernel's files are",
                mend="name a path outside of /dev, /proc and /sys, or the real path of one in /dev or /sys",
            )
        if real in KERNEL_FOLDERS or real.startswith("/proc/"):
            raise StartError(
                f"nothing can be mounted at {target}",
                seen="the kernel's files that are there are guarded",
                mend="mount it elsewhere, or pass privileged=True",
            )
    return syscalls.open_plain(real, os.O_PATH)


def _tmpfs(place: int, size_bytes: int, *, executable: bool) -> None:
    size = f",{tmpfs_size(size_bytes)}" if size_bytes else ""
    # Docker's defaults for --tmpfs: https://docs.docker.com/engine/storage/tmpfs/
    flags = _SECURE & ~syscalls.MS_NOEXEC if executable else _SECURE
    os.fchdir(place)
    syscalls.mount("tmpfs", ".", "tmpfs", flags, f"mode=1777{size}")
    os.chdir("/")


def _attach(tree: _Tree, place: int) -> None:
    flags = syscalls.MS_NODEV | (syscalls.MS_RDONLY if tree.read_only else 0)
    try:
        syscalls.restrict_tree(tree.descriptor, flags)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        top = mountpoints.mount_id(tree.descriptor)
        syscalls.attach_tree(tree.descriptor, place)
        _restrict_each(top, flags)
    else:
        syscalls.attach_tree(tree.descriptor, place)


def _restrict_each(top: int, flags: int) -> None:
    """Add *flags* to the mount *top* and to each below it, by remounts: before Linux 5.12 (mount_setattr(2)).

    What the host forbids there stays forbidden. A mount that is covered by another cannot be reached,
    by the container neither.
    """
    for number, path in mountpoints.tree(top):
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if mountpoints.mount_id(descriptor) == number:
                _remount(f"/proc/self/fd/{descriptor}", flags | os.fstatvfs(descriptor).f_flag & _KEPT)
        finally:
            os.close(descriptor)


def _files() -> None:
    """Unpack the tar at descriptor 4, where the parent has put one."""
    try:
        os.fstat(_FILES)
    except OSError:
        return
    with os.fdopen(_FILES, "rb") as tar:
        transfer.unpack("/", tar)


def _remount(path: str, flags: int) -> None:
    syscalls.mount("none", path, None, syscalls.MS_REMOUNT | syscalls.MS_BIND | flags)


def _mask(root: str, ground: Ground) -> None:
    """Hide what tells of the host, and make the rest of /proc's levers read-only.

    What hides a file is our own node, never what the container has at /dev/null, which could be a link to one
    of those levers (CVE-2025-31133).
    """
    for path in (root + path for path in ground.masked):
        if os.path.isdir(path):
            syscalls.mount("tmpfs", path, "tmpfs", syscalls.MS_RDONLY, "size=0k,nr_inodes=1")
        elif os.path.exists(path):  # the namespace may show less than the host
            syscalls.mount(f"{ground.devices}/null", path, None, syscalls.MS_BIND)
            if os.stat(path).st_rdev != _NULL:
                raise StartError(f"{path} could not be hidden", seen="what lies over it is not /dev/null")
    for path in (root + path for path in _READ_ONLY):
        if os.path.exists(path):
            syscalls.mount(path, path, None, syscalls.MS_BIND | syscalls.MS_REC)
            _remount(path, _SECURE | syscalls.MS_RDONLY)


def _seal(bundle: Bundle) -> None:
    if bundle.read_only:
        _remount("/", syscalls.MS_RDONLY | syscalls.MS_NODEV)
    elif bundle.privileged:
        _remount("/", 0)
        _remount("/dev", syscalls.MS_NOSUID)
