"""Completion of commands, options and names by the shell: the one door to argcomplete."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import argcomplete
from argcomplete.completers import FilesCompleter
from argcomplete.shell_integration import shellcode

from pytest_containers.commands.grammar import IMAGE, SERVICE
from pytest_containers.options import default_store, variable

__all__ = ["complete", "script"]

_FILES: Final = ("FILE", "FILE|-", "FOLDER", "NAME=FOLDER|IMAGE")
_Completer = Callable[..., object]


def script(arguments: argparse.Namespace) -> int:
    """Print what the shell has to read once; it asks this command then."""
    sys.stdout.write(shellcode(["pytest-containers"], shell=arguments.shell))
    return 0


def complete(grammar: argparse.ArgumentParser) -> None:
    """Answer a shell that completes a line, and end; return where none asks."""
    for action in _actions(grammar):
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        completer: _Completer = _nothing
        if metavar in (IMAGE, SERVICE):
            completer = _names(services=metavar == SERVICE)
        elif metavar in _FILES:
            completer = FilesCompleter()
        # argcomplete finds a completer where its documentation has one put: on the action.
        action.__dict__["completer"] = completer
    argcomplete.autocomplete(grammar, always_complete_options=False)


def _actions(grammar: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in grammar._actions:  # noqa: SLF001  # argparse has no other list of them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for below in action.choices.values():
                yield from _actions(below)
        elif not action.choices:
            yield action


def _nothing(
    prefix: str, action: argparse.Action, parser: argparse.ArgumentParser, parsed_args: argparse.Namespace
) -> tuple[str, ...]:
    """Offer nothing: what is typed here is nobody's to know, and no file's name."""
    del prefix, action, parser, parsed_args
    return ()


def _names(*, services: bool) -> _Completer:
    def names(
        prefix: str, action: argparse.Action, parser: argparse.ArgumentParser, parsed_args: argparse.Namespace
    ) -> tuple[str, ...]:
        del action, parser
        from pytest_containers.names import image_names, service_names

        chosen = getattr(parsed_args, "store", "") or os.environ.get(variable("store")) or default_store()
        found = [_familiar(name) for name in image_names(Path(chosen).expanduser())]
        found += service_names(Path.cwd()) if services else ()
        return tuple(name for name in found if name.startswith(prefix))

    return names


def _familiar(reference: str) -> str:
    return reference.removeprefix("docker.io/").removeprefix("library/")
