"""What the tests of the images wing share: a store, hostile and honest tars, private mounts."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

import pytest

from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import OCI_LAYER_GZIP, Descriptor
from pytest_containers.images.store import Store

ROOT: Final = Path(__file__).resolve().parents[2]
BLOCK: Final = 512
MTIME: Final = 1_600_000_000


class TarBuilder:
    """A tar archive written block by block, so that it can hold what no honest tool writes."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []

    def add(
        self,
        name: str | bytes,
        kind: bytes = b"0",
        data: bytes = b"",
        *,
        link: str | bytes = b"",
        mode: int = 0o644,
        uid: int | None = None,
        gid: int | None = None,
        mtime: int = MTIME,
        device: tuple[int, int] = (0, 0),
        pax: Mapping[bytes, bytes] | None = None,
        size: int | None = None,
    ) -> Self:
        """Append one entry; what does not fit the header goes into a pax header before it."""
        raw, target = os.fsencode(name), os.fsencode(link)
        records = dict(pax or {})
        if len(raw) > 100:
            records[b"path"] = raw
        if len(target) > 100:
            records[b"linkpath"] = target
        if records:
            extension = b"".join(pax_record(key, value) for key, value in records.items())
            self.raw(header(b"pax", b"x", len(extension)), extension)
        self.raw(
            header(
                raw[:100],
                kind,
                len(data) if size is None else size,
                link=target[:100],
                mode=mode,
                uid=os.getuid() if uid is None else uid,
                gid=os.getgid() if gid is None else gid,
                mtime=mtime,
                device=device,
            ),
            data,
        )
        return self

    def file(self, name: str | bytes, data: bytes = b"", *, mode: int = 0o644) -> Self:
        """Append a regular file."""
        return self.add(name, b"0", data, mode=mode)

    def folder(self, name: str | bytes, *, mode: int = 0o755) -> Self:
        """Append a folder."""
        return self.add(name, b"5", mode=mode)

    def symlink(self, name: str | bytes, target: str | bytes) -> Self:
        """Append a symbolic link."""
        return self.add(name, b"2", link=target, mode=0o777)

    def link(self, name: str | bytes, target: str | bytes) -> Self:
        """Append a hard link."""
        return self.add(name, b"1", link=target)

    def raw(self, head: bytes, data: bytes = b"") -> Self:
        """Append a header block as it is, with its data padded."""
        self._blocks += [head, data, bytes(-len(data) % BLOCK)]
        return self

    def bytes(self, *, end: bool = True) -> bytes:
        """Return the archive, with its end mark unless that is to be missing."""
        return b"".join(self._blocks) + (bytes(2 * BLOCK) if end else b"")


def header(
    name: bytes,
    kind: bytes,
    size: int,
    *,
    link: bytes = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = MTIME,
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """Return a ustar header block (pax(1), "ustar Interchange Format")."""
    fields = (
        name.ljust(100, b"\0"),
        b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime),
        b" " * 8,
        kind,
        link.ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(64),
        b"%07o\0%07o\0" % device,
        bytes(167),
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def pax_record(key: bytes, value: bytes) -> bytes:
    """Return ``length key=value`` with its own length in front."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def listing(root: Path) -> dict[str, tuple[str, int, int, bytes]]:
    """Return every path below *root*: its kind with mode, owner, mtime and content or target."""
    found: dict[str, tuple[str, int, int, bytes]] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            status = path.lstat()
            content = b""
            if stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.fsencode(os.readlink(path))
            elif stat.S_ISCHR(status.st_mode):
                content = b"%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))
            key = str(path.relative_to(root))
            found[key] = (stat.filemode(status.st_mode), status.st_uid, int(status.st_mtime), content)
    return found


@pytest.fixture(scope="session")
def tar() -> Callable[[], TarBuilder]:
    """Return the maker of empty archives."""
    return TarBuilder


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, tuple[str, int, int, bytes]]]:
    """Return what lists a folder: kind and mode, owner, time, content of every path."""
    return listing


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """Return an empty folder for one layer."""
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty image store."""
    return Store.open(tmp_path / "store")


@pytest.fixture
def put_layer() -> Callable[[Store, bytes], tuple[Descriptor, str]]:
    """Return what keeps a plain tar as a gzip blob: its descriptor and its DiffID."""

    def put(store: Store, plain: bytes) -> tuple[Descriptor, str]:
        packer = zlib.compressobj(1, wbits=31)
        packed = packer.compress(plain) + packer.flush()
        digest = store.blobs.add(packed)
        descriptor = Descriptor(media_type=OCI_LAYER_GZIP, digest=digest, size=len(packed))
        return descriptor, "sha256:" + hashlib.sha256(plain).hexdigest()

    return put


@pytest.fixture
def mounts_of_its_own() -> Callable[..., str]:
    """Return what runs a shell script in a mount namespace of its own and returns its output."""

    def run(script: str, *arguments: str | Path) -> str:
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh"]
        ended = subprocess.run(
            [*command, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if ended.returncode:
            pytest.fail(f"exit {ended.returncode}\n{ended.stdout}{ended.stderr}", pytrace=False)
        return ended.stdout

    return run


@pytest.fixture
def python() -> Callable[..., subprocess.Popen[str]]:
    """Return what starts a Python script that can import the package."""

    def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def digest_of() -> Callable[[bytes], Digest]:
    """Return what names bytes."""
    return Digest.of
