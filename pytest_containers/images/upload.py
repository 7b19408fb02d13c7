"""Upload one blob to a registry: one PUT, and smaller requests only where that cannot work.

::

    HEAD ── present ───────────────────────────────────────────► done
      └─ POST ── mounted ──────────────────────────────────────► done
           └─ Location ── PUT of the whole blob ───────────────► done
                   │        └─ broke: GET Location, PATCH the rest, empty PUT ► done
                   └─ 413, or the registry asks for chunks: PATCH, PATCH, ... ── empty PUT ► done

ghcr.io refuses a PATCH of more than 4 MiB and Google's registries know no PATCH at all, while every
registry takes one PUT. A Location is used as it came; each answer may bring another.

Source: distribution-spec, spec.md, "Pushing blobs".
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from pytest_containers.errors import ImageError, RegistryError, Unauthorized
from pytest_containers.images.blobs import Blobs
from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.progress import Meter
from pytest_containers.images.registry import Registry, push_scope
from pytest_containers.images.transport import Reply, Transport
from pytest_containers.progress import Watch

__all__ = ["Upload"]

_PIECE_BYTES = 256 << 10
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
# A request that a registry finds too large is halved down to this; below, the refusal means something else.
_LEAST_CHUNK_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Broken:
    """Why an upload broke that may be tried again; *status* is the reply's, 0 where none came."""

    error: ImageError
    status: int = 0


