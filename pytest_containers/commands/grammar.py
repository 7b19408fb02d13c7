"""What the commands take: every option and its help, and nothing that is slow to import."""

from __future__ import annotations

import argparse
from typing import Final, NamedTuple

from pytest_containers.options import LOCK_NAME, variable

__all__ = ["IMAGE", "SERVICE", "Command", "parser"]

# What completes an argument: the images of the store, and the catalog's services besides.
IMAGE: Final = "IMAGE"
SERVICE: Final = "IMAGE|SERVICE"
_PLATFORM: Final = "OS/ARCH[/VARIANT]"
_SIZES: Final = "SIZE"


class Command(NamedTuple):
    """Where a command is: the module below ``commands``, and its function."""

    module: str
    function: str


class _Commands:
    """The commands of a parser, added one by one."""

    def __init__(
        self, known: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
    ) -> None:
        self._known = known
        self._common = common

    def add(self, name: str, command: Command, text: str, *examples: str) -> argparse.ArgumentParser:
        """Add a command, with its examples below its help."""
        added = self._known.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            parents=[self._common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog="examples:\n" + "\n".join(f"  pytest-containers {one}" for one in examples),
        )
        added.set_defaults(command=command)
        return added


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("options of every command")
    for name, metavar, text in _SETTINGS:
        told = f"{text} [{variable(name)}]"
        if name == "offline":
            group.add_argument("--offline", action="store_true", help=told)
        else:
            several = "append" if name in ("mirror", "insecure", "certificates") else "store"
            group.add_argument(f"--{name}", metavar=metavar, help=told, action=several)
    whole = argparse.ArgumentParser(
        prog="pytest-containers",
        description="Containers without a daemon.",
        parents=[common],
        epilog="exit codes: 0; 1 where verify finds problems; 2 for wrong arguments; 125 where a command"
        " fails; of run, the container's own; 130 by ctrl-C; 141 where nobody reads the output",
    )
    known = whole.add_subparsers(required=True, metavar="COMMAND")
    commands = _Commands(known, common)
    for add in (_add_transfers, _add_store, _add_archives, _add_registries, _add_build, _add_run):
        add(commands)
    return whole


_SETTINGS: Final = (
    ("store", "FOLDER", "where images are kept"),
    ("offline", "", "fetch and send nothing"),
    ("mirror", "[REGISTRY=]HOST[/PREFIX]", "ask this before the registry; repeatable"),
    ("insecure", "HOST[:PORT]", "speak plain http to this registry; repeatable"),
    ("certificates", "FOLDER", "certificates, laid out as /etc/docker/certs.d; repeatable"),
)


def _add_transfers(commands: _Commands) -> None:
    pull = commands.add(
        "pull",
        Command("transfers", "pull"),
        "fetch images and make them ready to start",
        "pull redis:7 postgres:16",
        "pull --platform linux/arm64 redis:7",
        "pull --lock",
    )
    pull.add_argument("images", nargs="*", metavar=SERVICE)
    _lock_option(pull, "--lock", "fetch all that this lock file names")
    pull.add_argument("--platform", metavar=_PLATFORM)
    _quiet_and_json(pull)
    push = commands.add(
        "push",
        Command("transfers", "push"),
        "send an image to the registry its name says",
        "push registry.example/team/app:1",
    )
    push.add_argument("image", metavar=IMAGE)
    push.add_argument("--platform", metavar=_PLATFORM, help="this one alone, where there are several")
    _quiet_and_json(push)


