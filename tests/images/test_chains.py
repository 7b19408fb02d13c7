"""Unpacked layers: keyed by the whole chain, unpacked once, visible whole or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import DigestMismatch, ImageError, LayerCorrupt, LayerEscape
from pytest_containers.images.chains import HOST_ROOT, Chains, chain_id, chain_ids, host_chain
from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.store import Store

if TYPE_CHECKING:
    from tests.images.conftest import TarBuilder

MakeTar = Callable[[], "TarBuilder"]
PutLayer = Callable[[Store, bytes], tuple[Descriptor, str]]
PATIENCE_S = 20.0


@pytest.fixture
def chains(store: Store) -> Chains:
    """Return the unpacked layers of the store."""
    return Chains(store.root, store.blobs)


def _folders(store: Store) -> list[str]:
    return [str(path.relative_to(store.root)) for path in store.root.glob("chains/*/*")]


def test_chain_id_is_the_image_specs() -> None:
    """The key of one layer is its DiffID; each further one hashes the chain below with its own."""
    first, second = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    both = "sha256:" + hashlib.sha256(f"{first} {second}".encode()).hexdigest()
    assert chain_id(None, first) == first
    assert chain_ids(None, (first, second)) == (first, both)
    assert chain_ids(host_chain("sha256:k"), (first,)) != (first,)


def test_layers_are_unpacked_and_stacked(
    store: Store, chains: Chains, tar: MakeTar, put_layer: PutLayer
) -> None:
    """Each layer has a folder of its own; the stack names them oldest first."""
    one = chains.unpack(None, *put_layer(store, tar().file("a", b"1").bytes()))
    two = chains.unpack(one, *put_layer(store, tar().file("b", b"2").file(".wh.a").bytes()))
    assert chains.stack(two) == (chains.path(one), chains.path(two))
    assert sorted(os.listdir(chains.path(two))) == ["a", "b"]
    assert (chains.path(one) / "a").read_bytes() == b"1"


def test_layer_on_the_host_begins_with_its_root(
    store: Store, chains: Chains, tar: MakeTar, put_layer: PutLayer
) -> None:
    """The same layer on nothing and on the machine's files are two chains."""
    layer = put_layer(store, tar().file("etc/of-a-test").bytes())
    bare = chains.unpack(None, *layer)
    on_host = chains.unpack(host_chain("sha256:key"), *layer)
    assert bare != on_host
    assert chains.stack(on_host) == (HOST_ROOT, chains.path(on_host))


def test_wrong_diff_id_is_refused(store: Store, chains: Chains, tar: MakeTar, put_layer: PutLayer) -> None:
    """A layer that unpacks to other bytes than its image says is not kept."""
    descriptor, _ = put_layer(store, tar().file("a").bytes())
    with pytest.raises(DigestMismatch, match="does not unpack"):
        chains.unpack(None, descriptor, "sha256:" + "0" * 64)
    assert _folders(store) == []
    assert store.blobs.has(descriptor.digest)


def test_bytes_behind_the_end_are_part_of_the_diff_id(
    store: Store, chains: Chains, tar: MakeTar, put_layer: PutLayer
) -> None:
    """The DiffID covers the stream and not only the archive in it."""
    plain = tar().file("a").bytes()
    descriptor, _ = put_layer(store, plain + b"hidden" * 1000)
    with pytest.raises(DigestMismatch):
        chains.unpack(None, descriptor, Digest.of(plain))


def test_hostile_layer_leaves_no_chain(
    store: Store, chains: Chains, tar: MakeTar, put_layer: PutLayer
) -> None:
    """A refused layer is not half there."""
    with pytest.raises(LayerEscape):
        chains.unpack(None, *put_layer(store, tar().file("a").file("../b").bytes()))
    assert _folders(store) == []


def test_blob_the_disk_lost_is_told_from_a_bad_layer(
    store: Store, chains: Chains, tar: MakeTar, put_layer: PutLayer
) -> None:
    """A blob that is not its digest any more is removed, so that a pull mends it; a bad one stays."""
    descriptor, diff_id = put_layer(store, tar().file("a").bytes())
    store.blobs.path(descriptor.digest).write_bytes(b"\x1f\x8b rotten")
    with pytest.raises(DigestMismatch, match="changed on disk"):
        chains.unpack(None, descriptor, diff_id)
    assert not store.blobs.has(descriptor.digest)
    bad, diff_id = put_layer(store, b"no tar" * 200)
    with pytest.raises(LayerCorrupt):
        chains.unpack(None, bad, diff_id)
    assert store.blobs.has(bad.digest)


def test_missing_parent_is_named(store: Store, chains: Chains, tar: MakeTar, put_layer: PutLayer) -> None:
    """A layer cannot be unpacked on a chain that is not there."""
    with pytest.raises(ImageError, match="not unpacked"):
        chains.unpack("sha256:" + "5" * 64, *put_layer(store, tar().file("a").bytes()))
    assert _folders(store) == []


