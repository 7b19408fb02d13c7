"""``login``, ``logout``, ``lock`` and ``verify``."""

from __future__ import annotations

import argparse
import sys

from pytest_containers.commands.opened import opened
from pytest_containers.commands.output import line, write_json
from pytest_containers.errors import SpecInvalid

__all__ = ["lock", "login", "logout", "verify"]

_PROBLEMS = 1


def login(arguments: argparse.Namespace) -> int:
    """Prove credentials and keep them; a password is read, never taken as an argument."""
    username, password = _asked(arguments)
    with opened(arguments) as session:
        kept_at = session.engine.registries.login(arguments.registry, username, password)
    line(f"logged in to {arguments.registry}; the credentials are kept in {kept_at}")
    return 0


def logout(arguments: argparse.Namespace) -> int:
    """Forget credentials."""
    with opened(arguments) as session:
        there = session.engine.registries.logout(arguments.registry)
    line(f"logged out of {arguments.registry}" if there else f"no credentials for {arguments.registry}")
    return 0


def lock(arguments: argparse.Namespace) -> int:
    """Write down what names mean now."""
    with opened(arguments) as session:
        names = tuple(session.catalog.find(name)[1] for name in arguments.images)
        lines = session.engine.registries.lock(
            names, file=arguments.file, platforms=tuple(arguments.platform)
        )
    if arguments.json:
        write_json([dict(zip(("reference", "digest"), text.rsplit("@", 1), strict=True)) for text in lines])
    else:
        for text in lines:
            line(text)
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Compare the store with a lock file; 1 is the exit code of a difference."""
    with opened(arguments) as session:
        problems = session.engine.registries.verify(file=arguments.file, platform=arguments.platform)
    if arguments.json:
        write_json([{"reference": each.reference, "what": each.what} for each in problems])
    else:
        for each in problems:
            line(str(each))
    return _PROBLEMS if problems else 0


def _asked(arguments: argparse.Namespace) -> tuple[str, str]:
    """Return user name and password: from the input, or from a person at a terminal."""
    username: str = arguments.username or ""
    if arguments.password_stdin:
        if not username:
            raise SpecInvalid("the user name is missing", mend="give it with -u NAME")
        return username, sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not sys.stdin.isatty():
        raise SpecInvalid(
            "the password is missing",
            seen="nobody sits at a terminal to be asked",
            mend="write it to the standard input, with --password-stdin",
        )
    import getpass

    username = username or input("user name: ")
    return username, getpass.getpass("password or token: ")
