"""Laws of a container's files as the test sees them, and of what makes up a commit."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import EngineError, PathMissing, SpecInvalid, StartError
from pytest_containers.runtime import messages
from pytest_containers.spec import Bind, ContainerSpec, ExecSpec, ImageConfig
from tests.plugins.clock import scaled

if TYPE_CHECKING:
    from pytest_containers.engines.native_container import NativeHandle
    from tests.runtime.conftest import Boxes, Shell

pytestmark = pytest.mark.kernel

_SPEC: Final = ContainerSpec(name="box", command=("sleep", "1000"))
_PATIENCE_S: Final = scaled(20.0)
_MOMENT: Final = 1_000_000_000

Phase = Callable[[ContainerSpec], "NativeHandle"]


@pytest.fixture(params=["created", "running", "exited"])
def phase(request: pytest.FixtureRequest, boxes: Boxes) -> Phase:
    """Return what makes a container and brings it to one of the three states."""

    def make(spec: ContainerSpec) -> NativeHandle:
        box = boxes.create(spec)
        if request.param != "created":
            box.start()
        if request.param == "exited":
            box.signal(9)
            box.wait(_PATIENCE_S)
        assert box.state().status == request.param
        return box

    return make


def _tar(*names: str, mode: int = 0o640, owner: int = 1000) -> io.BytesIO:
    """Return a tar of files that hold their names."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid, entry.gid, entry.mtime = (
                len(name),
                mode,
                owner,
                owner + 1,
                _MOMENT,
            )
            tar.addfile(entry, io.BytesIO(name.encode()))
    out.seek(0)
    return out


def _entries(box: NativeHandle, path: str) -> dict[str, tarfile.TarInfo]:
    out = io.BytesIO()
    box.tree.read(path, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        return {entry.name: entry for entry in tar}


def test_tree_brings_back_what_was_written(phase: Phase, boxes: Boxes) -> None:
    """In every state files go in and come out with content, owner, mode and time."""
    box = phase(_SPEC)
    box.tree.write("/new/folder", _tar("one", "deep/two"))
    found = _entries(box, "/new/folder")
    assert list(found) == ["folder", "folder/deep", "folder/deep/two", "folder/one"]
    one = found["folder/one"]
    assert (one.mode, one.uid, one.gid, one.mtime) == (0o640, 1000, 1001, _MOMENT)
    assert boxes.read(box, "/new/folder/deep/two") == b"deep/two"


def test_tree_tells_what_changed(phase: Phase) -> None:
    """In every state the changes are those against the image, with the folders on the way."""
    box = phase(_SPEC)
    assert box.tree.changes() == ()
    box.tree.write("/srv", _tar("mine"))
    box.tree.write("/etc", _tar("issue"))
    assert [str(change) for change in box.tree.changes()] == [
        "C /etc",
        "C /etc/issue",
        "C /srv",
        "A /srv/mine",
    ]


def test_tree_path_that_is_missing_is_told(phase: Phase) -> None:
    """In every state a path that is not there is PathMissing, as is a file in the place of a folder."""
    box = phase(_SPEC)
    with pytest.raises(PathMissing, match="no /no/such in the container"):
        box.tree.read("/no/such", io.BytesIO())
    with pytest.raises(PathMissing, match="/etc/passwd in the container is not a folder"):
        box.tree.write("/etc/passwd", _tar("x"))


def test_tree_links_stay_inside(boxes: Boxes, tmp_path: Path) -> None:
    """A hostile link in the image leads nowhere but into the image, running or not."""
    secret = tmp_path / "secret"
    secret.write_text("outside")
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "root").symlink_to("/")
    (layer / "up").symlink_to("../../../../..")
    (layer / "proc-root").symlink_to("/proc/1/root")
    (layer / "secret").symlink_to(secret)
    box = boxes.create(replace(_SPEC, command=("/bin/sleep", "1000")), layers=("/", str(layer)))
    for _ in range(2):
        for link in ("root", "up"):
            box.tree.write(f"/{link}/landed-{link}", _tar("file"))
            assert boxes.read(box, f"/landed-{link}/file") == b"file"
            assert not os.path.lexists(f"/landed-{link}")
        box.tree.write(str(tmp_path), _tar("secret"))
        assert boxes.read(box, "/secret") == b"secret"
        box.start()
    box.tree.write("/proc-root/landed", _tar("file"))
    assert boxes.read(box, "/landed/file") == b"file"
    assert secret.read_text() == "outside"


