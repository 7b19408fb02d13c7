"""Builds for a platform: which bases they take, what their config says, and what they refuse."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.manifest import DOCKER_LAYER_GZIP, OCI_LAYER_GZIP
from pytest_containers.images.platform import Platform
from pytest_containers.images.reference import Reference
from pytest_containers.spec import ImageConfig
from tests.images.build.plain import Site

HERE = Platform.host()
FOREIGN = "linux/s390x" if HERE.architecture != "s390x" else "linux/arm64"
# A machine of these names its own architecture with the variant that its programs need at least.
SAME = {"amd64": "linux/amd64/v1", "arm64": "linux/arm64/v8"}.get(HERE.architecture, str(HERE))


def _layer(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def _config(platform: str, **more: str) -> ImageConfig:
    read = Platform.parse(platform)
    config = ImageConfig(os=read.os, architecture=read.architecture, variant=read.variant)
    return replace(config, **more)  # type: ignore[arg-type]


@pytest.fixture
def two(site: Site) -> Site:
    """A store that has the image ``two`` for this machine and for a foreign one."""
    site.load("two", _layer("here"), _config(str(HERE)))
    site.load("two", _layer("foreign"), _config(FOREIGN))
    return site


def _built(site: Site, *lines: str, **more: object) -> tuple[set[str], str]:
    """Build *lines*; return the image's paths, and the platform that its config names."""
    (site.context / "Dockerfile").write_text("\n".join(lines) + "\n")
    (site.context / "file").write_text("content")
    record = site.build(site.context, **more)
    return set(_paths(site.layers(record))), record.config.platform


def _paths(layers: list[bytes]) -> list[str]:
    found: list[str] = []
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            found += tar.getnames()
    return found


def test_base_is_taken_for_the_platform_that_was_asked_for(two: Site) -> None:
    """platform= chooses the base, and stands in the config; without it both are this machine's."""
    assert _built(two, "FROM two", platform=FOREIGN) == ({"foreign"}, FOREIGN)
    assert _built(two, "FROM two") == ({"here"}, str(HERE))


def test_platform_of_from_chooses_the_base(two: Site) -> None:
    """FROM --platform= goes before what the build is for, and a stage on a stage keeps its base's."""
    assert _built(two, f"FROM --platform={FOREIGN} two") == ({"foreign"}, FOREIGN)
    lines = ("FROM --platform=$BUILDPLATFORM two AS tools", "FROM tools", "COPY file /copied")
    files, platform = _built(two, *lines, platform=FOREIGN)
    assert files == {"here", "copied"}
    assert platform == FOREIGN


def test_copy_from_an_image_takes_the_targets(two: Site) -> None:
    """COPY --from= an image takes its files for the platform that is built for."""
    line = "COPY --from=two / /"
    assert _built(two, "FROM scratch", line, platform=FOREIGN) == ({"foreign"}, FOREIGN)
    assert _built(two, "FROM scratch", line) == ({"here"}, str(HERE))


def test_scratch_is_for_the_platform_that_was_asked_for(site: Site) -> None:
    """A cross-compiled program upon nothing is not labelled as this machine's."""
    assert _built(site, "FROM scratch", "COPY file /", platform=FOREIGN) == ({"file"}, FOREIGN)
    assert _built(site, "FROM scratch", "COPY file /") == ({"file"}, str(HERE))


def test_build_for_another_platform_leaves_the_name_to_this_machines(site: Site) -> None:
    """Both images keep the one name, and each is found for its platform."""
    _built(site, "FROM scratch", "COPY file /here")
    _built(site, "FROM scratch", "COPY file /there", platform=FOREIGN)
    name = Reference.parse("made")
    ours, theirs = site.store.find(name), site.store.find(name, Platform.parse(FOREIGN))
    assert ours is not None
    assert theirs is not None
    assert (ours.config.platform, theirs.config.platform) == (str(HERE), FOREIGN)


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        (("FROM two", "RUN true"), "Dockerfile:2"),
        (("FROM two AS a", "FROM a", "", "RUN true"), "Dockerfile:4"),
        (("FROM host",), "Dockerfile:1"),
    ],
)
def test_command_of_a_foreign_platform_is_refused_with_its_line(
    two: Site, lines: tuple[str, ...], where: str
) -> None:
    """A RUN whose files are another processor's is refused before the first step, and so is host."""
    with pytest.raises(SpecInvalid, match=f"{where}: platform {FOREIGN}: it is not this machine's"):
        _built(two, *lines, platform=FOREIGN)
    assert two.store.find(Reference.parse("made"), Platform.parse(FOREIGN)) is None


def test_spelling_of_the_own_platform_is_not_foreign(two: Site) -> None:
    """A machine's own platform with its least variant is its own: nothing is refused."""
    files, platform = _built(two, f"FROM --platform={SAME} two", "COPY file /copied")
    assert files == {"here", "copied"}
    assert platform == SAME


def test_image_on_a_base_keeps_what_its_config_says_of_its_platform(site: Site) -> None:
    """Variant, version of the system and author are the base's, until MAINTAINER names another."""
    site.load("arm", _layer("a"), _config("linux/arm/v7", os_version="6.1", author="them"))
    assert _built(site, "FROM arm", platform="linux/arm/v7")[1] == "linux/arm/v7"
    record = site.build(site.context, platform="linux/arm/v7")
    config = site.config(record)
    assert (config["variant"], config["os.version"], config["author"]) == ("v7", "6.1", "them")
    (site.context / "Dockerfile").write_text("FROM arm\nMAINTAINER us\n")
    assert site.config(site.build(site.context, platform="linux/arm/v7"))["author"] == "us"


def test_layers_in_dockers_terms_are_listed_in_ocis(site: Site) -> None:
    """An OCI manifest of ours lists no layer by Docker's media type."""
    record = site.load("docker", _layer("a"))
    manifest = site.manifest(record)
    layers = tuple(replace(layer, media_type=DOCKER_LAYER_GZIP) for layer in manifest.layers)
    written = json.loads(manifest.encode()) | {"layers": [layer.values() for layer in layers]}
    site.store.tag(Reference.parse("docker"), json.dumps(written).encode())
    _built(site, "FROM docker", "COPY file /")
    made = site.store.find(Reference.parse("made"))
    assert made is not None
    assert {layer.media_type for layer in site.manifest(made).layers} == {OCI_LAYER_GZIP}


def test_dockerfile_in_lower_case_is_taken_where_the_usual_name_is_not_there(site: Site) -> None:
    """A folder with a file `dockerfile` alone is built, and errors name that file."""
    (site.context / "dockerfile").write_text("FROM scratch\nCOPY file /\n")
    (site.context / "file").write_text("content")
    assert site.build(site.context).config.platform == str(HERE)
    (site.context / "dockerfile").write_text("FROM\n")
    with pytest.raises(SpecInvalid, match=r"^dockerfile:1"):
        site.build(site.context)
    (site.context / "Dockerfile").write_text("FROM scratch\nCOPY file /other\n")
    assert site.build(site.context).config.platform == str(HERE)