def _add_store(commands: _Commands) -> None:
    images = commands.add("images", Command("images", "images"), "list the images of the store", "images")
    _json(images)
    inspect = commands.add(
        "inspect",
        Command("images", "inspect"),
        "show digest, config, layers and history of images",
        "inspect redis:7",
        "inspect --json redis:7 | jq '.[0].layers'",
    )
    inspect.add_argument("images", nargs="+", metavar=IMAGE)
    inspect.add_argument("--platform", metavar=_PLATFORM)
    _json(inspect)
    services = commands.add(
        "services",
        Command("images", "services"),
        "list the names of the catalog and of the project",
        "services",
    )
    _json(services)
    tag = commands.add(
        "tag", Command("images", "tag"), "give an image a second name", "tag app:1 registry.example/app:1"
    )
    tag.add_argument("source", metavar=IMAGE)
    tag.add_argument("target", metavar="NEW")
    remove = commands.add("rm", Command("images", "remove"), "forget names of images", "rm app:1 app:2")
    remove.add_argument("images", nargs="+", metavar=IMAGE)
    prune = commands.add(
        "prune",
        Command("images", "prune"),
        "remove garbage, what dead runs left, and images by age and size",
        "prune",
        "prune --older-than 30d --max-size 10GB",
        "prune --older-than 0s --keep-lock",
    )
    prune.add_argument("--older-than", metavar="AGE", help="images not used for so long: 90m, 12h, 30d, 2w")
    prune.add_argument("--max-size", metavar=_SIZES, help="and the oldest until all take that: 10GB, 500MiB")
    _lock_option(prune, "--keep-lock", "whatever this lock file names stays")
    prune.add_argument("--dry-run", action="store_true", help="tell what would go, and remove nothing")
    _json(prune)


def _add_archives(commands: _Commands) -> None:
    save = commands.add(
        "save",
        Command("archives", "save"),
        "write images as an archive",
        "save redis:7 -o redis.tar",
        "save --format oci app:1 -o - | ssh host pytest-containers load",
    )
    save.add_argument("images", nargs="+", metavar=IMAGE)
    save.add_argument("-o", "--output", required=True, metavar="FILE|-", help="- is the standard output")
    save.add_argument("--format", choices=("docker", "oci", "oci-dir"), default="docker")
    _quiet(save)
    load = commands.add(
        "load",
        Command("archives", "load"),
        "take the images of an archive, or of an OCI layout's folder",
        "load redis.tar",
        "docker save app:1 | pytest-containers load",
    )
    load.add_argument("archive", nargs="?", default="-", metavar="FILE|-", help="- is the standard input")
    load.add_argument("--name", metavar="NEW", help="the name of an archive's only image")
    load.add_argument("--platform", metavar=_PLATFORM)
    _quiet_and_json(load)
    imported = commands.add(
        "import",
        Command("archives", "import_tar"),
        "make an image of the tar of a root file system",
        "import root.tar base:1",
    )
    imported.add_argument("tar", metavar="FILE|-", help="compressed or not; - is the standard input")
    imported.add_argument("image", metavar="NEW")
    _quiet_and_json(imported)


def _add_registries(commands: _Commands) -> None:
    login = commands.add(
        "login",
        Command("registries", "login"),
        "prove credentials to a registry, and keep them where docker keeps them",
        "login registry.example -u alice",
        "login registry.example -u alice --password-stdin < token",
    )
    login.add_argument("registry", metavar="REGISTRY", nargs="?", default="docker.io")
    login.add_argument("-u", "--username", metavar="NAME")
    login.add_argument(
        "--password-stdin", action="store_true", help="read the password, or token, from there"
    )
    logout = commands.add(
        "logout", Command("registries", "logout"), "forget those credentials", "logout registry.example"
    )
    logout.add_argument("registry", metavar="REGISTRY", nargs="?", default="docker.io")
    lock = commands.add(
        "lock",
        Command("registries", "lock"),
        "write down which bytes names mean now; without names, renew those in the file",
        "lock redis:7 postgres:16 --platform linux/amd64 --platform linux/arm64",
        "lock",
    )
    lock.add_argument("images", nargs="*", metavar=SERVICE)
    lock.add_argument("--platform", action="append", default=[], metavar=_PLATFORM, help="repeatable")
    lock.add_argument("--file", default=LOCK_NAME, metavar="FILE", help=f"default: {LOCK_NAME}")
    _json(lock)
    verify = commands.add(
        "verify",
        Command("registries", "verify"),
        "read every blob of a lock file's images and compare it with its digest",
        "verify",
        "verify ci/containers.lock --json",
    )
    verify.add_argument("file", nargs="?", default=LOCK_NAME, metavar="FILE", help=f"default: {LOCK_NAME}")
    verify.add_argument("--platform", metavar=_PLATFORM)
    _json(verify)