def test_tree_sees_mounts_while_the_container_runs(boxes: Boxes, tmp_path: Path) -> None:
    """Binds and tmpfs are part of a running container's files; a tmpfs ends with it, and that is told."""
    spec = replace(_SPEC, tmpfs={"/scratch": 0}, binds=(Bind(source=str(tmp_path), target="/bound"),))
    box = boxes.start(spec)
    box.tree.write("/scratch", _tar("there"))
    box.tree.write("/bound", _tar("here"))
    assert boxes.read(box, "/scratch/there") == b"there"
    assert (tmp_path / "here").read_text() == "here"
    assert [str(change) for change in box.tree.changes()] == ["A /bound", "A /scratch"]
    box.signal(9)
    box.wait(_PATIENCE_S)
    assert list(_entries(box, "/bound")) == ["bound", "bound/here"]
    with pytest.raises(PathMissing, match="/scratch"):
        _entries(box, "/scratch")


_JOB: Final = "cat /data/in /bound/in >/data/out; cp /data/out /bound/out; echo gone >/scratch/out"


def test_tree_has_volumes_and_binds_in_every_state(boxes: Boxes, tmp_path: Path) -> None:
    """A job's input is written before the start, its report read after the end, and again after a restart."""
    (tmp_path / "bound").mkdir()
    (tmp_path / "layer/data").mkdir(parents=True)
    (tmp_path / "layer/data/of-the-image").write_text("image")
    spec = replace(
        _SPEC,
        command=("sh", "-c", _JOB),
        binds=(Bind(source=str(tmp_path / "bound"), target="/bound"),),
        tmpfs={"/scratch": 0},
    )
    config = ImageConfig(volumes=("/data", "/var/lib/made"))
    box = boxes.create(spec, layers=("/", str(tmp_path / "layer")), config=config)
    for turn in (b"first", b"second"):
        box.tree.write("/data", _tar_with("in", turn))
        box.tree.write("/bound", _tar_with("in", turn))
        box.start()
        state = box.wait(_PATIENCE_S)
        assert state.exit is not None
        assert state.exit.code == 0, box.logs()
        assert boxes.read(box, "/data/out") == boxes.read(box, "/bound/out") == turn * 2
        assert (tmp_path / "bound/out").read_bytes() == turn * 2
        assert boxes.read(box, "/data/of-the-image") == b"image"
    box.tree.write("/var/lib/made/deep", _tar("file"))
    assert boxes.read(box, "/var/lib/made/deep/file") == b"file"
    assert box.tree.stat("/data/out").size_bytes == 12
    assert set(_layer(boxes, box)) == set()


