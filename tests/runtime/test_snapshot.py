"""Laws of copy-on-write files: shared layers stay as they are, and a container's own go in one piece."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import HostError
from pytest_containers.runtime import syscalls
from pytest_containers.runtime.snapshot import (
    DEVICES,
    Ground,
    Snapshot,
    discard,
    lay_ground,
    mount_overlay,
    prepare,
)

if TYPE_CHECKING:
    from tests.runtime.conftest import Apart, Outcome

pytestmark = pytest.mark.kernel

_FULL: Final = "dev", "etc", "proc", "sys"


class Plot:
    """A place for a ground, and for layers on disk."""

    def __init__(self, apart: Apart, folder: Path) -> None:
        self._apart = apart
        self.folder = folder
        (folder / "ground").mkdir()

    def on(self, action: Callable[[Ground], Outcome]) -> Outcome:
        """Run *action* in a child that has laid a ground."""
        return self._apart(lambda: action(lay_ground(str(self.folder / "ground"))))

    def layer(self, name: str, *files: str) -> str:
        """Make a layer whose files hold its name."""
        folder = self.folder / name
        folder.mkdir(mode=0o755)
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(name)
        return str(folder)


@pytest.fixture
def plot(apart: Apart, tmp_path: Path) -> Plot:
    """Return an empty plot."""
    return Plot(apart, tmp_path)


def _mounts() -> list[str]:
    """Return the mount points of this process (proc_pid_mountinfo(5))."""
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def test_ground_has_the_devices_that_work(plot: Plot) -> None:
    """The nodes have the kernel's numbers, anybody may use them, and they can be opened."""

    def look(ground: Ground) -> dict[str, tuple[bool, int, int, int]]:
        found = {}
        for name in os.listdir(ground.devices):
            seen = os.stat(f"{ground.devices}/{name}")
            numbers = (stat.S_IMODE(seen.st_mode), os.major(seen.st_rdev), os.minor(seen.st_rdev))
            found[name] = (stat.S_ISCHR(seen.st_mode), *numbers)
        Path(ground.devices, "null").write_bytes(b"x")
        with Path(ground.devices, "zero").open("rb") as zero:
            assert zero.read(3) == bytes(3)
        return found

    assert plot.on(look) == {name: (True, 0o666, *numbers) for name, numbers in DEVICES.items()}
    assert set(DEVICES) == {"null", "zero", "full", "random", "urandom", "tty"}


def test_ground_masks_what_is_there_alone(plot: Plot) -> None:
    """Masked paths exist on this machine, and Docker's are among them where they do."""

    def look(ground: Ground) -> tuple[str, ...]:
        return ground.masked

    masked = plot.on(look)
    assert all(os.path.exists(path) for path in masked)
    docker = "acpi asound interrupts kcore keys latency_stats sched_debug scsi timer_list timer_stats"
    wanted = [*(f"/proc/{name}" for name in docker.split()), "/sys/firmware", "/sys/devices/virtual/powercap"]
    assert set(masked) >= {path for path in wanted if os.path.exists(path)}
    assert masked


def test_snapshot_shows_the_layers_and_the_places_to_mount_on(plot: Plot) -> None:
    """The newest layer wins, and folders for mounts are there, whatever the image has or lacks."""
    layers = (plot.layer("old", "who", "old-file"), plot.layer("new", "who", "new-file"))

    def look(ground: Ground) -> tuple[list[str], str]:
        made = prepare(ground, "box", layers)
        return sorted(os.listdir(made.root)), Path(made.root, "who").read_text()

    assert plot.on(look) == (sorted((*_FULL, "who", "old-file", "new-file")), "new")


def test_snapshot_leaves_the_layers_alone(plot: Plot) -> None:
    """What one container writes, changes and removes is seen by no other and in no layer."""
    layer = plot.layer("image", "file", "gone", "dir/inner")

    def act(ground: Ground) -> tuple[str, list[str]]:
        first, second = prepare(ground, "first", (layer,)), prepare(ground, "second", (layer,))
        root = Path(first.root)
        (root / "file").write_text("changed")
        (root / "gone").unlink()
        (root / "dir/new").touch()
        other = Path(second.root)
        return (other / "file").read_text(), sorted(os.listdir(other / "dir")) + sorted(os.listdir(other))

    assert plot.on(act) == ("image", ["inner", *sorted((*_FULL, "file", "gone", "dir"))])
    assert sorted(path.name for path in Path(layer).rglob("*")) == ["dir", "file", "gone", "inner"]
    assert Path(layer, "file").read_text() == "image"


