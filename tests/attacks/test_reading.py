"""Attacks on whoever reads a container's files: reads that hang, fill memory, or tell what is not so."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers._tar import TarWriter
from pytest_containers.errors import EngineError, PathMissing, SpecInvalid
from pytest_containers.runtime import transfer
from pytest_containers.spec import Bind, ContainerSpec, ExecSpec
from pytest_containers.transfer import copy_in, copy_out, read_file, write_file

if TYPE_CHECKING:
    from pytest_containers.engines.native_container import NativeHandle
    from tests.runtime.conftest import Apart, Boxes, Shell

pytestmark = pytest.mark.kernel

_PATIENCE_S: Final = 20.0
_SPEC: Final = ContainerSpec(name="box", command=("sleep", "1000"))


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _device(path: Path) -> None:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(5, 0))


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _folder(path: Path) -> None:
    path.mkdir()


def _nothing(path: Path) -> None:
    assert not path.exists()


_SWAPS: Final = (_fifo, _socket, _device, _link, _folder, _nothing)


@pytest.mark.parametrize("swap", _SWAPS)
@pytest.mark.parametrize("was", [_fifo, _device, _link, _folder, Path.touch])
def test_what_is_swapped_after_a_look_is_left_out(
    apart: Apart, tmp_path: Path, was: Callable[[Path], None], swap: Callable[[Path], None]
) -> None:
    """Whatever takes a path's place between look and open: nobody waits, and no other content comes out."""
    path = tmp_path / "path"
    was(path)
    seen = path.lstat()
    path.rename(tmp_path / "before")
    swap(path)

    def read() -> bytes:
        out = io.BytesIO()
        with TarWriter(out) as tar:
            transfer.add(tar, str(path), "path", seen, {})
        return out.getvalue()

    with tarfile.open(fileobj=io.BytesIO(apart(read))) as tar:
        assert [entry.name for entry in tar if entry.isreg()] == []