def _tar_with(name: str, content: bytes) -> io.BytesIO:
    """Return a tar of one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    out.seek(0)
    return out


def test_tree_of_a_stopped_container_honours_its_mounts(phase: Phase, boxes: Boxes, tmp_path: Path) -> None:
    """In every state a read-only bind is not written, nested mounts lie in their order, links stay inside."""
    for name in ("outer", "inner", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    (tmp_path / "outer/out").symlink_to("/../../closed")
    box = phase(
        replace(
            _SPEC,
            binds=(
                Bind(source=str(tmp_path / "inner"), target="/mnt/outer/inner"),
                Bind(source=str(tmp_path / "outer"), target="/mnt/outer"),
                Bind(source=str(tmp_path / "closed"), target="/closed", read_only=True),
            ),
        )
    )
    assert boxes.read(box, "/mnt/outer/name") == b"outer"
    assert boxes.read(box, "/mnt/outer/inner/name") == b"inner"
    assert boxes.read(box, "/mnt/outer/out/name") == b"closed"
    for path in ("/closed", "/closed/deep", "/mnt/outer/out"):
        with pytest.raises(EngineError, match="cannot be written") as caught:
            box.tree.write(path, _tar("file"))
        assert "Read-only file system" in caught.value.seen
    assert os.listdir(tmp_path / "closed") == ["name"]
    box.tree.write("/mnt/outer", _tar("mine"))
    assert (tmp_path / "outer/mine").read_text() == "mine"


@pytest.mark.parametrize(
    "path", ["/scratch", "/scratch/deep/file", "/dev/shm/file", "/proc/1/comm", "/link/x"]
)
def test_tree_tells_what_is_empty_while_nothing_runs(boxes: Boxes, path: str) -> None:
    """A tmpfs, /dev and /proc of a container that does not run are no place to read from or to write to."""
    box = boxes.create(replace(_SPEC, tmpfs={"/scratch": 0}))
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/scratch"
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        writer.addfile(link)
    tar.seek(0)
    box.tree.write("/", tar)
    for _ in range(2):
        with pytest.raises(PathMissing, match="only while the container runs"):
            box.tree.stat(path)
        with pytest.raises(PathMissing, match="only while the container runs"):
            boxes.read(box, path)
        with pytest.raises(SpecInvalid, match="cannot be written now"):
            box.tree.write(path, _tar("file"))
        box.start()
        box.tree.write("/scratch", _tar("file"))
        assert boxes.read(box, "/link/file") == b"file"
        box.signal(9)
        box.wait(_PATIENCE_S)


def test_tree_has_volumes_while_others_start_it(boxes: Boxes) -> None:
    """Reads, writes and a start at the same moment make the volumes once."""
    config = ImageConfig(volumes=("/etc", "/data"))
    box = boxes.create(_SPEC, config=config)
    with ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(box.tree.write, "/data", _tar(f"file{n}")) for n in range(4)]
        starts = [pool.submit(box.start) for _ in range(2)]
        reads = [pool.submit(boxes.read, box, "/etc/passwd") for _ in range(2)]
        for one in (*writes, *starts):
            one.result(_PATIENCE_S)
        assert all(b"root:" in one.result(_PATIENCE_S) for one in reads)
    assert list(_entries(box, "/data")) == ["data", *(f"data/file{n}" for n in range(4))]


def test_tree_of_the_generated_files_is_the_containers(boxes: Boxes) -> None:
    """hosts can be read and written in every state, is kept by a start, and is no change of the image."""
    box = boxes.create(_SPEC)
    before = boxes.read(box, "/etc/hosts")
    box.tree.write("/etc", _tar_with("hosts", before + b"192.0.2.1 added\n"))
    box.start()
    assert boxes.read(box, "/etc/hosts") == before + b"192.0.2.1 added\n"
    assert box.ip.encode() in boxes.read(box, "/etc/hosts")
    box.tree.write("/etc", _tar("hosts"))
    assert boxes.read(box, "/etc/hosts") == b"hosts"
    assert box.tree.changes() == ()


def test_tree_is_big(boxes: Boxes, sh: Shell) -> None:
    """Megabytes go both ways."""
    box = boxes.start(_SPEC)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("big")
        entry.size = 8_000_000
        tar.addfile(entry, io.BytesIO(os.urandom(8) * 1_000_000))
    out.seek(0)
    box.tree.write("/data", out)
    assert sh(box, "stat -c %s /data/big") == "8000000\n"
    assert len(boxes.read(box, "/data/big")) == 8_000_000


def test_tree_holds_up_no_other(boxes: Boxes) -> None:
    """Copies of many containers run side by side with execs."""
    made = [boxes.start(replace(_SPEC, name=f"box{number}")) for number in range(4)]
    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(_entries, box, "/etc") for box in made]
        codes = [pool.submit(box.exec, ExecSpec(argv=("true",))) for box in made]
        assert all(code.result(_PATIENCE_S).exit_code == 0 for code in codes)
        assert all("etc/passwd" in read.result(3 * _PATIENCE_S) for read in reads)


def test_tree_write_of_no_tar_is_an_error(idle: NativeHandle) -> None:
    """Bytes that are no tar are refused with what was seen."""
    with pytest.raises(EngineError) as caught:
        idle.tree.write("/tmp", io.BytesIO(b"no tar" * 200))
    assert "ReadError" in caught.value.seen


def _layer(boxes: Boxes, box: NativeHandle) -> dict[str, tarfile.TarInfo]:
    """Return the entries of what a commit of *box* adds."""
    connection = boxes.engine._connected()
    with os.fdopen(os.memfd_create("layer"), "w+b") as out:
        connection.tell(messages.Layer(id=box.id), (out.fileno(),))
        out.seek(0)
        with tarfile.open(fileobj=out) as tar:
            return {entry.name: entry for entry in tar}


def test_layer_has_what_the_container_did(phase: Phase, boxes: Boxes, tmp_path: Path) -> None:
    """In every state the layer is the container's own writes: no mount or its place, no generated file."""
    spec = replace(
        _SPEC, tmpfs={"/scratch": 0}, binds=(Bind(source=str(tmp_path), target="/bound"),), files={"/f": b"x"}
    )
    box = phase(spec)
    box.tree.write("/srv", _tar("mine", mode=0o4755))
    found = _layer(boxes, box)
    made_by_start = {"f"} if box.state().status != "created" else set()
    assert set(found) == {"srv", "srv/mine"} | made_by_start
    assert (found["srv/mine"].mode, found["srv/mine"].uid) == (0o4755, 1000)


