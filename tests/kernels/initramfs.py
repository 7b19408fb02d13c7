"""The first files of a virtual machine: busybox, the modules that its root disk needs, and a script.

The format is cpio's "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import gzip
import lzma
import stat
from pathlib import Path
from typing import Final

__all__ = ["archive", "for_probe", "for_root"]

_BUSYBOX: Final = Path("/bin/busybox")
# The disks and their file system; what the tests need besides, the kernel loads by itself.
_MODULES: Final = ("virtio_pci", "virtio_blk", "ext4")
_PROBE: Final = """#!/bin/busybox sh
/bin/busybox echo it runs
/bin/busybox poweroff -f
"""
_ROOT: Final = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod "$module"; done
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do /bin/busybox usleep 10000; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mkdir -p /root/usr/lib/modules
/bin/busybox mount -t ext4 -o ro /dev/vdb /root/usr/lib/modules
exec /bin/busybox switch_root /root /sbin/init
"""


def _entry(number: int, name: str, mode: int, content: bytes = b"") -> bytes:
    path = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(f"{field:08x}".encode() for field in fields) + path
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def archive(files: dict[str, bytes]) -> bytes:
    """Return *files*, path and content, as a compressed initramfs; each may be executed."""
    folders = ("bin", "dev", "modules", "root")
    parts = [_entry(number, name, stat.S_IFDIR | 0o755) for number, name in enumerate(folders, 1)]
    for number, (name, content) in enumerate(files.items(), len(folders) + 1):
        parts.append(_entry(number, name, stat.S_IFREG | 0o755, content))
    return gzip.compress(b"".join((*parts, _entry(0, "TRAILER!!!", 0))), 1)


def for_probe() -> bytes:
    """Return an initramfs that says ``it runs`` and powers off."""
    return archive({"bin/busybox": _BUSYBOX.read_bytes(), "init": _PROBE.encode()})


def for_root(modules: Path) -> bytes:
    """Return an initramfs that goes on with the root disk; *modules* is the folder of a kernel's modules.

    The disk after it holds the modules, which udev and the kernel load on demand.
    """
    files = {"bin/busybox": _BUSYBOX.read_bytes(), "init": _ROOT.encode()}
    for position, path in enumerate(_needed(modules)):
        content = path.read_bytes()
        plain = lzma.decompress(content) if path.suffix == ".xz" else content
        files[f"modules/{position:02}-{path.name.removesuffix('.xz')}"] = plain
    return archive(files)


def _needed(modules: Path) -> list[Path]:
    """Return the files of `_MODULES` and of all that these need, each behind what it needs (depmod(8))."""
    table: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        table[path] = needs.split()
    by_name = {_name(path): path for path in table}
    # What is built in has no file. ext4 asks for its checksum by name (crc32c), which no table tells.
    wanted = [by_name[name] for name in ("crc32c_generic", *_MODULES) if name in by_name]
    found: dict[str, None] = {}
    for path in wanted:
        # modules.dep names all that a module needs, the nearest first.
        found.update(dict.fromkeys((*reversed(table[path]), path)))
    return [modules / path for path in found]


def _name(path: str) -> str:
    return Path(path).name.partition(".")[0].replace("-", "_")
