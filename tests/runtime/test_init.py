"""Laws of the world that a container's first process finds: Docker's, item by item."""

from __future__ import annotations

import os
import platform
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import StartError
from pytest_containers.spec import Bind, ContainerSpec, ExecSpec

if TYPE_CHECKING:
    from pytest_containers.engines.native_container import NativeHandle
    from tests.runtime.conftest import Boxes, Program, Shell

pytestmark = pytest.mark.kernel

_IDLE: Final = ("sleep", "1000")
_SPEC: Final = ContainerSpec(name="box", command=_IDLE)


def _mounts(table: str) -> dict[str, tuple[str, set[str]]]:
    """Return kind and options, the file system's among them, of each mount point (proc_pid_mountinfo(5))."""
    found = {}
    for line in table.splitlines():
        left, _, right = line.partition(" - ")
        columns, (kind, _, options) = left.split(), right.split()
        found[columns[4]] = kind, {*columns[5].split(","), *options.split(",")}
    return found


@pytest.fixture(scope="module")
def mounts(idle: NativeHandle) -> dict[str, tuple[str, set[str]]]:
    """Return the mounts of a container without options."""
    return _mounts(idle.exec(ExecSpec(argv=("cat", "/proc/self/mountinfo"))).stdout)


_SECURE: Final = "nosuid nodev noexec"


@pytest.mark.parametrize(
    ("place", "kind", "options"),
    [
        ("/", "overlay", "rw nodev"),
        ("/proc", "proc", f"rw {_SECURE}"),
        ("/dev", "tmpfs", "nosuid nodev mode=755 size=65536k"),
        ("/dev/pts", "devpts", "nosuid noexec gid=5 mode=620 ptmxmode=666"),
        ("/dev/shm", "tmpfs", f"rw {_SECURE} size=65536k"),
        ("/dev/mqueue", "mqueue", _SECURE),
        ("/sys", "sysfs", f"ro {_SECURE}"),
        ("/proc/bus", "proc", f"ro {_SECURE}"),
        ("/proc/fs", "proc", f"ro {_SECURE}"),
        ("/proc/irq", "proc", f"ro {_SECURE}"),
        ("/proc/sys", "proc", f"ro {_SECURE}"),
        ("/etc/hosts", "tmpfs", "rw nodev"),
        ("/etc/hostname", "tmpfs", "rw nodev"),
        ("/etc/resolv.conf", "tmpfs", "rw nodev"),
    ],
)
def test_mount_is_dockers(
    mounts: dict[str, tuple[str, set[str]]], place: str, kind: str, options: str
) -> None:
    """Each mount is of the kind and with the options that Docker gives it."""
    assert mounts[place][0] == kind
    assert set(options.split()) <= mounts[place][1]


def test_mounts_are_no_others(mounts: dict[str, tuple[str, set[str]]]) -> None:
    """Nothing that is mounted on the machine is seen: all mounts are ours."""
    known = ("/proc/", "/sys/", "/dev/", "/etc/host", "/etc/resolv.conf")
    assert [place for place in mounts if not place.startswith(known)] == ["/", "/proc", "/dev", "/sys"]
    assert not {kind for kind, _ in mounts.values()} & {"ext4", "xfs", "btrfs", "devtmpfs", "cgroup"}


def test_kernel_memory_and_firmware_are_masked(idle: NativeHandle, sh: Shell) -> None:
    """What tells of the machine is empty: a file reads as nothing, a folder has nothing and takes nothing."""
    names = "acpi asound interrupts kcore keys latency_stats sched_debug scsi timer_list timer_stats"
    places = [*(f"/proc/{name}" for name in names.split()), "/sys/firmware", "/sys/devices/virtual/powercap"]
    there = [place for place in places if os.path.exists(place)]
    assert there
    for place in there:
        if os.path.isdir(place):
            assert sh(idle, f"ls -A {place}; touch {place}/x 2>&1 || true").endswith(
                "Read-only file system\n"
            )
            assert sh(idle, f"ls -A {place}") == ""
        else:
            assert sh(idle, f"cat {place}") == ""


@pytest.mark.parametrize(
    "line",
    [
        "echo 0 > /proc/sys/kernel/randomize_va_space",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo x > /proc/sys/kernel/hostname",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo b > /proc/sysrq-trigger",
        "mkdir /sys/fs/cgroup/mine",
        "echo 1 > /sys/kernel/mm/ksm/run",
        "mount -t tmpfs none /mnt",
        "mount -o remount,rw /proc/sys",
        "umount /proc/sys",
        "unshare --mount true",
        "hostname other",
        "ip link set eth0 down",
        "nsenter --target 1 --uts hostname other",
        "chroot /proc/1/root/.. mount -t tmpfs none /mnt",
    ],
)
def test_levers_of_the_machine_do_not_move(idle: NativeHandle, sh: Shell, line: str) -> None:
    """Root in a container changes nothing of the machine, nor its own mounts and namespaces."""
    assert sh(idle, f"({line}) 2>/dev/null && echo done || echo refused") == "refused\n"


