"""``ADD https://...``: fetched once, asked again whether it has changed, kept by its digest.

What is kept of a URL are the validators of RFC 9110 (ETag, Last-Modified) and the digest of what
came; a conditional request then costs no body. The file is BuildKit's (source/http): mode 0600, as
old as Last-Modified says, else of 1970.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Final

from pytest_containers._files import locked, write_atomic
from pytest_containers.errors import DigestMismatch, RegistryError
from pytest_containers.images.blobs import room
from pytest_containers.images.build.nodes import Item, Node
from pytest_containers.images.build.remote import HttpSource
from pytest_containers.images.origin import printable
from pytest_containers.images.transport import Reply, Settings, Transport

__all__ = ["Download", "Downloads"]

# The most that one URL may bring, as of the largest layers in use.
_LIMIT_BYTES: Final = 16 << 30
_MODE: Final = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A fetched file: *path* holds what *digest* names. A tree with the one file *name*."""

    name: str
    path: Path
    digest: str
    mtime_s: int

    def item(self, *, unpack: bool) -> Item:
        """Return the file as what ADD copies."""
        return Item(name=self.name, path=self.name, node=self._file(), tree=self, named=True, unpack=unpack)

    def node(self, path: str) -> Node | None:
        """Return the file, or the root it lies in."""
        if not path:
            return Node(kind="folder", mode=0o755)
        return self._file() if path == self.name else None

    def names(self, path: str) -> list[str]:
        """Return the one name there is."""
        return [] if path else [self.name]

    def open(self, path: str) -> BinaryIO:  # noqa: ARG002 - there is one file
        """Return the content of the file, which *path* names."""
        return self.path.open("rb", buffering=0)

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def _file(self) -> Node:
        return Node(kind="file", mode=_MODE, size=self.path.stat().st_size, mtime_ns=self.mtime_s * 10**9)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the last answer said of a URL."""

    digest: str
    etag: str = ""
    modified: str = ""


class Downloads:
    """Fetches into *folder*; safe between threads and processes."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._settings = settings
        self._transport = Transport(settings)

    def close(self) -> None:
        """End every request."""
        self._transport.__exit__(None, None, None)

    def fetch(self, source: HttpSource, checksum: str) -> Download:
        """Return what is behind the URL; nothing is asked where *checksum* names what is here.

        Raises RegistryError, DigestMismatch where it is not what *checksum* says.
        """
        with room(self._folder.parent):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = self._folder / hashlib.sha256(source.url.encode("utf-8", "surrogateescape")).hexdigest()
        with locked(place.with_suffix(".lock"), timeout_s=3600.0):
            known = self._known(place)
            if checksum and self._path(checksum).exists():
                modified = known.modified if known and known.digest == checksum else ""
                return self._download(source, _Known(digest=checksum, modified=modified))
            if self._settings.offline:
                raise RegistryError(
                    f"{printable(source.url)} is not here, and the run is offline",
                    mend="build once while the network may be used, with --checksum=sha256:...",
                )
            known = self._ask(source.url, known, checksum)
            write_atomic(place, json.dumps([known.digest, known.etag, known.modified]).encode())
        return self._download(source, known)

    def _download(self, source: HttpSource, known: _Known) -> Download:
        try:
            mtime_s = int(email.utils.parsedate_to_datetime(known.modified).timestamp())
        except (ValueError, OverflowError):
            mtime_s = 0
        path = self._path(known.digest)
        return Download(name=source.name, path=path, digest=known.digest, mtime_s=max(mtime_s, 0))

    def _path(self, digest: str) -> Path:
        return self._folder / digest.replace(":", "-")

    def _known(self, place: Path) -> _Known | None:
        try:
            digest, etag, modified = json.loads(place.read_bytes())
        except (OSError, ValueError):
            return None
        return _Known(digest=digest, etag=etag, modified=modified) if self._path(digest).exists() else None

    def _ask(self, url: str, known: _Known | None, checksum: str) -> _Known:
        headers: dict[str, str] = {}
        algorithm = checksum.partition(":")[0] or "sha256"
        if known is not None and not known.digest.startswith(f"{algorithm}:"):
            known = None
        if known is not None and known.etag:
            headers["If-None-Match"] = known.etag
        elif known is not None and known.modified:
            headers["If-Modified-Since"] = known.modified
        with self._transport.send("GET", url, headers=headers) as reply:
            if reply.status == 304 and known is not None:
                _check(url, checksum, known.digest)
                return known
            if reply.status != 200:
                raise RegistryError(
                    f"GET {printable(url)} answers {reply.status}", mend="check the URL, or where it leads"
                )
            digest = self._take(url, reply, checksum, algorithm)
            return _Known(digest=digest, etag=reply.header("ETag"), modified=reply.header("Last-Modified"))

    def _take(self, url: str, reply: Reply, checksum: str, algorithm: str) -> str:
        """Keep the body under its digest, which is returned, unless it is not *checksum*."""
        if (reply.length or 0) > _LIMIT_BYTES:
            raise RegistryError(f"{printable(url)} is too large", seen=f"{reply.length} bytes")
        with room(self._folder), tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            try:
                sink = _Sink(file, algorithm)
                if reply.length is None:
                    for piece in reply.pieces():
                        sink.write(piece)
                else:
                    again = _Again(self._transport, url, reply)
                    self._transport.download(again, sink, reply.length, printable(url))
                file.flush()
                digest = sink.digest()
                _check(url, checksum, digest)
                os.replace(file.name, self._path(digest))
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file.name)
                raise
        return digest


class _Again:
    """Opens a URL at an offset: first the reply that is here, later the rest of the same content."""

    def __init__(self, transport: Transport, url: str, first: Reply) -> None:
        self._transport = transport
        self._url = url
        self._first: Reply | None = first
        # Without a strong validator the rest may be of something else (RFC 9110, 13.1.5).
        etag = first.header("ETag")
        self._validator = etag if not etag.startswith("W/") else ""

    def __call__(self, offset: int) -> Reply:
        first, self._first = self._first, None
        if first is not None:
            return first
        headers = (
            {"Range": f"bytes={offset}-", "If-Range": self._validator} if self._validator and offset else {}
        )
        reply = self._transport.send("GET", self._url, headers=headers)
        if reply.status not in {200, 206, 416}:
            reply.close()
            raise RegistryError(f"GET {printable(self._url)} answers {reply.status}", mend="try again")
        return reply


class _Sink:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes], algorithm: str) -> None:
        self._file = file
        self._algorithm = algorithm
        self._hasher = hashlib.new(algorithm)
        self.offset = 0

    def write(self, data: bytes, /) -> None:
        self.offset += len(data)
        if self.offset > _LIMIT_BYTES:
            raise RegistryError("the file is too large", seen=f"more than {_LIMIT_BYTES} bytes")
        self._hasher.update(data)
        self._file.write(data)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._hasher = hashlib.new(self._algorithm)
        self.offset = 0

    def digest(self) -> str:
        return f"{self._algorithm}:{self._hasher.hexdigest()}"


def _check(url: str, checksum: str, digest: str) -> None:
    if checksum and checksum != digest:
        raise DigestMismatch(
            f"{printable(url)} is not what --checksum says",
            seen=f"{digest} in place of {checksum}",
            mend="look at what has changed there, then write the new digest",
        )
