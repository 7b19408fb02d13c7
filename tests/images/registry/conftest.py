"""Registries to test against: Debian's real one, and one that does wrong on purpose.

Everything is HTTP over loopback. The real `docker-registry` is the oracle of what is right; the
fault server answers what a test tells it to, and remembers what it was asked.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import socket
import ssl
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from pytest_containers.images import manifest as m
from pytest_containers.images.credentials import Keychain
from pytest_containers.images.digest import Digest
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.images.transport import Settings
from pytest_containers.spec import ImageConfig

if TYPE_CHECKING:
    from tests.plugins.authority import Authority


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image as a registry holds it: its manifest's bytes and its blobs by digest."""

    data: bytes
    manifest: m.Manifest
    blobs: Mapping[Digest, bytes]

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return Digest.of(self.data)

    def put(self, store: Store, reference: str) -> Reference:
        """Put the image into a store under a name."""
        for blob in self.blobs.values():
            store.blobs.add(blob)
        store.tag(Reference.parse(reference), self.data)
        return Reference.parse(reference)


class ImageMaker(Protocol):
    """Makes an image of files, one layer each."""

    def __call__(self, *files: bytes, config: ImageConfig | None = None, base: str = "") -> Image:
        """Return an image whose layer number n holds ``/file-n`` with the n-th content.

        *base* is what its manifest says it stands on.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it arrived; *headers* by lower-case name."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What to answer; *cut* sends only so many bytes of the body and hangs up.

    *hold* sends half of the body and waits for the event. *raw* is all that is sent in its place;
    with *hold* a byte follows now and then until the event.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    length: bool = True
    hold: threading.Event | None = None
    raw: bytes = b""


Act = Callable[[Asked], Answer]


class Faulty:
    """A registry whose every answer a test may choose; unchosen ones serve the images it holds."""

    answer = Answer

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self._acts: dict[tuple[str, str], list[Act]] = {}
        self._lock = threading.Lock()
        faulty = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in one packet, or the second waits 40 ms for an answer (tcp(7), TCP_NODELAY).
            wbufsize = -1

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()

            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(method=self.command, path=self.path, headers=headers, body=body)
                self.write(faulty.decide(asked))

            def write(self, answer: Answer) -> None:
                if answer.raw:
                    self.wfile.write(answer.raw)
                    self.close_connection = True
                    while answer.hold is not None and not answer.hold.wait(0.02):
                        self.wfile.flush()
                        self.wfile.write(b"x")
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.length and answer.status != 204 and "Transfer-Encoding" not in answer.headers:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.close_connection = answer.cut is not None or not answer.length
                self.end_headers()
                if answer.hold is not None:
                    self.wfile.write(answer.body[: len(answer.body) // 2])
                    self.wfile.flush()
                    answer.hold.wait(60)
                elif self.command != "HEAD":
                    self.wfile.write(answer.body[: answer.cut])
                if answer.cut is not None:
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, *_: object) -> None:
                pass

        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT"):
            setattr(Handler, f"do_{method}", Handler.respond)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http{'s' if tls else ''}://{self.host}"
        self.on("GET", "/v2/", Answer())
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()

    def on(self, method: str, path: str, *answers: Answer | Act) -> None:
        """Answer requests for *path* (no query) with each of *answers* in turn, then with the last."""
        acts = [answer if callable(answer) else _always(answer) for answer in answers]
        with self._lock:
            self._acts[method, path] = acts

    def hold(self, repository: str, image: Image, tag: str = "latest", *, data: bytes | None = None) -> None:
        """Serve an image as a registry should; *data* in the place of the manifest's bytes."""
        found = image.data if data is None else data
        answer = Answer(headers={"Content-Type": image.manifest.media_type}, body=found)
        for target in (tag, image.digest):
            self.on("GET", f"/v2/{repository}/manifests/{target}", answer)
        for digest, blob in image.blobs.items():
            self.on("GET", f"/v2/{repository}/blobs/{digest}", self.ranged(blob))

    @staticmethod
    def ranged(blob: bytes) -> Act:
        """Return what serves a blob, from the byte that a Range asks for."""

        def act(asked: Asked) -> Answer:
            match = re.fullmatch(r"bytes=([0-9]+)-", asked.headers.get("range", ""))
            if match is None:
                return Answer(body=blob)
            start = int(match[1])
            if start >= len(blob):
                return Answer(status=416)
            where = {"Content-Range": f"bytes {start}-{len(blob) - 1}/{len(blob)}"}
            return Answer(status=206, headers=where, body=blob[start:])

        return act

    @staticmethod
    def refusal(
        status: int, code: str, message: str = "as told", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return an error in the specification's words (distribution-spec, "Error Codes")."""
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        return Answer(status=status, body=body, headers=headers or {})

    def decide(self, asked: Asked) -> Answer:
        """Return the answer to one request and remember it."""
        with self._lock:
            self.asked.append(asked)
            acts = self._acts.get((asked.method, asked.path.partition("?")[0]), [])
            act = acts.pop(0) if len(acts) > 1 else acts[0] if acts else _always(self.refusal(404, "UNKNOWN"))
        return act(asked)

    def paths(self, method: str) -> list[str]:
        """Return the paths of one method's requests, in order."""
        return [asked.path for asked in self.asked if asked.method == method]


def _always(answer: Answer) -> Act:
    return lambda _: answer


def layer(files: Mapping[str, bytes]) -> bytes:
    """Return an uncompressed layer that holds *files*."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


@pytest.fixture
def make_image() -> ImageMaker:
    """Return what makes small images."""

    def make(*files: bytes, config: ImageConfig | None = None, base: str = "") -> Image:
        host = Platform.host()
        tars = [layer({f"file-{number}": content}) for number, content in enumerate(files)]
        packed = [gzip.compress(tar, mtime=0) for tar in tars]
        found = config or ImageConfig(architecture=host.architecture, command=("/file-0",))
        settings = m.write_config(found, [Digest.of(tar) for tar in tars])
        manifest = m.Manifest(
            config=m.Descriptor(media_type=m.OCI_CONFIG, digest=Digest.of(settings), size=len(settings)),
            layers=tuple(
                m.Descriptor(media_type=m.OCI_LAYER_GZIP, digest=Digest.of(blob), size=len(blob))
                for blob in packed
            ),
            annotations={m.BASE_ANNOTATION: base} if base else {},
        )
        blobs = {Digest.of(blob): blob for blob in (settings, *packed)}
        return Image(data=manifest.encode(), manifest=manifest, blobs=blobs)

    return make


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    """A registry that does as the test says."""
    server = Faulty()
    yield server
    server.close()


@pytest.fixture
def certificate(authority: Authority, tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    return authority.write(tmp_path)


@pytest.fixture
def secure(certificate: tuple[Path, Path]) -> Iterator[Faulty]:
    """A server that speaks TLS and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = Faulty(context)
    yield server
    server.close()


@pytest.fixture
def secure_to_known(certificate: tuple[Path, Path]) -> Iterator[Faulty]:
    """A server that speaks TLS to clients with a certificate of the same authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.load_verify_locations(certificate[0])
    context.verify_mode = ssl.CERT_REQUIRED
    server = Faulty(context)
    yield server
    server.close()


@pytest.fixture
def other() -> Iterator[Faulty]:
    """A second one, on another origin."""
    server = Faulty()
    yield server
    server.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.open(tmp_path / "store")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings that do not wait, and know nothing of this machine's user."""
    return Settings(
        backoff_s=0.001,
        connect_timeout_s=5,
        read_timeout_s=20,
        environ={"HOME": str(tmp_path)},
        certificates=(),
    )


@pytest.fixture
def keychain(settings: Settings) -> Keychain:
    """A keychain with nothing on it."""
    return Keychain(environ=settings.environ)
