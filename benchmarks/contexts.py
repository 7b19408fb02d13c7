"""The folders that images are built of: a web application with its libraries, as tests have them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from benchmarks import image
from benchmarks.contestants.base import BASE

__all__ = ["COPIED_FILES", "RUN_FILES", "application", "change", "top"]

COPIED_FILES: Final = 3_000
RUN_FILES: Final = 400
_MEAN_BYTES: Final = 8_000
_FILES_A_FOLDER: Final = 40
_OWN: Final = "app/main.py"

_DOCKERFILE: Final = f"""\
FROM {BASE} AS build
WORKDIR /build
COPY vendor /build/vendor
RUN mkdir -p /build/out && for number in $(seq {RUN_FILES}); do echo $number > /build/out/$number; done

FROM {BASE}
ENV LANG=C.UTF-8
WORKDIR /srv
COPY --from=build /build/out /srv/lib
COPY vendor /srv/vendor
COPY app /srv/app
CMD ["/bin/sleep", "100000"]
"""


def application(folder: Path, edition: int, *, files: int = COPIED_FILES) -> Path:
    """Make the context of two stages; return *folder*. No edition shares a step with another."""
    chance, text = random.Random("application"), image.pool()
    for index in range(files):
        if index % _FILES_A_FOLDER == 0:
            part = folder / "vendor" / f"library-{index // _FILES_A_FOLDER:03d}"
            part.mkdir(parents=True)
        (part / f"file-{index:05d}.py").write_bytes(image.content(chance, index, _MEAN_BYTES, text))
    (folder / "vendor" / "edition").write_text(f"{edition}\n")
    (folder / "app").mkdir()
    for index in range(20):
        (folder / "app" / f"module_{index}.py").write_bytes(image.content(chance, index, _MEAN_BYTES, text))
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    change(folder, "as it was")
    return folder


def change(folder: Path, line: str) -> None:
    """Give the application's own code one line that is *line*."""
    (folder / _OWN).write_text(f"import module_0\n\nprint({line!r})\n")


def top(folder: Path, base: str, line: str) -> Path:
    """Make the context of one small layer on the image *base*; return *folder*."""
    (folder / "app").mkdir(parents=True)
    change(folder, line)
    (folder / "Dockerfile").write_text(f"FROM {base}\nCOPY app /srv/app\n")
    return folder
