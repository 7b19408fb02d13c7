"""Laws of the machine's files inside of a container: those that were named, as they were named."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.errors import StartError
from pytest_containers.runtime import init, syscalls
from pytest_containers.spec import Bind, ContainerSpec, ExecSpec, ImageConfig

if TYPE_CHECKING:
    from tests.runtime.conftest import Apart, Boxes, Shell

pytestmark = pytest.mark.kernel

_IDLE: Final = ("sleep", "1000")


def _spec(*binds: Bind) -> ContainerSpec:
    return ContainerSpec(name="box", command=_IDLE, binds=binds)


def test_bind_of_a_folder_is_the_folder(boxes: Boxes, sh: Shell, tmp_path: Path) -> None:
    """Both sides see at once what the other writes; the target and its parents are made."""
    (tmp_path / "mine").write_text("from outside")
    box = boxes.start(_spec(Bind(source=str(tmp_path), target="/data/deep")))
    assert sh(box, "cat /data/deep/mine; echo from inside > /data/deep/theirs") == "from outside"
    assert (tmp_path / "theirs").read_text() == "from inside\n"
    (tmp_path / "later").write_text("later")
    assert sh(box, "cat /data/deep/later") == "later"


def test_bind_of_a_file_is_the_file(boxes: Boxes, sh: Shell, tmp_path: Path) -> None:
    """A file is seen at a path that is new, and at one that the image has."""
    (tmp_path / "conf").write_text("mine\n")
    source = str(tmp_path / "conf")
    box = boxes.start(
        _spec(Bind(source=source, target="/new/conf"), Bind(source=source, target="/etc/issue"))
    )
    assert sh(box, "cat /new/conf /etc/issue; echo changed > /new/conf; cat /etc/issue").split() == [
        "mine",
        "mine",
        "changed",
    ]
    assert (tmp_path / "conf").read_text() == "changed\n"


def test_bind_read_only_takes_nothing(boxes: Boxes, sh: Shell, tmp_path: Path) -> None:
    """Root in the container cannot write to what was bound read-only, a file or a folder."""
    (tmp_path / "conf").write_text("mine")
    box = boxes.start(
        _spec(
            Bind(source=str(tmp_path), target="/folder", read_only=True),
            Bind(source=str(tmp_path / "conf"), target="/file", read_only=True),
        )
    )
    line = "for f in /folder/new /folder/conf /file; do (echo x > $f) 2>/dev/null && echo $f; done; cat /file"
    assert sh(box, line) == "mine"
    assert sh(box, "mount -o remount,rw /folder 2>/dev/null || echo refused") == "refused\n"
    assert [path.name for path in tmp_path.iterdir()] == ["conf"]


def test_bind_lies_over_a_tmpfs(boxes: Boxes, sh: Shell, tmp_path: Path) -> None:
    """A bind below a tmpfs is seen: a folder is mounted before what lies in it."""
    (tmp_path / "mine").touch()
    spec = ContainerSpec(
        name="box",
        command=_IDLE,
        tmpfs={"/scratch": 0},
        binds=(Bind(source=str(tmp_path), target="/scratch/bound"),),
    )
    assert sh(boxes.start(spec), "ls /scratch /scratch/bound").split() == [
        "/scratch:",
        "bound",
        "/scratch/bound:",
        "mine",
    ]


def test_bind_of_nothing_is_refused(boxes: Boxes, sh: Shell, tmp_path: Path) -> None:
    """A source that is not there is named in the error; made later, the same container starts."""
    source = tmp_path / "missing"
    box = boxes.create(_spec(Bind(source=str(source), target="/data")))
    with pytest.raises(StartError, match=f"no {source} on the host to mount at /data"):
        box.start()
    assert box.state().status == "created"
    source.mkdir()
    box.start()
    assert sh(box, "ls -d /data") == "/data\n"


@pytest.mark.parametrize("target", ["/file/below", "/file"])
def test_bind_of_a_folder_onto_a_file_is_refused(boxes: Boxes, tmp_path: Path, target: str) -> None:
    """A target that cannot be made is an error of the start that says where it happened."""
    layer, source = tmp_path / "layer", tmp_path / "source"
    layer.mkdir()
    source.mkdir()
    (layer / "file").touch()
    box = boxes.create(_spec(Bind(source=str(source), target=target)), layers=("/", str(layer)))
    with pytest.raises(StartError, match="'mounts'"):
        box.start()


@pytest.mark.parametrize(
    ("link", "target", "place"),
    [
        ("/", "/link/place", "/place"),
        ("/", "/link/etc/place", "/etc/place"),
        ("../../../../..", "/link/place", "/place"),
        ("/proc/1/root", "/link/place", "/place"),
        ("/srv", "/link", "/srv"),
        ("/new", "/link/place", "/new/place"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_bind_target_cannot_lead_outside(
    boxes: Boxes, sh: Shell, tmp_path: Path, link: str, target: str, place: str, kind: str
) -> None:
    """Links of the image in a target are followed inside: nothing of the machine is made or covered."""
    layer, source = tmp_path / "layer", tmp_path / "source"
    (layer / "new").mkdir(parents=True)
    (layer / "link").symlink_to(link)
    if kind == "folder":
        source.mkdir()
        (source / "mark").write_text("bound")
        shown = f"{place}/mark"
    else:
        source.write_text("bound")
        shown = place
        target, shown = (f"{target}/mark", f"{place}/mark") if target == "/link" else (target, place)
    before = Path("/proc/self/mountinfo").read_text()
    box = boxes.start(_spec(Bind(source=str(source), target=target)), layers=("/", str(layer)))
    assert sh(box, f"cat {shown}") == "bound"
    assert not os.path.lexists(shown)
    assert Path("/proc/self/mountinfo").read_text() == before


def test_bind_of_the_machines_devices_shows_names_alone(boxes: Boxes, sh: Shell) -> None:
    """Nodes of a bound /dev, and of what is mounted below it, open nothing."""
    box = boxes.start(_spec(Bind(source="/dev", target="/devices")))
    assert sh(box, "cat /devices/null 2>&1 || true").endswith("Permission denied\n")
    assert sh(box, "(exec 3<>/devices/ptmx) 2>/dev/null || echo refused") == "refused\n"


def _mounted_source(source: Path) -> None:
    """Mount on *source*, with less and less allowed, and put a mount of its own below it."""
    syscalls.mount("outer", str(source), "tmpfs")
    (source / "inner").mkdir()
    (source / "locked").mkdir()
    syscalls.mount("inner", str(source / "inner"), "tmpfs")
    secure = syscalls.MS_NOSUID | syscalls.MS_NOEXEC | syscalls.MS_NODEV
    syscalls.mount("locked", str(source / "locked"), "tmpfs", secure | syscalls.MS_RDONLY)


def _options(source: Path, store: Path, *, read_only: bool) -> dict[str, set[str]]:
    """Return the options of the mounts that a container sees of *source*, in a run of its own."""
    _mounted_source(source)
    engine = NativeEngine(store=store, run_folder=fresh_run_folder(), owner_pid=os.getpid())
    with contextlib.closing(engine):
        bind = Bind(source=str(source), target="/bound", read_only=read_only)
        box = engine.create(_spec(bind), engine.images.pull("host"))
        box.start()
        table = box.exec(ExecSpec(argv=("cat", "/proc/self/mountinfo"))).stdout
    rows = (line.split() for line in table.splitlines())
    return {row[4]: set(row[5].split(",")) - {"relatime"} for row in rows if row[4].startswith("/bound")}


@pytest.mark.parametrize("read_only", [False, True])
def test_bind_restricts_what_is_mounted_below(apart: Apart, tmp_path: Path, *, read_only: bool) -> None:
    """No mount in a bind allows devices, none in a read-only one is written to, and none allows more."""
    source = tmp_path / "source"
    source.mkdir()
    found = apart(lambda: _options(source, tmp_path / "store", read_only=read_only))
    access = "ro" if read_only else "rw"
    assert found == {
        "/bound": {access, "nodev"},
        "/bound/inner": {access, "nodev"},
        "/bound/locked": {"ro", "nosuid", "nodev", "noexec"},
    }


@pytest.fixture
def older_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take mount_setattr(2) away, which came with Linux 5.12."""

    def absent(_tree: int, _flags: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(syscalls, "restrict_tree", absent)


def _attach(source: Path, target: Path, *, read_only: bool) -> None:
    tree = init._Tree(syscalls.open_tree(str(source), recursive=True), str(target), read_only)
    init._attach(tree, os.open(target, os.O_PATH | os.O_CLOEXEC))


def _flags(path: Path) -> int:
    return os.statvfs(path).f_flag & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)


