"""Laws of laying a test's wishes over what an image says."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.errors import SpecInvalid
from pytest_containers.runtime.bundle import DEFAULT_PATH, Process, bundle, process
from pytest_containers.spec import Bind, ContainerSpec, ExecSpec, ImageConfig

ID: Final = "0123456789abcdef" * 4
SH: Final = ImageConfig(command=("/bin/sh",))
DOCKER_MASK: Final = 0xA80425FB
_NAMES: Final = st.text(st.characters(codec="utf-8", exclude_characters="=\0"), min_size=1)
_TEXTS: Final = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@pytest.mark.parametrize(
    ("entrypoint", "command", "expected"),
    [
        (None, None, ("image-entry", "image-command")),
        (None, ("mine",), ("image-entry", "mine")),
        (None, (), ("image-entry",)),
        (("other", "-x"), None, ("other", "-x")),
        (("other",), ("mine", "too"), ("other", "mine", "too")),
        ((), ("mine",), ("mine",)),
    ],
)
def test_bundle_argv_is_entrypoint_and_command(
    entrypoint: tuple[str, ...] | None, command: tuple[str, ...] | None, expected: tuple[str, ...]
) -> None:
    """A command replaces the image's, and an entrypoint clears the image's command as well."""
    config = ImageConfig(entrypoint=("image-entry",), command=("image-command",))
    spec = ContainerSpec(name="box", entrypoint=entrypoint, command=command)
    assert bundle(spec, config, ID).process.argv == expected


@pytest.mark.parametrize(
    ("config", "entrypoint", "command"),
    [
        (ImageConfig(), None, None),
        (ImageConfig(entrypoint=("image-entry",), command=("x",)), (), None),
        (SH, None, ()),
        (ImageConfig(), None, ("",)),
    ],
)
def test_bundle_is_refused_when_there_is_no_command(
    config: ImageConfig, entrypoint: tuple[str, ...] | None, command: tuple[str, ...] | None
) -> None:
    """A container needs something to run, and the error names the container."""
    spec = ContainerSpec(name="box", entrypoint=entrypoint, command=command)
    with pytest.raises(SpecInvalid, match="container box has no command"):
        bundle(spec, config, ID)


def test_bundle_env_has_path_and_hostname() -> None:
    """A process finds PATH and HOSTNAME also where neither image nor test gives them."""
    env = bundle(ContainerSpec(name="box"), SH, ID).process.env
    assert env == (f"PATH={DEFAULT_PATH}", "HOSTNAME=0123456789ab")


def test_bundle_env_is_laid_over_the_images() -> None:
    """The test's values win over the image's, and the image's over the defaults."""
    config = ImageConfig(command=("x",), env=("PATH=/opt", "A=image", "B=image", "EMPTY=", "BARE", "A=again"))
    spec = ContainerSpec(name="box", env={"B": "test=with=signs", "C": "c"}, hostname="db")
    env = dict(pair.split("=", 1) for pair in bundle(spec, config, ID).process.env)
    assert env == {
        "PATH": "/opt",
        "HOSTNAME": "db",
        "A": "again",
        "B": "test=with=signs",
        "EMPTY": "",
        "BARE": "",
        "C": "c",
    }


@given(st.dictionaries(_NAMES, _TEXTS))
def test_bundle_env_keeps_every_value(env: dict[str, str]) -> None:
    """Whatever a value holds, signs of equality and line ends too, arrives unchanged."""
    found = bundle(ContainerSpec(name="box", env=env), SH, ID).process.env
    pairs = dict(pair.split("=", 1) for pair in found)
    assert len(pairs) == len(found)
    assert {key: pairs[key] for key in env} == env


