"""A registry of images that are broken, each in one way, and one whose commands are."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import pytest

from pytest_containers.images.platform import Platform

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_BIG_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """The registry at *host*; *digests* are the manifests' own, by repository."""

    host: str
    digests: Mapping[str, str]


@dataclass(slots=True)
class _Shelves:
    """What is served: path to content; a digest may lie."""

    served: dict[str, bytes] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, layer: bytes, plain: bytes) -> str:
        """Serve an image of one layer under *name*; return the path of the layer."""
        host = Platform.host()
        config = json.dumps(
            {
                "architecture": host.architecture,
                "os": host.os,
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [_digest(plain)]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {"mediaType": _CONFIG, "digest": _digest(config), "size": len(config)},
                "layers": [{"mediaType": _LAYER, "digest": _digest(layer), "size": len(layer)}],
            }
        ).encode()
        self.digests[name] = _digest(manifest)
        self.served |= {
            f"/v2/{name}/manifests/1": manifest,
            f"/v2/{name}/manifests/{_digest(manifest)}": manifest,
            f"/v2/{name}/blobs/{_digest(config)}": config,
            f"/v2/{name}/blobs/{_digest(layer)}": layer,
        }
        return f"/v2/{name}/blobs/{_digest(layer)}"


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def _packed(plain: bytes) -> bytes:
    return gzip.compress(plain, mtime=0)


def _elf(loader: bytes, *, machine: int) -> bytes:
    """Return a 64-bit program that does nothing but name its *loader* (elf(5))."""
    file = struct.pack("<4s4B8xHHI", b"\x7fELF", 2, 1, 1, 0, 3, machine, 1)
    places = struct.pack("<QQQIHHHHHH", 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    interpreter = struct.pack("<IIQQQQQQ", 3, 4, 120, 120, 120, len(loader), len(loader), 1)
    return file + places + interpreter + loader


def _machine() -> int:
    with open("/proc/self/exe", "rb") as program:
        head = program.read(20)
    return int.from_bytes(head[18:20], "little")


def _shelves() -> _Shelves:
    shelves = _Shelves()
    odd = _tar(
        {
            "bin/plain": (b"no mode", 0o644),
            "bin/old": (_elf(b"/lib/ld-of-another-time.so.1\0", machine=_machine()), 0o755),
            "bin/script": (b"#!/usr/bin/no-such-language -x\n", 0o755),
            "bin/foreign": (_elf(b"/lib/ld.so.1\0", machine=0x7777), 0o755),
            "bin/headless": (b"echo hello\n", 0o755),
        }
    )
    shelves.put("odd", _packed(odd), odd)
    small = _tar({"etc/motd": (b"hello\n", 0o644)})
    packed = _packed(small)
    shelves.put("wrong-manifest", packed, small)
    shelves.served[f"/v2/wrong-manifest/manifests/{shelves.digests['wrong-manifest']}"] += b" "
    place = shelves.put("wrong-blob", packed, small)
    shelves.served[place] = packed[:-1] + b"!"
    shelves.put("wrong-size", packed, small)
    shelves.served[place.replace("wrong-blob", "wrong-size")] = packed + b"more"
    shelves.put("wrong-diff-id", packed, b"another")
    shelves.put("truncated", packed[: len(packed) // 2], small)
    noise = bytes(range(256)) * 40
    shelves.put("garbage", _packed(noise), noise)
    escaping = _tar({"../../etc/cron.d/evil": (b"", 0o644)})
    shelves.put("escape", _packed(escaping), escaping)
    shelves.put("cut", small[:515], small[:515])
    big = _tar({"srv/zeros": (bytes(_BIG_BYTES), 0o644)})
    shelves.put("big-layer", _packed(big), big)
    noise = hashlib.shake_256(b"noise").digest(_BIG_BYTES)
    shelves.put("big-blob", noise, noise)
    shelves.served["/v2/no-json/manifests/1"] = b"<html>welcome</html>"
    return shelves


@pytest.fixture(scope="session")
def faults() -> Iterator[Faults]:
    """Yield the registry."""
    shelves = _shelves()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            content = b"{}" if self.path == "/v2/" else shelves.served.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield Faults(host=f"127.0.0.1:{server.server_port}", digests=shelves.digests)
        server.shutdown()