def test_devices_are_dockers(idle: NativeHandle, sh: Shell) -> None:
    """In /dev are six nodes, the links and the folders, and nothing else."""
    assert sh(idle, "cd /dev && stat -c '%n %F %a %t:%T' *").splitlines() == [
        "core symbolic link 777 0:0",
        "fd symbolic link 777 0:0",
        "full character special file 666 1:7",
        "mqueue directory 1777 0:0",
        "null character special file 666 1:3",
        "ptmx symbolic link 777 0:0",
        "pts directory 755 0:0",
        "random character special file 666 1:8",
        "shm directory 1777 0:0",
        "stderr symbolic link 777 0:0",
        "stdin symbolic link 777 0:0",
        "stdout symbolic link 777 0:0",
        "tty character special file 666 5:0",
        "urandom character special file 666 1:9",
        "zero character special file 666 1:5",
    ]


@pytest.mark.parametrize("user", ["root", "1000"])
def test_devices_work(idle: NativeHandle, sh: Shell, user: str) -> None:
    """Anybody can use the nodes, the streams by name, and a terminal of the container's own."""
    line = (
        "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c;"
        "echo out > /dev/stdout; cat /dev/stdin; (echo x > /dev/full) 2>/dev/null || echo full;"
        "script -qec 'tty' /dev/null"
    )
    found = sh(idle, line, user=user).split()
    assert found[:4] == ["3", "5", "out", "full"]
    assert found[4].startswith("/dev/pts/")


def test_terminals_are_the_containers_own(boxes: Boxes, sh: Shell) -> None:
    """Two containers have a first terminal each; neither sees the other's nor the machine's."""
    first = boxes.start(ContainerSpec(name="first", command=_IDLE))
    second = boxes.start(ContainerSpec(name="second", command=_IDLE))
    for box in (first, second):
        assert sh(box, "script -qec 'tty; ls /dev/pts' /dev/null").split() == ["/dev/pts/0", "0", "ptmx"]


def test_node_of_the_machines_disk_cannot_be_opened(boxes: Boxes, sh: Shell, tmp_path: Path) -> None:
    """Whoever makes a node of a disk, of memory or of the kernel's log has made a file that opens nothing."""
    device = os.stat("/").st_dev
    disk = f"b {os.major(device)} {os.minor(device)}"
    spec = ContainerSpec(
        name="box",
        command=_IDLE,
        tmpfs={"/scratch": 0},
        binds=(Bind(source=str(tmp_path), target="/bound"),),
    )
    box = boxes.start(spec)
    for folder in ("/", "/dev", "/dev/shm", "/scratch", "/bound", "/tmp"):
        for number, node in enumerate((disk, "c 1 1", "c 1 11", "c 1 3")):
            made = f"{folder}/node{number}"
            line = f"mknod -m 666 {made} {node} && (head -c 1 {made} || echo x > {made}) 2>&1; rm {made}"
            assert sh(box, line).count("Permission denied") == 2, (folder, node)


def test_session_keyring_is_not_that_of_pytest(boxes: Boxes, sh: Shell) -> None:
    """A container has a session keyring of its own, and so has each exec, none of them pytest's."""
    number = 250 if platform.machine() == "x86_64" else 219
    ask = f"perl -e 'print syscall({number}, 0, -3, 0)'"  # KEYCTL_GET_KEYRING_ID of the session's (keyctl(2))
    ours = subprocess.run(["sh", "-c", ask], capture_output=True, text=True, check=True).stdout
    spec = ContainerSpec(name="first", command=("sh", "-c", ask), seccomp="unconfined")
    boxed = [boxes.said(spec), boxes.said(spec)]
    box = boxes.start(ContainerSpec(name="box", command=("sleep", "1000"), seccomp="unconfined"))
    found = {ours, *boxed, sh(box, ask), sh(box, ask)}
    assert len(found - {"-1"}) == 5


def test_shared_memory_is_for_everybody(idle: NativeHandle, sh: Shell) -> None:
    """/dev/shm has 64 MiB and mode 1777, and any user may write there."""
    assert sh(idle, "stat -fc '%b*%S' /dev/shm; stat -c %a /dev/shm").split() == ["16384*4096", "1777"]
    assert sh(idle, "echo x > /dev/shm/mine && cat /dev/shm/mine && rm /dev/shm/mine", user="1000") == "x\n"


def test_namespaces_are_the_containers_own(idle: NativeHandle, sh: Shell) -> None:
    """Six namespaces are fresh; users are the machine's."""
    kinds = "mnt uts ipc pid net cgroup user".split()
    found = dict(zip(kinds, sh(idle, f"cd /proc/self/ns && readlink {' '.join(kinds)}").split(), strict=True))
    ours = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
    assert [kind for kind in kinds if found[kind] == ours[kind]] == ["user"]


