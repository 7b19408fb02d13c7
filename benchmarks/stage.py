"""Where everything is measured: pid 1 of namespaces that take all it made along when they end.

Started by the benchmark as root in new mount, network and process id namespaces (unshare(1)), so that
the peers' bridges, packet filter rules, mounts and processes never are the machine's. This
project's engine needs none of that; it runs here as well so that all have the same conditions.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks import builds, census, lives, materials, pulls, startup
from benchmarks.contestants import ours as own
from benchmarks.contestants.base import Contestant, ImageContestant
from benchmarks.contestants.commands import Absent, Docker, Podman
from benchmarks.contestants.library import Testcontainers
from benchmarks.samples import Collection

__all__ = ["SECTIONS", "Orders", "main", "run", "without_containers"]

SECTIONS: Final = ("startup", "lives", "images", "builds")

_SIOCGIFFLAGS: Final = 0x8913  # netdevice(7)
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
# In the memory that `_hide` lays over /run, as that of a machine is; podman wants it short.
_RUN: Final = Path("/run/benchmarks")
# What podman and its network plugins write outside of the places one can choose.
_THEIRS: Final = ("/var/lib", "/var/cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the stage is to do, and with what; paths are below *work*."""

    work: str
    quick: bool
    sections: tuple[str, ...]
    docker: bool
    testcontainers_python: str

    def argv(self) -> list[str]:
        """Return the command that runs the stage in namespaces of its own."""
        namespaces = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
        stage = (sys.executable, "-m", "benchmarks.stage", json.dumps(asdict(self)))
        return ["unshare", *namespaces, "--propagation", "private", *stage]


def without_containers(orders: Orders) -> Orders:
    """Return what is left of *orders* without root."""
    return replace(orders, sections=("startup",))


def main(orders: Orders) -> int:
    """Run *orders* in a child, be its init(1), and return its exit code.

    Where standard input ends first, the benchmark has died: all that runs here is killed, and what
    it would have cleared away is cleared away.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the benchmark's to handle
    cgroups = census.cgroups()
    _loopback_up()
    _hide(Path(orders.work))
    child = os.fork()
    if child == 0:
        os._exit(_guarded(orders))
    orphaned = threading.Event()
    threading.Thread(target=_watch_input, args=[orphaned], daemon=True).start()
    code = 1
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.wait()
            code = os.waitstatus_to_exitcode(status) if pid == child else code
            if pid == child and not orphaned.is_set():
                return code
    _clear_away(Path(orders.work), cgroups)
    return code


def _guarded(orders: Orders) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run(orders)
    except BaseException:  # noqa: BLE001 - a forked child ends here, whatever happens
        traceback.print_exc()
        return 1
    return 0


def _watch_input(orphaned: threading.Event) -> None:
    while os.read(0, 1 << 16):
        continue
    orphaned.set()
    os.kill(-1, signal.SIGKILL)  # all but ourselves: of this namespace (pid_namespaces(7))


def _clear_away(work: Path, cgroups: frozenset[str]) -> None:
    mounted = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    below = [place for place in mounted if Path(place).is_relative_to(work)]
    for place in reversed(below):
        subprocess.run(["umount", "--lazy", place], check=False)
    census.remove_cgroups(cgroups)
    shutil.rmtree(work, ignore_errors=True)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _hide(work: Path) -> None:
    """Lay memory over the folders that peers write to without being asked (mount(8))."""
    scratch = work / "hidden"
    scratch.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(scratch)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    _RUN.mkdir()
    for number, folder in enumerate(_THEIRS):
        upper, side = scratch / f"upper-{number}", scratch / f"work-{number}"
        upper.mkdir()
        side.mkdir()
        options = f"lowerdir={folder},upperdir={upper},workdir={side}"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", folder], check=True)


def run(orders: Orders) -> None:
    """Measure, and leave the result in ``result.json`` below the work folder."""
    work = Path(orders.work)
    collected, versions, skipped = Collection(), dict[str, str](), dict[str, str]()
    if "startup" in orders.sections:
        _say("plugin and pytest start-up")
        startup.measure(collected, work, quick=orders.quick)
    if set(orders.sections) - {"startup"}:
        _contend(orders, collected, versions, skipped)
    content = {"values": collected.values, "versions": versions, "skipped": skipped | collected.failed}
    (work / "result.json").write_text(json.dumps(content), encoding="utf-8")


def _contend(
    orders: Orders, collected: Collection, versions: dict[str, str], skipped: dict[str, str]
) -> None:
    work, store = Path(orders.work), Path(orders.work, "store")
    root, program = work / materials.ROOT, work / materials.REGISTRY
    own.prepare(store, root)
    peers: list[Contestant] = []
    ours = own.Ours(store)
    try:
        _invite(orders, root, peers, skipped)
        versions |= {peer.name: peer.version for peer in peers}
        if "lives" in orders.sections:
            _say("containers: " + ", ".join(one.name for one in (ours, *peers)))
            lives.measure(collected, ours, peers, store, quick=orders.quick)
        everyone = [ours, *(one for one in peers if isinstance(one, ImageContestant))]
        if "images" in orders.sections:
            _say("images: " + ", ".join(one.name for one in everyone))
            pulls.measure(collected, everyone, work, program, quick=orders.quick)
        if "builds" in orders.sections:
            _say("builds: " + ", ".join(one.name for one in everyone))
            builds.measure(collected, everyone, work, quick=orders.quick)
    finally:
        for one in (ours, *reversed(peers)):
            one.close()


def _invite(orders: Orders, root: Path, peers: list[Contestant], skipped: dict[str, str]) -> None:
    """Add to *peers* those who are here, to *skipped* why the others are not."""
    work = Path(orders.work)
    try:
        if not orders.docker:
            raise Absent("no daemon: --with-dockerd starts one for the run")
        docker = Docker(work / "docker", _RUN / "docker", root)
        peers.append(docker)
    except Absent as error:
        skipped["docker"] = str(error)
        skipped["testcontainers"] = "it needs docker"
    else:
        try:
            peers.append(Testcontainers(orders.testcontainers_python, docker.socket))
        except Absent as error:
            skipped["testcontainers"] = str(error)
    try:
        peers.append(Podman(work / "podman", _RUN / "podman", root))
    except Absent as error:
        skipped["podman"] = str(error)


def _say(text: str) -> None:
    print(f"measuring {text} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(Orders(**json.loads(sys.argv[1]))))
