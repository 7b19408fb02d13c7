"""Builds the corpus with a real BuildKit and keeps what comes out: ``python -m tests.images.build.observe``.

Needs root, docker and dockerd. The daemon runs in namespaces of its own, which end with it, and
builds from the image that `corpus.base_tar` is; nothing is fetched.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from tests.images.build.corpus import CASES, OBSERVED, Case, base_tar, described, write_context

_NAMESPACES: Final = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_DOCKER: Final = os.environ.get("CORPUS_DOCKER", "docker")
_PATIENCE_S: Final = 60


def main() -> int:
    """Observe all cases, in namespaces of our own; write the file."""
    if sys.argv[1:] != ["inside"]:
        command = ["unshare", *_NAMESPACES, "--propagation", "private", sys.executable, "-m", __spec__.name]
        return subprocess.run([*command, "inside"], check=False).returncode
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        daemon = _daemon(folder)
        try:
            (folder / "base.tar").write_bytes(base_tar())
            _docker("import", str(folder / "base.tar"), "base")
            found = {case.name: _observe(case, folder / case.name) for case in CASES}
        finally:
            daemon.terminate()
            daemon.wait(_PATIENCE_S)
        version = found.pop("version", None) or _VERSION[0]
    OBSERVED.write_text(
        json.dumps({"engine": version, "cases": found}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    )
    return 0


_VERSION: Final[list[str]] = []


def _daemon(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                *("dockerd", "--host", "unix:///run/docker.sock", "--pidfile", "/run/docker.pid"),
                *("--data-root", str(folder / "data"), "--exec-root", "/run/docker"),
                *("--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip-forward=false"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        asked = subprocess.run(
            [_DOCKER, "-H", "unix:///run/docker.sock", "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0:
            _VERSION.append(f"docker {asked.stdout.strip()}")
            return daemon
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((folder / "log").read_text()[-2000:])
        threading.Event().wait(0.1)


def _docker(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [_DOCKER, "-H", "unix:///run/docker.sock", *arguments],
        env={**os.environ, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"},
        capture_output=True,
        check=False,
    )


def _observe(case: Case, folder: Path) -> dict[str, object]:
    folder.mkdir()
    write_context(folder, case)
    built = _docker("build", "-t", "made", str(folder))
    if built.returncode:
        last = built.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        return {"error": last[0] if last else ""}
    saved = _docker("save", "made").stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
        (entry,) = json.loads(_read(tar, "manifest.json"))
        layers = [_read(tar, name) for name in entry["Layers"]]
        config = json.loads(_read(tar, entry["Config"]))
    return described(layers, config)


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    while (entry := tar.getmember(name)).issym():
        name = os.path.normpath(os.path.join(os.path.dirname(name), entry.linkname))
    content = tar.extractfile(entry)
    assert content is not None
    return content.read()


if __name__ == "__main__":
    sys.exit(main())