def test_processes_are_the_containers_own(idle: NativeHandle, sh: Shell) -> None:
    """The command is process 1, and no process of the machine is seen."""
    assert sh(idle, "tr '\\0' ' ' < /proc/1/cmdline") == "sleep 1000 "
    assert (
        sh(idle, "for p in /proc/[0-9]*; do readlink $p/exe; done | sort -u | grep -cE 'python|^/$' || true")
        == "0\n"
    )
    assert len(sh(idle, "echo /proc/[0-9]*").split()) == 2


def test_hostname_is_the_short_id(idle: NativeHandle, sh: Shell) -> None:
    """Without a name of its own a container is called as the first twelve digits of its id."""
    assert sh(idle, "hostname; cat /etc/hostname; echo $HOSTNAME").split() == [idle.id[:12]] * 3


def test_hostname_is_the_tests_when_it_names_one(boxes: Boxes, sh: Shell) -> None:
    """A name that is asked for is in the kernel, in both files, in the environment, and resolves."""
    box = boxes.start(ContainerSpec(name="box", command=_IDLE, hostname="db.example"))
    found = sh(box, "hostname; cat /etc/hostname; echo $HOSTNAME; getent hosts db.example box localhost")
    assert found.splitlines()[:3] == ["db.example"] * 3
    assert [line.split()[0] for line in found.splitlines()[3:]] == [box.ip, box.ip, "::1"]


def test_hostname_too_long_is_refused(boxes: Boxes) -> None:
    """What the kernel does not take as a name is a StartError that says at which step."""
    box = boxes.create(ContainerSpec(name="box", command=_IDLE, hostname="x" * 65))
    with pytest.raises(StartError, match="hostname"):
        box.start()
    assert box.state().status == "created"


def test_hosts_and_resolver_are_written(idle: NativeHandle, sh: Shell) -> None:
    """hosts names the container and localhost; resolv.conf names the network's own resolver."""
    assert sh(idle, "cat /etc/hosts").splitlines() == [
        "127.0.0.1 localhost",
        "::1 localhost ip6-localhost ip6-loopback",
        f"{idle.ip} {idle.id[:12]} idle",
    ]
    gateway = sh(idle, "ip route show default").split()[2]
    assert sh(idle, "cat /etc/resolv.conf").splitlines()[0] == f"nameserver {gateway}"
    assert sh(idle, "stat -c '%a %u' /etc/hosts /etc/hostname /etc/resolv.conf").split() == ["644", "0"] * 3


def test_network_settings_are_dockers(idle: NativeHandle, sh: Shell) -> None:
    """Any user may bind low ports and send a ping (ip-sysctl)."""
    names = "ip_unprivileged_port_start ping_group_range"
    assert sh(idle, f"cd /proc/sys/net/ipv4 && cat {names}").split() == ["0", "0", "2147483647"]


def test_read_only_root_takes_nothing(boxes: Boxes, sh: Shell) -> None:
    """With read_only the image's files stay as they are; what is mounted can be written to."""
    box = boxes.start(
        ContainerSpec(
            name="box", command=_IDLE, read_only=True, tmpfs={"/scratch": 0}, files={"/conf": b"text"}
        )
    )
    assert (
        sh(box, "for d in / /tmp /etc /usr; do touch $d/x 2>/dev/null && echo $d; done; cat /conf") == "text"
    )
    assert sh(box, "for d in /dev /dev/shm /scratch; do touch $d/x && echo $d; done").split() == [
        "/dev",
        "/dev/shm",
        "/scratch",
    ]
    assert [str(change) for change in box.tree.changes()] == ["A /conf", "A /scratch"]


def test_tmpfs_has_its_size_and_is_for_everybody(boxes: Boxes, sh: Shell) -> None:
    """A tmpfs has the size that was asked for, the kernel's default for 0, and mode 1777."""
    box = boxes.start(ContainerSpec(name="box", command=_IDLE, tmpfs={"/a/deep/place": 1 << 20, "/tmp": 0}))
    found = _mounts(sh(box, "cat /proc/self/mountinfo"))
    assert found["/a/deep/place"] == (
        "tmpfs",
        found["/a/deep/place"][1] | {"rw", "nosuid", "nodev", "size=1024k"},
    )
    assert sh(box, "stat -c %a /a/deep/place /tmp; ls -A /tmp").split() == ["1777", "1777"]
    assert sh(box, "head -c 2000000 /dev/zero > /a/deep/place/x 2>/dev/null; stat -c %s /a/deep/place/x") == (
        "1048576\n"
    )


