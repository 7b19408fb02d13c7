"""Fuzz one target with atheris, guided by what of the package is covered.

::

    pip install atheris
    python -m tests.fuzz layer CORPUS -max_total_time=300

CORPUS is a folder that is kept between runs; it is begun with the inputs of ``tests/fuzz/seeds.py``. All
other words are libFuzzer's; where they say nothing else, an input may take ten seconds and 512 MiB. A
fault ends the run and leaves its input in a file ``crash-...``: it goes to ``tests/fuzz/found/TARGET``,
where the suite tries it for ever. As root the targets ``layer`` and ``archive`` make device nodes and
give files away, below TMPDIR.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

__all__ = ["main"]

# A clock and a limit of memory: what is slow or large is a fault as well.
_BOUNDS = ("-timeout=10", "-rss_limit_mb=512")


def main(program: str, target: str, corpus: str, *words: str) -> None:
    """Fuzz *target*; ends with the process."""
    # Not a dependency of the tests: it has no wheels for some of the Pythons that they run on.
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["pytest_containers.images"]):
        targets = importlib.import_module("tests.fuzz.targets")
        seeds = importlib.import_module("tests.fuzz.seeds").seeds(target)
    Path(corpus).mkdir(parents=True, exist_ok=True)
    for name, data in seeds.items():
        Path(corpus, name).write_bytes(data)
    bounds = [word for word in _BOUNDS if not any(w.startswith(word.partition("=")[0]) for w in words)]
    atheris.Setup([program, corpus, *bounds, *words], targets.TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv)
