"""The images that a build needs: when they are fetched, how many at a time, and who hears of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from pytest_containers import cli
from pytest_containers.errors import ImageNotFound
from pytest_containers.images.build.build import build
from pytest_containers.images.config import read_config
from pytest_containers.images.platform import Platform
from pytest_containers.images.pull import pull
from pytest_containers.images.reference import Reference
from pytest_containers.spec import BuildSpec, ImageConfig
from tests.images.build.plain import PlainBuilds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_containers.images.transport import Settings
    from pytest_containers.progress import Progress, Watch
    from pytest_containers.spec import ImageRecord
    from tests.images.registry.conftest import Answer, Asked, Faulty, ImageMaker

HERE = Platform.host()
CONFIG = ImageConfig(architecture=HERE.architecture, variant=HERE.variant)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder to build from."""
    made = tmp_path / "context"
    made.mkdir()
    (made / "file").write_text("content")
    return made


def _build(
    folder: Path, dockerfile: str, tmp_path: Path, settings: Settings, heard: list[Progress] | None = None
) -> ImageRecord:
    site = PlainBuilds(tmp_path / "store")
    (folder / "Dockerfile").write_text(dockerfile)

    def fetch(reference: str, /, *, platform: str | None, watch: Watch) -> ImageRecord:
        wanted = Platform.parse(platform) if platform else None
        return pull(site.store, Reference.parse(reference), platform=wanted, settings=settings, watch=watch)

    spec = BuildSpec(folder=str(folder), tags=("made",))
    transfer = None if heard is None else heard.append
    return build(
        site.store, site, spec, pull=fetch, watch=lambda _: None, transfer=transfer, transport=settings
    )


def test_bases_are_fetched_at_the_same_time_and_told_of(
    faulty: Faulty, make_image: ImageMaker, folder: Path, tmp_path: Path, settings: Settings
) -> None:
    """Two images of a build are on their way at once, and each blob's progress is heard."""
    images = [make_image(name, config=CONFIG) for name in (b"one", b"two")]
    meeting = threading.Barrier(2)
    for name, image in zip(("one", "two"), images, strict=True):
        faulty.hold(name, image)
        (layer,) = image.manifest.layers
        faulty.on(
            "GET", f"/v2/{name}/blobs/{layer.digest}", _behind(meeting, image.blobs[layer.digest], faulty)
        )
    heard: list[Progress] = []
    dockerfile = f"FROM {faulty.host}/one AS one\nFROM {faulty.host}/two\nCOPY --from=one / /one/\n"
    _build(folder, dockerfile, tmp_path, settings, heard)
    layers = {layer.digest for image in images for layer in image.manifest.layers}
    assert layers <= {event.subject for event in heard if event.phase == "download"}


def _behind(meeting: threading.Barrier, body: bytes, faulty: Faulty) -> Callable[[Asked], Answer]:
    def act(_: Asked) -> Answer:
        meeting.wait(30)  # raises BrokenBarrierError where the other request does not come
        return faulty.answer(body=body)

    return act


def test_image_is_asked_for_once_for_all_stages(
    faulty: Faulty, make_image: ImageMaker, folder: Path, tmp_path: Path, settings: Settings
) -> None:
    """Whatever stages and copies need one image, its registry is asked for it once."""
    faulty.hold("app", make_image(b"one", config=CONFIG))
    name = f"{faulty.host}/app"
    copies = "".join(f"FROM {name} AS s{n}\nCOPY --from={name} / /x{n}/\n" for n in range(4))
    last = "".join(f"COPY --from=s{n} /x{n} /x{n}\n" for n in range(4))
    _build(folder, f"{copies}FROM {name}\n{last}", tmp_path, settings)
    assert faulty.paths("GET").count("/v2/app/manifests/latest") == 1


def test_failed_base_ends_the_others(
    faulty: Faulty, make_image: ImageMaker, folder: Path, tmp_path: Path, settings: Settings
) -> None:
    """An image that is not there is told although another is still on its way."""
    image = make_image(b"slow" * 1000, config=CONFIG)
    faulty.hold("slow", image)
    held = threading.Event()
    (layer,) = image.manifest.layers
    blob = faulty.answer(body=image.blobs[layer.digest], hold=held)
    faulty.on("GET", f"/v2/slow/blobs/{layer.digest}", blob)
    faulty.on("GET", "/v2/missing/manifests/latest", faulty.refusal(404, "MANIFEST_UNKNOWN"))
    threading.Timer(0.5, held.set).start()
    dockerfile = f"FROM {faulty.host}/missing\nCOPY --from={faulty.host}/slow / /slow/\n"
    with pytest.raises(ImageNotFound, match="missing"):
        _build(folder, dockerfile, tmp_path, settings)


def test_triggers_of_a_stage_that_a_trigger_needs_are_obeyed(
    faulty: Faulty, make_image: ImageMaker, folder: Path, tmp_path: Path, settings: Settings
) -> None:
    """An ONBUILD COPY --from=tools makes the stage tools necessary, whose base has triggers of its own."""
    first = ImageConfig(architecture=CONFIG.architecture, onbuild=("COPY --from=tools /by-trigger /",))
    second = ImageConfig(architecture=CONFIG.architecture, onbuild=("COPY file /by-trigger",))
    faulty.hold("first", make_image(b"1", config=first))
    faulty.hold("second", make_image(b"2", config=second))
    site = PlainBuilds(tmp_path / "store")
    dockerfile = f"FROM {faulty.host}/second AS tools\nFROM {faulty.host}/first\n"
    record = _build(folder, dockerfile, tmp_path, settings)
    assert any(b"by-trigger" in layer for layer in site.layers(record))


@pytest.mark.parametrize(("option", "asked"), [((), 0), (("--pull",), 1)])
def test_build_asks_for_newer_bases_where_it_is_told_to(
    faulty: Faulty,
    make_image: ImageMaker,
    folder: Path,
    tmp_path: Path,
    option: tuple[str, ...],
    asked: int,
) -> None:
    """--pull looks for a newer base image; without it one that is here is taken."""
    faulty.hold("app", make_image(b"old", config=CONFIG))
    (folder / "Dockerfile").write_text(f"FROM {faulty.host}/app\nCOPY file /\n")
    argv = ["--store", str(tmp_path / "store"), "build", "-q", "-t", "made", str(folder)]
    assert cli.main(argv) == 0
    newer = make_image(b"new", config=CONFIG)
    faulty.hold("app", newer)
    faulty.asked.clear()
    assert cli.main([*argv[:3], *option, *argv[3:]]) == 0
    assert faulty.paths("GET").count("/v2/app/manifests/latest") == asked
    store = PlainBuilds(tmp_path / "store")
    made = store.store.find(Reference.parse("made"))
    assert made is not None
    _, diff_ids = read_config(newer.blobs[newer.manifest.config.digest])
    assert (made.diff_ids[0] == diff_ids[0]) is bool(asked)
