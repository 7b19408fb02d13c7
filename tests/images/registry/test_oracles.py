"""Through a real registry: docker and podman run what we push, and we run what they push."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Literal

import pytest

from pytest_containers import exited
from pytest_containers.errors import ImageNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_containers import Container, ContainerFactory
    from pytest_containers.shelf import Shelf
    from tests.plugins.oracles import Oracles

pytestmark = pytest.mark.kernel

# A file that RUN made with its mode, one that it removed, a variable and a folder: what config and
# layers have to carry. Few lines, since docker's classic builder takes a second for each.
_DOCKERFILE: Final = """FROM scratch
COPY busybox gone /bin/
RUN ["/bin/busybox", "sh", "-c", "echo of a layer > /made; busybox chmod 604 /made; busybox rm /bin/gone"]
ENV WORD="a word with spaces"
WORKDIR /some/where
CMD ["/bin/busybox", "sh", "-c", "cat /made; stat -c %a /made; echo $WORD; pwd; ls /bin"]
"""
_SAYS: Final = "of a layer\n604\na word with spaces\n/some/where\nbusybox\n"


@pytest.fixture
def folder(oracles: Oracles, tmp_path: Path) -> Path:
    """Return a folder with a Dockerfile, for whoever builds."""
    (tmp_path / "busybox").write_bytes(oracles.busybox)
    (tmp_path / "busybox").chmod(0o755)
    (tmp_path / "gone").write_bytes(b"of a lower layer")
    (tmp_path / "Dockerfile").write_text(_DOCKERFILE)
    return tmp_path


@pytest.fixture
def seen_from_box(container: ContainerFactory, registry_image: str) -> tuple[str, str]:
    """Return one empty registry twice: as this process reaches it, and as other containers do."""
    box = container(registry_image)
    return str(box.address(5000, published=True)), f"{box.ip}:5000"


@pytest.fixture
def forget(images: Shelf) -> Iterator[Callable[[str], str]]:
    """Return what marks a name to be forgotten after the test."""
    names: list[str] = []

    def mark(name: str) -> str:
        names.append(name)
        return name

    yield mark
    for name in names:
        with contextlib.suppress(ImageNotFound):  # the test ended before it was there
            images.remove(name)


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_image_of_ours_is_run_by_them(
    oracles: Oracles,
    images: Shelf,
    seen_from_box: tuple[str, str],
    forget: Callable[[str], str],
    folder: Path,
    engine: Literal["docker", "podman"],
) -> None:
    """What is built and pushed here says the same when docker or podman has pulled it."""
    here, there = seen_from_box
    images.build(folder, forget(f"{here}/ours:1"))
    digest = images.push(f"{here}/ours:1")
    name = f"{there}/ours@{digest}"
    run = oracles.docker if engine == "docker" else oracles.podman
    run("pull", *(["--tls-verify=false"] if engine == "podman" else []), name)
    said = run("run", "--rm", "--network", "none", name)
    run("image", "rm", "--force", name)
    assert said == _SAYS


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_image_of_theirs_is_run_here(
    oracles: Oracles,
    container: ContainerFactory,
    seen_from_box: tuple[str, str],
    forget: Callable[[str], str],
    folder: Path,
    engine: Literal["docker", "podman"],
) -> None:
    """What docker or podman has built and pushed says here what it says there."""
    here, there = seen_from_box
    name = f"{there}/theirs:1"
    if engine == "docker":
        oracles.docker("build", "--network", "none", "--tag", name, folder)
        oracles.docker("push", name)
        oracles.docker("image", "rm", "--force", name)
    else:
        oracles.podman("build", "--network", "host", "--tag", name, folder)
        oracles.podman("push", "--tls-verify=false", name)
        oracles.podman("image", "rm", "--force", name)
    ran: Container = container(forget(f"{here}/theirs:1"), ready=exited(0))
    assert ran.logs() == _SAYS


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_image_that_skopeo_copied_is_run_here(
    oracles: Oracles,
    images: Shelf,
    container: ContainerFactory,
    seen_from_box: tuple[str, str],
    forget: Callable[[str], str],
    folder: Path,
    form: str,
) -> None:
    """A copy within the registry, by skopeo and in either format, runs as the original does."""
    here, there = seen_from_box
    images.build(folder, forget(f"{here}/ours:1"))
    images.push(f"{here}/ours:1")
    names = (f"docker://{there}/ours:1", f"docker://{there}/copy:1")
    oracles.skopeo("copy", "--format", form, "--src-tls-verify=false", "--dest-tls-verify=false", *names)
    ran = container(forget(f"{here}/copy:1"), ready=exited(0))
    assert ran.logs() == _SAYS
