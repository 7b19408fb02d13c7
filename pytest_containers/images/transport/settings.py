"""How registries are reached, as one frozen value."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_containers.images.origin import Origin

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How registries are reached.

    *mirrors* maps a registry to what is asked before it, in order: ``host[:port][/prefix]``.
    *insecure* names hosts, with or without a port, that may be spoken to by plain http; loopback
    always may. *attempts* counts the tries of one request, the first pause between them is
    *backoff_s* and each next twice as long; a Retry-After beyond *wait_limit_s* is not waited for.
    A body of which fewer than *floor_bytes_per_s* came during *floor_window_s* of waiting has broken
    off, as has a head that took longer than that window; *clock* counts the seconds of bodies and of
    tokens' lives. *upload_chunk_bytes* is the first size of a chunk, where a registry wants chunks.
    *certificates* are folders laid out as Docker's certs.d: ``HOST/*.crt`` are
    authorities, ``*.cert`` and ``*.key`` the client's pair. *environ* is read for proxies and
    credentials.
    """

    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    insecure: frozenset[str] = frozenset()
    offline: bool = False
    parallel: int = 4
    attempts: int = 4
    backoff_s: float = 0.25
    wait_limit_s: float = 60.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    floor_bytes_per_s: int = 1 << 10
    floor_window_s: float = 30.0
    clock: Callable[[], float] = time.monotonic
    upload_chunk_bytes: int = 64 << 20
    certificates: tuple[Path, ...] = (Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d"))
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)

    def plain(self, origin: Origin) -> bool:
        """Tell whether *origin* may be spoken to by plain http."""
        return origin.loopback or bool({origin.host, str(origin)} & self.insecure)