def test_chain_is_only_for_its_owner(store: Store, chains: Chains, tar: MakeTar, put_layer: PutLayer) -> None:
    """Layers hold set-user-ID programs; nobody else may reach them through the store."""
    chain = chains.unpack(None, *put_layer(store, tar().folder("./").file("su", mode=0o4755).bytes()))
    assert store.root.stat().st_mode & 0o077 == 0
    assert chains.path(chain).stat().st_mode & 0o777 == 0o755


_UNPACK = """
import sys, pathlib
from pytest_containers.images.chains import Chains
from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.store import Store
root, digest, diff_id = sys.argv[1:]
store = Store.open(pathlib.Path(root))
chains = Chains(store.root, store.blobs)
chain = chains.unpack(None, Descriptor(media_type="", digest=Digest(digest), size=0), diff_id)
folder = chains.path(chain)
print(folder.stat().st_ino, len(list(folder.iterdir())))
"""


def test_chain_is_unpacked_once_by_eight_processes_and_a_killed_one(
    store: Store, tar: MakeTar, put_layer: PutLayer, python: Callable[..., subprocess.Popen[str]]
) -> None:
    """A process killed in the middle blocks nobody and is not seen; of the others one does the work."""
    layer = tar()
    for number in range(300):
        layer.file(f"f{number}", os.urandom(20_000))
    plain = layer.bytes()
    descriptor, diff_id = put_layer(store, plain)
    path = store.blobs.path(descriptor.digest)
    packed = path.read_bytes()
    # A pipe in the blob's place: the first process stands in the middle of the layer until it is killed.
    path.unlink()
    os.mkfifo(path)
    arguments = (store.root, descriptor.digest, diff_id)
    first = python(_UNPACK, *arguments)
    with path.open("wb", buffering=0) as pipe:
        pipe.write(packed[: len(packed) // 2])
        work = store.root / "chains" / diff_id[7:9] / f".{diff_id[7:]}.unpacking/diff"
        deadline = time.monotonic() + PATIENCE_S
        while not (work.is_dir() and len(os.listdir(work)) > 10) and time.monotonic() < deadline:
            os.sched_yield()
        assert len(os.listdir(work)) > 10
        path.with_name("whole").write_bytes(packed)
        path.with_name("whole").rename(path)
        others = [python(_UNPACK, *arguments) for _ in range(8)]
        first.kill()
        first.communicate()
    said = [other.communicate(timeout=60) for other in others]
    assert len({out for out, _ in said}) == 1, said
    assert said[0][0].endswith(" 300\n")
    assert len(_folders(store)) == 1


@pytest.mark.kernel
def test_full_disk_leaves_no_chain(
    mounts_of_its_own: Callable[..., str], tar: MakeTar, put_layer: PutLayer, tmp_path: Path
) -> None:
    """A disk that fills while unpacking is StoreFull with the store's path, and nothing is half there."""
    layer = tar()
    for number in range(50):
        layer.file(f"f{number}", bytes(100_000))
    source = Store.open(tmp_path / "source")
    descriptor, diff_id = put_layer(source, layer.bytes())
    script = (
        "import os, pathlib, sys\n"
        "from pytest_containers.errors import StoreFull\n"
        "from pytest_containers.images.digest import Digest\n"
        "from pytest_containers.images.manifest import Descriptor\n"
        "from pytest_containers.images.store import Store\n"
        "store = Store.open(pathlib.Path(sys.argv[1]))\n"
        "digest = store.blobs.add(pathlib.Path(sys.argv[2]).read_bytes())\n"
        "try: store.unpack_layer(None, Descriptor(media_type='', digest=digest, size=0), sys.argv[3])\n"
        "except StoreFull as error: print(sys.argv[1] in error.what, bool(error.mend))\n"
        "print([str(path) for path in store.root.glob('chains/*/*')])\n"
    )
    mount = 'mkdir "$1"; mount -t tmpfs -o size=2m tmpfs "$1"; "$PYTHON" -c "$2" "$1" "$3" "$4"'
    path = source.blobs.path(descriptor.digest)
    assert mounts_of_its_own(mount, tmp_path / "small", script, path, diff_id) == "True True\n[]\n"


def test_new_chain_is_the_one_of_its_digest(
    store: Store, chains: Chains, tar: MakeTar, put_layer: PutLayer
) -> None:
    """A layer unpacked before its DiffID is known lies where the same layer of a known one would."""
    data = tar().file("a", b"1").bytes()
    diff_id = Digest.of(data)
    with chains.create(None) as made:
        made.unpack(iter([data]))
        chain = made.commit(diff_id)
    assert (chains.path(chain) / "a").read_bytes() == b"1"
    inode = chains.path(chain).stat().st_ino
    assert chains.unpack(None, *put_layer(store, data)) == chain
    assert chains.path(chain).stat().st_ino == inode
    assert chains.size(chain) == 1


def test_new_chain_gives_way_to_the_one_that_is_there(chains: Chains, tar: MakeTar) -> None:
    """Of two that make the same layer at once the first one's stays, as containers may run on it."""
    data = tar().file("a", b"1").bytes()
    with chains.create(None) as one, chains.create(None) as other:
        one.unpack(iter([data]))
        other.unpack(iter([data]))
        chain = one.commit(Digest.of(data))
        inode = chains.path(chain).stat().st_ino
        assert other.commit(Digest.of(data)) == chain
    assert chains.path(chain).stat().st_ino == inode


def test_new_chain_that_is_not_committed_leaves_nothing(store: Store, chains: Chains, tar: MakeTar) -> None:
    """Neither the layer nor its lock stays behind."""
    with chains.create(None) as made:
        made.unpack(iter([tar().file("a").bytes()]))
    assert list((store.root / "ingest").iterdir()) == []
    assert [path for path in (store.root / "locks").iterdir() if path.name.startswith("layer-")] == []
    assert list(chains.all()) == []


def test_new_chain_of_a_killed_process_goes_with_the_next(store: Store, chains: Chains) -> None:
    """What a dead process left is removed by whoever makes the next layer; a living one's is not."""
    script = (
        "import os, pathlib, signal, sys\n"
        "from pytest_containers.images.store import Store\n"
        "with Store.open(pathlib.Path(sys.argv[1])).chains.create(None):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(store.root)], check=False)
    assert ended.returncode == -9
    assert len(list((store.root / "ingest").iterdir())) == 1
    with chains.create(None), chains.create(None):
        assert len(list((store.root / "ingest").iterdir())) == 2


def test_layer_with_a_diff_id_of_sha512_is_unpacked(store: Store, chains: Chains, tar: MakeTar) -> None:
    """Its bytes are compared by sha512, and its chain is found by every prune."""
    plain = tar().file("a", b"1").bytes()
    layer = Descriptor(media_type="", digest=store.blobs.add(plain), size=len(plain))
    chain = chains.unpack(None, layer, "sha512:" + hashlib.sha512(plain).hexdigest())
    assert (chains.path(chain) / "a").read_bytes() == b"1"
    assert list(chains.all()) == [chain]
    with pytest.raises(DigestMismatch, match="does not unpack"):
        chains.unpack(None, layer, "sha512:" + hashlib.sha512(b"other").hexdigest())


def test_layers_on_their_way_are_nobody_elses_to_reach(
    tmp_path: Path, tar: MakeTar, put_layer: PutLayer
) -> None:
    """A store whose folders were restored with other modes has set-user-ID files in private folders."""
    for name in ("ingest", "chains", "trash"):
        (tmp_path / "restored" / name).mkdir(parents=True, mode=0o755)
        (tmp_path / "restored" / name).chmod(0o755)
    store = Store.open(tmp_path / "restored")
    with store.chains.create(None):
        for name in ("ingest", "chains", "trash"):
            assert (store.root / name).stat().st_mode & 0o777 == 0o700


def _rebooted(chains: Chains, chain: str) -> None:
    """Have the chain be of another boot of the machine."""
    (chains.path(chain).parent / "boot").write_text("00000000-0000-0000-0000-000000000000")


def test_layer_that_a_power_cut_emptied_is_unpacked_again(
    store: Store, chains: Chains, tar: MakeTar, put_layer: PutLayer
) -> None:
    """After another boot the bytes of a layer are counted, and one that lacks some is made anew."""
    layer = put_layer(store, tar().file("a", b"1" * 5000).file("b", b"2").bytes())
    chain = chains.unpack(None, *layer)
    os.truncate(chains.path(chain) / "a", 0)
    assert chains.has(chain)  # in this boot nobody looks
    _rebooted(chains, chain)
    assert not chains.has(chain)
    assert chains.unpack(None, *layer) == chain
    assert (chains.path(chain) / "a").stat().st_size == 5000


def test_layer_that_outlived_a_boot_is_not_unpacked_again(
    store: Store, chains: Chains, tar: MakeTar, put_layer: PutLayer
) -> None:
    """A whole layer is looked at once for each boot."""
    layer = put_layer(store, tar().file("a", b"1" * 5000).link("l", "a").symlink("s", "a").bytes())
    chain = chains.unpack(None, *layer)
    before = (chains.path(chain) / "a").stat()
    _rebooted(chains, chain)
    assert chains.unpack(None, *layer) == chain
    assert (chains.path(chain) / "a").stat().st_ino == before.st_ino
    os.truncate(chains.path(chain) / "a", 0)
    assert chains.has(chain)


def test_committed_layer_that_a_power_cut_emptied_is_missing(chains: Chains, tar: MakeTar) -> None:
    """A layer whose digest showed at its end is judged alike."""
    data = tar().file("a", b"1" * 5000).bytes()
    with chains.create(None) as new:
        new.unpack(iter([data]))
        chain = new.commit("sha256:" + hashlib.sha256(data).hexdigest())
    _rebooted(chains, chain)
    assert chains.has(chain)
    os.truncate(chains.path(chain) / "a", 0)
    _rebooted(chains, chain)
    assert not chains.has(chain)
