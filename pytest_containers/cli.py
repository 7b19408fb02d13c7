"""The shell's face: ``pytest-containers`` (floor 5).

Results go to standard output, errors as a few lines to standard error. Exit codes are those of
``docker run``: the container's own, 125 for a failure of ours, 126 and 127 for a command that
cannot be executed or found.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pytest_containers.catalog import Catalog
from pytest_containers.checks import Started
from pytest_containers.engines.base import Engine
from pytest_containers.errors import ContainersError, SpecInvalid
from pytest_containers.order import Order
from pytest_containers.progress import BuildEvent
from pytest_containers.session import Session, Settings, native_engine, preflight, run_place

__all__ = ["main"]

_FAILED = 125
_INTERRUPTED = 130  # 128 + SIGINT
_READER_GONE = 141  # 128 + SIGPIPE
_UNITS = ("B", "kB", "MB", "GB", "TB")


def _native(settings: Settings) -> Engine:
    return native_engine(settings, run_place(os.urandom(4).hex(), os.getpid()))


def main(argv: Sequence[str] | None = None, *, open_engine: Callable[[Settings], Engine] = _native) -> int:
    """Run one command on the engine that *open_engine* returns, and return its exit code."""
    arguments = _parser().parse_args(argv, argparse.Namespace(open_engine=open_engine))
    try:
        return _COMMANDS[arguments.command](arguments)
    except ContainersError as error:
        sys.stderr.write(f"pytest-containers: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        # Nobody reads any more; keep the interpreter from writing once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _READER_GONE
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pytest-containers", description="Containers without a daemon.")
    parser.add_argument("--store", default="", help="where images are kept [PYTEST_CONTAINERS_STORE]")
    parser.add_argument("--offline", action="store_true", help="fetch nothing")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("doctor", help="tell what this machine can do, step by step")
    commands.add_parser("images", help="list the images of the store")
    pull = commands.add_parser("pull", help="fetch an image and make it ready to start")
    pull.add_argument("reference", metavar="IMAGE")
    pull.add_argument("--platform", default=None, metavar="OS/ARCH[/VARIANT]")
    push = commands.add_parser("push", help="send an image to the registry its name says")
    push.add_argument("reference", metavar="IMAGE")
    _add_build(commands.add_parser("build", help="make an image of a folder with a Dockerfile"))
    load = commands.add_parser("import", help="make an image of the tar of a root file system")
    load.add_argument("tar", metavar="FILE", help="the tar, compressed or not; - is the standard input")
    load.add_argument("reference", metavar="IMAGE")
    commands.add_parser("prune", help="remove what dead runs left on disk")
    run = commands.add_parser("run", help="start a throw-away container and show its output")
    run.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
    run.add_argument("-u", "--user", default=None, metavar="USER[:GROUP]")
    run.add_argument("-w", "--workdir", default=None, metavar="FOLDER")
    run.add_argument("image", metavar="IMAGE")
    run.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="ARG", help="instead of the image's command"
    )
    return parser


def _add_build(build: argparse.ArgumentParser) -> None:
    build.add_argument(
        "-t", "--tag", action="append", default=[], metavar="IMAGE", help="its name, or several"
    )
    build.add_argument("-f", "--file", default="Dockerfile", metavar="FILE", help="below the folder")
    build.add_argument("--target", default=None, metavar="STAGE")
    build.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    build.add_argument(
        "--secret", action="append", default=[], metavar="ID=FILE", help="for type=secret mounts"
    )
    build.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    build.add_argument("--platform", default=None, metavar="OS/ARCH[/VARIANT]")
    build.add_argument("--no-cache", action="store_true", help="make every step anew")
    build.add_argument("folder", metavar="FOLDER", help="what COPY copies from")


@contextmanager
def _session(arguments: argparse.Namespace) -> Iterator[Session]:

    settings = Settings.of(
        {
            "store": arguments.store or os.environ.get("PYTEST_CONTAINERS_STORE", ""),
            "offline": str(arguments.offline or os.environ.get("PYTEST_CONTAINERS_OFFLINE", "")),
        }
    )
    session = Session(
        settings=settings,
        catalog=Catalog.read(),
        open_engine=lambda: arguments.open_engine(settings),
    )
    try:
        yield session
    finally:
        session.close()


def _doctor(_: argparse.Namespace) -> int:

    steps = preflight()
    _table([(step, "ok" if works else "no", seen) for step, works, seen in steps])
    return 0 if all(works for _, works, _ in steps) else _FAILED


def _images(arguments: argparse.Namespace) -> int:
    with _session(arguments) as session:
        rows = [
            (record.reference, record.id.rpartition(":")[2][:12], _size(record.size_bytes))
            for record in session.images.list()
        ]
    _table([("IMAGE", "ID", "SIZE"), *rows])
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    with _session(arguments) as session:
        _, reference = session.catalog.find(arguments.reference)
        record = session.images.pull(reference, platform=arguments.platform)
    sys.stdout.write(f"{record.reference}@{record.digest}\n")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    with _session(arguments) as session:
        record = session.images.build(
            arguments.folder,
            arguments.tag,
            dockerfile=arguments.file,
            target=arguments.target,
            args=_variables(arguments.build_arg),
            secrets={name: _content(path) for name, path in _variables(arguments.secret).items()},
            labels=_variables(arguments.label),
            platform=arguments.platform,
            use_cache=not arguments.no_cache,
            watch=_show_step,
        )
    sys.stdout.write(f"{record.reference}@{record.digest}\n")
    return 0


def _show_step(event: BuildEvent) -> None:
    match event.kind:
        case "begin":
            sys.stderr.write(f"{event.step}\n")
        case "output":
            sys.stderr.write(event.output.decode("utf-8", "replace"))
        case "cached":
            sys.stderr.write("  from the cache\n")
    sys.stderr.flush()


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SpecInvalid(
            f"no secret can be read from {path!r}", seen=error.strerror or "", mend="write --secret ID=FILE"
        ) from error


def _push(arguments: argparse.Namespace) -> int:
    with _session(arguments) as session:
        sys.stdout.write(session.images.push(arguments.reference) + "\n")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    with _session(arguments) as session:
        if arguments.tar != "-":
            record = session.images.import_tar(arguments.tar, arguments.reference)
        else:
            with tempfile.NamedTemporaryFile() as copy:
                shutil.copyfileobj(sys.stdin.buffer, copy)
                copy.flush()
                record = session.images.import_tar(copy.name, arguments.reference)
    sys.stdout.write(f"{record.reference}@{record.digest}\n")
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    with _session(arguments) as session:
        for removed in session.engine.reclaim():
            sys.stdout.write(f"{removed}\n")
    return 0


def _run(arguments: argparse.Namespace) -> int:

    order = Order.of(
        arguments.image,
        command=arguments.arguments or None,
        env=_variables(arguments.env),
        user=arguments.user,
        workdir=arguments.workdir,
        ready=Started(),
    )
    with _session(arguments) as session:
        container = session.launch(order)
        for line in container.log_lines(follow=True):
            stream = sys.stdout if line.stream == "stdout" else sys.stderr
            stream.write(f"{line.text}\n")
            stream.flush()
        return container.wait()


def _variables(given: Sequence[str]) -> dict[str, str]:
    """Read NAME=VALUE; a bare NAME takes this process's value (docker run --env)."""
    pairs = (entry.partition("=") for entry in given)
    return {name: value if equals else os.environ.get(name, "") for name, equals, value in pairs}


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _size(count: float) -> str:
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "build": _build,
    "doctor": _doctor,
    "images": _images,
    "import": _import,
    "prune": _prune,
    "pull": _pull,
    "push": _push,
    "run": _run,
}
