"""The upload of one blob: a small state machine that can begin again and go on.

::

    HEAD ── there ─────────────────────────────────────────────► done
      └─ POST ── mounted ──────────────────────────────────────► done
           └─ Location ── PUT of the whole blob ───────────────► done
                   └───── PATCH, PATCH, ... ── PUT, empty ─────► done
                            └─ broke: GET Location, go on from its Range, or begin again

Source: distribution-spec, spec.md, "Pushing blobs". A Location is used as it came; each answer may
bring another.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Broken:
    """Why an upload broke that may be tried again."""

    error: ImageError


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
            for attempt in range(self._transport.settings.attempts):
                self._transport.pause(attempt)
                broken = self._once(descriptor, mount=not attempt)
                if broken is None:
                    return
            if broken is not None:
                raise broken.error

    def _once(self, descriptor: Descriptor, *, mount: bool) -> _Broken | None:
        """Upload from the first byte; return what broke, where it may be tried again."""
        with self._begin(descriptor, mount=mount) as reply:
            if reply.status == 201:
                return None
            if reply.status != 202:
                raise self._registry.refusal(reply, self._what(descriptor))
            location = self._registry.location(reply)
            least = reply.header("OCI-Chunk-Min-Length")
        chunk_bytes = self._transport.settings.upload_chunk_bytes
        if least.isascii() and least.isdigit():
            chunk_bytes = max(chunk_bytes, int(least[:12]))
        if descriptor.size <= chunk_bytes:
            return self._finish(location, descriptor, 0)
        return self._chunks(location, descriptor, chunk_bytes)

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

    def _chunks(self, location: str, descriptor: Descriptor, chunk_bytes: int) -> _Broken | None:
        """Send the blob piece by piece, each where the registry says the last one ended."""
        start, failures = 0, 0
        while start < descriptor.size:
            end = min(start + chunk_bytes, descriptor.size)
            sent = self._patch(location, descriptor, start, end)
            if isinstance(sent, _Broken):
                failures += 1
                resumed = self._resume(location) if failures < self._transport.settings.attempts else None
                if resumed is None:
                    self._abandon(location)
                    return sent
                sent = resumed
            location, start = sent
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
            if reply.status == 202:
                return self._registry.location(reply), _held(reply, end)
            return self._refused(reply, descriptor)

    def _resume(self, location: str) -> tuple[str, int] | None:
        """Ask how far an upload came; None where that is nowhere, or cannot be known."""
        try:
            with self._registry.request("GET", location, self._scopes) as reply:
                if reply.status != 204:
                    return None
                if reply.header("Location"):
                    location = self._registry.location(reply)
                held = _held(reply, 0)
                # Docker's registry says 0-0 of one byte and of none (distribution, "blobupload.go").
                return (location, held) if held > 1 else None
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
        """Return a refusal that may pass, raise one that will not."""
        error = self._registry.refusal(reply, self._what(descriptor))
        # 404 and 416: the registry knows another state of this upload than we do.
        if reply.status in (404, 408, 416, 429) or reply.status >= 500:
            return _Broken(error=error)
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
