"""Hostile layers on the two ways into the store: refused by name, or harmless, and nothing outside."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import pytest

from pytest_containers.errors import DigestMismatch, ImageError, LayerCorrupt, LayerEscape, LayerTooLarge
from pytest_containers.images import manifest as m
from pytest_containers.images.digest import Digest
from pytest_containers.images.load import load
from pytest_containers.images.platform import Platform
from pytest_containers.images.pull import pull
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.spec import ImageConfig

if TYPE_CHECKING:
    from pytest_containers.images.transport import Settings
    from tests.images.conftest import TarBuilder
    from tests.images.registry.conftest import Faulty

MakeTar = Callable[[], "TarBuilder"]
Way = Literal["pull", "load"]
# What a layer may unpack to in these tests.
LIMIT_BYTES: Final = 4 << 20
WHITEOUT: Final = "removed"
FOLDER: Final = "folder"
# The folder outside that the layers aim at, in the place of this word.
OUTSIDE: Final = b"OUTSIDE"
NAME: Final = "app:latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A layer and what becomes of it: an error, or the files that it leaves (content by name)."""

    make: Callable[[TarBuilder, bytes], TarBuilder]
    error: type[ImageError] | None = None
    match: str = ""
    leaves: dict[bytes, bytes | str] = field(default_factory=dict)


def _file(name: bytes) -> Callable[[TarBuilder, bytes], TarBuilder]:
    return lambda tar, outside: tar.file(name.replace(OUTSIDE, outside), b"evil")


def _whiteout(name: bytes) -> Callable[[TarBuilder, bytes], TarBuilder]:
    return lambda tar, _: tar.file(name)


def _attribute(key: bytes, value: bytes) -> Callable[[TarBuilder, bytes], TarBuilder]:
    return lambda tar, _: tar.add("d", b"5", pax={b"SCHILY.xattr." + key: value})


def _link(target: bytes) -> Callable[[TarBuilder, bytes], TarBuilder]:
    return lambda tar, outside: tar.link("mine", target.replace(OUTSIDE, outside))


