"""The benchmarks are no part of what is installed, so their tests find them beside the tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

_ROOT: Final = str(Path(__file__).resolve().parents[2])

# Last of all: the package under test is the one that is installed, where one is.
if _ROOT not in sys.path:
    sys.path.append(_ROOT)
