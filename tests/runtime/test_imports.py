"""Laws of what is loaded when: in a container's root its files could pass for Python's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from pytest_containers.runtime import supervisor

pytestmark = pytest.mark.kernel

# All that the supervisor has loaded when it serves, then a child of its in a root of its own.
_BEGIN: Final = """
import io, json, os, sys, tarfile
sys.path += sys.argv[2:]
import pytest_containers.runtime.supervisor
from pytest_containers.errors import ContainersError, to_wire
from pytest_containers.runtime import accounts, bundle, difference, process, transfer
os.chroot(sys.argv[1])
os.chdir("/")
before = set(sys.modules)
def told(action):
    try:
        action()
    except (ContainersError, tarfile.TarError) as error:
        assert json.dumps(to_wire(error)) if isinstance(error, ContainersError) else str(error)
    else:
        raise AssertionError("no error came")
"""
_END: Final = """
print(sorted(set(sys.modules) - before))
"""
_TRANSFER: Final = """
out = io.BytesIO()
transfer.pack("/", out)
out.seek(0)
transfer.unpack("/copy", out)
difference.write_layer("/copy", io.BytesIO())
told(lambda: transfer.pack("/missing", out))
told(lambda: transfer.unpack("/file", io.BytesIO()))
told(lambda: transfer.unpack("/", io.BytesIO(b"x" * 1000)))
"""
_PROCESS: Final = """
told(lambda: accounts.lookup("nobody"))
told(lambda: accounts.lookup("root:nobody"))
for command in ("missing", "/file", "/script", "/\\udcff", "/"):
    made = bundle.Process(
        argv=(command,), env=("PATH=/:/bin",), user="0:0", workdir="/work", capabilities=0, no_new_privs=True
    )
    if os.fork() == 0:
        told(lambda: process.become(made, last_capability=40))
        new = set(sys.modules) - before
        os._exit(len(new))
    code = os.waitstatus_to_exitcode(os.wait()[1])
    assert code == 0, (command, code)
"""


@pytest.mark.parametrize("script", [_TRANSFER, _PROCESS], ids=["transfer", "process"])
def test_nothing_is_imported_in_a_containers_root(tmp_path: Path, script: str) -> None:
    """Copying files and becoming a process, errors and all, load no module once the root is another."""
    (tmp_path / "file").write_text("neither a program nor a script")
    (tmp_path / "file").chmod(0o755)
    (tmp_path / "script").write_text("#!/missing\n")
    (tmp_path / "script").chmod(0o755)
    (tmp_path / os.fsdecode(b"\xff")).symlink_to(os.fsdecode(b"\xfe"))
    os.setxattr(tmp_path / "file", "user.bytes", b"\xff")
    project = str(Path(supervisor.__file__).parents[2])
    lines = _BEGIN + script + _END
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", lines, str(tmp_path), project]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
