"""Blobs: whole or absent, verified, fetched once between processes, resumable."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_containers.errors import DigestMismatch, ImageError, StoreFull
from pytest_containers.images.blobs import Blobs, room
from pytest_containers.images.digest import Digest

DATA = b"the bytes of a layer\n" * 1000
DIGEST = Digest.of(DATA)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    """Return an empty blob folder."""
    return Blobs(tmp_path)


def _files(blobs: Blobs, folder: str) -> list[str]:
    return sorted(os.listdir(blobs.root / folder)) if (blobs.root / folder).is_dir() else []


def _receive(blobs: Blobs, sent: bytes, size: int | None) -> None:
    with blobs.receive(DIGEST, size) as writer:
        writer.write(sent)
        writer.commit()


def test_blob_lies_where_the_image_layout_says(blobs: Blobs) -> None:
    """The path is blobs/<algorithm>/<hex>, readable by other tools."""
    digest = blobs.add(DATA)
    assert digest == DIGEST
    assert blobs.path(digest) == blobs.root / "blobs/sha256" / DIGEST.hex
    assert blobs.path(digest).read_bytes() == blobs.read(digest) == DATA
    assert blobs.path(digest).stat().st_mode & 0o777 == 0o644
    assert blobs.size(digest) == len(DATA)


def test_absent_blob_is_named(blobs: Blobs) -> None:
    """Opening what is not there says which blob is missing."""
    with pytest.raises(ImageError, match=DIGEST.hex):
        blobs.open(DIGEST)
    assert not blobs.has(DIGEST)


def test_received_blob_is_verified_and_visible_at_commit(blobs: Blobs) -> None:
    """Nothing is at the blob's path until all of it is there and right."""
    with blobs.receive(DIGEST, len(DATA)) as writer:
        writer.write(DATA[:100])
        writer.write(DATA[100:])
        assert not blobs.has(DIGEST)
        writer.commit()
        assert writer.done
    assert blobs.read(DIGEST) == DATA
    assert _files(blobs, "ingest") == []


def test_sha512_blob_is_received(blobs: Blobs) -> None:
    """The digest's own algorithm verifies it."""
    hasher = Digest("sha512:" + "0" * 128).hasher()
    hasher.update(DATA)
    digest = Digest("sha512:" + hasher.hexdigest())
    with blobs.receive(digest, None) as writer:
        writer.write(DATA)
        writer.commit()
    assert blobs.path(digest).parent.name == "sha512"


def test_blob_that_is_here_is_done(blobs: Blobs) -> None:
    """There is nothing to write where another process was faster."""
    blobs.add(DATA)
    with blobs.receive(DIGEST, len(DATA)) as writer:
        assert writer.done


@pytest.mark.parametrize(
    ("sent", "size"),
    [(DATA[:-1], len(DATA)), (DATA + b"x", len(DATA)), (DATA[:-1] + b"!", len(DATA)), (DATA + b"x", None)],
    ids=["short", "long", "changed", "long and of unknown size"],
)
def test_wrong_bytes_are_refused_and_dropped(blobs: Blobs, sent: bytes, size: int | None) -> None:
    """Digest and size must both be as announced; nothing of wrong bytes is kept for a resume."""
    with pytest.raises(DigestMismatch, match=DIGEST.hex):
        _receive(blobs, sent, size)
    assert not blobs.has(DIGEST)
    assert _files(blobs, "ingest") == []


def test_broken_transfer_is_resumed(blobs: Blobs) -> None:
    """What came before the break counts, and the whole is verified."""
    with blobs.receive(DIGEST, len(DATA)) as writer:
        writer.write(DATA[:700])
    with blobs.receive(DIGEST, len(DATA)) as writer:
        assert writer.offset == 700
        writer.write(DATA[700:])
        writer.commit()
    assert blobs.read(DIGEST) == DATA


def test_complete_transfer_without_commit_is_done_next_time(blobs: Blobs) -> None:
    """A process that died before its rename leaves no work: a range past the end cannot be asked for."""
    with blobs.receive(DIGEST, len(DATA)) as writer:
        writer.write(DATA)
    with blobs.receive(DIGEST, len(DATA)) as writer:
        assert writer.done
    assert blobs.has(DIGEST)


@pytest.mark.parametrize("left", [b"x" * len(DATA), b"x" * (len(DATA) + 5)])
def test_wrong_part_begins_anew(blobs: Blobs, left: bytes) -> None:
    """A part that cannot become the blob is dropped at once."""
    with blobs.receive(DIGEST, None) as writer:
        writer.write(left)
    with blobs.receive(DIGEST, len(DATA)) as writer:
        assert (writer.offset, writer.done) == (0, False)


def test_restart_drops_the_part(blobs: Blobs) -> None:
    """A server that ignores the range sends everything again."""
    with blobs.receive(DIGEST, len(DATA)) as writer:
        writer.write(b"something else")
        writer.restart()
        assert writer.offset == 0
        writer.write(DATA)
        writer.commit()
    assert blobs.read(DIGEST) == DATA


def test_finished_writer_takes_nothing(blobs: Blobs) -> None:
    """Writing behind the commit is a mistake and said so."""
    with blobs.receive(DIGEST, len(DATA)) as writer:
        writer.write(DATA)
        writer.commit()
        with pytest.raises(ImageError, match="complete"):
            writer.write(b"x")


