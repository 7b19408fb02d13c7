"""``python -m pytest_containers``: the command line without its script (floor 5)."""

from __future__ import annotations

import sys

from pytest_containers.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
