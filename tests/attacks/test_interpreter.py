"""Attacks on the machine's interpreter, which every process in a container was forked from (CVE-2019-5736).

The runs here are started by a copy of the interpreter, so that nothing but the copy could be changed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.engines.native import NativeEngine, fresh_run_folder
from pytest_containers.runtime import interpreter
from pytest_containers.runtime.preflight import checks
from pytest_containers.spec import ContainerSpec, ExecSpec
from tests.plugins.clock import scaled
from tests.runtime.conftest import Boxes

if TYPE_CHECKING:
    from pytest_containers.engines.native_container import NativeHandle

pytestmark = pytest.mark.kernel

_PATIENCE_S: Final = scaled(20.0)

# All that root may do to a file that it cannot open for writing; each one's errno, 0 where it was done.
_ATTACK: Final = """
import json, os, sys
def tried(action):
    try:
        action()
    except OSError as error:
        return error.errno
    return 0
at = sys.argv[1]
caps = bytes.fromhex("01000002" + "00" * 16)  # linux/capability.h, VFS_CAP_REVISION_2
print(json.dumps({
    "chmod": tried(lambda: os.chmod(at, 0o4777)),
    "chown": tried(lambda: os.chown(at, 1, 1)),
    "utime": tried(lambda: os.utime(at, (1, 1))),
    "setxattr": tried(lambda: os.setxattr(at, "user.attacked", b"yes")),
    "capability": tried(lambda: os.setxattr(at, "security.capability", caps)),
    "write": tried(lambda: os.open(at, os.O_WRONLY)),
    "truncate": tried(lambda: os.truncate(at, 0)),
}))
"""


class Copy:
    """A copy of the interpreter and how it looked when it was made."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bin" / "python3"
        self.path.parent.mkdir()
        real = Path(sys.executable).resolve()
        shutil.copyfile(real, self.path)
        self.path.chmod(0o755)
        # Where the library is (the documentation of site, "pyvenv.cfg").
        (folder / "pyvenv.cfg").write_text(f"home = {real.parent}\n")
        self._before = self._seen()

    def _seen(self) -> tuple[object, ...]:
        seen = self.path.stat()
        names = tuple(os.listxattr(self.path))
        return (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime_ns, seen.st_size, names)

    def judge(self) -> None:
        """Fail where it has been changed."""
        assert self._seen() == self._before


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    """Return a copy of the interpreter, which runs are started by."""
    copy = Copy(tmp_path)
    monkeypatch.setattr(sys, "executable", str(copy.path))
    return copy


@pytest.fixture
def own(copy: Copy, tmp_path: Path) -> Iterator[Boxes]:
    """Return what makes containers of a run that the copy has started."""
    engine = NativeEngine(store=tmp_path / "store", run_folder=fresh_run_folder(), owner_pid=os.getpid())
    with contextlib.closing(engine):
        made = Boxes(engine)
        try:
            yield made
        finally:
            made.remove()


def _judge(output: str, copy: Copy) -> None:
    copy.judge()
    errnos = json.loads(output)
    assert all(errnos.values()), errnos
    assert len(errnos) == 7


def test_exec_of_the_interpreter_cannot_change_it(own: Boxes, copy: Copy) -> None:
    """A process whose program is /proc/self/exe is the machine's Python, and may change nothing of it."""
    box = own.start(ContainerSpec(name="box", command=("sleep", "1000")))
    argv = ("/proc/self/exe", "-I", "-S", "-c", _ATTACK, "/proc/self/exe")
    result = box.exec(ExecSpec(argv=argv, env={"PYTHONHOME": sys.base_prefix}, timeout_s=_PATIENCE_S))
    assert result.exit_code == 0, result
    _judge(result.stdout, copy)


@pytest.mark.parametrize("way", ["first process", "script", "script by exec"])
def test_image_that_executes_the_interpreter_cannot_change_it(own: Boxes, copy: Copy, way: str) -> None:
    """So an entrypoint and a script whose first line names it, as first process and as an exec."""
    script = f"#!/proc/self/exe\n{_ATTACK.replace('sys.argv[1]', repr('/proc/self/exe'))}"
    argv = ("/proc/self/exe", "/script") if way == "first process" else ("/script",)
    command = ("sleep", "1000") if way == "script by exec" else argv
    box = own.create(ContainerSpec(name="box", command=command, env={"PYTHONHOME": sys.base_prefix}))
    _put(box, script)
    box.start()
    if way == "script by exec":
        output = box.exec(ExecSpec(argv=argv, timeout_s=_PATIENCE_S)).stdout
    else:
        box.wait(_PATIENCE_S)
        output = b"".join(chunk.content for chunk in box.logs()[0]).decode()
    _judge(output, copy)


def _put(box: NativeHandle, script: str) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        entry = tarfile.TarInfo("script")
        entry.size, entry.mode = len(script), 0o755
        writer.addfile(entry, io.BytesIO(script.encode()))
    tar.seek(0)
    box.tree.write("/", tar)


@pytest.mark.parametrize("way", ["_detached", "_sealed_copy"])
def test_both_views_of_the_interpreter_are_unchangeable(
    copy: Copy, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detached mount refuses every change; a sealed copy takes what harms nobody, and never content."""
    if way == "_sealed_copy":

        def refuse() -> int:
            raise OSError(errno.ENOSYS, "no mount_setattr")

        monkeypatch.setattr(interpreter, "_detached", refuse)
    view = interpreter.open_view()
    try:
        begun = interpreter.invocation(view, "-I", "-S", "-c", _ATTACK, "/proc/self/exe")
        ended = subprocess.run(
            begun.arguments,
            executable=begun.executable,
            pass_fds=(view,),
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        os.close(view)
    copy.judge()
    errnos = json.loads(ended.stdout)
    assert errnos["write"], errnos
    assert errnos["truncate"], errnos
    assert way == "_sealed_copy" or all(errnos.values()), errnos


def test_trial_of_the_machine_runs_from_a_view(copy: Copy) -> None:
    """The doctor's interpreter, too, begins from a view of the file; the steps end as always."""
    assert [check.step for check in checks() if not check.ok] == []
    copy.judge()