class Upload:
    """Uploads to one repository; safe between threads.

    *sources* names other repositories of the registry that may hold a blob.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        repository: str,
        blobs: Blobs,
        transport: Transport,
        sources: Callable[[Digest], Iterable[str]],
        watch: Watch | None = None,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._blobs = blobs
        self._transport = transport
        self._sources = sources
        self._watch = watch
        self._meters: dict[Digest, Meter] = {}
        self._scopes = push_scope(repository)

    def blob(self, descriptor: Descriptor) -> None:
        """Make the repository hold a blob. Raises Unauthorized, RegistryError."""
        with Meter(self._watch, descriptor.digest, "upload", descriptor.size) as meter:
            self._meters[descriptor.digest] = meter
            if self._registry.has_blob(self._repository, descriptor.digest, self._scopes):
                return
            broken: _Broken | None = None
            chunk_bytes = 0  # the whole blob in one request
            for attempt in range(self._transport.settings.attempts):
                self._transport.pause(attempt)
                broken = self._once(descriptor, mount=not attempt, chunk_bytes=chunk_bytes)
                if broken is None:
                    return
                if broken.status == 413:
                    chunk_bytes = min(self._transport.settings.upload_chunk_bytes, descriptor.size // 2)
            if broken is not None:
                raise broken.error

    def _once(self, descriptor: Descriptor, *, mount: bool, chunk_bytes: int) -> _Broken | None:
        """Upload from the first byte; return what broke, where it may be tried again.

        *chunk_bytes* of 0 means one PUT, unless the registry asks for chunks.
        """
        with self._begin(descriptor, mount=mount) as reply:
            if reply.status == 201:
                return None
            if reply.status != 202:
                raise self._registry.refusal(reply, self._what(descriptor))
            location = self._registry.location(reply)
            least = reply.header("OCI-Chunk-Min-Length")
        if least.isascii() and least.isdigit() and int(least[:12]):
            chunk_bytes = max(chunk_bytes or self._transport.settings.upload_chunk_bytes, int(least[:12]))
        if chunk_bytes and descriptor.size > chunk_bytes:
            return self._chunks(location, descriptor, 0, chunk_bytes)
        broken = self._finish(location, descriptor, 0)
        if broken is None or broken.status in (404, 413):
            return broken
        resumed = self._resume(location, descriptor)
        if resumed is None:
            self._abandon(location)
            return broken
        return self._chunks(resumed[0], descriptor, resumed[1], descriptor.size)

    def _begin(self, descriptor: Descriptor, *, mount: bool) -> Reply:
        """Ask for a place to upload to, or for the blob of another repository.

        Never asks to mount without ``from``: some registries would search through everything.
        """
        uploads, digest = f"{self._repository}/blobs/uploads/", descriptor.digest
        source = next(iter(self._sources(digest)), None) if mount else None
        if source is not None:
            query = urlencode({"mount": digest, "from": source})
            # We may be allowed to write here and not to read there.
            with contextlib.suppress(Unauthorized):
                reply = self._registry.request(
                    "POST", f"{uploads}?{query}", push_scope(self._repository, source), headers=_length(0)
                )
                if reply.status in (201, 202):
                    return reply
                reply.close()
        query = "" if digest.algorithm == "sha256" else f"?digest-algorithm={digest.algorithm}"
        return self._registry.request("POST", uploads + query, self._scopes, headers=_length(0))

    def _chunks(self, location: str, descriptor: Descriptor, start: int, chunk_bytes: int) -> _Broken | None:
        """Send the blob from byte *start* in chunks, each where the registry says the last one ended.

        A chunk that the registry finds too large (413; ghcr.io says 416) is halved. What does not
        make the registry hold more counts as a failure, so that the number of requests is bounded.
        """
        failures = 0
        while start < descriptor.size:
            end = min(start + chunk_bytes, descriptor.size)
            sent = self._patch(location, descriptor, start, end)
            if isinstance(sent, tuple):
                location, start = sent
                continue
            resumed = self._resume(location, descriptor)
            too_large = sent.status == 413 or (
                sent.status == 416 and (resumed is None or resumed[1] == start)
            )
            if too_large and end - start > _LEAST_CHUNK_BYTES:
                chunk_bytes = max((end - start) // 2, _LEAST_CHUNK_BYTES)
                location, start = resumed or (location, start)
                continue
            failures += 1
            other_way = sent.status in (400, 404, 405, 501)  # no chunks here, or no such upload any more
            if resumed is None or other_way or failures >= self._transport.settings.attempts:
                self._abandon(location)
                return sent
            location, start = resumed
        return self._finish(location, descriptor, start)

    def _patch(
        self, location: str, descriptor: Descriptor, start: int, end: int
    ) -> tuple[str, int] | _Broken:
        """Send one chunk; return where the next one goes and with which byte it begins."""
        # Inclusive at both ends and without the unit: the specification's own form, not RFC 9110's.
        headers = {"Content-Range": f"{start}-{end - 1}"}
        reply = self._send("PATCH", location, descriptor, start, end, headers)
        if isinstance(reply, _Broken):
            return reply
        with reply:
            if reply.status != 202:
                return self._refused(reply, descriptor)
            held = _held(reply, end)
            if start < held <= descriptor.size:
                return self._registry.location(reply), held
            return _Broken(
                error=RegistryError(
                    f"{self._what(descriptor)} makes no progress",
                    seen=f"{self._registry} was sent bytes {start} to {end - 1} and says it holds {held}",
                    mend="the registry, or a proxy before it, does not keep what it is sent",
                )
            )

    def _resume(self, location: str, descriptor: Descriptor) -> tuple[str, int] | None:
        """Ask how far an upload came; None where that is nowhere, or cannot be known."""
        try:
            with self._registry.request("GET", location, self._scopes) as reply:
                if reply.status != 204:
                    return None
                if reply.header("Location"):
                    location = self._registry.location(reply)
                held = _held(reply, 0)
                # Docker's registry says 0-0 of one byte and of none (distribution, "blobupload.go").
                return (location, held) if 1 < held <= descriptor.size else None
        except RegistryError:
            return None

    def _finish(self, location: str, descriptor: Descriptor, start: int) -> _Broken | None:
        """Send what is left, with the digest that closes the upload."""
        glue = "&" if "?" in location else "?"
        url = location + glue + urlencode({"digest": descriptor.digest})
        reply = self._send("PUT", url, descriptor, start, descriptor.size, {})
        if isinstance(reply, _Broken):
            return reply
        with reply:
            # 204 is what some registries of before the specification say.
            return None if reply.status in (201, 204) else self._refused(reply, descriptor)

    def _send(
        self, method: str, url: str, descriptor: Descriptor, start: int, end: int, headers: Mapping[str, str]
    ) -> Reply | _Broken:
        """Send a part of the blob once: a blind second time could add it twice."""
        everything = {"Content-Type": "application/octet-stream", **_length(end - start), **headers}
        try:
            return self._registry.request(
                method,
                url,
                self._scopes,
                headers=everything,
                body=lambda: self._pieces(descriptor.digest, start, end),
                attempts=1,
            )
        except Unauthorized:
            raise
        except RegistryError as error:
            return _Broken(error=error)

    def _pieces(self, digest: Digest, start: int, end: int) -> Iterator[bytes]:
        with self._blobs.open(digest) as blob:
            blob.seek(start)
            while start < end and (piece := blob.read(min(_PIECE_BYTES, end - start))):
                start += len(piece)
                yield piece
                self._meters[digest].at(start)

    def _refused(self, reply: Reply, descriptor: Descriptor) -> _Broken:
        """Return a refusal that another way or another time may mend, raise one that is final."""
        error = self._registry.refusal(reply, self._what(descriptor))
        # 404 and 416: the registry knows another state of this upload than we do. 405, 413 and 501
        # refuse this way of sending, not the blob.
        if reply.status in (404, 408, 413, 416, 429) or reply.status >= 500:
            return _Broken(error=error, status=reply.status)
        if reply.method == "PATCH" and reply.status in (400, 405):
            return _Broken(error=error, status=reply.status)
        raise error

    def _abandon(self, location: str) -> None:
        with contextlib.suppress(ImageError):
            self._registry.request("DELETE", location, self._scopes, attempts=1).close()

    def _what(self, descriptor: Descriptor) -> str:
        return f"the upload of {descriptor.digest} to {self._registry}/{self._repository}"


def _length(count: int) -> dict[str, str]:
    return {"Content-Length": str(count)}


def _held(reply: Reply, default: int) -> int:
    """Return how many bytes the registry holds: its Range is ``0-LAST``, also for a single byte."""
    match = _RANGE.fullmatch(reply.header("Range").strip())
    return int(match[1]) + 1 if match else default
