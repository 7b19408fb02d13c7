"""``python -m benchmarks.first STORE``: prints how long the first container of this process takes.

Counted are the imports, the start of the engine and the start of the container: pytest itself has
begun before, as it has in every run. The engine is cold, which the plugin's is not: it begins to
start while tests are still being collected.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

__all__ = ["main"]


def main(store: Path) -> None:
    """Start one container on the images of *store*."""
    import pytest  # noqa: F401 - in a real run it is there

    import pytest_containers.plugin  # noqa: F401

    began = time.perf_counter()
    from benchmarks.contestants.ours import Ours

    ours = Ours(store)
    ours.start("first")
    print(time.perf_counter() - began)
    ours.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