@pytest.mark.usefixtures("older_kernel")
@pytest.mark.parametrize("read_only", [False, True])
def test_bind_restricts_what_is_mounted_below_when_the_kernel_is_older(
    apart: Apart, tmp_path: Path, *, read_only: bool
) -> None:
    """Each mount of a bind is remounted with its own restrictions kept, whatever signs are in its path."""
    source, place = tmp_path / "source", tmp_path / "place with\\signs\n"
    source.mkdir()
    place.mkdir()

    def act() -> dict[str, int]:
        _mounted_source(source)
        for name in ("inner/deeper still", "inner/deeper still/deepest"):
            (source / name).mkdir()
            syscalls.mount(name, str(source / name), "tmpfs")
        _attach(source, place, read_only=read_only)
        paths = (".", "inner", "locked", "inner/deeper still", "inner/deeper still/deepest")
        return {path: _flags(place / path) for path in paths}

    asked = os.ST_NODEV | (os.ST_RDONLY if read_only else 0)
    locked = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
    found = apart(act)
    assert found.pop("locked") == locked
    assert set(found.values()) == {asked}


@pytest.mark.usefixtures("older_kernel")
def test_bind_is_taken_with_covered_mounts_when_the_kernel_is_older(apart: Apart, tmp_path: Path) -> None:
    """A mount that another one covers cannot be reached, which is no error; the one on top is restricted."""
    source, place = tmp_path / "source", tmp_path / "place"
    source.mkdir()
    place.mkdir()

    def act() -> tuple[int, int]:
        _mounted_source(source)
        (source / "inner" / "gone").mkdir()
        syscalls.mount("gone", str(source / "inner" / "gone"), "tmpfs")
        syscalls.mount("cover", str(source / "inner"), "tmpfs")
        before = _flags(source / "inner")
        _attach(source, place, read_only=True)
        return before, _flags(place / "inner")

    assert apart(act) == (0, os.ST_RDONLY | os.ST_NODEV)