@pytest.mark.parametrize("kind", ["link", "file", "missing", "link below"])
def test_snapshot_mount_places_cannot_lead_elsewhere(plot: Plot, kind: str) -> None:
    """An image's /dev or /etc/hosts that is a link, a file or nothing is a plain place above it."""
    layer = Path(plot.layer("image"))
    if kind == "link":
        for name in _FULL:
            (layer / name).symlink_to("/tmp")
    elif kind == "file":
        for name in _FULL:
            (layer / name).touch()
    elif kind == "link below":
        (layer / "etc").mkdir()
        for name in ("hosts", "hostname", "resolv.conf"):
            (layer / "etc" / name).symlink_to("/etc/shadow")

    def look(ground: Ground) -> list[int]:
        root = Path(prepare(ground, "box", (str(layer),)).root)
        paths = [
            *(root / name for name in _FULL),
            root / "etc/hosts",
            root / "etc/hostname",
            root / "etc/resolv.conf",
        ]
        return [stat.S_IFMT(path.lstat().st_mode) for path in paths]

    assert plot.on(look) == [stat.S_IFDIR] * 4 + [stat.S_IFREG] * 3


def test_snapshot_root_is_like_the_images(plot: Plot) -> None:
    """Owner and mode of / are those of the newest layer's (a service may insist on them)."""
    old, new = plot.layer("old"), plot.layer("new")
    os.chown(new, 1000, 1001)
    os.chmod(new, 0o1751)

    def look(ground: Ground) -> tuple[int, int, int]:
        seen = os.stat(prepare(ground, "box", (old, new)).root)
        return stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid

    assert plot.on(look) == (0o1751, 1000, 1001)


def test_snapshot_of_no_layers_is_empty(plot: Plot) -> None:
    """Without an image there are the mount places and nothing else."""

    def look(ground: Ground) -> list[str]:
        return sorted(os.listdir(prepare(ground, "box", ()).root))

    assert plot.on(look) == list(_FULL)


def test_snapshot_of_the_host_is_its_root(plot: Plot) -> None:
    """The layer / is the machine's own root, below layers that lie on that same file system."""
    layer = plot.layer("above", "only-here", "etc/passwd")
    marker = plot.folder / "marker"
    marker.write_text("of the host")

    def look(ground: Ground) -> tuple[str, str, str]:
        root = Path(prepare(ground, "box", ("/", layer)).root)
        (root / str(marker).lstrip("/")).write_text("changed")
        inside = (root / str(marker).lstrip("/")).read_text()
        return (root / "only-here").read_text(), (root / "etc/passwd").read_text(), inside

    assert plot.on(look) == ("above", "above", "changed")
    assert marker.read_text() == "of the host"


