"""Laws of images that stand on the machine's files, when its packages are others than they were."""

from __future__ import annotations

from typing import Final

import pytest

from pytest_containers.errors import ImageNotFound
from pytest_containers.images import store as module
from pytest_containers.progress import BuildEvent
from pytest_containers.spec import BuildSpec, BuiltFrom, ContainerSpec, ImageConfig, ImageRecord, PullPolicy
from tests.engines.sites import Site

pytestmark = pytest.mark.kernel

_DOCKERFILE: Final = "FROM host\nRUN echo {} > /srv/made\n"
_REASON: Final = "other packages are installed now"


def _change_packages(monkeypatch: pytest.MonkeyPatch, image: ImageRecord) -> None:
    """Let the machine have other packages than it had when *image* was made."""
    monkeypatch.setattr(module, "_is_stale", lambda manifest: manifest.config.digest == image.id)


def _unheard(_event: BuildEvent) -> None:
    """Hear of a build's steps."""


def _listed(site: Site) -> dict[str, tuple[BuiltFrom | None, str]]:
    return {one.reference: (one.built_from, one.stale) for one in site.engine.images.list()}


def test_image_is_listed_with_the_folder_it_was_built_from(site: Site) -> None:
    """Folder, Dockerfile and stage are told, under each of its names."""
    site.write({"other": _DOCKERFILE.replace("host", "host AS stage").format("x")})
    spec = BuildSpec(folder=str(site.folder), tags=("one", "two"), dockerfile="other", target="stage")
    record = site.engine.images.build(spec, _unheard)
    source = BuiltFrom(folder=str(site.folder), dockerfile="other", target="stage", repeatable=True)
    assert record.built_from == source
    site.engine.images.tag("one", "three")
    for name in ("one", "two", "three"):
        assert site.engine.images.pull(name).built_from == source
        assert site.engine.images.inspect(name).record.built_from == source


def test_stale_image_is_listed_with_the_reason(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays in the list, with why it cannot be started and from which folder it was built."""
    _change_packages(monkeypatch, site.build(_DOCKERFILE.format("first")))
    ((source, stale),) = [told for name, told in _listed(site).items() if name.endswith("/made:latest")]
    assert source == BuiltFrom(folder=str(site.folder), repeatable=True)
    assert _REASON in stale
    assert site.engine.images.inspect("made").record.stale == stale


@pytest.mark.parametrize("policy", ["missing", "never", "always"])
def test_stale_image_is_built_again_from_its_folder(
    site: Site, monkeypatch: pytest.MonkeyPatch, policy: PullPolicy
) -> None:
    """Asked for by name it is built from what its folder says now, and no registry is asked."""
    first = site.build(_DOCKERFILE.format("first"))
    site.write({"Dockerfile": _DOCKERFILE.format("second")})
    assert site.engine.images.pull("made", policy=policy) == first
    _change_packages(monkeypatch, first)
    again = site.engine.images.pull("made", policy=policy)
    assert (again.stale, again.built_from) == ("", first.built_from)
    assert site.run(again, "cat", "/srv/made") == "second\n"
    assert site.engine.images.pull("made", policy=policy) == again


@pytest.mark.parametrize("lost", ["folder", "argument"])
def test_stale_image_that_cannot_be_built_again_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Where the Dockerfile is gone, or more was given than a folder, the error names the folder."""
    given = {"args": {"A": "secret-of-a-build"}} if lost == "argument" else {}
    image = site.build("FROM host\nARG A\nRUN echo x > /srv/made\n", **given)
    _change_packages(monkeypatch, image)
    if lost == "folder":
        (site.folder / "Dockerfile").unlink()
    with pytest.raises(ImageNotFound, match="does not fit this machine any more") as caught:
        site.engine.images.pull("made")
    assert _REASON in caught.value.seen
    assert f"images.build('{site.folder}', tag='made:latest')" in caught.value.mend
    assert "secret-of-a-build" not in (site.store / "index.json").read_text()


def test_stale_image_of_a_commit_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed has no folder: the error says to make it again."""
    handle = site.engine.create(ContainerSpec(name="box", command=("true",)), site.engine.images.pull("host"))
    try:
        image = handle.tree.commit("mine", ImageConfig())
    finally:
        handle.remove()
    _change_packages(monkeypatch, image)
    with pytest.raises(ImageNotFound, match="does not fit this machine any more") as caught:
        site.engine.images.pull("mine")
    assert "commit or build" in caught.value.mend
