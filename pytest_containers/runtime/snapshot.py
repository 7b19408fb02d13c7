"""A container's copy-on-write files: overlayfs over shared, read-only layers (floor 1).

All mounts are made in the supervisor's own mount namespace and end with it. Every container has
a tmpfs of its own for what it writes, so that dropping it is one umount(2), however many files
there are. Between the image and the container's own layer lies the *init layer*: the places that
the start recipe mounts over (/dev, /etc/hosts, ...) as real folders and files, so that an image
can neither lack them nor lead them elsewhere by a symbolic link, and a commit never sees them.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import stat
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Final

from pytest_containers.errors import HostError
from pytest_containers.runtime import roots, syscalls

__all__ = [
    "DEVICES",
    "PLACES",
    "Ground",
    "Snapshot",
    "discard",
    "is_light",
    "lay_ground",
    "mount_overlay",
    "prepare",
    "tmpfs_size",
]

_INIT_FOLDERS: Final = ("dev", "proc", "sys", "etc")
_INIT_FILES: Final = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
# What the start recipe mounts on, relative to the root.
PLACES: Final = (*_INIT_FOLDERS, *_INIT_FILES)
# runtime-spec, config-linux.md, "Default Devices"; numbers from the kernel's admin-guide/devices.txt.
DEVICES: Final = MappingProxyType(
    {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
)
# https://github.com/moby/moby/blob/v28.0.0/daemon/pkg/oci/defaults.go, "MaskedPaths"
_MASKED: Final = (
    *(f"/proc/{name}" for name in "acpi asound interrupts kcore keys latency_stats".split()),
    *(f"/proc/{name}" for name in "sched_debug scsi timer_list timer_stats".split()),
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
_THERMAL: Final = "/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"
_MOST_LAYERS: Final = 500
_PAGE_BYTES: Final = 4096
# A tmpfs of this size is freed in less time than a process is forked in.
_LIGHT_BYTES: Final = 4 << 20
_LIGHT_FILES: Final = 500
# redirect_dir and metacopy off: the upper folder must be a complete diff of the image, and
# metacopy must not be used with untrusted layers (overlayfs.rst, "Metadata only copy up").
_FEATURES: Final = (("redirect_dir", "off"), ("index", "off"), ("metacopy", "off"))


# Without one of these the programs of the machine do not run (hier(7)).
_PROGRAMS: Final = (
    *("/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64"),
    *("/etc", "/bin", "/sbin", "/lib", "/lib64"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all snapshots of a run stand on: the init layer, the host's root, device nodes, masks.

    *nothing* is an empty layer. *host_lacks* names folders with programs that are file systems of their own
    on the machine, so that the host's root does not have them. *one_by_one*: the
    kernel takes layers one by one (`mount_overlay`).
    """

    init: str
    nothing: str
    host: str
    host_lacks: tuple[str, ...]
    devices: str
    masked: tuple[str, ...]
    one_by_one: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One container's files. *root* is the merged view, *upper* what it changed, *etc* its own files.

    *lowers* are the image's layers, *over* is ours above them: the init layer, or an empty one. *identity*
    is that of the merged view's root, by which whoever makes it his own root knows it. A *bare* one has no
    places for mounts.
    """

    folder: str
    root: str
    upper: str
    work: str
    etc: str
    lowers: tuple[str, ...]
    over: str
    disk: str = ""
    identity: roots.Identity = roots.UNKNOWN
    bare: bool = False


def lay_ground(folder: str) -> Ground:
    """Mount a tmpfs at *folder* and prepare what every snapshot needs; return where it is.

    A layer that lies on the host's root file system cannot stand beside that same file system in
    one overlay (ELOOP, "overlapping lowerdir path", fs/overlayfs/super.c). The host's root is
    therefore seen through an overlay of its own, read-only, unless it is an overlay already:
    overlays nest two deep (FILESYSTEM_MAX_STACK_DEPTH, include/linux/fs.h).
    """
    syscalls.mount("tmpfs", folder, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0700")
    init = os.path.join(folder, "init")
    for name in _INIT_FOLDERS:
        os.makedirs(os.path.join(init, name), 0o755)
    for name in _INIT_FILES:
        os.close(os.open(os.path.join(init, name), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    for name in ("c", "nothing"):
        os.mkdir(os.path.join(folder, name))
    return Ground(
        init=init,
        nothing=os.path.join(folder, "nothing"),
        host=_host_layer(folder),
        host_lacks=_host_lacks(),
        devices=_devices(folder),
        one_by_one=syscalls.overlay_takes_layers(os.path.join(folder, "nothing")),
        masked=tuple(path for path in (*_MASKED, *glob.glob(_THERMAL)) if os.path.exists(path)),
    )


def _devices(folder: str) -> str:
    """Make the nodes that every container's /dev shows, on a mount of their own that allows devices."""
    devices = os.path.join(folder, "devices")
    os.mkdir(devices)
    syscalls.mount("tmpfs", devices, "tmpfs", syscalls.MS_NOSUID, "mode=0755,size=64k")
    for name, (major, minor) in DEVICES.items():
        node = os.path.join(devices, name)
        try:
            os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        except OSError as error:  # it names no path of its own
            raise OSError(error.errno, f"mknod: {os.strerror(error.errno or 0)}", node) from error
        os.chmod(node, 0o666)  # noqa: S103 - as everywhere; mknod(2) obeyed the umask
    # Devices can be written to on a read-only mount (mount(2), MS_RDONLY); owner, mode and times of a node
    # that all containers have are nobody's to change. A bind has the flags of its source.
    read_only = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | syscalls.MS_NOSUID
    syscalls.mount("none", devices, None, read_only)
    return devices