def test_snapshot_refuses_devices(plot: Plot) -> None:
    """A node of the image, or one made in the container, opens nothing."""
    layer = Path(plot.layer("image"))
    os.mknod(layer / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))

    def look(ground: Ground) -> list[str]:
        root = Path(prepare(ground, "box", (str(layer),)).root)
        os.mknod(root / "made", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        found = []
        for name in ("null", "made"):
            try:
                (root / name).open("rb").close()
            except PermissionError:
                found.append(name)
        return found

    assert plot.on(look) == ["null", "made"]


def test_snapshot_is_bounded(plot: Plot) -> None:
    """A container that may write so much can write no more."""

    def fill(ground: Ground) -> int | None:
        root = Path(prepare(ground, "box", (), limit_bytes=1 << 20).root)
        (root / "some").write_bytes(bytes(1 << 19))
        try:
            (root / "more").write_bytes(bytes(1 << 20))
        except OSError as error:
            return error.errno
        return None

    assert plot.on(fill) == errno.ENOSPC


def test_snapshot_on_disk_lies_in_its_folder(plot: Plot) -> None:
    """With a folder on disk what is written is there, and gone with the snapshot."""
    layer, disk = plot.layer("image", "file"), plot.folder / "disk" / "box"

    def act(ground: Ground) -> tuple[bool, bool, int]:
        made = prepare(ground, "box", (layer,), disk=str(disk))
        Path(made.root, "big").write_bytes(bytes(5000))
        inside = Path(made.upper).is_relative_to(disk) and Path(made.work).is_relative_to(disk)
        private = stat.S_IMODE(disk.stat().st_mode)
        there = (disk / "upper" / "big").exists()
        discard(made)
        return inside, there, private

    assert plot.on(act) == (True, True, 0o700)
    assert not disk.exists()


def test_snapshot_discarded_leaves_nothing(plot: Plot) -> None:
    """After a discard mounts and folder are gone, also while a process still stands in it."""
    layer = plot.layer("image", "file")

    def act(ground: Ground) -> tuple[list[str], list[str]]:
        before, folders = _mounts(), os.listdir(plot.folder / "ground" / "c")
        made = prepare(ground, "box", (layer,))
        held = os.open(made.root, os.O_RDONLY)
        assert len(_mounts()) == len(before) + 2
        discard(made)
        os.close(held)
        again = prepare(ground, "box", (layer,))
        discard(again)
        return [one for one in _mounts() if one not in before], [
            one for one in os.listdir(plot.folder / "ground" / "c") if one not in folders
        ]

    assert plot.on(act) == ([], [])


@pytest.mark.parametrize("disk", [False, True])
def test_snapshot_refused_leaves_nothing(plot: Plot, *, disk: bool) -> None:
    """A layer that is not there is a HostError, and what was made until then is undone."""
    place = str(plot.folder / "disk") if disk else ""

    def act(ground: Ground) -> tuple[str, list[str], list[str]]:
        before = _mounts()
        with pytest.raises(HostError, match="no copy-on-write root over 1 layers") as caught:
            prepare(ground, "box", (str(plot.folder / "missing"),), disk=place)
        new = [one for one in _mounts() if one not in before]
        return caught.value.seen, new, os.listdir(plot.folder / "ground" / "c")

    seen, mounts, folders = plot.on(act)
    assert (mounts, folders) == ([], [])
    assert seen
    assert not (plot.folder / "disk").exists()


@pytest.fixture(params=[True, False], ids=["fsconfig", "mount"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mount as this kernel does, and as one before Linux 6.8, which does not take layers one by one."""
    if not request.param:
        monkeypatch.setattr(syscalls, "overlay_takes_layers", lambda _layer: False)


@pytest.mark.usefixtures("each_way")
def test_snapshot_has_layers_of_any_name(plot: Plot) -> None:
    """Signs that have a meaning in the options of mount(2) are taken as they are."""
    layers = tuple(plot.layer(name, "who", f"{n}") for n, name in enumerate(("a:b", "c,d=e", "f\\g", "h i")))

    def look(ground: Ground) -> tuple[str, list[str], int]:
        made = prepare(ground, "box", layers)
        flags = os.statvfs(made.root).f_flag & os.ST_NODEV
        return Path(made.root, "who").read_text(), sorted(os.listdir(made.root)), flags

    assert plot.on(look) == ("h i", sorted((*_FULL, "who", "0", "1", "2", "3")), os.ST_NODEV)


def test_snapshot_refuses_more_layers_than_a_page_holds(plot: Plot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where mount(2) has no room for the layers the error says how many there are, and what helps."""
    monkeypatch.setattr(syscalls, "overlay_takes_layers", lambda _layer: False)
    layers = tuple(plot.layer(f"layer-{number}") for number in range(300))

    def act(ground: Ground) -> Snapshot:
        return prepare(ground, "box", layers)

    with pytest.raises(HostError, match="301 layers are too many") as caught:
        plot.on(act)
    assert "4095" in caught.value.seen


def test_snapshot_asks_the_kernel_once_how_it_mounts(plot: Plot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not take layers one by one no start tries it again: each try is logged."""

    def act(ground: Ground) -> list[str]:
        tried = []

        def listening(options: tuple[tuple[str, str], ...], _target: str) -> None:
            tried.append(str(options))

        with monkeypatch.context() as patch:
            patch.setattr(syscalls, "fsopen_overlay", listening)
            prepare(replace(ground, one_by_one=False), "box", ())
        return tried

    assert plot.on(act) == []


def test_layers_are_taken_one_by_one_where_a_mount_takes_them_so(plot: Plot) -> None:
    """What is asked without a mount is what a mount says (overlayfs.rst, lowerdir+, Linux 6.8)."""

    def look(ground: Ground) -> tuple[bool, bool]:
        layers = (("lowerdir+", ground.nothing), ("lowerdir+", ground.init))
        try:
            syscalls.fsopen_overlay(layers, ground.nothing)
        except OSError:
            return False, ground.one_by_one
        return True, ground.one_by_one

    mounted, told = plot.on(look)
    assert mounted is told


@pytest.mark.usefixtures("each_way")
def test_snapshot_has_many_layers(plot: Plot) -> None:
    """As many layers as an image may have, 127 as in Docker, stand on each other."""
    layers = tuple(plot.layer(f"{'long' * 30}-{number}", "who", f"{number}") for number in range(127))

    def look(ground: Ground) -> tuple[str, int]:
        root = Path(prepare(ground, "box", layers).root)
        return (root / "who").read_text()[-4:], len(os.listdir(root))

    assert plot.on(look) == ("-126", 127 + 1 + len(_FULL))


def test_snapshot_upper_is_a_whole_difference(plot: Plot) -> None:
    """A renamed folder and a chmod are copied up whole: the upper folder alone is the new layer."""
    layer = plot.layer("image", "dir/inner", "file")

    def act(ground: Ground) -> tuple[object, ...]:
        made = prepare(ground, "box", (layer,))
        os.chmod(f"{made.root}/file", 0o600)
        with pytest.raises(OSError, match="cross-device"):
            os.rename(f"{made.root}/dir", f"{made.root}/other")
        upper = Path(made.upper)
        return (upper / "file").read_text(), [
            key for key in os.listxattr(upper / "file") if "metacopy" in key
        ]

    assert plot.on(act) == ("image", [])


def test_host_layer_is_taken_as_it_is_when_the_machine_stands_on_an_overlay(plot: Plot, apart: Apart) -> None:
    """On a machine whose root is an overlay no further one is laid below: they nest two deep only."""
    lower = plot.layer("machine", "of-the-machine", "proc/self/x", "tmp/x")

    def act() -> tuple[str, bool]:
        syscalls.mount("none", str(plot.folder / "ground"), "tmpfs")
        for name in ("up", "work", "root"):
            (plot.folder / "ground" / name).mkdir()
        base = plot.folder / "ground"
        places = (("upperdir", f"{base}/up"), ("workdir", f"{base}/work"))
        one_by_one = syscalls.overlay_takes_layers(lower)
        mount_overlay((lower,), places, f"{base}/root", one_by_one=one_by_one)
        os.chdir(base / "root")
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.MNT_DETACH)
        os.chdir("/")
        syscalls.mount("proc", "/proc", "proc")
        os.mkdir("/ground")
        ground = lay_ground("/ground")
        made = prepare(ground, "box", ("/",))
        return ground.host, os.path.exists(f"{made.root}/of-the-machine")

    assert apart(act, flags=syscalls.CLONE_NEWPID) == ("/", True)


@pytest.mark.parametrize("folder", ["/usr", "/etc"])
def test_host_without_its_programs_is_refused(apart: Apart, tmp_path: Path, folder: str) -> None:
    """Where the machine has its programs on a file system of their own the error names the folder."""

    def attempt() -> None:
        syscalls.mount(folder, folder, None, syscalls.MS_BIND)
        prepare(lay_ground(str(tmp_path)), "box", ("/",))

    with pytest.raises(HostError, match=f"^the image host lacks {folder}\n") as caught:
        apart(attempt)
    assert "import" in caught.value.mend


def test_host_is_not_missed_by_images_of_others(apart: Apart, tmp_path: Path) -> None:
    """An image with files of its own starts there, and so does host where other folders are mounts."""
    layer = tmp_path / "layer"
    layer.mkdir()
    (tmp_path / "ground").mkdir()

    def attempt() -> list[str]:
        syscalls.mount("/srv", "/srv", None, syscalls.MS_BIND)
        ground = lay_ground(str(tmp_path / "ground"))
        assert prepare(ground, "one", ("/",)).lowers == (ground.host,)
        syscalls.mount("/usr", "/usr", None, syscalls.MS_BIND)
        (tmp_path / "second").mkdir()
        return list(prepare(lay_ground(str(tmp_path / "second")), "two", (str(layer),)).lowers)

    assert apart(attempt) == [str(layer)]


def test_more_layers_than_overlayfs_takes_are_told() -> None:
    """Past overlayfs's own limit the error names it, and gives no advice that would not help."""
    with pytest.raises(HostError, match="501 layers are more than overlayfs takes") as caught:
        mount_overlay(("/nowhere",) * 501, (), "/nowhere", one_by_one=True)
    assert "500" in caught.value.seen
    assert "Linux" not in caught.value.mend
