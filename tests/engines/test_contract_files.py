"""The contract of engines/base.py: a container's files, and the images made of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import ImageNotFound, NotPortable, PathMissing, ReferenceInvalid
from pytest_containers.spec import ContainerSpec, ExecSpec, ImageConfig

if TYPE_CHECKING:
    from pytest_containers.engines.base import Handle
    from tests.engines.conftest import Bench

SLEEP = ("sleep", "60")


class BrokenPipe(io.BytesIO):
    """A stream whose reader has gone."""

    def write(self, data: object, /) -> int:
        raise BrokenPipeError("gone")


def _read(handle: Handle, path: str) -> dict[str, bytes]:
    stream = io.BytesIO()
    handle.tree.read(path, stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        return {entry.name: _content(tar, entry) for entry in tar}


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(entry) if entry.isreg() else None
    return b"" if file is None else file.read()


def _sh(handle: Handle, script: str) -> None:
    result = handle.exec(ExecSpec(argv=("sh", "-c", script)))
    assert result.exit_code == 0, result


def test_files_are_there_before_the_first_process(bench: Bench) -> None:
    """The files of the spec are written before anything runs, folders included."""
    spec = ContainerSpec(name="one", command=("cat", "/srv/a/b.conf"), files={"/srv/a/b.conf": b"x = 1\n"})
    handle = bench.start(spec)
    handle.wait()
    assert handle.logs()[0][0].content == b"x = 1\n"


def test_tree_is_usable_before_start_while_running_and_after_exit(bench: Bench) -> None:
    """Files are written and read at every moment of a container's life."""
    handle = bench.create(ContainerSpec(name="one", command=("sh", "-c", "cat /srv/before; sleep 60")))
    bench.put(handle, "/srv/before", b"before\n")
    handle.start()
    bench.until(handle, lambda: bool(handle.logs()[0]))
    assert handle.logs()[0][0].content == b"before\n"
    bench.put(handle, "/srv/while", b"while\n")
    assert handle.exec(ExecSpec(argv=("cat", "/srv/while"))).stdout == "while\n"
    handle.signal(9)
    handle.wait()
    bench.put(handle, "/srv/after", b"after\n")
    for moment in ("before", "while", "after"):
        assert _read(handle, f"/srv/{moment}") == {moment: f"{moment}\n".encode()}


def test_tree_sees_what_processes_write(bench: Bench) -> None:
    """What a process writes is read from outside."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    _sh(handle, "echo inside > /srv/file")
    assert _read(handle, "/srv/file") == {"file": b"inside\n"}


def test_tree_reads_a_folder_whole(bench: Bench) -> None:
    """A folder's entries begin with its own name, the folder itself first."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    _sh(handle, "mkdir -p /srv/top/low; echo a > /srv/top/a; echo b > /srv/top/low/b")
    found = _read(handle, "/srv/top")
    assert next(iter(found)) == "top"
    assert found == {"top": b"", "top/a": b"a\n", "top/low": b"", "top/low/b": b"b\n"}


def test_tree_keeps_owner_mode_and_time(bench: Bench) -> None:
    """Owners, modes and times of a tar's entries are those of the files, both ways."""
    handle = bench.create(ContainerSpec(name="one", command=SLEEP))
    entry = tarfile.TarInfo("deep/file")
    entry.size, entry.mode, entry.uid, entry.gid, entry.mtime = 2, 0o640, 1234, 4321, 1_500_000_000
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        writer.addfile(entry, io.BytesIO(b"ok"))
    tar.seek(0)
    handle.tree.write("/srv", tar)
    out = io.BytesIO()
    handle.tree.read("/srv/deep/file", out)
    out.seek(0)
    with tarfile.open(fileobj=out) as reader:
        back = reader.getmember("file")
    seen = (back.mode & 0o7777, back.uid, back.gid, int(back.mtime), back.size)
    assert seen == (0o640, 1234, 4321, 1_500_000_000, 2)


