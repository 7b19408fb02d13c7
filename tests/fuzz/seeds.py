"""What a fuzzer begins with: small honest inputs of every kind that a target reads."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from typing import Final

from tests.images.archives.conftest import Image
from tests.images.conftest import TarBuilder, header

__all__ = ["seeds"]

_DIGEST: Final = "sha256:" + "b" * 64
_NAMES: Final = (
    "redis:7",
    "docker.io/library/redis",
    "r.example:5000/team/app:1",
    f"localhost/x@{_DIGEST}",
    "[::1]:5000/a/b-c__d.e:T_1",
    "index.docker.io/a",
    "UPPER/x:1",
)
_CONFIG: Final = {
    "architecture": "arm64",
    "os": "linux",
    "variant": "v8",
    "created": "2020-01-01T00:00:00Z",
    "config": {
        "User": "1:2",
        "ExposedPorts": {"80/tcp": {}, "90-91/udp": {}},
        "Env": ["A=b"],
        "Entrypoint": ["a"],
        "Cmd": ["b"],
        "Volumes": {"/v": {}},
        "WorkingDir": "/w",
        "Labels": {"a": "b"},
        "StopSignal": "SIGTERM",
        "Shell": ["/bin/sh", "-c"],
        "OnBuild": ["RUN x"],
        "Healthcheck": {
            "Test": ["CMD", "x"],
            "Interval": 10**9,
            "Timeout": 1,
            "StartPeriod": 2,
            "Retries": 3,
        },
    },
    "rootfs": {"type": "layers", "diff_ids": [_DIGEST]},
    "history": [{"created": "x", "created_by": "y", "empty_layer": True}],
}
_IGNORES: Final = (
    b"a/b/c\n# comment\n*\n!a\n**/b/?\n[a-c]x\n",
    b"src/x.pyc\n**/*.py[co]\n!src/**\n/docs/\n",
    b"a/a/a/b\n**/a/**/b\n*a*a*b\n!**\n",
)
_ENTRY: Final = {
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "digest": _DIGEST,
    "size": 3,
    "platform": {"os": "linux", "architecture": "arm", "variant": "v7"},
    "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    "urls": ["http://x"],
}
_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"


def seeds(target: str) -> Mapping[str, bytes]:
    """Return the inputs that a target begins with, by name."""
    if target == "reference":
        return {str(at): name.encode() for at, name in enumerate(_NAMES)}
    if target == "document":
        return dict(_documents())
    if target == "config":
        return {"config": json.dumps(_CONFIG).encode()}
    if target == "ignore":
        return {str(at): text for at, text in enumerate(_IGNORES)}
    if target == "archive":
        return dict(_archives())
    # The first byte of the target `tar` is the size of the pieces.
    first = b"\x49" if target == "tar" else b""
    return {name: first + made.bytes() for name, made in _layers()}


def _layers() -> Iterator[tuple[str, TarBuilder]]:
    yield "plain", TarBuilder().folder("etc").file("etc/a", b"1" * 600).symlink("s", "etc").link("h", "etc/a")
    yield "whiteouts", TarBuilder().file("etc/.wh.passwd").file("etc/.wh..wh..opq").file(".wh.link")
    pax = {b"SCHILY.xattr.user.a": b"b", b"mtime": b"1.5", b"uid": b"1", b"path": b"q"}
    yield "pax", TarBuilder().add("p", pax=pax, data=b"x")
    long_name = TarBuilder().raw(header(b"././@LongLink", b"L", 4), b"abc\0").file("n", b"1")
    yield "long", long_name.raw(header(b"././@LongLink", b"K", 4), b"etc\0").symlink("l", "x")
    nodes = TarBuilder().add("d/c", b"3", device=(1, 3)).add("d/b", b"4", device=(1, 3))
    yield "nodes", nodes.add("f", b"6")
    names, values = (b"major", b"minor", b"realsize", b"name"), (b"1", b"0", b"9", b"y")
    sparse = {b"GNU.sparse." + name: value for name, value in zip(names, values, strict=True)}
    yield "sparse", TarBuilder().add("x", data=b"1\n0\n3\n".ljust(512, b"\0") + b"abc", pax=sparse)
    through = TarBuilder().file("link/new", b"1").file("out/new", b"2").link("etc/p", "etc/passwd")
    yield "through", through.file("link/.wh.passwd")
    again = TarBuilder().file("a").folder("a").file("a/b").symlink("a", "/etc").file("a/c").add("g", b"g")
    yield "duplicates", again
    yield "root", TarBuilder().folder("./").file("/abs")


def _image() -> Image:
    return Image(layers=(TarBuilder().file("a", b"1").bytes(), TarBuilder().file(".wh.a").bytes()))


def _archives() -> Iterator[tuple[str, bytes]]:
    docker = _image().docker()
    yield "docker", _tar(docker)
    # Named by no digest, the config may be changed.
    name = next(name for name in docker if name.endswith(".json") and name != "manifest.json")
    index = docker["manifest.json"].replace(name.encode(), b"config")
    yield "loose", _tar({**docker, "config": docker[name], "manifest.json": index})
    yield "layout", _tar(_image().layout())
    yield "both", _tar({**_image().layout(), **docker})
    yield "packed", _tar(_image().docker(lambda plain: gzip.compress(plain, 1, mtime=0)))
    yield "empty", _tar(Image(layers=()).docker())


def _tar(files: Mapping[str, bytes]) -> bytes:
    made = TarBuilder()
    for name, data in files.items():
        made.file(name, data)
    return made.bytes()


def _documents() -> Iterator[tuple[str, bytes]]:
    """Yield documents with the Content-Type that the target reads in the first line."""
    yield "manifest", b"application/vnd.oci.image.manifest.v1+json\n" + _image().manifest.encode()
    yield "index", b"\n" + _image().layout()["index.json"]
    yield "config", b"\n" + json.dumps(_CONFIG).encode()
    index = {"schemaVersion": 2, "mediaType": _LIST, "manifests": [_ENTRY], "annotations": {"k": "v"}}
    yield "list", f"{_LIST}; charset=utf-8\n".encode() + json.dumps(index).encode()
