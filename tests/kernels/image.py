"""The virtual machine's disks: a Debian with systemd and the tests' dependencies, and a kernel's modules."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

from tests.kernels.archive import Kernel, mirror

__all__ = ["Debian", "modules_disk"]

_SUITE: Final = "bookworm"
_PYTHON: Final = "3.11"  # the suite's
_PACKAGES: Final = (
    *("systemd-sysv", "udev", "dbus", "kmod", "iproute2", "nftables", "procps", "libpam-systemd"),
    *("python3-venv", "openssh-client", "perl", "uidmap", "gzip", "xz-utils", "bzip2", "zstd"),
)
_VENV: Final = "/opt/tests"
_DISK: Final = "6G"  # sparse
# The second serial port tells how far it is; the disk vdd takes the results.
_SERVICE: Final = """[Unit]
Description=The tests of pytest-containers
After=multi-user.target

[Service]
Type=oneshot
Delegate=yes
ExecStart=/bin/sh -c 'mkdir /opt/project && tar -xf /dev/vdc -C /opt/project'
ExecStart=/opt/tests/bin/python /opt/project/tests/kernels/guest.py /opt/project /dev/ttyS1 /dev/vdd
ExecStopPost=/bin/systemctl poweroff --force --force
StandardOutput=journal+console
LimitNOFILE=1024:1048576
"""


def _requirements(project: Path) -> tuple[str, ...]:
    table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    return (*table["dependencies"], *table["optional-dependencies"]["test"])


def _ext4(source: Path, disk: Path, size: str) -> None:
    making = disk.with_name(disk.name + ".making")
    making.unlink(missing_ok=True)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-d", source, making, size], check=True)
    making.rename(disk)


class Debian:
    """A Debian bootstrapped once below *cache*; it is made anew when what it is made of changes."""

    def __init__(self, cache: Path, project: Path) -> None:
        self._cache = cache
        self._requirements = _requirements(project)
        recipe = "\n".join((_SUITE, *_PACKAGES, *self._requirements, _SERVICE))
        self._name = f"debian-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self._cache / self._name

    def disk(self) -> Path:
        """Return the disk with its files, made now where it is not there yet."""
        disk = self._cache / f"{self._name}.ext4"
        if not disk.exists():
            self._bootstrap()
            _ext4(self.folder, disk, _DISK)
        return disk

    def _bootstrap(self) -> None:
        making = self._cache / "debian.making"
        wheels = self._cache / "wheels"
        for left in (making, wheels):
            shutil.rmtree(left, ignore_errors=True)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
        download += [f"--dest={wheels}", f"--python-version={_PYTHON}", *self._requirements]
        subprocess.run(download, check=True)
        (wheels / "requirements.txt").write_text("\n".join(self._requirements))
        install = "pip install --quiet --no-index --find-links=/opt/wheels -r /opt/wheels/requirements.txt"
        hooks = (
            f"copy-in {wheels} /opt",
            f'chroot "$1" python3 -m venv {_VENV}',
            f'chroot "$1" {_VENV}/bin/{install}',
            'rm -r "$1/opt/wheels"',
        )
        # mmdebstrap mounts /proc and /sys in the new root: nothing of it shows outside or stays.
        apart = ("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc")
        bootstrap = (
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            f"--include={','.join(_PACKAGES)}",
        )
        subprocess.run(
            [*apart, *bootstrap, *(f"--customize-hook={hook}" for hook in hooks), _SUITE, making, mirror()],
            check=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        units = making / "etc/systemd/system"
        (units / "tests.service").write_text(_SERVICE)
        wants = units / "multi-user.target.wants"
        wants.mkdir(exist_ok=True)
        (wants / "tests.service").symlink_to("../tests.service")
        for slow in (
            "apt-daily.timer",
            "apt-daily-upgrade.timer",
            "e2scrub_reap.service",
            "getty@tty1.service",
        ):
            (units / slow).symlink_to("/dev/null")
        (making / "etc/hostname").write_text("kernels\n")
        (making / "etc/hosts").write_text("127.0.0.1 localhost kernels\n")
        making.rename(self.folder)

    def depmod(self, root: Path, release: str) -> None:
        """Write the tables of the modules of *release* below *root* (depmod(8)).

        The program is Debian's, started by its own loader: this machine may have none.
        """
        library = self.folder / "usr/lib/x86_64-linux-gnu"
        loader = [str(library / "ld-linux-x86-64.so.2"), "--library-path", str(library)]
        program = ["--argv0", "depmod", str(self.folder / "usr/bin/kmod")]
        subprocess.run([*loader, *program, "-b", str(root), release], check=True)


def modules_disk(kernel: Kernel, debian: Debian) -> Path:
    """Return a disk that holds the modules of *kernel* as /usr/lib/modules has them."""
    root = kernel.modules.parents[2]
    disk = root.with_name(root.name + ".modules")
    if not disk.exists():
        debian.depmod(root, kernel.release)
        _ext4(kernel.modules.parent, disk, "400M")
    return disk
