"""An ssh agent for one RUN: a socket of the command's own user, connected through to the caller's agent.

The socket itself could be mounted, but an agent answers its own user and root alone (OpenSSH,
ssh-agent.c, getpeereid), and a RUN may be anybody. So connections are carried on by this process,
as BuildKit does (session/sshforward). The keys stay with the agent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.mount import Mount

__all__ = ["forwarded"]

_PIECE_BYTES: Final = 1 << 16


@contextlib.contextmanager
def forwarded(agent: str, folder: Path, mount: Mount) -> Iterator[Path]:
    """Yield a socket in *folder*, with the owner and mode of *mount*, that leads to *agent*.

    Raises SpecInvalid where nobody answers at *agent*.
    """
    with contextlib.closing(_dial(agent, mount.id)):
        pass
    path = folder / f"agent-{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        try:
            os.chown(path, mount.uid or 0, mount.gid or 0)
            path.chmod(0o600 if mount.mode is None else mount.mode)
            listener.listen()
            threading.Thread(target=_serve, args=(listener, agent), name="ssh-agent", daemon=True).start()
            yield path
        finally:
            path.unlink()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # what ends the accept(2) of the thread


def _dial(agent: str, name: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(agent)
    except OSError as error:
        connection.close()
        raise SpecInvalid(
            f"no ssh agent answers for {name}",
            seen=f"{agent}: {error.strerror or error}",
            mend="start one (ssh-agent) and pass its socket, $SSH_AUTH_SOCK, in ssh=",
        ) from error
    return connection


def _serve(listener: socket.socket, agent: str) -> None:
    with contextlib.suppress(OSError):
        while True:
            near, _ = listener.accept()
            try:
                far = _dial(agent, "")
            except SpecInvalid:
                near.close()
                continue
            threading.Thread(target=_join, args=(near, far), daemon=True).start()


def _join(near: socket.socket, far: socket.socket) -> None:
    with near, far:
        back = threading.Thread(target=_carry, args=(far, near), daemon=True)
        back.start()
        _carry(near, far)
        back.join()


def _carry(source: socket.socket, target: socket.socket) -> None:
    """Carry bytes one way until the end, and tell the other side of it."""
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