def _add_build(commands: _Commands) -> None:
    build = commands.add(
        "build",
        Command("build", "build"),
        "make an image of a folder with a Dockerfile",
        "build -t app:1 .",
        "build --secret id=token,src=token.txt --build-arg VERSION=3 -t app:1 ./app",
        "build -f docker/Dockerfile.dev --build-context data=../data .",
    )
    build.add_argument("folder", metavar="FOLDER", help="what COPY copies from")
    for flags, metavar, text in _BUILD_LISTS:
        build.add_argument(*flags, action="append", default=[], metavar=metavar, help=text)
    build.add_argument("-f", "--file", metavar="FILE", help="default: Dockerfile in the folder")
    build.add_argument("--target", metavar="STAGE")
    build.add_argument("--platform", metavar=_PLATFORM)
    build.add_argument("--no-cache", action="store_true", help="make every step anew")
    build.add_argument("--pull", action="store_true", help="ask the registries for newer base images")
    build.add_argument("--iidfile", metavar="FILE", help="write the image's id there")
    build.add_argument("--progress", choices=("auto", "plain", "quiet"), default="auto")
    _quiet_and_json(build)


_BUILD_LISTS: Final = (
    (("-t", "--tag"), "NEW", "its name, or several"),
    (("--build-arg",), "NAME[=VALUE]", "a name alone takes its value from the environment"),
    (("--label",), "NAME=VALUE", "repeatable"),
    (("--secret",), "id=ID[,src=FILE|,env=NAME]", "for RUN --mount=type=secret; repeatable"),
    (("--ssh",), "ID[=SOCKET]", "for RUN --mount=type=ssh; default: the agent of SSH_AUTH_SOCK"),
    (("--build-context",), "NAME=FOLDER|IMAGE", "what --from=NAME means; repeatable"),
    (("--allow",), "ENTITLEMENT", "security.insecure or network.host; repeatable"),
)


def _add_run(commands: _Commands) -> None:
    run = commands.add(
        "run",
        Command("machine", "run"),
        "start a throw-away container and show its output",
        "run -e MODE=test redis:7 redis-server --version",
    )
    run.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
    run.add_argument("-u", "--user", metavar="USER[:GROUP]")
    run.add_argument("-w", "--workdir", metavar="FOLDER")
    _quiet(run)
    run.add_argument("image", metavar=SERVICE)
    run.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="ARG", help="instead of the image's command"
    )
    doctor = commands.add(
        "doctor", Command("machine", "doctor"), "tell what this machine can do, step by step", "doctor"
    )
    _json(doctor)
    completion = commands.add(
        "completion",
        Command("completion", "script"),
        "print what makes a shell complete commands, options and names",
        "completion bash > ~/.local/share/bash-completion/completions/pytest-containers",
        "completion fish > ~/.config/fish/completions/pytest-containers.fish",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))


def _lock_option(to: argparse.ArgumentParser, flag: str, text: str) -> None:
    to.add_argument(flag, nargs="?", const=LOCK_NAME, metavar="FILE", help=f"{text}; default: {LOCK_NAME}")


def _quiet(to: argparse.ArgumentParser) -> None:
    to.add_argument("-q", "--quiet", action="store_true", help="do not tell how far it is")


def _json(to: argparse.ArgumentParser) -> None:
    to.add_argument("--json", action="store_true", help="print one JSON document")


def _quiet_and_json(to: argparse.ArgumentParser) -> None:
    _quiet(to)
    _json(to)