def test_layer_has_no_place_of_a_mount_that_is_empty(boxes: Boxes, sh: Shell, tmp_path: Path) -> None:
    """What was made to mount on is left out, with its folders, unless the container wrote into them."""
    (tmp_path / "file").write_text("mounted")
    spec = replace(
        _SPEC,
        tmpfs={"/srv/scratch": 0, "/made/by/us/tmpfs": 0},
        binds=(
            Bind(source=str(tmp_path), target="/deep/er/bound"),
            Bind(source=str(tmp_path / "file"), target="/etc/missing/file"),
        ),
    )
    box = boxes.start(spec)
    assert sh(box, "cat /etc/missing/file /deep/er/bound/file; touch /srv/scratch/x /deep/er/bound/y")
    assert _layer(boxes, box) == {}
    sh(box, "touch /made/by/mine")
    assert list(_layer(boxes, box)) == ["made", "made/by", "made/by/mine"]


def test_bind_shows_the_files_of_another_container(boxes: Boxes, sh: Shell) -> None:
    """A bind with a container is looked up in its files, where no link leads out; writes are that one's."""
    other = boxes.create(replace(_SPEC, name="other"))
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/../../srv"
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        writer.addfile(link)
    tar.seek(0)
    other.tree.write("/srv", _tar("mine"))
    other.tree.write("/", tar)
    spec = replace(_SPEC, binds=(Bind(source="/link", target="/seen", container=other.id),))
    box = boxes.start(spec)
    assert sh(box, "cat /seen/mine; echo w > /seen/written")
    assert set(_layer(boxes, other)) == {"link", "srv", "srv/mine", "srv/written"}
    assert _layer(boxes, box) == {}
    spec = replace(_SPEC, name="third", binds=(Bind(source="/none", target="/seen", container=other.id),))
    with pytest.raises(StartError, match="no /none in the files to mount at /seen"):
        boxes.create(spec).start()


def test_layer_of_what_was_deleted_has_whiteouts(boxes: Boxes, sh: Shell, tmp_path: Path) -> None:
    """Files removed, folders removed and folders made anew are each marked as the specification says."""
    layer = tmp_path / "layer"
    (layer / "app/old").mkdir(parents=True)
    for name in ("app/old/file", "app/gone", "app/kept"):
        (layer / name).write_text(name)
    box = boxes.start(_SPEC, layers=("/", str(layer)))
    sh(box, "cd /app && rm -r gone old && mkdir old && echo new > old/new && ln old/new old/link")
    found = _layer(boxes, box)
    assert list(found) == [
        "app",
        "app/.wh.gone",
        "app/old",
        "app/old/.wh..wh..opq",
        "app/old/link",
        "app/old/new",
    ]
    assert (found["app/old/new"].islnk(), found["app/old/new"].linkname) == (True, "app/old/link")
    assert [str(change) for change in box.tree.changes()] == [
        "C /app",
        "D /app/gone",
        "C /app/old",
        "A /app/old/link",
        "A /app/old/new",
    ]


def test_container_name_is_taken_once(boxes: Boxes) -> None:
    """Two containers of one name on one network are refused; the name is free after the removal."""
    box = boxes.create(_SPEC)
    with pytest.raises(SpecInvalid, match="container box is there already"):
        boxes.create(_SPEC)
    box.remove()
    boxes.create(_SPEC)


def test_container_of_the_run_is_one_for_all(boxes: Boxes, sh: Shell) -> None:
    """With lifetime "run" a second creation brings the same container, running or not."""
    spec = replace(_SPEC, lifetime="run")
    first = boxes.create(spec)
    second = boxes.create(spec)
    assert (second.id, second.ip) == (first.id, first.ip)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda box: box.start(), (first, second)))
    assert sh(first, "touch /shared") == sh(second, "ls /shared").replace("/shared\n", "")


def test_container_that_cannot_be_meant_leaves_nothing(boxes: Boxes) -> None:
    """A refused creation keeps neither name nor address."""
    for _ in range(3):
        with pytest.raises(SpecInvalid, match="not a capability"):
            boxes.create(replace(_SPEC, cap_add=("NO_SUCH",)))
        with pytest.raises(SpecInvalid, match="has no command"):
            boxes.create(replace(_SPEC, command=()), layers=(), config=ImageConfig())
    boxes.create(_SPEC)


def test_container_on_no_network_is_refused(boxes: Boxes) -> None:
    """A network that was not made is named."""
    with pytest.raises(SpecInvalid, match="no network elsewhere"):
        boxes.create(replace(_SPEC, network="elsewhere"))
