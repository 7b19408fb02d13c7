"""The cache of build steps: a key that stands for a step's whole input, to the layer it made.

A key is the digest of the key below and of everything the step depends on; what it does not
depend on (times, proxies, the values of secrets) is not in it. Processes share the cache: one
makes a step, others that want the same wait for it and find it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_containers._files import Waiting, locked, write_atomic
from pytest_containers.errors import ImageError
from pytest_containers.images.digest import Digest
from pytest_containers.images.manifest import OCI_LAYER_GZIP, Descriptor
from pytest_containers.images.store import Store

__all__ = ["Cached", "StepCache", "step_key"]


def step_key(below: str, kind: str, *details: object) -> str:
    """Return the key of a step on the key *below*; *details* are values of JSON."""
    whole = json.dumps([below, kind, *details], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """What a step made: a layer's descriptor and DiffID, or None where it changed nothing.

    *created* is when, an RFC 3339 time: the history of a build from the cache is that of the first.
    """

    layer: Descriptor | None
    diff_id: str = ""
    created: str = ""


class StepCache:
    """The steps that were built with the layers of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.root / "build"

    @contextlib.contextmanager
    def hold(self, key: str, cancel: threading.Event | None = None) -> Iterator[None]:
        """Hold the lock of one step; *cancel* ends the wait for another process that makes it."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with locked(self._folder / f"{key}.lock", waiting=Waiting(cancel=cancel)):
            yield

    def find(self, key: str) -> Cached | None:
        """Return what the step made, None where it was not built or its layer is gone."""
        try:
            fields = json.loads((self._folder / f"{key}.json").read_bytes())
            created = str(fields["created"])
            if not fields["digest"]:
                return Cached(layer=None, created=created)
            digest = Digest.parse(str(fields["digest"]))
            layer = Descriptor(media_type=OCI_LAYER_GZIP, digest=digest, size=int(fields["size"]))
            found = Cached(layer=layer, diff_id=Digest.parse(str(fields["diff_id"])), created=created)
        except (OSError, ValueError, KeyError, TypeError, ImageError):
            return None
        if not self._store.blobs.has(digest):
            return None
        # A prune by age counts from the last use. One that goes on now may have removed the entry; the
        # layer is leased by the question above, so the step is not built again.
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path(key))
        return found

    def keep(self, key: str, made: Cached) -> None:
        """Remember what a step made."""
        layer = made.layer
        fields = {
            "digest": str(layer.digest) if layer else "",
            "size": layer.size if layer else 0,
            "diff_id": made.diff_id,
            "created": made.created,
        }
        write_atomic(self._path(key), json.dumps(fields).encode())

    def content(self, key: str) -> str:
        """Return the digest that `keep_content` was told of *key*, empty for none."""
        try:
            return str(json.loads(self._path(key).read_bytes())["content"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def keep_content(self, key: str, digest: str) -> None:
        """Remember the content that *key*, of files that never change, stands for."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_atomic(self._path(key), json.dumps({"content": digest}).encode())

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"