def test_tree_follows_a_link_at_the_end(bench: Bench) -> None:
    """A symbolic link at the end of a path leads to what it names, under the link's name."""
    handle = bench.create(ContainerSpec(name="one", command=SLEEP))
    bench.put(handle, "/srv/real", b"real\n")
    bench.link(handle, "/srv/link", "real")
    assert _read(handle, "/srv/link") == {"link": b"real\n"}


def test_tree_resolves_links_inside_the_container(bench: Bench) -> None:
    """A link that climbs out of the root ends inside it, for reading and for writing."""
    handle = bench.create(ContainerSpec(name="one", command=SLEEP))
    bench.put(handle, "/srv/here", b"inside\n")
    bench.link(handle, "/srv/out", "../../../../../../srv")
    assert _read(handle, "/srv/out/here") == {"here": b"inside\n"}
    bench.put(handle, "/srv/out/there", b"too\n")
    assert _read(handle, "/srv/there") == {"there": b"too\n"}


def test_stat_tells_what_is_there_and_reads_nothing(bench: Bench) -> None:
    """A file, a folder and a link are told apart in every state, and what is not there is PathMissing."""
    handle = bench.create(ContainerSpec(name="one", command=SLEEP))
    bench.put(handle, "/srv/real", b"real\n", mode=0o640)
    bench.link(handle, "/srv/link", "real")
    for begin in (handle.state, handle.start):
        begin()
        assert (handle.tree.stat("/srv").kind, handle.tree.stat("/").kind) == ("folder", "folder")
        for path in ("/srv/real", "/srv/link"):
            found = handle.tree.stat(path)
            assert (found.kind, found.size_bytes, found.mode) == ("file", 5, 0o640)
        with pytest.raises(PathMissing, match="/srv/none"):
            handle.tree.stat("/srv/none")


def test_path_that_is_missing_is_told(bench: Bench) -> None:
    """Reading what does not exist raises with its path."""
    handle = bench.create(ContainerSpec(name="one", command=SLEEP))
    with pytest.raises(PathMissing, match="/srv/nothing"):
        _read(handle, "/srv/nothing")


def test_folder_that_is_a_file_is_told(bench: Bench) -> None:
    """Writing below a file raises with its path."""
    handle = bench.create(ContainerSpec(name="one", command=SLEEP))
    bench.put(handle, "/srv/file", b"")
    with pytest.raises(PathMissing, match="/srv/file"):
        bench.put(handle, "/srv/file/below", b"")


def test_reader_that_goes_away_harms_nothing(bench: Bench) -> None:
    """An error of the stream is the caller's; the container goes on."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    bench.put(handle, "/srv/file", b"x" * 300_000)
    with pytest.raises(BrokenPipeError):
        handle.tree.read("/srv/file", BrokenPipe())
    assert _read(handle, "/srv/file") == {"file": b"x" * 300_000}
    assert handle.state().status == "running"


def test_changes_are_told_by_kind(bench: Bench) -> None:
    """What was added, changed and deleted is told, sorted by path."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    _sh(handle, "echo new > /srv/new; echo more >> /etc/passwd; rm -rf /etc/group")
    changes = handle.tree.changes()
    kinds = {str(change.path): change.kind for change in changes}
    assert (kinds["/srv/new"], kinds["/etc/passwd"], kinds["/etc/group"]) == ("A", "C", "D")
    assert [change.path for change in changes] == sorted(change.path for change in changes)


def test_untouched_container_has_no_changes(bench: Bench) -> None:
    """What an engine needs for itself is no change of the test's."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    assert handle.tree.changes() == ()


def test_container_s_changes_are_its_own(bench: Bench) -> None:
    """A second container of the same image sees nothing of the first's changes."""
    first = bench.start(ContainerSpec(name="one", command=SLEEP))
    _sh(first, "rm -rf /etc; echo mine > /srv/mine")
    second = bench.start(ContainerSpec(name="two", command=SLEEP))
    assert second.exec(ExecSpec(argv=("ls", "/srv/mine"))).exit_code != 0
    assert "passwd" in second.exec(ExecSpec(argv=("ls", "/etc"))).stdout


