"""The shell's face: ``pytest-containers`` (floor 5).

Results go to standard output, errors as a few lines to standard error. Exit codes are those of
``docker run``: the container's own, 125 for a failure of ours, 126 and 127 for a command that
cannot be executed or found; 1 where ``verify`` finds problems.
"""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from pytest_containers.commands.grammar import Command, parser

if TYPE_CHECKING:
    from pytest_containers.engines.base import Engine
    from pytest_containers.session import Settings

__all__ = ["main"]

_INTERRUPTED: Final = 130  # 128 + SIGINT
_READER_GONE: Final = 141  # 128 + SIGPIPE
_COMPLETING: Final = "_ARGCOMPLETE"


def main(
    argv: Sequence[str] | None = None, *, open_engine: Callable[[Settings], Engine] | None = None
) -> int:
    """Run one command on the engine that *open_engine* returns, and return its exit code."""
    grammar = parser()
    if _COMPLETING in os.environ:
        from pytest_containers.commands.completion import complete

        complete(grammar)
    arguments = grammar.parse_args(argv, argparse.Namespace(open_engine=open_engine))
    from pytest_containers.errors import ContainersError

    try:
        code = _command(arguments.command)(arguments)
        sys.stdout.flush()  # here, where a reader that is gone is known what to do with
        return code
    except ContainersError as error:
        sys.stderr.write(f"pytest-containers: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        # Nobody reads any more; keep the interpreter from writing once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _READER_GONE
    except KeyboardInterrupt:
        # The terminal has shown ^C; what it shows next begins a line.
        sys.stderr.write("\n" if sys.stderr.isatty() else "")
        return _INTERRUPTED


def _command(command: Command) -> Callable[[argparse.Namespace], int]:
    module = importlib.import_module(f"pytest_containers.commands.{command.module}")
    run: Callable[[argparse.Namespace], int] = getattr(module, command.function)
    return run
