"""``python -m benchmarks.peak STORE VERB ...``: does one thing; prints the most memory it ever took.

The verbs are those of `ImageContestant`: ``pull REFERENCE``, ``push REFERENCE``, ``build FOLDER
REFERENCE``. Counted is the resident set of this one process, which stands for pytest's, interpreter
and pytest included (VmHWM, proc_pid_status(5)): getrusage(2) would count its parent's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contestants.ours import Ours

__all__ = ["main"]


def main(store: Path, verb: str, words: Sequence[str]) -> None:
    """Print bytes."""
    import pytest  # noqa: F401 - in a real run it is there

    ours = Ours(store)
    match verb:
        case "pull":
            ours.pull(*words)
        case "push":
            ours.push(*words)
        case "build":
            ours.build(Path(words[0]), words[1])
        case _:
            raise SystemExit(f"no verb {verb}")
    print(_most_bytes())
    ours.close()


def _most_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not tell VmHWM")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
