"""The kernels that Debian's archives offer, asked for with apt as this machine is configured.

apt gets a state folder and sources of its own (apt.conf(5)), so that the machine's lists stay as they
are. The sources name the mirror that the machine's own configuration names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Archive", "Kernel", "mirror", "series_order"]

_SUITES: Final = ("bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports")
_KEYS: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
_PACKAGE: Final = re.compile(r"linux-image-((\d+\.\d+)[.\d]*\S*)-cloud-amd64")
_PARTS: Final = re.compile(r"Depends: (linux-(?:binary|modules)-\S+-cloud-amd64)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel unpacked in a folder: *release* is what uname(1) says there, *modules* its modules' folder."""

    series: str
    release: str
    image: Path
    modules: Path


def series_order(series: str) -> tuple[int, ...]:
    """Return the numbers of ``6.12``, by which series are sorted."""
    return tuple(int(number) for number in series.split("."))


def mirror() -> str:
    """Return the address of the Debian archive that this machine's apt is configured for."""
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    ask += ["Identifier: Packages", "Origin: Debian", "Label: Debian"]
    found = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.split()
    if not found:
        raise SystemExit("apt is configured for no Debian archive, or `apt-get update` was never run")
    return found[0]


class Archive:
    """A private apt below *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._configuration = folder / "apt.conf"

    def _run(self, *argv: str, cwd: Path | None = None) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self._configuration)}
        return subprocess.run(
            argv, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=cwd
        ).stdout

    def update(self) -> None:
        """Fetch the lists of packages of every suite that has kernels."""
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        lines = (f"deb [signed-by={_KEYS}] {mirror()} {suite} main\n" for suite in _SUITES)
        (self._folder / "sources.list").write_text("".join(lines))
        self._configuration.write_text(
            f'Dir::State "{self._folder}/state";\n'
            'Dir::State::status "/dev/null";\n'
            f'Dir::Cache "{self._folder}/cache";\n'
            f'Dir::Etc::sourcelist "{self._folder}/sources.list";\n'
            'Dir::Etc::sourceparts "-";\n'
            'APT::Architecture "amd64";\n'
            'APT::Sandbox::User "root";\n'
        )
        self._run("apt-get", "-qq", "update")

    def offered(self) -> dict[str, str]:
        """Return the newest package of each series, as ``{"6.1": "linux-image-6.1.0-50-cloud-amd64"}``."""
        if not self._configuration.exists():
            self.update()
        newest: dict[str, tuple[tuple[int, ...], str]] = {}
        for name in self._run("apt-cache", "pkgnames", "linux-image-").split():
            if found := _PACKAGE.fullmatch(name):
                numbers = tuple(int(number) for number in re.findall(r"\d+", found[1]))
                newest[found[2]] = max(newest.get(found[2], ((), "")), (numbers, name))
        return {series: newest[series][1] for series in sorted(newest, key=series_order)}

    def kernel(self, series: str) -> Kernel:
        """Return the newest kernel of *series*, fetched where it is not here yet."""
        folder = self._folder.parent / f"linux-{series}"
        if not folder.exists():
            offered = self.offered()
            if series not in offered:
                raise SystemExit(f"no kernel {series} is offered; there are {', '.join(offered)}")
            self._unpack(offered[series], folder)
        [modules] = (folder / "lib/modules").iterdir()
        # Since Linux 7 the kernel lies beside its modules.
        places = (folder / "boot" / f"vmlinuz-{modules.name}", modules / "vmlinuz")
        image = next(place for place in places if place.exists())
        return Kernel(series=series, release=modules.name, image=image, modules=modules)

    def _unpack(self, package: str, folder: Path) -> None:
        fetched = folder.with_name(folder.name + ".fetched")
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir()
        # Since Linux 7 the image's own package is empty, and stands on these two.
        needs = _PARTS.findall(self._run("apt-cache", "depends", package))
        self._run("apt-get", "-qq", "download", package, *needs, cwd=fetched)
        for deb in fetched.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", deb, fetched / "root"], check=True)
        root = fetched / "root"
        if not (root / "lib").exists():  # Debian 13 has merged /lib into /usr/lib
            (root / "lib").symlink_to("usr/lib")
        root.rename(folder)
        shutil.rmtree(fetched)
