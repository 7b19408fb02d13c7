"""A virtual machine: qemu with the kernel given on its command line, disks, and two serial ports."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.kernels import initramfs
from tests.kernels.archive import Kernel

__all__ = ["QEMU", "Accelerator", "Machine", "accelerator"]

QEMU: Final = "qemu-system-x86_64"
_PROBE_S: Final = 20.0
_LOOK_AGAIN_S: Final = 0.2
_NICE: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """How the processor is made: ``kvm``, or ``tcg``, which is 10 to 20 times slower; *reason* says why."""

    name: str
    reason: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return qemu's arguments for it."""
        cpu = "host" if self.name == "kvm" else "max"
        return ("-accel", self.name, "-cpu", cpu)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What qemu is told; *disks* are vda, vdb and so on, and writes to all but *written* are forgotten."""

    kernel: Path
    initramfs: bytes
    accelerator: Accelerator
    disks: Sequence[Path] = ()
    written: Path | None = None
    options: str = ""
    memory_mib: int = 256
    processors: int = 1
    heard: Callable[[str], None] | None = None

    def run(self, folder: Path, deadline_s: float) -> bool:
        """Boot it and wait for its end; return whether it came before the deadline.

        The kernel's console goes to ``console`` in *folder*. Each line of the second serial port is
        handed to *heard* as it comes.
        """
        (folder / "initramfs").write_bytes(self.initramfs)
        progress = folder / "progress"
        progress.touch()
        argv = [QEMU, *self.accelerator.arguments, "-m", str(self.memory_mib), "-smp", str(self.processors)]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot"]
        argv += ["-kernel", str(self.kernel), "-initrd", str(folder / "initramfs")]
        argv += ["-append", f"console=ttyS0 panic=-1 quiet loglevel=4 {self.options}"]
        for name in ("console", "progress"):
            argv += ["-serial", f"file:{folder / name}"]
        for disk in self.disks:
            snapshot = "off" if disk == self.written else "on"
            argv += ["-drive", f"file={disk},format=raw,if=virtio,snapshot={snapshot},cache=unsafe"]
        environment = {**os.environ, "TMPDIR": str(folder)}  # where qemu keeps what it forgets
        with (folder / "errors").open("wb") as errors:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "nice", "-n", str(_NICE), *argv],
                stdin=subprocess.DEVNULL,
                stderr=errors,
                env=environment,
                cwd=folder,
            )
        try:
            return self._wait(process, progress, time.monotonic() + deadline_s)
        finally:
            process.kill()
            process.wait()

    def _wait(self, process: subprocess.Popen[bytes], progress: Path, deadline: float) -> bool:
        with progress.open(errors="replace") as lines:
            rest = ""
            while True:
                ended = process.poll() is not None
                *whole, rest = (rest + lines.read()).split("\n")
                for line in whole:
                    if self.heard is not None:
                        self.heard(line.rstrip("\r"))
                if ended or time.monotonic() > deadline:
                    return ended
                try:
                    process.wait(_LOOK_AGAIN_S)
                except subprocess.TimeoutExpired:
                    continue


def accelerator(kernel: Kernel, *, deadline_s: float = _PROBE_S) -> Accelerator:
    """Return KVM where *kernel* boots with it, else emulation with the reason.

    That /dev/kvm is there says little: some hypervisors offer one in which a stock kernel hangs.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Accelerator(name="tcg", reason="/dev/kvm is not there for us")
    kvm = Accelerator(name="kvm", reason="a small machine booted with it")
    machine = Machine(kernel=kernel.image, initramfs=initramfs.for_probe(), accelerator=kvm)
    with tempfile.TemporaryDirectory(prefix="kernels-probe-") as name:
        folder = Path(name)
        machine.run(folder, deadline_s)
        console = folder / "console"
        if console.exists() and "it runs" in console.read_text(errors="replace"):
            return kvm
    return Accelerator(
        name="tcg", reason=f"with /dev/kvm, Linux {kernel.series} came to nothing within {deadline_s:g} s"
    )