@pytest.mark.parametrize("env", [{"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "x\0y"}])
def test_bundle_env_is_refused_when_no_process_can_have_it(env: dict[str, str]) -> None:
    """A name or value that execve(2) cannot carry is refused, for a container and for an exec."""
    with pytest.raises(SpecInvalid, match="environment variable"):
        bundle(ContainerSpec(name="box", env=env), SH, ID)
    with pytest.raises(SpecInvalid, match="environment variable"):
        process(ExecSpec(argv=("x",), env=env), bundle(ContainerSpec(name="box"), SH, ID).process)


@pytest.mark.parametrize(
    ("mine", "images", "expected"),
    [(None, "app", "app"), ("", "app", ""), ("root", "app", "root"), (None, "", "")],
)
def test_bundle_user_is_the_images_when_the_test_names_none(
    mine: str | None, images: str, expected: str
) -> None:
    """None leaves the image's user; an empty string asks for root."""
    config = ImageConfig(command=("x",), user=images)
    assert bundle(ContainerSpec(name="box", user=mine), config, ID).process.user == expected


@pytest.mark.parametrize(
    ("mine", "images", "expected"),
    [(None, "/app", "/app"), ("/mine", "/app", "/mine"), (None, "", "/"), ("/mine", "", "/mine")],
)
def test_bundle_workdir_is_the_images_when_the_test_names_none(
    mine: str | None, images: str, expected: str
) -> None:
    """A working folder is the test's, else the image's, else the root."""
    config = ImageConfig(command=("x",), workdir=images)
    assert bundle(ContainerSpec(name="box", workdir=mine), config, ID).process.workdir == expected


def test_bundle_carries_the_world_of_the_spec() -> None:
    """What the start recipe needs to know is in the bundle, unchanged."""
    binds = (Bind(source="/src", target="/dst", read_only=True),)
    spec = ContainerSpec(
        name="box",
        hostname="db",
        binds=binds,
        tmpfs={"/run": 4096},
        read_only=True,
        no_new_privs=True,
        cap_add=("SYS_TIME",),
        cap_drop=("MKNOD",),
    )
    made = bundle(spec, SH, ID)
    assert (made.hostname, made.binds, dict(made.tmpfs)) == ("db", binds, {"/run": 4096})
    assert (made.read_only, made.privileged, made.process.no_new_privs) == (True, False, True)
    assert made.process.capabilities == (DOCKER_MASK | 1 << 25) & ~(1 << 27)


def test_bundle_privileged_has_all_capabilities() -> None:
    """A privileged container's first process has every capability there is."""
    made = bundle(ContainerSpec(name="box", privileged=True, cap_drop=("ALL",)), SH, ID)
    assert made.privileged
    assert made.process.capabilities == (1 << 41) - 1


def _first() -> Process:
    config = ImageConfig(command=("serve",), env=("A=image", "B=image"), user="app", workdir="/app")
    return bundle(ContainerSpec(name="box", no_new_privs=True, cap_drop=("KILL",)), config, ID).process


def test_exec_is_as_the_first_process_when_it_says_nothing() -> None:
    """An exec has user, folder, environment and rights of the container (docker exec)."""
    first = _first()
    more = process(ExecSpec(argv=("ps", "-x")), first)
    assert more.argv == ("ps", "-x")
    assert (more.user, more.workdir, more.env) == (first.user, first.workdir, first.env)
    assert (more.capabilities, more.no_new_privs) == (first.capabilities, True)


def test_exec_lays_its_own_over_the_first_process() -> None:
    """What an exec names for itself wins, and its rights never grow with its user."""
    first = _first()
    more = process(ExecSpec(argv=("id",), user="", workdir="/srv", env={"B": "exec", "C": "c"}), first)
    env = dict(pair.split("=", 1) for pair in more.env)
    assert (env["A"], env["B"], env["C"]) == ("image", "exec", "c")
    assert (more.user, more.workdir, more.capabilities) == ("", "/srv", first.capabilities)


@pytest.mark.parametrize("pair", ["=x", "=", "A=\0"])
def test_variable_of_the_image_that_cannot_be_is_told(pair: str) -> None:
    """A config with Env ["=x"] is one error that names the entry, as docker's is."""
    config = ImageConfig(command=("x",), env=("PATH=/bin", pair))
    with pytest.raises(SpecInvalid, match="is not a variable of the environment") as caught:
        bundle(ContainerSpec(name="box"), config, ID)
    assert repr(pair) in caught.value.what
