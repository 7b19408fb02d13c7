"""What a test expects of kernels of another age."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import pytest

__all__ = ["refused_before", "since"]


def since(release: str) -> bool:
    """Return whether this machine runs Linux *release*, as ``6.8``, or a newer one."""
    ours, asked = (tuple(map(int, re.findall(r"\d+", one)[:2])) for one in (os.uname().release, release))
    return ours >= asked


@contextlib.contextmanager
def refused_before(release: str, number: int) -> Iterator[None]:
    """Let the block pass since Linux *release*; before, it must end with an OSError of errno *number*."""
    if since(release):
        yield
        return
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        yield
    assert caught.value.errno == number
