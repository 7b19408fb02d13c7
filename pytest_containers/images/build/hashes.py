"""Hashes of a context's files, and of its sources, remembered by what stat(2) says of them.

A build from the cache would otherwise read all of a context to find that nothing has changed. A
file's change time cannot be set back as its modification time can, so device, inode, size and both
times stand for its content, but not for a file that was changed in the moments before it was read:
within one tick of the kernel's clock a second change shows in no time ("racy git", gitformat-index(5)).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pytest_containers._files import write_atomic

__all__ = ["Hashes"]

_SETTLED_NS: Final = 2 * 10**9
_MOST: Final = 20_000

Identity = tuple[int | str, ...]


class Hashes:
    """The hashes kept in the file *path*; safe between threads. *now_ns* is the clock of files."""

    def __init__(self, path: Path, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._path = path
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._kept: dict[str, str] | None = None
        self._fresh: dict[str, str] = {}

    def of(self, identity: Identity, changed_ns: int, read: Callable[[], str]) -> str:
        """Return the hash of what *identity* stands for, of *read* where it is not known.

        *changed_ns* is the change time of the file, or of the latest of several.
        """
        key = ":".join(map(str, identity))
        with self._lock:
            if self._kept is None:
                self._kept = self._load()
            found = self._fresh.get(key) or self._kept.get(key)
        if found:
            return found
        began_ns = self._now_ns()
        content = read()
        if content and changed_ns + _SETTLED_NS < began_ns:
            with self._lock:
                self._fresh[key] = content
        return content

    def save(self) -> None:
        """Write down what was new; of several processes that do so the last one counts."""
        with self._lock:
            if not self._fresh:
                return
            both = {**self._load(), **self._fresh}
            kept = dict(list(both.items())[-_MOST:])
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(mode=0o700, exist_ok=True)
                write_atomic(self._path, json.dumps(kept).encode())
            self._fresh = {}

    def _load(self) -> dict[str, str]:
        try:
            found = json.loads(self._path.read_bytes())
            return {str(key): str(value) for key, value in found.items()}
        except (OSError, ValueError, AttributeError):
            return {}