def _host_layer(folder: str) -> str:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        over = [line for line in table if line.split()[4] == "/" and " - overlay " in line]
    if over:
        return "/"
    host, empty = os.path.join(folder, "host"), os.path.join(folder, "empty")
    os.mkdir(host)
    os.mkdir(empty)
    syscalls.mount("overlay", host, "overlay", syscalls.MS_RDONLY, f"lowerdir={empty}:/")
    return host


def _host_lacks() -> tuple[str, ...]:
    """Return the folders of programs on which another file system is mounted (proc_pid_mountinfo(5)).

    An overlay shows the one file system that its layer is of, and an empty folder where another is mounted
    (Documentation/filesystems/overlayfs.rst).
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        mounted = {line.split()[4] for line in table}
    return tuple(folder for folder in _PROGRAMS if folder in mounted)


def prepare(
    ground: Ground,
    name: str,
    layers: tuple[str, ...],
    *,
    limit_bytes: int = 0,
    disk: str = "",
    bare: bool = False,
) -> Snapshot:
    """Mount an empty layer over *layers*, oldest first; return the snapshot.

    *limit_bytes* caps what the container may write in memory (0: half of the machine's, as
    tmpfs(5) has it). With *disk* what it writes lies in that folder instead. A *bare* one has no
    init layer: nothing can be started there. The layer ``/`` means the host's root. Raises
    HostError where the kernel refuses.
    """
    if "/" in layers and ground.host_lacks and not bare:
        lacks = ", ".join(ground.host_lacks)
        raise HostError(
            f"the image host lacks {lacks}",
            seen="a file system of its own is mounted there on this machine, and host is the root's alone",
            mend="take an image of a registry, or import a root file system (pytest-containers import)",
        )
    folder = os.path.join(os.path.dirname(ground.init), "c", name)
    os.mkdir(folder)
    with contextlib.ExitStack() as undo:
        undo.callback(os.rmdir, folder)
        size = f",{tmpfs_size(limit_bytes)}" if limit_bytes else ""
        syscalls.mount("tmpfs", folder, "tmpfs", syscalls.MS_NODEV, f"mode=0755{size}")
        undo.callback(syscalls.umount, folder, syscalls.MNT_DETACH)
        data = disk or folder
        if disk:
            os.makedirs(disk, 0o700)
            undo.callback(shutil.rmtree, disk)
        snapshot = Snapshot(
            folder=folder,
            root=os.path.join(folder, "root"),
            upper=os.path.join(data, "upper"),
            work=os.path.join(data, "work"),
            etc=os.path.join(folder, "etc"),
            lowers=tuple(ground.host if layer == "/" else layer for layer in layers),
            over=ground.nothing if bare else ground.init,
            bare=bare,
            disk=disk,
        )
        for path in (snapshot.root, snapshot.upper, snapshot.work, snapshot.etc):
            os.mkdir(path, 0o755)
        _like_root_of(snapshot)
        places = (("upperdir", snapshot.upper), ("workdir", snapshot.work), *_FEATURES)
        try:
            mount_overlay(
                (*snapshot.lowers, snapshot.over), places, snapshot.root, one_by_one=ground.one_by_one
            )
        except OSError as error:
            raise _refused(snapshot, error) from error
        snapshot = replace(snapshot, identity=roots.identify(snapshot.root))
        undo.pop_all()
    return snapshot


def tmpfs_size(limit_bytes: int) -> str:
    """Return the options that let a tmpfs take *limit_bytes*, and as many files as that has pages.

    Without nr_inodes= the kernel allows as many as half of the machine has pages, and a file without
    content takes memory as well, which no size= counts (tmpfs(5)).
    """
    return f"size={limit_bytes},nr_inodes={max(1, limit_bytes // _PAGE_BYTES)}"


def _like_root_of(snapshot: Snapshot) -> None:
    """Give the container's / the owner and mode that the image's has: the upper folder decides."""
    if not snapshot.lowers:
        return
    try:
        seen = os.stat(snapshot.lowers[-1])
    except OSError as error:
        raise _refused(snapshot, error) from error
    os.chown(snapshot.upper, seen.st_uid, seen.st_gid)
    os.chmod(snapshot.upper, seen.st_mode & 0o7777)


def mount_overlay(
    lowers: tuple[str, ...], places: tuple[tuple[str, str], ...], target: str, *, one_by_one: bool
) -> None:
    """Mount overlayfs over *lowers*, oldest first, with the options *places*; device nodes open nothing.

    *one_by_one* is what `syscalls.overlay_takes_layers` says. Where it is false, mount(2) takes all
    options in one page; the layers are named by descriptors there, which are short and need no escape:
    some 220 find room. Raises OSError, and HostError where they do not fit.
    """
    if len(lowers) > _MOST_LAYERS:
        raise HostError(
            f"{len(lowers)} layers are more than overlayfs takes",
            seen=f"its limit is {_MOST_LAYERS} (fs/overlayfs/params.h, OVL_MAX_STACK)",
            mend="build the image with fewer layers: several commands in one RUN, or COPY into a new stage",
        )
    if one_by_one:
        uppermost_first = tuple(("lowerdir+", layer) for layer in reversed(lowers))
        syscalls.fsopen_overlay((*uppermost_first, *places), target)
        return
    with contextlib.ExitStack() as scope:
        names = []
        for layer in reversed(lowers):
            descriptor = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            scope.callback(os.close, descriptor)
            names.append(f"/proc/self/fd/{descriptor}")
        options = "".join(f",{key}={text}" for key, text in places)
        data = "lowerdir=" + ":".join(names) + options
        size = len(os.fsencode(data))
        if size >= _PAGE_BYTES:
            raise HostError(
                f"{len(lowers)} layers are too many for mount(2)",
                seen=f"{size} bytes of options, and the kernel takes {_PAGE_BYTES - 1}",
                mend="use Linux 6.8 or newer, or an image with fewer layers",
            )
        syscalls.mount("overlay", target, "overlay", syscalls.MS_NODEV, data)


def _refused(snapshot: Snapshot, error: OSError) -> HostError:
    return HostError(
        f"no copy-on-write root over {len(snapshot.lowers)} layers",
        seen=str(error),
        mend="the kernel's log (dmesg) names the layer; `pytest-containers doctor` tests overlayfs",
    )


def is_light(snapshot: Snapshot) -> bool:
    """Return whether `discard` takes no time worth mentioning: little was written, and into memory."""
    if snapshot.disk:
        return False
    seen = os.statvfs(snapshot.folder)
    written_bytes = (seen.f_blocks - seen.f_bfree) * seen.f_frsize
    return written_bytes < _LIGHT_BYTES and seen.f_files - seen.f_ffree < _LIGHT_FILES


def discard(snapshot: Snapshot) -> None:
    """Take the snapshot out of sight; the kernel frees it when its last user is gone.

    Every step is tried. Raises ExceptionGroup with the errors of those that failed.
    """
    errors: list[Exception] = []
    steps = [
        partial(syscalls.umount, snapshot.root, syscalls.MNT_DETACH),
        partial(syscalls.umount, snapshot.folder, syscalls.MNT_DETACH),
        partial(os.rmdir, snapshot.folder),
    ]
    if snapshot.disk:
        steps.append(partial(shutil.rmtree, snapshot.disk, ignore_errors=True))
    for step in steps:
        try:
            step()
        except OSError as error:
            errors.append(error)
    if errors:
        raise ExceptionGroup(f"the files in {snapshot.folder} cannot be dropped", errors)
