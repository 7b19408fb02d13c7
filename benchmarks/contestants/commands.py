"""docker and podman, by their commands: what a test without a client library calls."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.census import CGROUP
from benchmarks.contestants.base import CHANGES, Address, ImageContestant, resident_bytes
from benchmarks.materials import REDIS, SLEEP

__all__ = ["Absent", "Docker", "Podman"]

_IMAGE: Final = "localhost/benchmark:1"
_PATIENCE_S: Final = 30.0
_CALL_S: Final = 120.0


class Absent(Exception):
    """Why a peer cannot be measured here."""


class _Command(ImageContestant):
    """What both commands have in common.

    *argv* is the command with its global options, *own* how the programs of its background begin.
    """

    def __init__(
        self, argv: Sequence[str], own: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._argv = tuple(argv)
        self._own = tuple(own)
        self._environment = {**os.environ, **(environment or {})}

    def _call(self, *words: str) -> str:
        # Files and not pipes: what is left in the background may hold a pipe open for ever.
        with tempfile.TemporaryFile() as output:
            ended = subprocess.run(
                [*self._argv, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=_CALL_S,
                env=self._environment,
            )
            output.seek(0)
            text = output.read().decode(errors="replace").strip()
        if ended.returncode != 0:
            last = text.splitlines()[-1] if text else f"exit code {ended.returncode}"
            raise RuntimeError(f"{self.name} {words[0]}: {last}")
        return text

    def start(self, name: str) -> None:
        """``run --detach``."""
        self._call("run", "--detach", "--name", name, _IMAGE, *SLEEP)

    def serve(self, name: str) -> None:
        """``run --detach`` of Redis; each has its own address, so no port is published."""
        self._call("run", "--detach", "--name", name, _IMAGE, *REDIS)

    def exec(self, name: str) -> None:
        """``exec``."""
        self._call("exec", name, "/bin/true")

    def remove(self, names: Sequence[str]) -> None:
        """``rm --force``, all in one call."""
        self._call("rm", "--force", *names)

    def addresses(self, names: Sequence[str]) -> list[Address]:
        """``inspect``, all in one call."""
        found = self._call("inspect", "--format", "{{.NetworkSettings.IPAddress}}", *names)
        return [(line.strip(), 6379) for line in found.splitlines()]

    def memory_bytes(self) -> int:
        """Weigh the daemon and what stays beside each container."""
        return resident_bytes(lambda argv: os.path.basename(argv[0]).startswith(self._own))

    def change(self, name: str) -> None:
        """``exec`` of a shell."""
        self._call("exec", name, *CHANGES)

    def commit(self, name: str, image: str) -> None:
        """``commit``."""
        self._call("commit", name, f"localhost/{image}")

    def pull(self, reference: str) -> None:
        """``pull``."""
        self._call("pull", "--quiet", reference)

    def tag(self, source: str, target: str) -> None:
        """``tag``."""
        self._call("tag", source, target)

    def push(self, reference: str) -> None:
        """``push``."""
        self._call("push", "--quiet", reference)

    def build(self, folder: Path, reference: str) -> None:
        """``build``: docker's by BuildKit, podman's with layers, as both do unasked."""
        self._call("build", "--quiet", "--tag", reference, str(folder))

    def save(self, reference: str, archive: Path) -> None:
        """``save``."""
        self._call("save", "--output", str(archive), reference)

    def load(self, archive: Path) -> None:
        """``load``."""
        self._call("load", "--quiet", "--input", str(archive))


class Docker(_Command):
    """docker with a daemon of its own: its images are below *folder*, what it keeps while it runs in *run*.

    Raises Absent where it is not installed or its daemon does not begin.
    """

    name = "docker"

    def __init__(self, folder: Path, run: Path, root: Path) -> None:
        if missing := [program for program in ("docker", "dockerd") if not shutil.which(program)]:
            raise Absent(f"{' and '.join(missing)} not installed")
        self.socket: Final = f"unix://{run / 'docker.sock'}"
        super().__init__(
            (_docker_client(), "--host", self.socket),
            ("dockerd", "containerd", "docker-containerd", "docker-proxy"),
            {"DOCKER_BUILDKIT": "1"},
        )
        folder.mkdir()
        run.mkdir()
        with (folder / "log").open("wb") as log:
            self._daemon = subprocess.Popen(
                [
                    *("dockerd", "--host", self.socket, "--pidfile", str(run / "pid")),
                    *("--data-root", str(folder / "data"), "--exec-root", str(run / "exec")),
                    *("--cgroup-parent", f"/{CGROUP}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self.version = self._first_answer(folder / "log")
            self._call("import", str(root), _IMAGE)
        except Exception as error:
            self.close()
            raise Absent(str(error)) from error

    def _first_answer(self, log: Path) -> str:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._call("version", "--format", "{{.Server.Version}}")
            except RuntimeError as error:
                if self._daemon.poll() is not None or time.monotonic() > deadline:
                    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
                    raise Absent(f"dockerd did not begin: {' '.join(last) or error}") from error
            time.sleep(0.1)

    def close(self) -> None:
        """End the daemon; it takes its containers along."""
        self._daemon.terminate()
        try:
            self._daemon.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()


class Podman(_Command):
    """podman on the first runtime that can start a container here; *folder* and *run* as with docker.

    Raises Absent where it is not installed or no runtime can.
    """

    name = "podman"

    def __init__(self, folder: Path, run: Path, root: Path) -> None:
        if not shutil.which("podman"):
            raise Absent("podman not installed")
        seen = "neither crun nor runc installed"
        for runtime in filter(shutil.which, ("crun", "runc")):
            super().__init__(_podman(folder, run, runtime), ("conmon",))
            try:
                self._call("import", str(root), _IMAGE)
                self._call("run", "--rm", _IMAGE, "/bin/true")
                self.version = f"{self._call('version', '--format', '{{.Client.Version}}')} with {runtime}"
            except RuntimeError as error:
                seen = str(error)
            else:
                return
        raise Absent(seen)

    def remove(self, names: Sequence[str]) -> None:
        """``rm --force`` without its ten seconds of grace, which docker's has not."""
        self._call("rm", "--force", "--time", "0", *names)

    def pull(self, reference: str) -> None:
        """``pull``, by plain http."""
        self._call("pull", "--quiet", "--tls-verify=false", reference)

    def push(self, reference: str) -> None:
        """``push``, by plain http."""
        self._call("push", "--quiet", "--tls-verify=false", reference)

    def close(self) -> None:
        """Remove every container."""
        self._call("rm", "--force", "--time", "0", "--all")


def _docker_client() -> str:
    """Return the command of the daemon's own release, else the first on PATH.

    Another release may leave BuildKit to a plugin that is not there.
    """
    wanted = _release("dockerd")
    places = (Path(folder, "docker") for folder in os.get_exec_path())
    found = [str(place) for place in places if os.access(place, os.X_OK)]
    return next((program for program in found if _release(program) == wanted), "docker")


def _release(program: str) -> str:
    """Return what ``--version`` says up to the build's number."""
    said = subprocess.run([program, "--version"], check=False, capture_output=True, text=True).stdout
    return said.partition(",")[0]


def _podman(folder: Path, run: Path, runtime: str) -> tuple[str, ...]:
    return (
        "podman",
        *("--root", str(folder / "images"), "--network-config-dir", str(folder / "networks")),
        *("--runroot", str(run / "root"), "--tmpdir", str(run / "tmp")),
        *("--runtime", runtime, "--cgroup-manager", "cgroupfs", "--storage-driver", "overlay"),
        *("--events-backend", "none"),
    )
