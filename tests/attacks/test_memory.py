"""A container that takes all memory: the kernel must kill it, and never the process that runs pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.plugins.clock import scaled
from tests.plugins.groups import bounded_group

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel

# What pytest and the run's own processes need is some 60 MiB of it.
_LIMIT_BYTES: Final = 400 << 20
_PATIENCE_S: Final = round(scaled(120))

_BEGIN: Final = """
def test_attack(container):
    box = container("host", command="sleep 600")
"""
_END: Final = """
    assert container("host", command="echo alive").wait() == 0
"""
# More than twice the limit, in files of the container's own layer, in several tmpfs, and in names alone.
_FILES: Final = """
    result = box.exec(["sh", "-c", "mkdir -p /srv/x; dd if=/dev/zero of=/srv/x/big bs=1M count=900"])
    assert result.exit_code != 0 and "No space left" in result.stderr, result
"""
_TMPFS: Final = """
    box = container("host", command="sleep 600", tmpfs=["/fill", "/more", "/most"])
    for place in ("/fill", "/more", "/most", "/srv"):
        result = box.exec(["dd", "if=/dev/zero", f"of={place}/big", "bs=1M", "count=900"])
        assert result.exit_code != 0 and "No space left" in result.stderr, result
"""
_NAMES: Final = """
    import sys
    for place in ("/srv", "/dev/shm"):
        script = f"import os\\nfor n in range(2_000_000): os.close(os.open(f'{place}/{{n}}', os.O_CREAT))"
        result = box.exec([sys.executable, "-c", script], timeout=60)
        assert result.exit_code != 0 and "No space left" in result.stderr, result
"""
_PROCESS: Final = """
    import sys
    result = box.exec([sys.executable, "-c", "x = b'x' * (900 << 20)"], timeout=60)
    assert result.exit_code == 137, result
    hog = container("host", command=[sys.executable, "-c", "x = b'x' * (900 << 20)"], ready=lambda _: True)
    assert hog.wait(timeout=60) == 137
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """Return a memory group of this test's own, with a limit, and remove it."""
    with bounded_group(_LIMIT_BYTES) as folder:
        yield folder


@pytest.mark.parametrize(
    "attack", [_FILES, _TMPFS, _NAMES, _PROCESS], ids=["files", "tmpfs", "names", "process"]
)
def test_memory_hog_is_the_one_to_end(pytester: pytest.Pytester, group: Path, attack: str) -> None:
    """In a memory group that a container fills up, the container is refused or killed and pytest goes on."""
    file = pytester.makepyfile(_BEGIN + attack + _END)
    enter = f'echo 0 > {group}/cgroup.procs && exec "$@"'
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    ended = subprocess.run(
        ["sh", "-c", enter, "sh", *argv],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        env={**os.environ, "PYTEST_CONTAINERS_STORE": str(pytester.path / "store")},
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
