"""``build``: an image of a Dockerfile, with the flags of docker build."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pytest_containers._files import write_atomic
from pytest_containers.commands.opened import opened
from pytest_containers.commands.output import line, record_fields, write_json
from pytest_containers.commands.progress import shown
from pytest_containers.commands.words import variables
from pytest_containers.errors import SpecInvalid

__all__ = ["build"]


def build(arguments: argparse.Namespace) -> int:
    """Make an image and print its name."""
    quiet = arguments.quiet or arguments.progress == "quiet"
    with opened(arguments) as session, shown(quiet=quiet, plain=arguments.progress == "plain") as watches:
        record = session.images.build(
            arguments.folder,
            arguments.tag,
            dockerfile=_dockerfile(arguments.folder, arguments.file),
            target=arguments.target,
            args=variables(arguments.build_arg),
            secrets=dict(map(_secret, arguments.secret)),
            labels=variables(arguments.label),
            platform=arguments.platform,
            use_cache=not arguments.no_cache,
            ssh=dict(map(_agent, arguments.ssh)),
            allow=_allowed(arguments.allow),
            contexts=_contexts(arguments.build_context),
            pull="always" if arguments.pull else None,
            watch=watches.build,
            transfer=watches.transfer,
        )
    if arguments.iidfile:
        write_atomic(Path(arguments.iidfile), record.id.encode("ascii"))
    if arguments.json:
        write_json(record_fields(record))
    else:
        line(f"{record.reference}@{record.digest}")
    return 0


def _dockerfile(folder: str, named: str | None) -> str:
    """Return the Dockerfile, relative to *folder* where it lies below; -f is relative to where we are."""
    if not Path(folder).is_dir():
        raise SpecInvalid(f"there is no folder {folder}", mend="name a folder with a Dockerfile")
    if named is None:
        return "Dockerfile"
    path = Path(named).absolute()
    if not path.is_file() and (Path(folder) / named).is_file():
        return named
    root = Path(folder).resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _secret(text: str) -> tuple[str, bytes]:
    """Read ``id=ID,src=FILE`` or ``id=ID,env=NAME``; a lone id is a file or variable of that name."""
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    if not (name := fields.pop("id", "")) or fields.keys() - {"src", "source", "env", "type"}:
        raise SpecInvalid(f"--secret {text!r} cannot be read", mend="write id=ID,src=FILE or id=ID,env=NAME")
    kind, variable = fields.get("type", ""), fields.get("env", "")
    path = fields.get("src") or fields.get("source") or ""
    if not path and not variable and kind != "file" and name in os.environ:
        variable = name
    if variable:
        if variable not in os.environ:
            raise SpecInvalid(
                f"no secret {name!r}", seen=f"{variable} is not set", mend="set it, or use src="
            )
        return name, os.environ[variable].encode("utf-8", "surrogateescape")
    try:
        return name, Path(path or name).expanduser().read_bytes()
    except OSError as error:
        raise SpecInvalid(
            f"no secret can be read from {path or name!r}",
            seen=error.strerror or "",
            mend="write --secret id=ID,src=FILE or --secret id=ID,env=NAME",
        ) from error


def _agent(text: str) -> tuple[str, str]:
    name, _, socket = text.partition("=")
    socket = socket or os.environ.get("SSH_AUTH_SOCK", "")
    if not socket:
        raise SpecInvalid(
            f"--ssh {text} has no agent", seen="SSH_AUTH_SOCK is not set", mend="write --ssh ID=SOCKET"
        )
    return name, os.path.abspath(socket)


def _allowed(given: Iterable[str]) -> frozenset[str]:
    known = ("security.insecure", "network.host")
    allowed = frozenset(given)
    if wrong := sorted(allowed.difference(known)):
        raise SpecInvalid(f"--allow {wrong[0]} is not known", mend=f"choose one of {', '.join(known)}")
    return allowed


def _contexts(given: Sequence[str]) -> dict[str, str]:
    """Read NAME=FOLDER or NAME=IMAGE; docker writes ``docker-image://`` in front of the latter."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise SpecInvalid(
                f"--build-context {text!r} cannot be read", mend="write NAME=FOLDER or NAME=IMAGE"
            )
        image = place.removeprefix("docker-image://")
        found[name] = os.path.abspath(place) if os.path.isdir(place) else image
    return found
