"""The options of a run: name, value, help (floor 4).

The plugin's start imports this module in every run of every project: it imports nothing else.
"""

from __future__ import annotations

import os

__all__ = ["LOCK_NAME", "OPTIONS", "PATHS", "SEVERAL", "default_store", "variable"]

# Name, what the command line shows as the value, help.
OPTIONS = (
    ("engine", "NAME", "what runs the containers: auto or native"),
    ("pull", "POLICY", "when to fetch images: missing (default), always or never"),
    ("offline", "", "fetch nothing: fail at once where an image is missing"),
    ("mirror", "[REGISTRY=]HOST[/PREFIX]", "ask this before the registry (default: docker.io); repeatable"),
    ("insecure", "HOST[:PORT]", "speak plain http to this registry; repeatable"),
    ("certificates", "FOLDER", "certificates of registries, laid out as /etc/docker/certs.d; repeatable"),
    ("lock", "FILE", "pull what it names by its digests (default: containers.lock of the root folder)"),
    ("store", "FOLDER", "where images are kept (default: pytest-containers in the user's cache folder)"),
    ("timeout", "SECONDS", "how long a container may take to become ready (default: 60)"),
    ("logs", "LINES", "lines of output to show of each container of a failed test (default: 50)"),
)
SEVERAL = frozenset(("mirror", "insecure", "certificates"))
# What an ini file names is relative to that file's folder.
PATHS = frozenset(("certificates", "lock"))
LOCK_NAME = "containers.lock"


def variable(name: str) -> str:
    """Return the environment variable of an option."""
    return f"PYTEST_CONTAINERS_{name.upper()}"


def default_store() -> str:
    """Return the cache folder's part that is ours (XDG Base Directory Specification)."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "pytest-containers")
