"""An image of the size of a language's official one, made of nothing, the same every time.

Its files are words of a small vocabulary, as program text is, with some that do not compress, as
archives and pictures do not. Sizes are spread as in a Debian root: many small, few large.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import itertools
import json
import platform
import random
import tarfile
import urllib.parse
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["FULL", "QUICK", "Layer", "Size", "archive", "content", "editions", "pool", "push"]

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"

_POOL_BYTES: Final = 1 << 22
_WORDS: Final = 4_000
_NOISE_EVERY: Final = 25  # one file of so many does not compress
_FILES_A_FOLDER: Final = 40
_LEVEL: Final = 4
_GZIP_FORMAT: Final = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many files each layer has, and how large they are together."""

    files: tuple[int, ...]
    mean_bytes: int


FULL: Final = Size(files=(3_700, 900, 7_200, 3_400, 500), mean_bytes=30_000)
QUICK: Final = Size(files=(740, 180, 1_440, 680, 100), mean_bytes=30_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer: its gzip blob in two members (RFC 1952, 2.2), the first its own, and its tar's digest."""

    own: bytes
    shared: bytes
    diff_id: str

    @property
    def blob(self) -> bytes:
        """The blob, put together anew."""
        return self.own + self.shared

    @property
    def digest(self) -> str:
        """The blob's digest."""
        return _digest(self.blob)


def editions(size: Size, count: int) -> tuple[tuple[Layer, ...], ...]:
    """Return *count* images of one size, each as its layers, oldest first.

    They differ in one file of each layer, so no layer of one is a layer of another, and each can be
    pulled once by everybody. Pulling one image again and again would mean to remove it in between,
    and ext4 then seeks its way past every inode of the last minutes (fs/ext4/ialloc.c,
    recently_deleted): what is measured would be the rounds before.
    """
    text = pool()
    with ThreadPoolExecutor() as threads:  # zlib works outside of the interpreter's lock
        made = [
            threads.submit(_layer, number, files, size.mean_bytes, text, count)
            for number, files in enumerate(size.files)
        ]
        return tuple(zip(*(future.result() for future in made), strict=True))


def push(address: str, name: str, made: tuple[Layer, ...]) -> str:
    """Upload an image, named ``repository:tag``, to the registry at *address*; return its reference.

    distribution-spec, "Pushing blobs" (POST then PUT) and "Pushing Manifests".
    """
    repository, _, tag = name.partition(":")
    settings = _settings(made)
    described: list[dict[str, str | int]] = []
    for blob in itertools.chain([settings], (layer.blob for layer in made)):
        described.append(_descriptor(_LAYER if described else _CONFIG, blob))
        place = _ask(address, "POST", f"/v2/{repository}/blobs/uploads/")
        joint = "&" if "?" in place else "?"
        _ask(
            address,
            "PUT",
            f"{place}{joint}digest={described[-1]['digest']}",
            blob,
            "application/octet-stream",
        )
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": described[0],
        "layers": described[1:],
    }
    _ask(address, "PUT", f"/v2/{repository}/manifests/{tag}", json.dumps(manifest).encode(), _MANIFEST)
    return f"{address}/{name}"


def archive(path: Path, reference: str, made: Sequence[Layer]) -> None:
    """Write an image to *path* as docker itself does: plain layers, a config, one manifest.json.

    https://github.com/moby/docker-image-spec, "Combined Image JSON + Filesystem Changeset Format".
    """
    settings = _settings(made)
    layers = [f"{layer.diff_id.partition(':')[2]}/layer.tar" for layer in made]
    about = [{"Config": "config.json", "RepoTags": [reference], "Layers": layers}]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, layer in zip(layers, made, strict=True):
            _add(tar, name, gzip.decompress(layer.blob))
        _add(tar, "config.json", settings)
        _add(tar, "manifest.json", json.dumps(about).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    tar.addfile(entry, io.BytesIO(data))


def _settings(made: Sequence[Layer]) -> bytes:
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in made]},
        "history": [{"created_by": "benchmarks"} for _ in made],
    }
    return json.dumps(config).encode()


def _digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _descriptor(media_type: str, blob: bytes) -> dict[str, str | int]:
    return {"mediaType": media_type, "size": len(blob), "digest": _digest(blob)}


def _ask(address: str, method: str, path: str, body: bytes = b"", kind: str = "") -> str:
    """Send one request; return where the answer points to."""
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": kind} if kind else {})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status not in {201, 202}:
        raise RuntimeError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
    place = urllib.parse.urlsplit(answer.headers["Location"])
    return f"{place.path}?{place.query}" if place.query else place.path


def pool() -> bytes:
    """Return text in which words come as often as in a language (Zipf)."""
    chance = random.Random("pool")
    letters = "etaoinshrdlucmfwypvbgkjqxz_."
    words = ["".join(chance.choices(letters, k=chance.randint(2, 11))) for _ in range(_WORDS)]
    weights = [1 / rank for rank in range(1, _WORDS + 1)]
    ends = "     \n\t(),="
    text = "".join(
        word + end
        for word, end in zip(
            chance.choices(words, weights, k=_POOL_BYTES // 5),
            chance.choices(ends, k=_POOL_BYTES // 5),
            strict=True,
        )
    )
    return text.encode()[:_POOL_BYTES]


def _layer(number: int, files: int, mean_bytes: int, text: bytes, count: int) -> list[Layer]:
    """Return the layer in each of *count* editions: a file of its own, then what all share."""
    beginnings = [_packed(f"edition-{number}", f"{edition}\n".encode()) for edition in range(count)]
    plain = [hashlib.sha256(beginning) for beginning in beginnings]
    packed: list[bytes] = []
    squeeze = zlib.compressobj(_LEVEL, wbits=_GZIP_FORMAT)
    for piece in _tar(number, files, mean_bytes, text):
        for digest in plain:
            digest.update(piece)
        packed.append(squeeze.compress(piece))
    shared = b"".join((*packed, squeeze.flush()))
    return [
        Layer(own=gzip.compress(beginning, mtime=0), shared=shared, diff_id=f"sha256:{digest.hexdigest()}")
        for beginning, digest in zip(beginnings, plain, strict=True)
    ]


def _packed(name: str, content: bytes) -> bytes:
    """Return one file as a tar has it, without the blocks that end a tar (pax(1))."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    return entry.tobuf(tarfile.PAX_FORMAT) + content.ljust(-(-len(content) // 512) * 512, b"\0")


def _tar(number: int, files: int, mean_bytes: int, text: bytes) -> Iterator[bytes]:
    """Yield the layer's tar in pieces."""
    chance = random.Random(number)
    for index in range(files):
        folder = f"opt/layer-{number}/{index // _FILES_A_FOLDER:03d}"
        if index % _FILES_A_FOLDER == 0:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            yield entry.tobuf(tarfile.PAX_FORMAT)
        yield _packed(f"{folder}/file-{index:05d}", content(chance, index, mean_bytes, text))
    yield bytes(tarfile.RECORDSIZE)


def content(chance: random.Random, index: int, mean_bytes: int, text: bytes) -> bytes:
    """Return the bytes of the file *index*: a piece of *text* (see `pool`), or what does not compress."""
    # A log-normal law with this spread has a mean of about five times its median.
    size = int(chance.lognormvariate(0, 1.8) * mean_bytes / 5.05) + 1
    if index % _NOISE_EVERY == 0:
        return chance.randbytes(size)
    begin = chance.randrange(len(text))
    made = text[begin : begin + size]
    while len(made) < size:
        made += text[: size - len(made)]
    return made
