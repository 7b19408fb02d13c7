"""What is fuzzed: functions of bytes that return whatever they are given, or have found a fault.

A target raises where the code under it raises anything but its own errors, where what was read
does not read back as itself, or where something is left that should not be.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pytest_containers.errors import ContainersError, ImageError, ReferenceInvalid, SpecInvalid
from pytest_containers.images import manifest as m
from pytest_containers.images.build.ignore import Ignore
from pytest_containers.images.config import read_config, read_history, write_config
from pytest_containers.images.digest import Digest
from pytest_containers.images.layer import apply
from pytest_containers.images.load import load
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.images.tarstream import TarStream

__all__ = ["TARGETS", "Fault"]

_BLOCK: Final = 512
_LIMIT_BYTES: Final = 1 << 20


class Fault(AssertionError):
    """What a target has found."""


def reference(data: bytes) -> None:
    """Read a name of an image; what is accepted reads back as itself."""
    text = data.decode("utf-8", "replace")
    try:
        found = Reference.parse(text)
    except ReferenceInvalid as error:
        _check(bool(error.what), "an error without words")
        return
    for again in (str(found), found.familiar):
        _check(Reference.parse(again) == found, f"{again!r} is another one than {text!r}")


def document(data: bytes) -> None:
    """Read a manifest and an index; what is accepted can be written and read again."""
    kind, _, body = data.partition(b"\n")
    with contextlib.suppress(ImageError):
        found = m.parse(body, kind.decode("latin-1"))
        _check(m.parse(found.encode()) == found, "it reads back as another")
    config(body)


def config(body: bytes) -> None:
    """Read an image config and its history; what is accepted can be written and read again."""
    with contextlib.suppress(ImageError):
        read_history(body)
    with contextlib.suppress(ImageError):
        read, diff_ids = read_config(body)
        again = read_config(write_config(read, [Digest.parse(text) for text in diff_ids]))
        _check(again == (read, diff_ids), f"{again} is another one than {(read, diff_ids)}")


def ignore(data: bytes) -> None:
    """Read an ignore file whose first line is a path to be judged; what leads nowhere keeps what it is in."""
    line, _, content = data.partition(b"\n")
    path = line.decode("utf-8", "surrogateescape").strip("/") or "a"
    with contextlib.suppress(SpecInvalid):
        read = Ignore.parse(content)
        if read.prunes(path):
            _check(read.ignores(f"{path}/below"), f"{path} is pruned, and something below it is kept")
        read.ignores(path)


def tar(data: bytes) -> None:
    """Read a tar entry by entry, in pieces of a size that the first byte says."""
    size, body = 1 + (data[0] if data else 0) * 7, mended(data[1:])
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    stream = TarStream(pieces, limit_bytes=_LIMIT_BYTES)
    with contextlib.suppress(ImageError), open(os.devnull, "wb") as nowhere:
        for entry in stream:
            _check(bool(entry.name) or entry.name == b"", "a name that is none")
            _check(b"\0" not in entry.name + entry.link, "a zero byte in a name")
            _check(min(entry.size, entry.uid, entry.gid) >= 0, "a negative number")
            if entry.kind == b"0" and entry.segments is None:
                stream.copy(nowhere.fileno(), entry)
        stream.drain()


def layer(data: bytes) -> None:
    """Unpack a layer on a lower one; nothing else than its own folder changes."""
    with tempfile.TemporaryDirectory() as folder:
        into, lower = Path(folder, "into"), Path(folder, "lower")
        into.mkdir()
        (lower / "etc/deep").mkdir(parents=True)
        (lower / "etc/passwd").write_bytes(b"root")
        (lower / "link").symlink_to("etc")
        (lower / "out").symlink_to("../..")
        before, descriptors = _seen(lower), len(os.listdir("/proc/self/fd"))
        with contextlib.suppress(ImageError):
            apply(iter([mended(data)]), into, parents=(lower,), limit_bytes=_LIMIT_BYTES)
        _check(sorted(os.listdir(folder)) == ["into", "lower"], f"{os.listdir(folder)} beside it")
        _check(_seen(lower) == before, "the lower layer has changed")
        _check(len(os.listdir("/proc/self/fd")) == descriptors, "a descriptor is left open")


def archive(data: bytes) -> None:
    """Load an archive of images; what is refused leaves nothing."""
    folder = Path(tempfile.mkdtemp())
    try:
        store = Store.open(folder / "store", layer_limit_bytes=_LIMIT_BYTES)
        try:
            records = load(store, io.BytesIO(mended(data)), limit_bytes=_LIMIT_BYTES)
        except ContainersError:
            left = [*store.blobs.all(), *store.chains.all(), *store.entries()]
            left += [str(path) for path in (store.root / "ingest").glob("*")]
            _check(not left, f"{left} is left")
        else:
            for record in records:
                _check(store.find(Reference.parse(record.reference)) is not None, f"no {record}")
        _check(os.listdir(folder) == ["store"], f"{os.listdir(folder)} beside it")
    finally:
        shutil.rmtree(folder)


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "reference": reference,
    "document": document,
    "config": config,
    "ignore": ignore,
    "tar": tar,
    "layer": layer,
    "archive": archive,
}


def mended(data: bytes) -> bytes:
    """Return a tar with right checksums in its headers, which no fuzzer would find by itself."""
    made = bytearray(data)
    at = 0
    while at + _BLOCK <= len(made) and any(made[at : at + _BLOCK]):
        made[at + 148 : at + 156] = b" " * 8
        made[at + 148 : at + 156] = b"%06o\0 " % (sum(made[at : at + _BLOCK]) & 0o777777)
        digits = bytes(made[at + 124 : at + 136]).partition(b"\0")[0].strip()
        size = int(digits, 8) if digits and not digits.strip(b"01234567") else 0
        at += _BLOCK + (size + _BLOCK - 1) // _BLOCK * _BLOCK
    return bytes(made)


def _seen(root: Path) -> list[tuple[str, int, int, int]]:
    found = []
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(folder, name))
            found.append((os.path.join(folder, name), status.st_mode, status.st_nlink, status.st_mtime_ns))
    return sorted(found)


def _check(holds: bool, told: str) -> None:
    if not holds:
        raise Fault(told)
