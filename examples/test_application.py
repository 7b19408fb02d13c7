"""An application of two containers, and what is built anew when its code changes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

if TYPE_CHECKING:
    from pytest_containers import ContainerFactory
    from pytest_containers.shelf import Shelf


def test_visitors_are_counted(container: ContainerFactory, redis_image: str, application_image: str) -> None:
    """The application finds its Redis by name, and all instances of it share the count."""
    container(redis_image, name="redis")
    for visitor, instance in enumerate(("first", "second", "third"), 1):
        application = container(application_image, name=instance)
        with urlopen(f"http://{application.address(8000)}/", timeout=10) as answer:
            assert answer.read() == b"visitor %d\n" % visitor


def test_new_code_is_one_new_layer(images: Shelf, application_image: str, tmp_path: Path) -> None:
    """The packages below stay as they are; a build takes as long as the copy of one file."""
    before = images.pull(application_image)
    folder = shutil.copytree(Path(__file__).parent / "application", tmp_path / "application")
    (folder / "app.py").write_text("print('rewritten')\n")
    after = images.build(folder, "application-example:next")
    assert after.diff_ids[:-1] == before.diff_ids[:-1]
    assert after.diff_ids[-1] != before.diff_ids[-1]
