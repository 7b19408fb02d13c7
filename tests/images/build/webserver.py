"""A real HTTP server on loopback for what ADD fetches, with TLS and git where they are wanted."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from tests.plugins.authority import Authority

__all__ = ["Page", "WebServer", "serving"]


@dataclass(slots=True, kw_only=True)
class Page:
    """What stands behind a path. *cuts* times the connection breaks in the middle of the body."""

    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    cuts: int = 0
    chunked: bool = False


class WebServer(ThreadingHTTPServer):
    """Serves *pages* by path, and the bare repositories below *repositories*; notes each request."""

    daemon_threads = True

    def __init__(self, repositories: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Page] = {}
        self.repositories = repositories
        self.scheme = "http"
        self.asked: list[tuple[str, str, Mapping[str, str]]] = []

    def url(self, path: str) -> str:
        """Return the URL of *path*."""
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}{path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its parent's name
        """Write nothing."""

    def do_GET(self) -> None:
        server = cast("WebServer", self.server)
        path = urlsplit(self.path).path
        server.asked.append((self.command, self.path, dict(self.headers)))
        if server.repositories is not None and ".git/" in path:
            _git(self, server.repositories)
            return
        page = server.pages.get(path, Page(status=404))
        etag = page.headers.get("ETag")
        if etag is not None and self.headers.get("If-None-Match") == etag:
            self._answer(304, page.headers, b"")
        elif page.chunked:
            self._send_chunked(page)
        else:
            self._send(page)

    def do_POST(self) -> None:
        self.do_GET()

    def _send(self, page: Page) -> None:
        content, status = page.content, page.status
        headers = dict(page.headers)
        span = self.headers.get("Range", "")
        if span and self.headers.get("If-Range") == page.headers.get("ETag"):
            start = int(span.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        if page.cuts:
            page.cuts -= 1
            self._answer(status, headers, content, cut=len(content) // 2)
            self.close_connection = True
            return
        self._answer(status, headers, content)

    def _answer(
        self, status: int, headers: Mapping[str, str], content: bytes, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:cut])

    def _send_chunked(self, page: Page) -> None:
        self.send_response(page.status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        whole = len(page.content)
        if page.cuts:
            page.cuts -= 1
            whole //= 2
            self.close_connection = True
        for at in range(0, whole, 1000):
            piece = page.content[at : at + 1000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if whole == len(page.content):
            self.wfile.write(b"0\r\n\r\n")


def _git(handler: BaseHTTPRequestHandler, root: Path) -> None:
    """Answer as git's own server program does (git-http-backend(1); RFC 3875)."""
    parts = urlsplit(handler.path)
    length = int(handler.headers.get("Content-Length") or 0)
    env = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "PATH_INFO": parts.path,
        "QUERY_STRING": parts.query,
        "REQUEST_METHOD": handler.command,
        "CONTENT_TYPE": handler.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(length),
        "HTTP_CONTENT_ENCODING": handler.headers.get("Content-Encoding", ""),
        "HTTP_GIT_PROTOCOL": handler.headers.get("Git-Protocol", ""),
    }
    body = handler.rfile.read(length)
    done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=True)
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode("ascii").split("\r\n"))
    handler.send_response(int(fields.pop("Status", "200 OK").split()[0]))
    for name, value in fields.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


@contextlib.contextmanager
def serving(
    repositories: Path | None = None, *, authority: Authority | None = None, folder: Path | None = None
) -> Iterator[WebServer]:
    """Yield a server; with *authority* it speaks TLS, its files in *folder*."""
    server = WebServer(repositories)
    if authority is not None and folder is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.write(folder))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
