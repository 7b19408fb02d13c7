"""``save``, ``load`` and ``import``."""

from __future__ import annotations

import argparse
import sys
from typing import BinaryIO

from pytest_containers.commands.opened import opened
from pytest_containers.commands.output import line, record_fields, write_json, write_records
from pytest_containers.commands.progress import shown
from pytest_containers.errors import SpecInvalid

__all__ = ["import_tar", "load", "save"]


def save(arguments: argparse.Namespace) -> int:
    """Write images to a file or to the standard output."""
    out: BinaryIO | str = arguments.output
    if arguments.output == "-":
        if arguments.format == "oci-dir":
            raise SpecInvalid("a folder cannot be written to -", mend="name the folder, or take --format oci")
        if sys.stdout.isatty():
            raise SpecInvalid(
                "no archive is written to a terminal", mend="name a file with -o, or use a pipe"
            )
        out = sys.stdout.buffer
    with opened(arguments) as session, shown(quiet=arguments.quiet) as watches:
        session.images.save(arguments.images, out, format=arguments.format, watch=watches.transfer)
    sys.stdout.flush()
    return 0


def load(arguments: argparse.Namespace) -> int:
    """Take the images of an archive."""
    source = _input(arguments.archive, "name an archive of images")
    with opened(arguments) as session, shown(quiet=arguments.quiet) as watches:
        records = session.images.load(
            source, arguments.name, platform=arguments.platform, watch=watches.transfer
        )
    write_records(records, as_json=arguments.json)
    return 0


def import_tar(arguments: argparse.Namespace) -> int:
    """Make an image of a root file system's tar."""
    source = _input(arguments.tar, "name the tar of a root file system")
    with opened(arguments) as session, shown(quiet=arguments.quiet) as watches:
        record = session.images.import_tar(source, arguments.image, watch=watches.transfer)
    if arguments.json:
        write_json(record_fields(record))
    else:
        line(f"{record.reference}@{record.digest}")
    return 0


def _input(name: str, mend: str) -> BinaryIO | str:
    if name != "-":
        return name
    if sys.stdin.isatty():
        raise SpecInvalid("the standard input is a terminal", mend=f"{mend}, or use a pipe")
    return sys.stdin.buffer
