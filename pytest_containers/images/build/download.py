"""``ADD https://...``: fetched once, asked again whether it has changed, kept as a blob of the store.

What is kept of a URL, as an entry of the build cache, are the validators of RFC 9110 (ETag,
Last-Modified) and the digest of what came; a conditional request then costs no body. The file is
BuildKit's (source/http): mode 0600, as old as Last-Modified says, else of 1970.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pytest_containers._files import Waiting, locked, write_atomic
from pytest_containers.errors import DigestMismatch, ImageError, RegistryError
from pytest_containers.images.blobs import NewBlob, room
from pytest_containers.images.build.cache import step_key
from pytest_containers.images.build.nodes import Item, Node
from pytest_containers.images.build.remote import HttpSource
from pytest_containers.images.digest import Digest
from pytest_containers.images.origin import printable
from pytest_containers.images.store import Store
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
    """What the last answer said of a URL; *checksum* is what its content was verified against."""

    digest: Digest
    etag: str = ""
    modified: str = ""
    checksum: str = ""


class Downloads:
    """Fetches into *store*; safe between threads and processes."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._folder = store.root / "build"
        self._settings = settings
        self._transport = Transport(settings)

    def close(self) -> None:
        """End every request."""
        self._transport.__exit__(None, None, None)

    def fetch(self, source: HttpSource, checksum: str) -> Download:
        """Return what is behind the URL; nothing is asked where *checksum* names what is here.

        Raises RegistryError, DigestMismatch where it is not what *checksum* says.
        """
        with room(self._store.root):
            self._folder.mkdir(mode=0o700, exist_ok=True)
        place = self._folder / step_key("", "GET", source.url)
        with locked(place.with_suffix(".lock"), waiting=Waiting(cancel=self._transport.cancelled)):
            known = self._known(place)
            found = self._by_checksum(known, checksum)
            if found is None and self._settings.offline:
                raise RegistryError(
                    f"{printable(source.url)} is not here, and the run is offline",
                    mend="build once while the network may be used, with --checksum=sha256:...",
                )
            found = found or self._ask(source.url, known, checksum)
            write_atomic(place.with_suffix(".json"), json.dumps(asdict(found)).encode())
        return self._download(source, found)

    def _download(self, source: HttpSource, known: _Known) -> Download:
        try:
            mtime_s = int(email.utils.parsedate_to_datetime(known.modified).timestamp())
        except (ValueError, OverflowError):
            mtime_s = 0
        path = self._store.blobs.path(known.digest)
        return Download(name=source.name, path=path, digest=known.digest, mtime_s=max(mtime_s, 0))

    def _known(self, place: Path) -> _Known | None:
        try:
            fields = json.loads(place.with_suffix(".json").read_bytes())
            known = _Known(**{**fields, "digest": Digest.parse(fields["digest"])})
        except (OSError, ValueError, KeyError, TypeError, ImageError):
            return None
        return known if self._has(known.digest) else None

    def _has(self, digest: Digest) -> bool:
        self._store.leases.cover(digest)
        return self._store.blobs.has(digest)

    def _by_checksum(self, known: _Known | None, checksum: str) -> _Known | None:
        """Return what is here already and is what *checksum* names, wherever it came from."""
        if known is not None and checksum and checksum in {known.digest, known.checksum}:
            return known
        if checksum.startswith("sha256:") and self._has(Digest.parse(checksum)):
            return _Known(digest=Digest.parse(checksum))
        return None

    def _ask(self, url: str, known: _Known | None, checksum: str) -> _Known:
        headers: dict[str, str] = {}
        if known is not None and not checksum and known.etag:
            headers["If-None-Match"] = known.etag
        elif known is not None and not checksum and known.modified:
            headers["If-Modified-Since"] = known.modified
        with self._transport.send("GET", url, headers=headers) as reply:
            if reply.status == 304 and known is not None:
                return known
            if reply.status != 200:
                raise RegistryError(
                    f"GET {printable(url)} answers {reply.status}", mend="check the URL, or where it leads"
                )
            digest = self._take(url, reply, checksum)
            return _Known(
                digest=digest,
                etag=reply.header("ETag"),
                modified=reply.header("Last-Modified"),
                checksum=checksum,
            )

    def _take(self, url: str, reply: Reply, checksum: str) -> Digest:
        """Keep the body, unless it is not what *checksum* says."""
        with self._store.blobs.create() as blob:
            sink = _Sink(blob, checksum.partition(":")[0] or "sha256")
            again = _Again(self._transport, url, reply)
            if reply.length is None:
                self._whole(again, sink)
            else:
                self._transport.download(again, sink, reply.length, printable(url))
            if checksum and checksum != sink.digest:
                raise DigestMismatch(
                    f"{printable(url)} is not what --checksum says",
                    seen=f"{sink.digest} in place of {checksum}",
                    mend="look at what has changed there, then write the new digest",
                )
            return blob.commit()[0]

    def _whole(self, again: _Again, sink: _Sink) -> None:
        """Read a body whose end alone tells its length, from the beginning where it breaks off."""
        last = self._transport.settings.attempts - 1
        for attempt in range(last + 1):
            self._transport.pause(attempt)
            try:
                with again(0) as reply:
                    for piece in reply.pieces():
                        sink.write(piece)
                return
            except RegistryError:
                if attempt == last:
                    raise
                sink.restart()


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
    """A blob that is also hashed as *algorithm* has it."""

    def __init__(self, blob: NewBlob, algorithm: str) -> None:
        self._blob = blob
        self._algorithm = algorithm
        self._hasher = hashlib.new(algorithm)

    @property
    def offset(self) -> int:
        return self._blob.offset

    @property
    def digest(self) -> str:
        return f"{self._algorithm}:{self._hasher.hexdigest()}"

    def write(self, data: bytes, /) -> None:
        if self.offset + len(data) > _LIMIT_BYTES:
            raise RegistryError("the file is too large", seen=f"more than {_LIMIT_BYTES} bytes")
        self._hasher.update(data)
        self._blob.write(data)

    def restart(self) -> None:
        self._blob.restart()
        self._hasher = hashlib.new(self._algorithm)