@pytest.mark.parametrize("make", [_fifo, _socket, _device])
def test_file_of_another_kind_has_no_content(
    boxes: Boxes, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """A FIFO, a socket and a device are refused by name, whoever asks for them, running or not."""
    layer = tmp_path / "layer"
    (layer / "srv").mkdir(parents=True)
    make(layer / "srv/odd")
    box = boxes.create(_SPEC, layers=("/", str(layer)))
    for begin in (box.state, box.start):
        begin()
        with pytest.raises(SpecInvalid, match="/srv/odd"):
            read_file(box.tree, "/srv/odd")
        with pytest.raises(SpecInvalid, match="/srv/odd"):
            copy_out(box.tree, "/srv/odd", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        copy_out(box.tree, "/srv", tmp_path / f"folder-{begin.__name__}")
    assert box.tree.stat("/srv/odd").kind.lower() == make.__name__.removeprefix("_")


_SWAPPER: Final = """
import os, itertools
os.chdir("/srv")
open("plain", "w").write("content")
os.mkfifo("fifo")
os.symlink("/proc/kmsg", "link")
os.mkdir("folder")
for number in itertools.count():
    other = ("fifo", "link", "folder")[number % 3]
    os.rename("plain", "victim"); os.rename("victim", "plain")
    os.rename(other, "victim"); os.rename("victim", other)
"""


def test_container_that_swaps_files_holds_up_no_read(boxes: Boxes, tmp_path: Path) -> None:
    """A hundred reads of a name that is file, FIFO, link and folder in turn all end, and so do copies."""
    box = boxes.start(ContainerSpec(name="box", command=(sys.executable, "-c", _SWAPPER)))
    found: set[bytes] = set()
    with ThreadPoolExecutor(1) as pool:
        for number in range(100):
            with contextlib.suppress(PathMissing, SpecInvalid, EngineError):
                if number % 2:
                    found.add(pool.submit(read_file, box.tree, "/srv/victim").result(_PATIENCE_S))
                else:
                    pool.submit(copy_out, box.tree, "/srv", tmp_path / str(number)).result(_PATIENCE_S)
    assert found <= {b"content"}
    assert box.state().status == "running"


_DEEPER: Final = """
import os, sys
os.makedirs("/srv/deep")
os.chdir("/srv/deep")
for _ in range(int(sys.argv[1])):
    os.mkdir("d" * int(sys.argv[2]))
    os.chdir("d" * int(sys.argv[2]))
"""


@pytest.mark.parametrize(("depth", "length"), [(300, 1), (1100, 1), (100, 200)])
def test_folders_that_are_too_deep_are_told(boxes: Boxes, tmp_path: Path, depth: int, length: int) -> None:
    """Three hundred folders are copied; what no path names, or no walk holds, is an error."""
    box = boxes.start(_SPEC)
    made = box.exec(ExecSpec(argv=(sys.executable, "-c", _DEEPER, str(depth), str(length))))
    assert made.exit_code == 0, made.stderr
    if depth == 300:
        copy_out(box.tree, "/srv/deep", tmp_path / "out")
        assert (tmp_path / "out" / "/".join("d" * depth)).is_dir()
        return
    # What is read is thrown away: unpacking a thousand folders in each other takes half a minute.
    with (
        pytest.raises(EngineError, match="/srv/deep in the container cannot be copied") as caught,
        open(os.devnull, "wb") as nowhere,
    ):
        box.tree.read("/srv/deep", nowhere)
    assert "too deep" in caught.value.seen


class _Stuck(io.BytesIO):
    """A reader that takes one piece and then no more until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.free = threading.Event()

    def write(self, data: object, /) -> int:
        self.reached.set()
        assert self.free.wait(_PATIENCE_S)
        return len(bytes(data))  # type: ignore[call-overload]


def _supervisor(box: NativeHandle) -> int:
    """Return the pid of the process that the container's first one is a child of."""
    line = f"{box.id[:12]}\n"
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mounts = (folder / "root/etc/hostname").read_text()
            parent = (folder / "stat").read_text().rpartition(") ")[2].split()[1]
        except OSError:
            continue
        if mounts == line:
            return int(parent)
    raise AssertionError("no process of the container is to be seen")


def _children(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_removal_ends_a_read_that_hangs(boxes: Boxes, sh: Shell) -> None:
    """A read that nobody takes the bytes of ends with the container, and leaves no process."""
    other = boxes.start(ContainerSpec(name="other", command=("sleep", "1000")))
    box = boxes.start(_SPEC)
    sh(box, "head -c 3000000 /dev/zero > /srv/big")
    supervisor, stuck = _supervisor(box), _Stuck()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(box.tree.read, "/srv/big", stuck)
        assert stuck.reached.wait(_PATIENCE_S)
        at_work = _children(supervisor)
        box.remove()
        stuck.free.set()
        with pytest.raises(EngineError, match="was cut off"):
            reading.result(_PATIENCE_S)
    deadline = time.monotonic() + _PATIENCE_S
    while len(left := _children(supervisor) & at_work) > 2:  # the gateway and the other container
        assert time.monotonic() < deadline, left
    assert other.state().status == "running"


def test_copy_whose_worker_is_killed_is_no_success(boxes: Boxes, sh: Shell, tmp_path: Path) -> None:
    """A worker that ends in the middle of a copy, for lack of memory say, makes an error, no short file."""
    box = boxes.start(_SPEC)
    sh(box, "head -c 3000000 /dev/zero > /srv/big")
    supervisor, stuck = _supervisor(box), _Stuck()
    before = _children(supervisor)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(box.tree.read, "/srv/big", stuck)
        assert stuck.reached.wait(_PATIENCE_S)
        (worker,) = _children(supervisor) - before
        os.kill(int(worker), signal.SIGKILL)
        stuck.free.set()
        with pytest.raises(EngineError, match="was cut off") as caught:
            reading.result(_PATIENCE_S)
    assert "137" in caught.value.seen
    assert len(read_file(box.tree, "/srv/big")) == 3_000_000


def test_write_onto_another_kind_of_file(boxes: Boxes, sh: Shell, tmp_path: Path) -> None:
    """A FIFO is replaced by the file; what is mounted there is written into if it is a file, else refused."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("before")
    binds = tuple(Bind(source=str(tmp_path / name), target=f"/mnt/{name}") for name in ("fifo", "file"))
    box = boxes.start(ContainerSpec(name="box", command=("sleep", "1000"), binds=binds))
    sh(box, "mkfifo /srv/fifo")
    write_file(box.tree, "/srv/fifo", b"new")
    assert read_file(box.tree, "/srv/fifo") == b"new"
    for path in ("/mnt/fifo", "/dev/null"):
        with pytest.raises(SpecInvalid, match=f"{path} in the container is a (FIFO|device)"):
            write_file(box.tree, path, b"new")
        with pytest.raises(SpecInvalid, match=f"{path} in the container is a (FIFO|device)"):
            copy_in(box.tree, tmp_path / "file", path)
    copy_in(box.tree, tmp_path / "file", "/srv/fifo")
    write_file(box.tree, "/mnt/file", b"new")
    assert (tmp_path / "file").read_text() == "new"
    assert read_file(box.tree, "/srv/fifo") == b"before"


def test_copy_in_of_what_is_no_file_is_refused(boxes: Boxes, tmp_path: Path) -> None:
    """A FIFO or device of this machine is not opened; sockets and FIFOs in a folder cost no time."""
    _fifo(tmp_path / "fifo")
    _socket(tmp_path / "socket")
    box = boxes.create(_SPEC)
    for path in (tmp_path / "fifo", tmp_path / "socket", Path("/dev/zero")):
        with pytest.raises(SpecInvalid, match="neither a file nor a folder"):
            copy_in(box.tree, path, "/srv/x")
    copy_in(box.tree, tmp_path, "/srv/folder")
    assert box.tree.stat("/srv/folder/fifo").kind == "FIFO"


@pytest.mark.parametrize("path", ["/proc/kmsg", "/proc/sys/net/ipv4/route/flush", "/proc/1/mem"])
def test_file_that_gives_nothing_is_named(boxes: Boxes, path: str) -> None:
    """A file of /proc whose read would wait, or is refused, is an error with the path; nobody waits."""
    box = boxes.start(_SPEC)
    with ThreadPoolExecutor(1) as pool, pytest.raises(EngineError, match=f"{path} in the container cannot"):
        pool.submit(read_file, box.tree, path).result(_PATIENCE_S)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/hostname",
        "/proc/1/comm",
        "/proc/self/comm",
        "/proc/thread-self/comm",
        "/sys/class/net/eth0/mtu",
        "/sys/class/net/lo/address",
        "/proc/mounts",
        "/etc/mtab",
    ],
)
def test_file_that_tells_a_wrong_size_is_read_to_its_end(boxes: Boxes, sh: Shell, path: str) -> None:
    """Files of /proc and /sys are what a process inside sees; self is the container's first process."""
    box = boxes.start(ContainerSpec(name="box", command=("sleep", "1000"), files={"/srv/x": b""}))
    sh(box, "ln -sf /proc/self/mounts /etc/mtab")
    wanted = sh(box, f"cat {path.replace('self', '1').replace('thread-1', '1/task/1')}")
    assert read_file(box.tree, path).decode() == wanted != ""


def test_folders_of_proc_and_sys_are_copied(boxes: Boxes, tmp_path: Path) -> None:
    """A folder of such files comes out with their contents."""
    box = boxes.start(_SPEC)
    copy_out(box.tree, "/proc/sys/kernel/random", tmp_path / "random")
    assert (tmp_path / "random/boot_id").read_text() == Path("/proc/sys/kernel/random/boot_id").read_text()
    copy_out(box.tree, "/sys/class/net/lo/statistics", tmp_path / "statistics")
    assert (tmp_path / "statistics/rx_errors").read_text() == "0\n"


_GROWS: Final = (
    "while :; do echo 0123456789 >> /srv/log; : > /srv/cut; head -c 900000 /dev/zero > /srv/cut; done"
)


def test_files_that_change_are_read_as_of_some_moment(boxes: Boxes) -> None:
    """A file that grows is whole lines of it; one that is cut meanwhile is of some moment, or an error."""
    box = boxes.start(ContainerSpec(name="box", command=("sh", "-c", _GROWS)))
    refused: list[EngineError] = []
    for _ in range(25):
        with contextlib.suppress(PathMissing):
            assert set(read_file(box.tree, "/srv/log").split()) <= {b"0123456789"}
        try:
            content = read_file(box.tree, "/srv/cut")
        except PathMissing:
            continue
        except EngineError as error:
            refused.append(error)
        else:
            assert set(content) <= {0}
    for one in refused:
        assert one.what == "/srv/cut in the container cannot be read"
        assert "bytes before the size" in one.seen
        assert one.mend
    assert box.state().status == "running"


# Run apart, so that its peak is this copy's alone (getrusage(2), ru_maxrss in KiB).
_MEASURED: Final = """
import json, os, resource, sys, tempfile
from pathlib import Path
from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.spec import ContainerSpec, ExecSpec
from pytest_containers.errors import SpecInvalid
from pytest_containers.transfer import copy_in, copy_out, read_file

top = Path(sys.argv[1])
os.environ["TMPDIR"] = tempfile.tempdir = str(top / "temporary")
Path(tempfile.tempdir).mkdir()
engine = NativeEngine(store=top / "store", run_folder=fresh_run_folder(), owner_pid=os.getpid())
box = engine.create(
    ContainerSpec(name="box", command=("sleep", "1000"), storage="disk"), engine.images.pull("host")
)
box.start()
made = "truncate -s 5G /srv/sparse; echo end >> /srv/sparse; head -c 150000000 /dev/urandom > /srv/full"
assert box.exec(ExecSpec(argv=("sh", "-c", made))).exit_code == 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in ("sparse", "full"):
    copy_out(box.tree, f"/srv/{name}", top / name)
    copy_in(box.tree, top / name, f"/srv/back-{name}")
try:
    read_file(box.tree, "/srv/sparse")
except SpecInvalid as error:
    refused = error.seen
script = "cd /srv; cmp full back-full && stat -c %b sparse back-sparse"
blocks = box.exec(ExecSpec(argv=("sh", "-c", script))).stdout.split()
print(json.dumps({
    "refused": refused,
    "sparse_blocks": [*map(int, blocks), (top / "sparse").stat().st_blocks],
    "full_blocks": (top / "full").stat().st_blocks,
    "sizes": [(top / name).stat().st_size for name in ("sparse", "full")],
    "temporary": os.listdir(tempfile.tempdir),
    "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before,
}))
engine.close()
"""


def test_copies_fill_no_memory_and_no_temporary_folder(tmp_path: Path) -> None:
    """A file of 5 GB with one hole, and 150 MB of data, go both ways in a few MiB; the hole stays one."""
    command = [sys.executable, "-c", _MEASURED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["refused"].startswith("it has 5368709124 bytes")
    assert seen["sizes"] == [5368709124, 150_000_000]
    assert len(seen["sparse_blocks"]) == 3
    assert max(seen["sparse_blocks"]) * 512 < 1 << 20
    assert seen["full_blocks"] * 512 >= 150_000_000
    assert seen["temporary"] == []
    assert seen["peak_kib"] < 16 * 1024, seen