def test_new_blob_is_named_by_its_content(blobs: Blobs) -> None:
    """Digest and size show at the end; a second one of the same content is not fresh."""
    for fresh in (True, False):
        with blobs.create() as blob:
            blob.write(DATA)
            assert blob.commit() == (DIGEST, len(DATA))
            assert blob.fresh is fresh
    assert _files(blobs, "ingest") == []


def test_new_blob_without_commit_leaves_nothing(blobs: Blobs) -> None:
    """What nobody finished is dropped."""
    with blobs.create() as blob:
        blob.write(DATA)
    assert _files(blobs, "ingest") == _files(blobs, "blobs") == []


def test_new_blob_of_a_killed_process_is_swept(
    blobs: Blobs, python: Callable[..., subprocess.Popen[str]]
) -> None:
    """What a dead process was writing goes with the next new blob, what a living one writes stays."""
    script = (
        "import sys, pathlib; from pytest_containers.images.blobs import Blobs\n"
        "with Blobs(pathlib.Path(sys.argv[1])).create() as blob:\n"
        "    blob.write(b'half'); print('ready', flush=True); sys.stdin.read()\n"
    )
    with python(script, blobs.root) as writing:
        assert writing.stdout is not None
        assert writing.stdout.readline() == "ready\n"
        blobs.add(b"while it lives")
        alive = _files(blobs, "ingest")
        writing.kill()
        writing.communicate()
    blobs.add(b"after its death")
    assert (len(alive), _files(blobs, "ingest")) == (1, [])


def test_blob_is_received_once_between_processes(
    blobs: Blobs, python: Callable[..., subprocess.Popen[str]]
) -> None:
    """Of eight processes one writes; the others wait and find it done, also when the first one was killed."""
    script = (
        "import sys, pathlib; from pytest_containers.images.blobs import Blobs\n"
        "from pytest_containers.images.digest import Digest\n"
        "data = b'the bytes of a layer\\n' * 1000\n"
        "with Blobs(pathlib.Path(sys.argv[1])).receive(Digest.of(data), len(data)) as writer:\n"
        "    if writer.done: print('done')\n"
        "    else:\n"
        "        print('from', writer.offset, flush=True)\n"
        "        if sys.argv[2:]: writer.write(data[:500]); print('half', flush=True); sys.stdin.read()\n"
        "        writer.write(data[writer.offset:]); writer.commit()\n"
    )
    first = python(script, blobs.root, "stay")
    assert first.stdout is not None
    assert [first.stdout.readline(), first.stdout.readline()] == ["from 0\n", "half\n"]
    others = [python(script, blobs.root) for _ in range(8)]
    first.kill()
    first.communicate()
    said = sorted(other.communicate(timeout=60)[0] for other in others)
    assert said == ["done\n"] * 7 + ["from 500\n"]
    assert blobs.read(DIGEST) == DATA


def test_changed_blob_is_found_and_removed(blobs: Blobs) -> None:
    """A blob the disk did not keep is no blob: reading it says so, and a pull can bring it back."""
    for look in (blobs.read, blobs.verify):
        blobs.add(DATA)
        blobs.path(DIGEST).write_bytes(b"rotten")
        with pytest.raises(DigestMismatch, match="changed on disk"):
            look(DIGEST)
        assert not blobs.has(DIGEST)


def test_verify_takes_a_good_blob(blobs: Blobs) -> None:
    """A blob that is what its name says stays."""
    blobs.verify(blobs.add(DATA))
    assert blobs.has(DIGEST)


def test_read_has_a_limit(blobs: Blobs) -> None:
    """What should be a small document is not read without bound."""
    blobs.add(DATA)
    with pytest.raises(ImageError, match="too large"):
        blobs.read(DIGEST, limit_bytes=100)


def test_other_errors_pass_through_room(tmp_path: Path) -> None:
    """Only a full disk or quota is StoreFull."""
    with pytest.raises(IsADirectoryError), room(tmp_path):
        tmp_path.read_bytes()


@pytest.mark.kernel
def test_full_disk_is_store_full(mounts_of_its_own: Callable[..., str], tmp_path: Path) -> None:
    """On a full disk each way in says where and what to do, and gives back the room it took."""
    script = (
        "import os, pathlib, sys\n"
        "from pytest_containers.errors import StoreFull\n"
        "from pytest_containers.images.blobs import Blobs\n"
        "from pytest_containers.images.digest import Digest\n"
        "root = pathlib.Path(sys.argv[1]); blobs = Blobs(root)\n"
        "data = os.urandom(1 << 16) * 64\n"
        "for way in (lambda: blobs.receive(Digest.of(data), len(data)), blobs.create):\n"
        "    try:\n"
        "        with way() as writer: writer.write(data)\n"
        "    except StoreFull as error:\n"
        "        print(str(root) in error.what, '--containers-store' in error.mend)\n"
        "        print(os.listdir(root / 'ingest'))\n"
        "print(blobs.has(Digest.of(data)), blobs.add(b'small') == Digest.of(b'small'))\n"
    )
    mount = 'mount -t tmpfs -o size=1m tmpfs "$1"; "$PYTHON" -c "$2" "$1"'
    assert mounts_of_its_own(mount, tmp_path, script) == "True True\n[]\n" * 2 + "False True\n"


def test_store_full_is_raised_for_a_quota_too(tmp_path: Path) -> None:
    """A quota is a full disk of one user."""
    with pytest.raises(StoreFull, match=str(tmp_path)), room(tmp_path):
        raise OSError(122, "Disk quota exceeded")