def test_umask_of_pytest_is_not_the_containers(apart: Apart, tmp_path: Path) -> None:
    """A container's folders are for everybody in it, also where pytest runs with umask 077."""

    def act() -> tuple[str, str]:
        os.umask(0o077)
        engine = NativeEngine(store=tmp_path / "store", run_folder=fresh_run_folder(), owner_pid=os.getpid())
        with contextlib.closing(engine):
            spec = ContainerSpec(
                name="box",
                command=_IDLE,
                user="1000",
                workdir="/begun/here",
                tmpfs={"/made/tmp": 0},
                files={"/written/deep/file": b"text"},
                storage="disk",
            )
            box = engine.create(spec, engine.images.pull("host"))
            box.start()
            line = "cat /written/deep/file /etc/hosts > /dev/null; ls / /etc /dev /made > /dev/null && umask"
            result = box.exec(
                ExecSpec(argv=("sh", "-c", f"{line}; stat -c %a / /etc /dev /made /written /begun"))
            )
            return result.stdout, result.stderr

    modes = f"{stat.S_IMODE(os.stat('/').st_mode):o}"
    assert apart(act) == (f"0022\n{modes}\n755\n755\n755\n755\n755\n", "")


def test_image_is_not_changed_by_its_containers(boxes: Boxes, sh: Shell, tmp_path: Path) -> None:
    """Targets of binds and tmpfs are made in the container's own layer."""
    layer = tmp_path / "layer"
    layer.mkdir()
    spec = ContainerSpec(
        name="box",
        command=_IDLE,
        tmpfs={"/one/two": 0},
        binds=(Bind(source=str(tmp_path), target="/three/four"),),
        workdir="/five",
    )
    box = boxes.start(spec, layers=("/", str(layer)), config=ImageConfig())
    sh(box, "ls /one/two /three/four /five")
    assert list(layer.iterdir()) == []
    assert not os.path.exists("/three")
