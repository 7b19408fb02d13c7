"""What the containers of the contract suite run: argv that a real userland and the double know."""

from __future__ import annotations

from typing import Final

__all__ = ["ANSWERS", "HANDLES_TERM", "SERVER", "server"]

# Binds argv[1]:argv[2] by argv[3], tcp or udp, says so, and answers "+" and what it got, once a client.
SERVER: Final = """
import socket, sys
host, port, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if kind == "udp":
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((host, port))
else:
    listener = socket.create_server((host, port))
print("listening", flush=True)
while True:
    if kind == "udp":
        listener.recv(100)
        continue
    client, _ = listener.accept()
    with client:
        client.sendall(b"+" + client.recv(100))
"""

ANSWERS: Final = b"+"

# The first process of a PID namespace gets only the signals it handles (pid_namespaces(7)).
HANDLES_TERM: Final = ("sh", "-c", "trap 'exit 7' TERM; echo ready; sleep 60 & wait")


def server(port: int, *, host: str = "0.0.0.0", kind: str = "tcp") -> tuple[str, ...]:
    """Return the argv of the server on *port*."""
    return ("python3", "-c", SERVER, host, str(port), kind)
