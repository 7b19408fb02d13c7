"""Named contexts: folders and images that a build is handed besides its own context."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_containers.errors import SpecInvalid
from tests.engines.sites import Site

pytestmark = pytest.mark.kernel


@pytest.fixture
def extra(tmp_path: Path) -> Path:
    """Return a folder with two files, one of which its own ignore file leaves out."""
    folder = tmp_path / "extra"
    folder.mkdir()
    (folder / "kept").write_text("kept\n")
    (folder / "left").write_text("left\n")
    (folder / ".dockerignore").write_text("left\n")
    return folder


def test_named_context_is_copied_from(site: Site, extra: Path) -> None:
    """COPY --from takes from the folder, without what its ignore file names; a change is seen."""
    dockerfile = "FROM host\nCOPY --from=more . /srv/more/\n"
    image = site.build(dockerfile, contexts={"more": str(extra)})
    assert site.run(image, "ls", "/srv/more") == "kept\n"
    (extra / "kept").write_text("changed\n")
    image = site.build(dockerfile, contexts={"more": str(extra)})
    assert site.run(image, "cat", "/srv/more/kept") == "changed\n"


def test_named_context_stands_in_for_a_base(site: Site, extra: Path) -> None:
    """A FROM of its name stands on the folder's files, or on the image that it is."""
    image = site.build("FROM base\nCOPY --from=base kept /copy\n", contexts={"base": str(extra)})
    assert len(image.diff_ids) == 2
    image = site.build("FROM base\nRUN echo > /srv/made\n", contexts={"base": "docker-image://host"})
    assert not image.portable


def test_named_context_that_is_not_there_is_refused(site: Site) -> None:
    """A folder that does not exist is named, with the line that wants it."""
    with pytest.raises(SpecInvalid, match=r"Dockerfile:2.*/none.* is not a folder"):
        site.build("FROM host\nCOPY --from=more . /srv/\n", contexts={"more": "/none"})
