"""``run`` and ``doctor``: containers by hand, and whether this machine can have any."""

from __future__ import annotations

import argparse
import sys

from pytest_containers.checks import Started
from pytest_containers.commands.opened import opened
from pytest_containers.commands.output import table, write_json
from pytest_containers.commands.progress import telling
from pytest_containers.commands.words import variables
from pytest_containers.order import Order
from pytest_containers.session import preflight

__all__ = ["doctor", "run"]

_FAILED = 125


def doctor(arguments: argparse.Namespace) -> int:
    """Tell what this machine can do."""
    steps = preflight()
    if arguments.json:
        write_json([{"step": step, "works": works, "seen": seen} for step, works, seen in steps])
    else:
        table([(step, "ok" if works else "no", seen) for step, works, seen in steps])
    return 0 if all(works for _, works, _ in steps) else _FAILED


def run(arguments: argparse.Namespace) -> int:
    """Start a container, show its output, end with its exit code."""
    order = Order.of(
        arguments.image,
        command=arguments.arguments or None,
        env=variables(arguments.env),
        user=arguments.user,
        workdir=arguments.workdir,
        ready=Started(),
    )
    with opened(arguments, telling(quiet=arguments.quiet)) as session:
        container = session.launch(order)
        for said in container.log_lines(follow=True):
            stream = sys.stdout if said.stream == "stdout" else sys.stderr
            stream.write(f"{said.text}\n")
            stream.flush()
        return container.wait()
