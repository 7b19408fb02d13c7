"""Round trips with skopeo, podman and docker: the same image goes in and comes out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.images.digest import Digest
from pytest_containers.images.load import load
from pytest_containers.images.reference import Reference
from pytest_containers.images.save import Format, save
from pytest_containers.images.store import Store

if TYPE_CHECKING:
    from tests.images.archives.conftest import Image

NAME = "r.example/team/app:1"
Archived = Callable[[dict[str, bytes]], bytes]


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {name})")
    return found


def _run(*command: object) -> str:
    ended = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    if ended.returncode:
        pytest.fail(f"{command}\nexit {ended.returncode}\n{ended.stdout}{ended.stderr}", pytrace=False)
    return ended.stdout


@pytest.fixture
def skopeo(tmp_path: Path) -> Callable[..., str]:
    """Return what runs skopeo with a trust policy of its own."""
    program = _program("skopeo")
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return lambda *arguments: _run(program, "--policy", policy, "--tmpdir", tmp_path, *arguments)


@pytest.fixture
def podman() -> Iterator[Callable[..., str]]:
    """Return what runs podman on a storage and in a mount namespace of its own; nothing is started in it."""
    program = _program("podman")
    # It refuses a --runroot of more than 50 characters.
    with tempfile.TemporaryDirectory(prefix="p") as folder:
        places = ["--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver", "vfs"]
        alone = ["unshare", "--mount", "--propagation", "private"]
        yield lambda *arguments: _run(*alone, program, *places, *arguments)


@pytest.fixture
def docker() -> Callable[..., str]:
    """Return what runs the docker command, where its daemon answers."""
    program = _program("docker")
    if subprocess.run([program, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no docker daemon answers")
    return lambda *arguments: _run(program, *arguments)


SOURCES: tuple[tuple[Format, str], ...] = (
    ("docker", "docker-archive"),
    ("oci", "oci-archive"),
    ("oci-dir", "oci"),
)


@pytest.mark.parametrize(("form", "transport"), SOURCES)
def test_skopeo_reads_what_is_saved(
    skopeo: Callable[..., str],
    store: Store,
    stored: Reference,
    image: Image,
    tmp_path: Path,
    form: Format,
    transport: str,
) -> None:
    """Config and DiffIDs are those of the store, byte for byte, and every blob is copied."""
    save(store, [stored], tmp_path / "out", format=form)
    source = f"{transport}:{tmp_path / 'out'}:{NAME}"
    assert skopeo("inspect", "--raw", "--config", source).strip().encode() == image.config
    skopeo("copy", source, f"oci:{tmp_path / 'copied'}:{NAME}")
    (record,) = load(Store.open(tmp_path / "other"), tmp_path / "copied")
    assert (record.reference, record.id, record.diff_ids) == (NAME, Digest.of(image.config), image.diff_ids)


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive", "oci"])
def test_what_skopeo_writes_is_loaded(
    skopeo: Callable[..., str], store: Store, stored: Reference, image: Image, tmp_path: Path, transport: str
) -> None:
    """Its docker archive has symbolic links and plain layers, its layouts a name or a tag."""
    save(store, [stored], tmp_path / "out", format="oci")
    skopeo("copy", f"oci-archive:{tmp_path / 'out'}:{NAME}", f"{transport}:{tmp_path / 'theirs'}:{NAME}")
    other = Store.open(tmp_path / "other")
    (record,) = load(other, tmp_path / "theirs")
    assert (record.reference, record.id, record.diff_ids) == (NAME, Digest.of(image.config), image.diff_ids)
    layers = [sorted(os.listdir(folder)) for folder in other.layers(record)]
    assert layers == [["b", "etc"], ["c", "etc"]]


@pytest.mark.kernel
@pytest.mark.parametrize("form", ["docker", "oci"])
def test_podman_loads_what_is_saved(
    podman: Callable[..., str], store: Store, stored: Reference, image: Image, tmp_path: Path, form: Format
) -> None:
    """It has the image by its name and by its id."""
    save(store, [stored], tmp_path / "out", format=form)
    assert NAME in podman("load", "--input", tmp_path / "out")
    (seen,) = json.loads(podman("image", "inspect", NAME))
    assert seen["Id"] == Digest.of(image.config).hex
    assert tuple(seen["RootFS"]["Layers"]) == image.diff_ids


@pytest.mark.kernel
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_what_podman_saves_is_loaded(
    podman: Callable[..., str],
    store: Store,
    image: Image,
    archived: Archived,
    tmp_path: Path,
    form: str,
) -> None:
    """An image that it made a storage of comes back with its id and its DiffIDs."""
    (tmp_path / "in").write_bytes(archived(image.docker()))
    podman("load", "--input", tmp_path / "in")
    podman("save", "--format", form, "--output", tmp_path / "out", NAME)
    (record,) = load(store, tmp_path / "out")
    assert (record.reference, record.id, record.diff_ids) == (NAME, Digest.of(image.config), image.diff_ids)


def test_docker_loads_what_is_saved_and_the_other_way_round(
    docker: Callable[..., str], store: Store, stored: Reference, image: Image, tmp_path: Path
) -> None:
    """The daemon knows the image by the same DiffIDs, and what it saves is loaded again."""
    save(store, [stored], tmp_path / "out")
    try:
        docker("load", "--input", tmp_path / "out")
        (seen,) = json.loads(docker("image", "inspect", NAME))
        docker("save", "--output", tmp_path / "theirs", NAME)
    finally:
        docker("image", "rm", "--force", NAME)
    assert tuple(seen["RootFS"]["Layers"]) == image.diff_ids
    (record,) = load(Store.open(tmp_path / "other"), tmp_path / "theirs")
    assert (record.reference, record.id, record.diff_ids) == (NAME, Digest.of(image.config), image.diff_ids)