DEEP: Final = b"/".join([b"n" * 200] * 19)  # 3,818 bytes
CASES: Final[dict[str, Case]] = {
    "dot-dot": Case(make=_file(b"../evil"), error=LayerEscape, match="leads out"),
    "dot-dot within": Case(make=_file(b"etc/../../evil"), error=LayerEscape, match="leads out"),
    "many dot-dots": Case(make=_file(b"../" * 40 + OUTSIDE + b"/evil"), error=LayerEscape, match="leads out"),
    "absolute name": Case(make=_file(b"/etc/evil"), leaves={b"etc/evil": b"evil"}),
    "absolute name of a folder outside": Case(
        make=_file(OUTSIDE + b"/evil"), leaves={OUTSIDE + b"/evil": b"evil"}
    ),
    "symlink parent": Case(
        make=lambda tar, outside: tar.symlink("a", outside).file("a/evil", b"evil"),
        leaves={b"a": OUTSIDE, OUTSIDE + b"/evil": b"evil"},
    ),
    "symlink parent of dot-dots": Case(
        make=lambda tar, _: tar.symlink("a", "../../../..").file("a/evil", b"evil"),
        leaves={b"a": b"../../../..", b"evil": b"evil"},
    ),
    "symlink parent that replaces a folder": Case(
        make=lambda tar, outside: tar.file("a/x").symlink("a", outside).file("a/evil", b"evil"),
        leaves={b"a": OUTSIDE, OUTSIDE + b"/evil": b"evil"},
    ),
    "symlink written through": Case(
        make=lambda tar, outside: tar.symlink("s", outside + b"/secret").file("s", b"evil"),
        leaves={b"s": b"evil"},
    ),
    "hard link out": Case(
        make=_link(b"../" * 40 + OUTSIDE + b"/secret"), error=LayerEscape, match="leads out"
    ),
    "hard link to an absolute name": Case(
        make=_link(OUTSIDE + b"/secret"), error=LayerCorrupt, match="no file"
    ),
    "hard link through a symlink": Case(
        make=lambda tar, outside: tar.symlink("o", outside).link("mine", "o/secret"),
        error=LayerCorrupt,
        match="no file",
    ),
    "hard link to a symlink out": Case(
        make=lambda tar, outside: (
            tar.symlink("o", outside + b"/secret").link("mine", "o").file("mine", b"evil")
        ),
        leaves={b"o": OUTSIDE + b"/secret", b"mine": b"evil"},
    ),
    "whiteout of the root": Case(make=_whiteout(b".wh.."), error=LayerEscape, match="whiteout"),
    "whiteout of the parent": Case(make=_whiteout(b"d/.wh..."), error=LayerEscape, match="whiteout"),
    "whiteout of nothing": Case(make=_whiteout(b".wh."), error=LayerCorrupt, match="names nothing"),
    "whiteout out by dot-dot": Case(make=_whiteout(b"../.wh.secret"), error=LayerEscape, match="leads out"),
    "whiteout through a symlink": Case(
        make=lambda tar, outside: tar.symlink("o", outside).file("o/.wh.secret"), leaves={b"o": OUTSIDE}
    ),
    "opaque root": Case(
        make=lambda tar, _: tar.file("new", b"n").file(".wh..wh..opq"),
        leaves={b"new": b"n", b"lower": WHITEOUT, b"d": WHITEOUT},
    ),
    "root as a symlink": Case(
        make=lambda tar, outside: tar.symlink("./", outside), error=LayerEscape, match="root"
    ),
    "root as a file": Case(make=_file(b"."), error=LayerEscape, match="root"),
    "device 0/0": Case(
        make=lambda tar, _: tar.add("d", b"3", device=(0, 0)), error=LayerEscape, match="removed file"
    ),
    "trusted.overlay.opaque": Case(
        make=_attribute(b"trusted.overlay.opaque", b"y"), error=LayerEscape, match="overlayfs"
    ),
    "trusted.overlay.redirect": Case(
        make=_attribute(b"trusted.overlay.redirect", b"/etc"), error=LayerEscape, match="overlayfs"
    ),
    "user.overlay.whiteout": Case(
        make=_attribute(b"user.overlay.whiteout", b"y"), error=LayerEscape, match="overlayfs"
    ),
    "overlay xattr on the root": Case(
        make=lambda tar, _: tar.add("./", b"5", pax={b"SCHILY.xattr.trusted.overlay.opaque": b"y"}),
        error=LayerEscape,
        match="overlayfs",
    ),
    "overlay xattr on a whiteout": Case(
        make=lambda tar, _: tar.add(".wh.lower", pax={b"SCHILY.xattr.trusted.overlay.metacopy": b""}),
        leaves={b"lower": WHITEOUT},
    ),
    "duplicates": Case(
        make=lambda tar, _: tar.file("x", b"1").folder("x").file("x/y").file("x", b"2").file("x", b"3"),
        leaves={b"x": b"3"},
    ),
    "duplicate of a lower file": Case(make=_file(b"lower"), leaves={b"lower": b"evil"}),
    "bomb": Case(
        make=lambda tar, _: tar.file("zeros", bytes(LIMIT_BYTES + 1)),
        error=LayerTooLarge,
        match="past its limit",
    ),
    "bomb of headers": Case(
        make=lambda tar, _: tar.raw(b"", tar.folder("d").bytes(end=False) * (LIMIT_BYTES // 512)),
        error=LayerTooLarge,
        match="past its limit",
    ),
    "truncated entry": Case(
        make=lambda tar, _: tar.add("x", data=b"short", size=100_000),
        error=LayerCorrupt,
        match="in the middle",
    ),
    "name of 4,096 bytes": Case(
        make=_file(b"/".join([b"n" * 200] * 21)[:4096]), error=LayerCorrupt, match="too long"
    ),
    "name just short enough": Case(make=_file(DEEP), leaves={DEEP: b"evil"}),
    "part of 256 bytes": Case(make=_file(b"n" * 256), error=LayerCorrupt, match="File name too long"),
    "names that are not UTF-8": Case(
        make=lambda tar, _: tar.file(b"\xff\xfe", b"1").symlink(b"\xe9", b"\xff\xfe"),
        leaves={b"\xff\xfe": b"1", b"\xe9": b"\xff\xfe"},
    ),
    "newline and escape in a name": Case(make=_file(b"a\n\x1b[31m"), leaves={b"a\n\x1b[31m": b"evil"}),
    "zero byte in a name": Case(
        make=lambda tar, _: tar.add("x", pax={b"path": b"a\0b"}), error=LayerCorrupt, match="zero byte"
    ),
    "owner beyond 32 bits": Case(
        make=lambda tar, _: tar.add("x", pax={b"uid": b"99999999999"}),
        error=LayerCorrupt,
        match="'x' has an owner",
    ),
    "owner that means none": Case(
        make=lambda tar, _: tar.add("x", pax={b"gid": b"4294967295"}),
        error=LayerCorrupt,
        match="'x' has an owner",
    ),
    "time beyond the file system": Case(
        make=lambda tar, _: tar.add("x", pax={b"mtime": b"9" * 18}), leaves={b"x": b""}
    ),
    "unknown type": Case(make=lambda tar, _: tar.add("x", b"Q"), error=LayerCorrupt, match="unknown type"),
    "data on a folder": Case(
        make=lambda tar, _: tar.add("d", b"5", size=1 << 30).file("x", b"1"),
        leaves={b"d": FOLDER, b"x": b"1"},
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The two ways by which an image comes into a store."""

    faulty: Faulty
    settings: Settings
    make_tar: MakeTar

    def bring(self, store: Store, way: Way, *plain: bytes, packed: bytes | None = None) -> list[Path]:
        """Bring an image of the layers *plain* in; return its folders. *packed* is the last one's blob."""
        blobs = [gzip.compress(layer, 1, mtime=0) for layer in plain]
        blobs = blobs if packed is None else [*blobs[:-1], packed]
        settings = ImageConfig(architecture=Platform.host().architecture)
        config = m.write_config(settings, [Digest.of(layer) for layer in plain])
        kinds = [(m.OCI_CONFIG, config), *((m.OCI_LAYER_GZIP, blob) for blob in blobs)]
        first, *rest = (m.Descriptor(media_type=k, digest=Digest.of(b), size=len(b)) for k, b in kinds)
        if way == "pull":
            manifest = m.Manifest(config=first, layers=tuple(rest)).encode()
            self.faulty.on("GET", "/v2/app/manifests/latest", self.faulty.answer(body=manifest))
            for _, blob in kinds:
                self.faulty.on("GET", f"/v2/app/blobs/{Digest.of(blob)}", self.faulty.answer(body=blob))
            record = pull(store, Reference.parse(f"{self.faulty.host}/{NAME}"), settings=self.settings)
        else:
            entry = {"Config": "config", "RepoTags": [NAME], "Layers": list(map(str, range(len(blobs))))}
            tar = self.make_tar().file("manifest.json", json.dumps([entry]).encode()).file("config", config)
            for number, blob in enumerate(blobs):
                tar.file(str(number), blob)
            (record,) = load(store, io.BytesIO(tar.bytes()))
        return list(store.layers(record))


@pytest.fixture
def gate(faulty: Faulty, settings: Settings, tar: MakeTar) -> Gate:
    """Return the two ways in."""
    return Gate(faulty=faulty, settings=settings, make_tar=tar)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a folder with a secret, which the layers aim at."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(b"secret")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store in which a layer has not much room."""
    return Store.open(tmp_path / "store", layer_limit_bytes=LIMIT_BYTES)


def left_by(layer: Path) -> dict[bytes, bytes | str]:
    """Return what a layer holds: files and links by content, removals, and folders with nothing in them."""
    found: dict[bytes, bytes | str] = {}
    root = os.fsencode(layer)
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            shown = os.path.relpath(path, root)
            if stat.S_ISLNK(status.st_mode):
                found[shown] = os.readlink(path)
            elif stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                found[shown] = WHITEOUT
            elif stat.S_ISREG(status.st_mode):
                found[shown] = Path(os.fsdecode(path)).read_bytes()
            elif not os.listdir(path):
                found[shown] = FOLDER
    return found


def untouched(outside: Path) -> bool:
    """Tell whether the folder outside, and what lies beside it, is as it was."""
    beside = sorted(path.name for path in outside.parent.iterdir())
    secret = outside / "secret"
    return (
        beside == ["outside", "store"]
        and os.listdir(outside) == ["secret"]
        and (secret.read_bytes(), secret.stat().st_nlink) == (b"secret", 1)
    )


def half_unpacked(store: Store) -> list[Path]:
    """Return what is neither a whole chain nor a whole blob."""
    return [*(store.root / "chains").glob("*/.*"), *(store.root / "ingest").glob("*")]


@pytest.mark.parametrize("way", ["pull", "load"])
@pytest.mark.parametrize("name", CASES)
def test_hostile_layer_is_refused_or_harmless(
    gate: Gate, store: Store, tar: MakeTar, outside: Path, name: str, way: Way
) -> None:
    """The error says what is wrong with which entry; nothing of the layer is there, nothing is outside."""
    case = CASES[name]
    lower = tar().file("lower", b"l").folder("d").bytes()
    aim = os.fsencode(outside).lstrip(b"/")
    layer = case.make(tar(), os.fsencode(outside)).bytes()
    if case.error is None:
        folders = gate.bring(store, way, lower, layer)
        wanted = {key.replace(OUTSIDE, aim).lstrip(b"/"): content for key, content in case.leaves.items()}
        assert left_by(folders[1]) == {
            key: content.replace(OUTSIDE, os.fsencode(outside)) if isinstance(content, bytes) else content
            for key, content in wanted.items()
        }
    else:
        with pytest.raises(case.error, match=case.match) as caught:
            gate.bring(store, way, lower, layer)
        assert caught.value.what
        assert caught.value.what.isprintable()
        assert store.list() == ()
        assert set(store.chains.all()) <= {Digest.of(lower)}
    assert untouched(outside)
    assert half_unpacked(store) == []


@pytest.mark.parametrize("way", ["pull", "load"])
@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda packed: packed[: len(packed) // 2], ImageError),
        (lambda packed: packed[:-8], ImageError),
        (lambda packed: packed + b"more", ImageError),
        (lambda packed: packed + gzip.compress(b"more", mtime=0), DigestMismatch),
        (lambda packed: packed[:40] + bytes(8) + packed[48:], ImageError),
        (lambda _: b"", ImageError),
        (lambda _: b"\x1f\x8b", ImageError),
        (lambda _: b"no tar and no gzip" * 100, ImageError),
    ],
    ids=["half", "no checksum", "trailing", "second member", "damaged", "empty", "magic", "noise"],
)
def test_stream_that_is_cut_or_goes_on_is_refused(
    gate: Gate,
    store: Store,
    tar: MakeTar,
    outside: Path,
    way: Way,
    spoil: Callable[[bytes], bytes],
    error: type[ImageError],
) -> None:
    """What does not unpack to the DiffID is no layer, whoever named it in a manifest."""
    plain = tar().file("x", hashlib.shake_256(b"x").digest(3000)).bytes()
    packed = spoil(gzip.compress(plain, 1, mtime=0))
    with pytest.raises(error):
        gate.bring(store, way, plain, packed=packed)
    assert store.list() == ()
    assert list(store.chains.all()) == []
    assert untouched(outside)
    assert half_unpacked(store) == []


@pytest.mark.parametrize("way", ["pull", "load"])
def test_bytes_behind_the_end_of_the_tar_are_counted_and_ignored(
    gate: Gate, store: Store, tar: MakeTar, way: Way
) -> None:
    """Tools pad layers behind the end mark; the DiffID covers it, the files do not."""
    plain = tar().file("x", b"1").bytes() + tar().file("hidden", b"2").bytes() + b"rest"
    (folder,) = gate.bring(store, way, plain)
    assert left_by(folder) == {b"x": b"1"}


@pytest.mark.parametrize("way", ["pull", "load"])
def test_file_of_holes_takes_no_room(gate: Gate, store: Store, tar: MakeTar, way: Way) -> None:
    """A terabyte of nothing, as /var/log/lastlog of some images, stays nothing on the disk."""
    names = (b"major", b"minor", b"realsize", b"name")
    values = (b"1", b"0", b"%d" % (1 << 40), b"huge")
    pax = {b"GNU.sparse." + name: value for name, value in zip(names, values, strict=True)}
    (folder,) = gate.bring(store, way, tar().add("x", data=b"0\n".ljust(512, b"\0"), pax=pax).bytes())
    status = (folder / "huge").stat()
    assert (status.st_size, status.st_blocks) == (1 << 40, 0)


def test_layer_of_100_000_entries_is_unpacked(gate: Gate, tmp_path: Path, tar: MakeTar) -> None:
    """Many entries are many entries, whiteouts of nothing among them; no descriptor is left open."""
    layer = tar()
    for number in range(100_000):
        folder = f"d{number // 1000}"
        if number % 50:
            layer.file(f"{folder}/.wh.{number}")
        elif number % 1000:
            layer.file(f"{folder}/{number}")
        else:
            layer.folder(folder)
    descriptors = len(os.listdir("/proc/self/fd"))
    (unpacked,) = gate.bring(Store.open(tmp_path / "large"), "pull", layer.bytes())
    assert sum(len(files) + len(folders) for _, folders, files in os.walk(unpacked)) == 2_000
    assert len(os.listdir("/proc/self/fd")) == descriptors