def test_commit_makes_an_image_of_the_changes(bench: Bench) -> None:
    """A committed image has what was added and lacks what was deleted, with the config as given."""
    handle = bench.start(ContainerSpec(name="one", command=SLEEP))
    _sh(handle, "echo kept > /srv/kept; rm -rf /etc/group")
    config = ImageConfig(
        env=("PATH=/usr/bin:/bin", "COLOUR=red"), command=("cat", "/srv/kept"), workdir="/srv"
    )
    record = handle.tree.commit("contract-commit:1", config)
    assert (record.config.command, record.config.workdir) == (("cat", "/srv/kept"), "/srv")
    assert handle.state().status == "running"
    image = bench.engine.images.pull("contract-commit:1", policy="never")
    assert image.id == record.id
    child = bench.start(ContainerSpec(name="two"), image)
    child.wait()
    assert child.logs()[0][0].content == b"kept\n"
    with pytest.raises(PathMissing):
        _read(child, "/etc/group")
    assert child.tree.changes() == ()
    bench.engine.images.remove("contract-commit:1")


def test_image_on_the_machine_s_files_is_not_pushed(bench: Bench) -> None:
    """What stands on ``host`` is of this machine alone, and its commits too."""
    host = bench.engine.images.pull("host")
    assert (host.reference, host.portable) == ("host", False)
    handle = bench.create(ContainerSpec(name="one", command=SLEEP))
    record = handle.tree.commit("contract-host:1", ImageConfig(command=("true",)))
    assert not record.portable
    with pytest.raises(NotPortable, match="contract-host"):
        bench.engine.images.push("contract-host:1")
    bench.engine.images.remove("contract-host:1")


def test_image_has_names(bench: Bench) -> None:
    """An image gets a second name, is listed under both, and loses one at a time."""
    images = bench.engine.images
    bench.create(ContainerSpec(name="one", command=SLEEP)).tree.commit("contract-a:1", ImageConfig())
    images.tag("contract-a:1", "contract-b:2")
    images.remove("contract-a:1")
    assert [one.reference.rpartition("/")[2] for one in images.list()] == ["contract-b:2"]
    assert images.pull("contract-b:2", policy="never").reference.endswith("contract-b:2")
    images.remove("contract-b:2")
    with pytest.raises(ImageNotFound, match="contract-b"):
        images.remove("contract-b:2")


def test_image_that_nobody_has_is_told(bench: Bench) -> None:
    """Without a pull, an image that is not there is named."""
    with pytest.raises(ImageNotFound, match="contract-none"):
        bench.engine.images.pull("contract-none:1", policy="never")


def test_reference_that_is_none_is_told(bench: Bench) -> None:
    """What is no name of an image is refused before anything is asked."""
    with pytest.raises(ReferenceInvalid, match="UPPER"):
        bench.engine.images.pull("UPPER/Case:1", policy="never")


def test_root_tar_becomes_an_image(bench: Bench) -> None:
    """The tar of a root file system is an image of one layer."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        entry = tarfile.TarInfo("etc/motd")
        entry.size = 6
        writer.addfile(entry, io.BytesIO(b"hello\n"))
    tar.seek(0)
    record = bench.engine.images.import_tar(tar, "contract-load:1", ImageConfig(command=("/bin/true",)))
    assert record.portable
    handle = bench.create(ContainerSpec(name="one"), record)
    assert _read(handle, "/etc/motd") == {"motd": b"hello\n"}
    assert {str(change.path) for change in handle.tree.changes()} <= {str(PurePosixPath("/etc"))}
    bench.engine.images.remove("contract-load:1")
