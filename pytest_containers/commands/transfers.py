"""``pull`` and ``push``."""

from __future__ import annotations

import argparse

from pytest_containers.commands.opened import opened
from pytest_containers.commands.output import line, write_json, write_records
from pytest_containers.commands.progress import shown
from pytest_containers.errors import SpecInvalid

__all__ = ["pull", "push"]


def pull(arguments: argparse.Namespace) -> int:
    """Fetch images by name, or all of a lock file."""
    if bool(arguments.images) == bool(arguments.lock):
        raise SpecInvalid(
            "it is not said what to pull", mend="name images, or a lock file with --lock, and not both"
        )
    with opened(arguments) as session, shown(quiet=arguments.quiet) as watches:
        if arguments.lock:
            records = session.engine.registries.pull_locked(
                file=arguments.lock, platform=arguments.platform, watch=watches.transfer
            )
        else:
            records = tuple(
                session.images.pull(
                    session.catalog.find(name)[1], platform=arguments.platform, watch=watches.transfer
                )
                for name in arguments.images
            )
    write_records(records, as_json=arguments.json)
    return 0


def push(arguments: argparse.Namespace) -> int:
    """Send one image."""
    with opened(arguments) as session, shown(quiet=arguments.quiet) as watches:
        digest = session.images.push(arguments.image, platform=arguments.platform, watch=watches.transfer)
    if arguments.json:
        write_json({"reference": arguments.image, "digest": digest})
    else:
        line(digest)
    return 0