def test_image_link_in_the_place_of_a_tmpfs_stays_inside(boxes: Boxes, sh: Shell, tmp_path: Path) -> None:
    """A tmpfs at a path that the image makes a link is where the link leads inside of the container."""
    layer = tmp_path / "layer"
    (layer / "real").mkdir(parents=True)
    (layer / "link").symlink_to("../../../real")
    box = boxes.start(
        ContainerSpec(name="box", command=_IDLE, tmpfs={"/link": 4096}), layers=("/", str(layer))
    )
    assert "/real" in _mounts(sh(box, "cat /proc/self/mountinfo"))


def test_files_are_there_before_the_first_process(boxes: Boxes) -> None:
    """files= are written with folders and all, root's own and readable, over what the image has."""
    spec = ContainerSpec(
        name="box",
        command=(
            "sh",
            "-c",
            "cat /new/deep/file /etc/issue /etc/hosts; stat -c '%a %u:%g' /new/deep /new/deep/file",
        ),
        files={"/new/deep/file": b"one\n", "/etc/issue": b"two\n", "/etc/hosts": b"three\n"},
        user="1000",
    )
    assert boxes.said(spec).split() == ["one", "two", "three", "755", "0:0", "644", "0:0"]


def test_files_are_written_once(boxes: Boxes, sh: Shell) -> None:
    """What the container makes of its files is there after a restart."""
    box = boxes.start(
        ContainerSpec(name="box", command=("sh", "-c", "echo again >> /f"), files={"/f": b"first\n"})
    )
    assert box.wait(10).status == "exited"
    box.start()
    assert box.wait(10).status == "exited"
    box.start()
    assert box.wait(10).status == "exited"
    assert boxes.read(box, "/f") == b"first\n" + b"again\n" * 3


def test_files_stay_inside(boxes: Boxes, tmp_path: Path) -> None:
    """A name with ``..`` is inside as well: nothing of the machine is written."""
    name = f"/../../..{tmp_path}/file"
    box = boxes.start(ContainerSpec(name="box", command=_IDLE, files={name: b"inside"}))
    assert boxes.read(box, f"{tmp_path}/file") == b"inside"
    assert list(tmp_path.iterdir()) == []


def test_disk_storage_is_on_disk_and_goes(boxes: Boxes, sh: Shell) -> None:
    """With storage="disk" what a container writes is in the run's folder until it is removed."""
    box = boxes.start(ContainerSpec(name="box", command=_IDLE, storage="disk"))
    sh(box, "head -c 3000000 /dev/zero > /big")
    disk = boxes.engine._folder / "disk" / box.id[:12]
    assert (disk / "upper" / "big").stat().st_size == 3_000_000
    assert stat.S_IMODE(disk.stat().st_mode) == 0o700
    box.remove()
    assert not disk.exists()


def test_memory_storage_leaves_the_disk_alone(boxes: Boxes, sh: Shell) -> None:
    """Without that nothing of a container is on disk."""
    box = boxes.start(_SPEC)
    sh(box, "head -c 3000000 /dev/zero > /big")
    found = {path.name for path in boxes.engine._folder.rglob("*")}
    assert found <= {"ground", "supervisor.sock", "disk"}


def test_privileged_lifts_what_guards(boxes: Boxes, sh: Shell) -> None:
    """A privileged container mounts, opens nodes, writes to /sys and /proc, and sees what is masked."""
    box = boxes.start(ContainerSpec(name="box", command=_IDLE, privileged=True))
    sh(box, "mount -t tmpfs none /mnt && umount /mnt")
    sh(box, "mknod -m 666 /null c 1 3 && echo x > /null && mknod /dev/n c 1 3 && echo x > /dev/n")
    sh(box, "echo 0 > /proc/sys/net/ipv4/ip_forward")
    found = _mounts(sh(box, "cat /proc/self/mountinfo"))
    assert "rw" in found["/sys"][1]
    assert not [place for place in found if place.startswith("/proc/")]


def test_run_cannot_be_spoken_to_from_inside(boxes: Boxes) -> None:
    """The socket that makes containers is seen as a file in the base `host`, and nobody answers there."""
    folder = boxes.engine._folder
    script = (
        "import socket, sys\n"
        "line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        f"try: line.connect('{folder}/supervisor.sock')\n"
        "except ConnectionRefusedError: print('refused')\n"
    )
    assert boxes.said(ContainerSpec(name="box", command=(sys.executable, "-c", script))) == "refused\n"


def test_image_of_one_program_starts(boxes: Boxes, program: Program, tmp_path: Path) -> None:
    """A static program alone is an image: the places for mounts are made."""
    layer = tmp_path / "layer"
    layer.mkdir()
    program(layer / "program")
    box = boxes.start(ContainerSpec(name="box", command=("/program",)), layers=(str(layer),))
    state = box.wait(10)
    assert state.exit is not None
    assert state.exit.code == 42
