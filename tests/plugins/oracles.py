"""docker, podman and skopeo as Debian has them, in one container: what they make of our images.

Nothing of them touches the machine. Their containers get no network and no cgroup: a cgroup would
be made in the machine's own hierarchy, below which a privileged container's is mounted, and would
be left there when the run is killed. Layers are copied (vfs), since what they are written to is a
layer of an overlayfs already.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from tests.plugins.images import made_once, workshop

if TYPE_CHECKING:
    from pytest_containers import Container, ContainerFactory
    from pytest_containers.shelf import Shelf

_PACKAGES: Final = (
    *("docker.io", "podman", "crun", "skopeo"),
    "busybox-static",  # a program that needs no other file: the content of an image of a few layers
)
_DAEMON: Final = {
    "log-level": "warn",
    "bridge": "none",
    "iptables": False,
    "storage-driver": "vfs",
    "insecure-registries": ["0.0.0.0/0"],
    "runtimes": {"plain": {"path": "crun", "runtimeArgs": ["--cgroup-manager=disabled"]}},
    "default-runtime": "plain",
}
_PODMAN: Final = """
[containers]
cgroups = "disabled"
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""
_FILES: Final = {
    "/etc/docker/daemon.json": json.dumps(_DAEMON),
    "/etc/containers/containers.conf": _PODMAN,
    "/etc/containers/storage.conf": '[storage]\ndriver = "vfs"\n'
    'graphroot = "/var/lib/containers/storage"\nrunroot = "/run/containers/storage"\n',
    "/etc/containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}',
}
# The classic builder of docker, which needs no more than the daemon, and buildah's way of running a
# step without a runtime: with crun it would raise a limit that this container has not.
_ENVIRONMENT: Final = {"DOCKER_BUILDKIT": "0", "BUILDAH_ISOLATION": "chroot"}
# The shell waits for whoever loses its parent, as the shims of containerd and podman's conmon do.
_FIRST: Final = ("sh", "-c", "dockerd & wait")
_PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracles:
    """The three in their container, where the folders of this process's tests have the same names."""

    box: Container
    busybox: bytes

    def docker(self, *words: object) -> str:
        """Run ``docker``, whose daemon is there; return what it writes."""
        return self._run("docker", *words)

    def podman(self, *words: object) -> str:
        """Run ``podman``."""
        return self._run("podman", *words)

    def skopeo(self, *words: object) -> str:
        """Run ``skopeo``."""
        return self._run("skopeo", *words)

    def _run(self, *words: object) -> str:
        ended = self.box.exec([*map(str, words)], env=_ENVIRONMENT, timeout=_PATIENCE_S)
        if ended.exit_code:
            told = f"{' '.join(map(str, words))}\nexit {ended.exit_code}\n{ended.stdout}{ended.stderr}"
            pytest.fail(told, pytrace=False)
        return ended.stdout


@pytest.fixture(scope="session")
def oracles(
    container: ContainerFactory, images: Shelf, debian_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Oracles:
    """Return docker, podman and skopeo, all ready, for this process alone."""
    from pytest_containers import command

    def make() -> None:
        with workshop(container, debian_image, *_PACKAGES) as box:
            box.commit("oracles:debian")

    shared = str(tmp_path_factory.getbasetemp())
    box = container(
        made_once(images, "oracles:debian", make),
        command=_FIRST,
        privileged=True,
        files=_FILES,
        volumes={shared: shared},
        ready=command(["docker", "version"]),
    )
    return Oracles(box=box, busybox=box.read_bytes("/bin/busybox"))
